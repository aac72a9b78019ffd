"""Merging: which segments, and that edits, readers and other processes go on while one is merged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tianwen.ask import merging, new_folder, open_folder
from tianwen.ask import segment as segment_module
from tianwen.ask.durable import WriteLock
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.segment import Segment
from tianwen.ask.snapshot import Part
from tianwen.errors import KnowledgeBaseDamaged, KnowledgeBaseLocked

from .few_facts import FACTS, TOKENIZER, agree


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.build(FACTS, tmp_path / "test.kb", tokenizer=TOKENIZER) as kb:
        yield kb


def segments(kb: KnowledgeBase) -> list[str]:
    return sorted(os.listdir(kb.folder / "segments"))


@contextlib.contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Merges wait before they write their segment until the test lets them; yields a wait until one is there."""
    there, go = threading.Event(), threading.Event()
    save = new_folder.Drawn.save

    def waiting(self, folder, **options):
        if folder.name == open_folder.MERGING:
            there.set()
            assert go.wait(60)
        return save(self, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(new_folder.Drawn, "save", waiting)
        try:
            yield lambda: None if there.wait(60) else pytest.fail("no merge began")
        finally:
            go.set()


# What to merge


def parts(*sizes: int, gone: dict[int, int] | None = None) -> list[Part]:
    """Parts of some sizes, and how many rows are gone from some of them."""

    class Sized:
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

    missing = {place: np.arange(count) for place, count in (gone or {}).items()}
    return [
        Part(Sized(size), missing.get(place, np.empty(0, np.int64)))  # pyright: ignore[reportArgumentType]
        for place, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([], 0),
        ([100, 10, 10, 10], 0),
        ([1000, 10, 10, 10, 10], 4),
        ([1000, 90, 10, 10, 10], 3),
        ([1000, 60, 10, 10, 10], 4),
        ([100, 60, 10, 10, 10], 5),
        ([1000, 400, 100, 40, 10], 0),
    ],
)
def test_the_newest_segments_merge_until_an_older_one_is_more_than_twice_as_large(sizes, count):
    assert merging.due(parts(*sizes)) == count


def test_segments_from_which_much_was_removed_merge(monkeypatch):
    monkeypatch.setattr(merging, "MOST_REMOVED", 50)
    assert merging.due(parts(1000, 100, gone={0: 40, 1: 10})) == 0
    assert merging.due(parts(1000, 100, gone={0: 40, 1: 11})) == 2
    assert merging.due(parts(1000, 100, gone={0: 10, 1: 60})) == 1


def test_a_fact_is_written_few_times_and_few_segments_stand():
    """A thousand segments of one size, one after the other, under the rule alone."""
    sizes, written = [100_000], 0
    for _ in range(1_000):
        sizes.append(10)
        if count := merging.due(parts(*sizes)):
            merged = sum(sizes[-count:])
            sizes[-count:] = [merged]
            written += merged
        assert len(sizes) <= 10
    assert written < 10_000 * 8


# What stays while a merge runs


def test_edits_made_during_a_merge_are_kept_and_no_writer_waits(kb, monkeypatch):
    kb.add([("木星", "卫星", "木卫一")])
    kb.remove("NASA")
    before, held_back = kb.snapshot(), kb.snapshot()
    with KnowledgeBase.open(kb.folder) as other, held(monkeypatch) as merge_began:
        other.lock_timeout = 1.0
        future = kb.compact(background=True)
        merge_began()
        assert other.remove("火星", "卫星", "火卫一") == 1  # from a segment that is being merged
        assert other.remove("木星") == 1  # from what was added before
        assert kb.replace([("白蛇", "导演", "赵霁", "")], subject="白蛇", sense="电影") == (1, 1)
        assert other.add([FACTS[0]]) == 1  # comes again, now as the last of its key
        assert not future.done()
        truth = [*FACTS[1:3], FACTS[4], FACTS[6], Fact("白蛇", "导演", "赵霁"), FACTS[0]]
        agree(kb.snapshot(), truth)
    assert future.result(60)
    for each in (kb.snapshot(), KnowledgeBase.open(kb.folder).snapshot()):
        agree(each, truth)
    agree(before, [*FACTS[:5], FACTS[6], Fact("木星", "卫星", "木卫一")])
    assert held_back.parts[0].segment is not kb.snapshot().parts[0].segment
    assert len(segments(kb)) == 1
    assert kb.info()["removed"] == 3
    kb.verify()
    kb.compact()
    agree(kb.snapshot(), truth)
    assert kb.info()["removed"] == 0


def test_added_facts_that_become_a_segment_during_a_merge_stay_after_it(kb, monkeypatch):
    monkeypatch.setattr(open_folder, "MOST_ADDED", 3)
    more = [Fact("s", "p", str(number)) for number in range(20)]
    with held(monkeypatch) as merge_began:
        kb.add(more[:1])
        future = kb.compact(background=True)
        merge_began()
        for fact in more[1:]:
            kb.add([fact])
        kb.remove("s", object="0")
        kb.remove("s", object="7")
    assert future.result(60)
    agree(kb.snapshot(), [*FACTS, *(fact for fact in more if fact.object not in "07")])


def test_any_rows_removed_during_a_merge_are_found_in_the_merged_segment(tmp_path, monkeypatch):
    rng = np.random.default_rng(8802)
    facts = [Fact(f"s{number % 40}", f"p{number % 7}", str(number)) for number in rng.permutation(300).tolist()]
    with KnowledgeBase.build(facts[:150], tmp_path / "k", tokenizer=TOKENIZER) as kb, held(monkeypatch) as merge_began:
        kb.merges_by_itself = False
        monkeypatch.setattr(open_folder, "MOST_ADDED", 60)
        kb.add(facts[150:220])
        kb.add(facts[220:])
        first, then = rng.permutation(300)[:120].reshape(2, 60)
        for number in first:
            kb.remove(None, object=str(number))
        future = kb.compact(background=True)
        merge_began()
        for number in then:
            kb.remove(None, object=str(number))
    assert future.result(60)
    gone = {str(number) for number in [*first, *then]}
    with KnowledgeBase.open(tmp_path / "k") as kb:
        agree(kb.snapshot(), [fact for fact in facts if fact.object not in gone])


def test_a_build_over_the_knowledge_base_ends_a_merge(kb, monkeypatch):
    kb.add([("a", "b", "c")])
    with held(monkeypatch) as merge_began:
        future = kb.compact(background=True)
        merge_began()
        KnowledgeBase.build(FACTS[:2], kb.folder, tokenizer=TOKENIZER, overwrite=True).close()
    assert not future.result(60)
    agree(kb.snapshot(), FACTS[:2])
    assert not any(name.startswith(".") for name in segments(kb))


def test_nothing_is_left_of_a_merge_that_died_and_a_living_one_is_let_be(kb):
    leftover = kb.folder / "segments" / open_folder.MERGING
    leftover.mkdir()
    with WriteLock(kb.folder / open_folder.MERGE_LOCK, timeout=1):
        kb.add([("a", "b", "c")])
        assert leftover.exists()
    kb.remove("a")
    assert not leftover.exists()


def test_one_merge_at_a_time(kb):
    kb.add([("a", "b", "c")])
    kb.lock_timeout = 0.05
    with WriteLock(kb.folder / open_folder.MERGE_LOCK, timeout=1):
        with pytest.raises(KnowledgeBaseLocked):
            kb.compact()
        with pytest.raises(KnowledgeBaseLocked):
            kb.compact(background=True).result(60)
    assert kb.compact().result()
    assert not kb.compact().result()


def test_ctrl_c_stops_a_merge_and_leaves_everything_as_it_was(kb, monkeypatch, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have begun deaf to it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    kb.add([("a", "b", "c")])
    with held(monkeypatch) as merge_began:

        def interrupt() -> None:
            merge_began()
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            kb.compact()
        thread.join()
    agree(kb.snapshot(), [*FACTS, Fact("a", "b", "c")])
    assert not any(name.startswith(".") for name in segments(kb))
    assert kb.compact().result()
    assert len(segments(kb)) == 1


def test_a_merge_does_not_give_damage_a_checksum_of_its_own(kb, tmp_path, monkeypatch):
    kb.add([("a", "b", "c")])
    monkeypatch.setattr(segment_module, "FULL_CHECK_BYTES", 0)
    victim = next((kb.folder / "segments").rglob("object-0000.arrow"))
    content = victim.read_bytes()
    copy = Path(shutil.copytree(kb.folder, tmp_path / "copy"))
    victim.write_bytes(content.replace(b"1958", b"1959", 1))
    with pytest.raises(KnowledgeBaseDamaged, match="checksum"):
        kb.compact()
    with KnowledgeBase.open(copy) as sound:
        assert sound.compact().result()


# Without being asked


def test_small_segments_merge_by_themselves_and_closing_waits_for_it(kb, monkeypatch):
    monkeypatch.setattr(open_folder, "MOST_ADDED", 2)
    more = [Fact(f"s{number}", "p", "o") for number in range(60)]
    for fact in more:
        kb.add([fact])
    kb.close()
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), [*FACTS, *more])
        assert again.info()["segments"] <= 8  # 20 without merging
        again.merges_by_itself = False
        before = again.info()["segments"]
        for number in range(60, 80):
            again.add([(f"s{number}", "p", "o")])
        assert again.info()["segments"] >= before + 5


def test_a_merge_that_fails_by_itself_is_told_to_the_log_and_tried_again_later(kb, monkeypatch, caplog):
    monkeypatch.setattr(merging, "due", lambda parts: len(parts))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(merging, "written_beside", full)
        for subject in ("NASA", "nasa", "nobody"):
            kb.remove(subject)
            kb._background.close()
    assert [record.getMessage().count("no room to write") for record in caplog.records] == [1]
    monkeypatch.setattr(kb._merger, "_next", time.monotonic())
    kb.remove("nobody")
    kb._background.close()
    agree(kb.snapshot(), FACTS[:5])
    assert kb.info()["removed"] == 0


def test_the_number_of_a_segment_is_never_used_again(kb):
    numbers = set()
    for round_number in range(3):
        kb.add([("a", "b", str(round_number))])
        kb.compact()
        [name] = segments(kb)
        assert name not in numbers
        numbers.add(name)
        assert isinstance(kb.snapshot().parts[0].segment, Segment)
