"""The knowledge base: build, open, ask, add, remove, compact; against a list of facts as the truth."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tianwen.ask import knowledge_base as module
from tianwen.ask.columns import Texts, map_columns, write_columns
from tianwen.ask.durable import SharedFile, WriteLock
from tianwen.ask.fact_files import Report, read_facts
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.snapshot import Snapshot
from tianwen.errors import (
    InputError,
    KnowledgeBaseDamaged,
    KnowledgeBaseError,
    KnowledgeBaseLocked,
    KnowledgeBaseNotFound,
    WrongTokenizer,
)
from tianwen.text import Tokenizer

TOKENIZER = Tokenizer.train(["火星木星白蛇电影导演卫星 NASA Ares"], min_count=1)
FACTS = [
    Fact("火星", "卫星", "火卫一", source="https://example.org/mars"),
    Fact("火星", "卫星", "火卫二"),
    Fact("火星", "质量", "6.4e23 kg", "行星"),
    Fact("白蛇", "导演", "黄家康", "电影"),
    Fact("白蛇", "导演", "吴家骀", "电视剧"),
    Fact("NASA", "founded", "1958"),
    Fact("nasa", "founded", "29 July 1958"),
]


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.build(FACTS, tmp_path / "test.kb", tokenizer=TOKENIZER) as kb:
        yield kb


def answers(snapshot: Snapshot, subject: str, predicate: str, sense: str = "") -> list[Fact]:
    """What the tree and the values say for one key; [] when the key is not there."""
    end = [TOKENIZER.sep_id]
    ids = np.concatenate([part for text in (subject, predicate, sense) for part in (TOKENIZER.ids(text), end)])
    state = snapshot.trie.walk(ids.astype(np.int32)[None], np.array([len(ids)]))
    return snapshot.facts(state[0]) if snapshot.trie.is_terminal(state)[0] else []


def key(fact: Fact) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(TOKENIZER.ids(text)) for text in (fact.subject, fact.predicate, fact.sense))


def agree(snapshot: Snapshot, truth: list[Fact]) -> None:
    """The snapshot holds exactly these facts, and each key gives its own in the order of their coming."""
    assert len(snapshot) == len(truth)
    assert sorted(snapshot.iter_facts(), key=repr) == sorted(truth, key=repr)
    for fact in truth:
        expected = [other for other in truth if key(other) == key(fact)]
        assert answers(snapshot, fact.subject, fact.predicate, fact.sense) == expected
    entries = snapshot.trie.completions(snapshot.trie.root(1), limit=10_000)
    assert len(entries.terminal) == len({key(fact) for fact in truth})


# Building and opening


def test_what_was_built_is_answered_from_memory_and_after_opening(kb):
    agree(kb.snapshot(), FACTS)
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), FACTS)
        assert again.tokenizer.fingerprint == TOKENIZER.fingerprint


def test_names_that_differ_only_in_case_share_a_key_and_keep_their_spelling(kb):
    assert answers(kb.snapshot(), "Nasa", "FOUNDED") == FACTS[5:]
    assert kb.snapshot().find("nasa") == [FACTS[6]]


def test_exact_duplicates_are_merged_and_counted(tmp_path):
    report = Report()
    other_source = Fact("火星", "卫星", "火卫一", source="a book")
    with KnowledgeBase.build(
        [*FACTS, FACTS[0], other_source, FACTS[1]], tmp_path / "k", tokenizer=TOKENIZER, report=report
    ) as kb:
        assert len(kb) == len(FACTS) + 1
        assert (report.merged, kb.info()["duplicates"]) == (2, 2)
        assert kb.add([FACTS[0], FACTS[2]]) == 0
        assert kb.info()["duplicates"] == 4
        assert answers(kb.snapshot(), "火星", "卫星") == [FACTS[0], FACTS[1], other_source]


def test_build_from_files_notes_sources_and_bad_lines(tmp_path):
    (tmp_path / "a.tsv").write_text("白蛇（电影）\t导演\t黄家康\nbroken\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("主语,谓语,宾语,来源\n火星,卫星,火卫一,x\n", encoding="utf-8")
    report, stages = Report(), []
    with KnowledgeBase.build(
        [tmp_path / "a.tsv", str(tmp_path / "b.csv")],
        tmp_path / "k",
        tokenizer=TOKENIZER,
        report=report,
        progress=lambda done, total, stage: stages.append((done, total, stage)),
    ) as kb:
        agree(kb.snapshot(), [Fact("白蛇", "导演", "黄家康", "电影"), Fact("火星", "卫星", "火卫一", "", "x")])
        sources = kb.info()["sources"]
        assert [(Path(s["name"]).name, s["facts"], s["skipped"]) for s in sources] == [("a.tsv", 1, 1), ("b.csv", 1, 0)]
    assert [(problem.line, problem.reason) for problem in report.problems] == [(2, "1 column, 3 to 5 are allowed")]
    assert stages[0][2] == "reading"
    assert stages[-1] == (2, 2, "indexing")
    with pytest.raises(InputError, match="line 2"):
        KnowledgeBase.build(tmp_path / "a.tsv", tmp_path / "strict", tokenizer=TOKENIZER, strict=True)
    assert not (tmp_path / "strict").exists()


def test_build_takes_the_frames_that_read_facts_yields(tmp_path):
    (tmp_path / "a.txt").write_text("a,b,c\n")
    frames = read_facts(tmp_path / "a.txt", format="csv")
    with KnowledgeBase.build(frames, tmp_path / "k", tokenizer=TOKENIZER) as kb:
        agree(kb.snapshot(), [Fact("a", "b", "c")])
        assert kb.add(pl.DataFrame({"subject": ["d（e）"], "predicate": ["p"], "object": ["o"]})) == 1
        assert kb.snapshot().find("d") == [Fact("d", "p", "o", "e")]


def test_a_source_without_facts_makes_no_knowledge_base(tmp_path):
    (tmp_path / "a.tsv").write_text("no fact here\n")
    with pytest.raises(InputError, match=r"no fact to build .* 1 lines left out"):
        KnowledgeBase.build(tmp_path / "a.tsv", tmp_path / "k", tokenizer=TOKENIZER)
    with pytest.raises(InputError, match="none of them"):
        KnowledgeBase.build(5, tmp_path / "k", tokenizer=TOKENIZER)  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == ["a.tsv"]


def test_an_empty_knowledge_base_can_be_opened_asked_and_filled(tmp_path):
    with KnowledgeBase.build([], tmp_path / "k", tokenizer=TOKENIZER) as kb:
        agree(kb.snapshot(), [])
        kb.add(FACTS)
        agree(kb.snapshot(), FACTS)
        assert kb.remove(None, None, None, sense="") == 4
        assert [kb.remove(subject) for subject in ("火星", "白蛇")] == [1, 2]
        agree(kb.snapshot(), [])
        kb.compact()
        agree(kb.snapshot(), [])
    with KnowledgeBase.open(tmp_path / "k") as kb:
        agree(kb.snapshot(), [])


def test_an_existing_knowledge_base_is_replaced_only_when_asked(kb, tmp_path):
    with pytest.raises(InputError, match="knowledge base already"):
        KnowledgeBase.build([], kb.folder, tokenizer=TOKENIZER)
    other = Tokenizer.train(["另一个词表"], min_count=1)
    before = kb.snapshot()
    with KnowledgeBase.build(FACTS[:2], kb.folder, tokenizer=other, overwrite=True) as new:
        assert len(new) == 2
        assert new.info()["duplicates"] == 0
    agree(before, FACTS)
    with pytest.raises(WrongTokenizer):
        kb.snapshot()
    assert len(list(kb.folder.glob("tokenizer-*.json"))) == 1


def test_other_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter").write_text("dear")
    for target in ("letters", "letters/letter"):
        with pytest.raises(InputError, match="Choose another name"):
            KnowledgeBase.build(FACTS, tmp_path / target, tokenizer=TOKENIZER, overwrite=True)
    assert (tmp_path / "letters" / "letter").read_text() == "dear"


def test_a_damaged_knowledge_base_can_be_built_over(tmp_path):
    KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER).close()
    (tmp_path / "k" / "catalogue.sqlite").write_bytes(b"nonsense")
    with KnowledgeBase.build(FACTS[:1], tmp_path / "k", tokenizer=TOKENIZER, overwrite=True) as kb:
        agree(kb.snapshot(), FACTS[:1])
    assert os.listdir(tmp_path) == ["k"]


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(KnowledgeBaseNotFound, match="tianwen build"):
        KnowledgeBase.open(tmp_path / "none")


def test_another_tokenizer_is_refused_by_name(kb):
    other = Tokenizer.train(["另一个词表"], min_count=1)
    with pytest.raises(WrongTokenizer, match=f"{TOKENIZER.fingerprint}.*{other.fingerprint}.*build"):
        KnowledgeBase.open(kb.folder, tokenizer=other)
    with pytest.raises(WrongTokenizer):
        kb.snapshot().require_tokenizer(other)
    kb.snapshot().require_tokenizer(TOKENIZER)


def test_info_counts_what_is_there(kb):
    kb.add([Fact("木星", "卫星", "木卫一")])
    kb.remove("火星", "质量")
    info = kb.info()
    expected = {"facts": 7, "subjects": 5, "predicates": 3, "senses": 2, "segments": 1, "added": 1, "removed": 1}
    assert expected.items() <= info.items()
    assert info["tokenizer"] == TOKENIZER.fingerprint
    assert info["bytes"] > 1000


def test_values_are_ordinary_arrow_files(kb):
    segment = kb.folder / "segments" / "0001"
    values, names = pl.read_ipc(segment / "values.arrow"), pl.read_ipc(segment / "subject.arrow")
    assert sorted(values["object"]) == sorted(fact.object for fact in FACTS)
    assert sorted(names["text"].gather(values["subject"])) == sorted(fact.subject for fact in FACTS)


@pytest.mark.parametrize("count", [0, 1, 3, 140_000])
def test_mapped_columns_equal_what_was_written(tmp_path, count):
    texts = pl.Series("t", ["", "甲", "b" * 40] * count, dtype=pl.String).head(count)
    numbers = pl.Series("n", range(count), dtype=pl.UInt32)
    write_columns(tmp_path / "f.arrow", pl.DataFrame([numbers, texts]))
    columns = map_columns(tmp_path / "f.arrow", {"n": "number", "t": "text"})
    mapped = columns["t"]
    assert isinstance(mapped, Texts)
    assert isinstance(columns["n"], np.ndarray)
    np.testing.assert_array_equal(columns["n"], numbers.to_numpy())
    assert mapped.take(range(count)) == texts.to_list()
    assert mapped.take(np.arange(count)[::-7]) == texts.to_list()[::-7]


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"ARROW1\0\0" + b"\xff" * 60 + b"ARROW1", b"x" * 100])
def test_a_file_of_another_kind_is_not_mapped(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - an empty file has the system's own words
        map_columns(tmp_path / "f", {"n": "number"})


# Changing


def test_changes_are_seen_at_once_here_and_elsewhere_and_snapshots_stay(kb):
    with KnowledgeBase.open(kb.folder) as reader:
        before = reader.snapshot()
        assert reader.snapshot() is before
        new = Fact("火星", "卫星", "火卫三")
        assert kb.add([new, ("木星（行星）", "卫星", "木卫一")]) == 2
        assert kb.remove("火星", "卫星", "火卫一") == 1
        truth = [*FACTS[1:], new, Fact("木星", "卫星", "木卫一", "行星")]
        for each in (kb, reader):
            agree(each.snapshot(), truth)
        assert answers(reader.snapshot(), "火星", "卫星") == [FACTS[1], new]
        kb.compact()
        agree(reader.snapshot(), truth)
        agree(before, FACTS)
        assert os.listdir(kb.folder / "segments") == ["0002"]


def test_remove_matches_exact_texts_only(kb):
    assert kb.remove("火") == 0
    assert kb.remove("NASA", "founded", "29 July 1958") == 0
    assert kb.remove("白蛇", sense="") == 0
    assert kb.remove("白蛇", sense="电影") == 1
    assert kb.remove(None, "卫星") == 2
    agree(kb.snapshot(), [FACTS[2], *FACTS[4:]])
    with pytest.raises(InputError, match="Say what to remove"):
        kb.remove(None)
    with pytest.raises(InputError, match="must be a text"):
        kb.remove(5)  # pyright: ignore[reportArgumentType]


def test_a_removed_fact_can_be_added_again(kb):
    for _ in range(2):
        assert kb.remove("NASA") == 1
        assert kb.add([FACTS[5]]) == 1
        assert kb.add([FACTS[5]]) == 0
    agree(kb.snapshot(), [*FACTS[:5], FACTS[6], FACTS[5]])


def test_many_additions_become_a_segment_on_disk(kb, monkeypatch):
    monkeypatch.setattr(module, "MOST_ADDED", 10)
    more = [Fact(f"s{i}", "p", f"o{i}") for i in range(25)]
    for start in range(0, 25, 4):
        kb.add(more[start : start + 4])
    kb.remove("s7")
    truth = [*FACTS, *(fact for fact in more if fact.subject != "s7")]
    agree(kb.snapshot(), truth)
    assert kb.info()["segments"] == 3
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), truth)
    assert sorted(os.listdir(kb.folder / "segments")) == ["0001", "0002", "0003"]


def test_bad_facts_are_refused_before_anything_is_written(kb):
    with pytest.raises(InputError, match="number 1"):
        kb.add([Fact("a", "b", "c"), Fact("a", "", "c")])
    agree(kb.snapshot(), FACTS)


def test_find_and_frames(kb):
    snapshot = kb.snapshot()
    assert snapshot.find("火星", "卫星") == FACTS[:2]
    assert snapshot.find(object="黄家康") == [FACTS[3]]
    assert snapshot.find(sense="电视剧") == [FACTS[4]]
    assert len(snapshot.find()) == len(FACTS)
    assert snapshot.find("\ud83d") == snapshot.find("火星", object="\ud83d") == []
    assert pl.concat(snapshot.frames()).columns == ["subject", "predicate", "object", "sense", "source"]


def test_a_knowledge_base_can_be_sent_to_another_process(kb):
    with pickle.loads(pickle.dumps(kb)) as other:
        agree(other.snapshot(), FACTS)


class AgainstAList(RuleBasedStateMachine):
    """Any sequence of changes, through two open knowledge bases at once, agrees with a plain list."""

    made = Bundle("facts")

    @initialize()
    def start(self) -> None:
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(_temporary())) / "k"
        self.truth: list[Fact] = []
        self.bases = [
            self.stack.enter_context(KnowledgeBase.build([], folder, tokenizer=TOKENIZER)),
            self.stack.enter_context(KnowledgeBase.open(folder)),
        ]
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(module, "MOST_ADDED", 5)

    _names = st.sampled_from(["火星", "火", "A", "a", "木星"])

    @rule(
        which=st.integers(0, 1),
        facts=st.lists(
            st.builds(Fact, _names, _names, st.sampled_from("xyz"), st.sampled_from(["", "火"])), min_size=1, max_size=4
        ),
    )
    def add(self, which: int, facts: list[Fact]) -> None:
        new = [fact for fact in dict.fromkeys(facts) if fact not in self.truth]
        assert self.bases[which].add(facts) == len(new)
        self.truth += new

    @rule(which=st.integers(0, 1), subject=_names, predicate=st.none() | _names)
    def remove(self, which: int, subject: str, predicate: str | None) -> None:
        kept = [f for f in self.truth if f.subject != subject or predicate not in (None, f.predicate)]
        assert self.bases[which].remove(subject, predicate) == len(self.truth) - len(kept)
        self.truth = kept

    @rule(which=st.integers(0, 1))
    def compact(self, which: int) -> None:
        self.bases[which].compact()

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.bases[which].close()
        self.bases[which] = self.stack.enter_context(KnowledgeBase.open(self.bases[0].folder))

    @invariant()
    def both_agree(self) -> None:
        for kb in getattr(self, "bases", ()):
            agree(kb.snapshot(), self.truth)

    def teardown(self) -> None:
        self.stack.close()


AgainstAList.TestCase.settings = settings(
    max_examples=4, stateful_step_count=10, suppress_health_check=list(HealthCheck)
)
test_any_changes_agree_with_a_list = AgainstAList.TestCase


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield folder


# Several at once, and places that cannot be written


def test_a_second_writer_waits_and_then_is_told(kb):
    kb.lock_timeout = 0.05
    with WriteLock(kb.folder / "write.lock", timeout=1):
        for change in (lambda: kb.add([Fact("a", "b", "c")]), lambda: kb.remove("火星"), kb.compact):
            with pytest.raises(KnowledgeBaseLocked, match="being written by another process"):
                change()
        agree(kb.snapshot(), FACTS)
    kb.lock_timeout = 30.0
    lock = WriteLock(kb.folder / "write.lock", timeout=1)
    lock.__enter__()
    threading.Timer(0.1, lock.__exit__).start()
    assert kb.add([Fact("a", "b", "c")]) == 1


def test_readers_see_whole_commits_while_a_writer_works(kb):
    """Each commit replaces one pair of facts by another: no view ever has half a pair."""
    stop, torn = threading.Event(), []

    def read() -> None:
        with KnowledgeBase.open(kb.folder) as reader:
            while not stop.is_set():
                found = [fact.object for fact in reader.snapshot().find("pair")]
                if len(found) not in (0, 2) or len(set(found)) > 1:
                    torn.append(found)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(8):
        kb.add([Fact("pair", "left", str(number)), Fact("pair", "right", str(number))])
        if number % 5 == 4:
            kb.compact()
        kb.remove("pair")
    stop.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_a_read_only_folder_is_answered_from_and_refuses_changes(kb):
    kb.add([Fact("木星", "卫星", "木卫一")])
    kb.close()
    folder = kb.folder
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = sorted(os.listdir(folder))
        with KnowledgeBase.open(folder) as reader:
            agree(reader.snapshot(), [*FACTS, Fact("木星", "卫星", "木卫一")])
            for change in (lambda: reader.add([Fact("a", "b", "c")]), lambda: reader.remove("火星"), reader.compact):
                with pytest.raises(KnowledgeBaseError, match=r"read-only.*chmod"):
                    change()
        assert sorted(os.listdir(folder)) == before
    finally:
        for path in paths:
            path.chmod(0o755)


def test_a_read_only_copy_with_an_unmerged_log_shows_the_last_commit(kb, tmp_path):
    with _holding_the_log(kb.folder):
        kb.add([Fact("木星", "卫星", "木卫一")])
        assert (kb.folder / "catalogue.sqlite-wal").stat().st_size
        copy = Path(shutil.copytree(kb.folder, tmp_path / "copy"))
    copy.chmod(0o555)
    try:
        with KnowledgeBase.open(copy) as reader:
            agree(reader.snapshot(), [*FACTS, Fact("木星", "卫星", "木卫一")])
    finally:
        copy.chmod(0o755)


@contextlib.contextmanager
def _holding_the_log(folder: Path) -> Iterator[None]:
    """A reader in the middle of a transaction: the log cannot be merged meanwhile."""
    connection = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM settings").fetchall()
    try:
        yield
    finally:
        connection.close()


@contextlib.contextmanager
def _limited_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, for this process only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 200, 40_000])
def test_a_full_disk_loses_nothing_and_is_told(kb, size):
    big = [Fact(f"s{i}", "p", "x" * 4000) for i in range(50)]
    with _limited_files(size):
        with pytest.raises(KnowledgeBaseError, match=r"no room|Nothing (that was )?stored is lost"):
            kb.add(big)
        agree(kb.snapshot(), FACTS)
        with pytest.raises((KnowledgeBaseError, InputError), match=r"no room|Nothing (that was )?stored is lost"):
            KnowledgeBase.build(big, kb.folder.with_name("other"), tokenizer=TOKENIZER)
    assert kb.add(big) == 50
    with _limited_files(size), pytest.raises(KnowledgeBaseError, match=r"no room|Nothing (that was )?stored is lost"):
        kb.compact()
    agree(kb.snapshot(), [*FACTS, *big])
    kb.close()
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), [*FACTS, *big])
        again.compact()
    assert os.listdir(kb.folder.parent) == [kb.folder.name]


def test_a_descriptor_is_shared_until_its_last_user_in_the_process_lets_go(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    first, second = SharedFile(path), SharedFile(path)
    first.close()
    assert b"".join(second.chunks()) == b"abc"
    descriptor = second._descriptor
    assert descriptor is not None
    second.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_closed_knowledge_base_says_so(kb):
    snapshot = kb.snapshot()
    kb.close()
    kb.close()
    agree(snapshot, FACTS)
    for use in (kb.snapshot, lambda: kb.add([Fact("a", "b", "c")])):
        with pytest.raises(KnowledgeBaseError, match=r"was closed\. Open it again"):
            use()


def test_a_verified_knowledge_base_says_nothing_and_a_damaged_one_does(kb):
    kb.verify()
    victim = next((kb.folder / "segments").rglob("values.arrow"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    with pytest.raises(KnowledgeBaseDamaged, match=r"values\.arrow"):
        kb.verify()
