"""A truncated file, a flipped byte or a missing file: refused with a sentence, never answered from."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tianwen.ask import segment as segment_module
from tianwen.ask.durable import write_atomically
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.seal import read_seal, seal_line
from tianwen.errors import KnowledgeBaseDamaged, KnowledgeBaseError, KnowledgeBaseNotFound
from tianwen.text import Tokenizer

TOKENIZER = Tokenizer.train(["火星木星卫星火卫一质量"], min_count=1)
FACTS = [Fact(f"火星{i}", "卫星", f"火卫{i}", "行星" if i % 3 else "", f"第{i}页") for i in range(40)]
EDITS = [Fact("木星", "卫星", "木卫一"), Fact("木星", "卫星", "木卫二", source="书")]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed knowledge base with a segment, added and removed facts."""
    folder = tmp_path_factory.mktemp("sound") / "k"
    with KnowledgeBase.build(FACTS, folder, tokenizer=TOKENIZER) as kb:
        kb.add(EDITS)
        kb.remove("火星7")
        kb.remove("木星", object="木卫一")
    return folder


TRUTH = sorted([*(fact for fact in FACTS if fact.subject != "火星7"), EDITS[1]], key=repr)


def facts_in(folder: Path) -> list[Fact]:
    with KnowledgeBase.open(folder) as kb:
        kb.verify()
        return sorted(kb.snapshot().iter_facts(), key=repr)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def flips(content: bytes, count: int) -> Iterator[bytes]:
    """The content with one byte changed: the first and last ones, and some at random."""
    places = {0, 1, len(content) - 1, *np.random.default_rng(len(content)).integers(0, len(content), count).tolist()}
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        yield bytes(changed)


def test_the_sound_one_is_read(sound):
    assert facts_in(sound) == TRUTH
    assert files(sound)[:3] == ["catalogue.seal", "catalogue.sqlite", "segments/0001/key_ptr.npy"]


def test_a_flipped_byte_in_any_file_is_refused(sound, tmp_path):
    folder = Path(shutil.copytree(sound, tmp_path / "k"))
    tried = 0
    for name in files(sound):
        content = (sound / name).read_bytes()
        for changed in flips(content, 16 if name.startswith("catalogue") else 2):
            (folder / name).write_bytes(changed)
            with pytest.raises(KnowledgeBaseDamaged, match=r"is damaged.*(restore|build)"):
                facts_in(folder)
            tried += 1
        _restored(sound, folder, name)
    assert tried > 80
    assert facts_in(folder) == TRUTH


def test_a_truncated_or_missing_file_is_refused(sound, tmp_path):
    folder = Path(shutil.copytree(sound, tmp_path / "k"))
    for name in files(sound):
        content = (sound / name).read_bytes()
        for size in {0, len(content) // 2, len(content) - 1}:
            (folder / name).write_bytes(content[:size])
            with pytest.raises(KnowledgeBaseDamaged):
                facts_in(folder)
        (folder / name).unlink()
        with pytest.raises((KnowledgeBaseDamaged, KnowledgeBaseNotFound)):
            facts_in(folder)
        _restored(sound, folder, name)
    shutil.rmtree(folder / "segments" / "0001")
    with pytest.raises(KnowledgeBaseDamaged, match=r"segments.0001"):
        facts_in(folder)


def _restored(sound: Path, folder: Path, name: str) -> None:
    shutil.copyfile(sound / name, folder / name)
    for beside in ("catalogue.sqlite-wal", "catalogue.sqlite-shm"):
        (folder / beside).unlink(missing_ok=True)


def test_swapped_segment_files_are_refused(sound, tmp_path):
    """Sound files of another knowledge base are damage here: the catalogue knows its own."""
    folder = Path(shutil.copytree(sound, tmp_path / "k"))
    KnowledgeBase.build(FACTS[:20], tmp_path / "other", tokenizer=TOKENIZER).close()
    shutil.rmtree(folder / "segments" / "0001")
    shutil.copytree(tmp_path / "other" / "segments" / "0001", folder / "segments" / "0001")
    with pytest.raises(KnowledgeBaseDamaged):
        facts_in(folder)


def test_after_a_crash_before_the_seal_the_rows_vouch_for_themselves(sound, tmp_path):
    """The seal is one commit behind, so the file's checksum says nothing: no flip gives a wrong answer all the same."""
    folder = Path(shutil.copytree(sound, tmp_path / "k"))
    number, size, crc = read_seal(folder)
    write_atomically(folder / "catalogue.seal", seal_line(number - 1, size, crc))
    assert facts_in(folder) == TRUTH
    content = (folder / "catalogue.sqlite").read_bytes()
    refused = 0
    for changed in flips(content, 60):
        (folder / "catalogue.sqlite").write_bytes(changed)
        try:
            assert facts_in(folder) == TRUTH
        except KnowledgeBaseError:
            refused += 1
    assert refused > 1


def test_a_database_that_lost_an_acknowledged_commit_is_refused(sound, tmp_path):
    folder = Path(shutil.copytree(sound, tmp_path / "k"))
    with KnowledgeBase.open(folder) as kb:
        kb.add([Fact("土星", "卫星", "土卫一")])
    shutil.copyfile(sound / "catalogue.sqlite", folder / "catalogue.sqlite")
    with pytest.raises(KnowledgeBaseDamaged, match="was acknowledged"):
        facts_in(folder)


def test_a_flipped_byte_in_the_log_of_a_crashed_writer_is_refused_or_harmless(sound, tmp_path):
    """A log that could not be merged holds acknowledged commits: SQLite drops its damaged end silently, we do not."""
    live = Path(shutil.copytree(sound, tmp_path / "live"))
    holder = sqlite3.connect(live / "catalogue.sqlite", isolation_level=None)
    holder.execute("BEGIN")
    holder.execute("SELECT * FROM settings").fetchall()
    with KnowledgeBase.open(live) as kb:
        kb.add([Fact("土星", "卫星", "土卫一")])
        crashed = Path(shutil.copytree(live, tmp_path / "crashed"))
    holder.close()
    expected = sorted([*TRUTH, Fact("土星", "卫星", "土卫一")], key=repr)
    log = (crashed / "catalogue.sqlite-wal").read_bytes()
    assert log
    refused = 0
    for changed in flips(log, 20):
        trial = Path(shutil.copytree(crashed, tmp_path / "trial"))
        (trial / "catalogue.sqlite-wal").write_bytes(changed)
        try:
            assert facts_in(trial) == expected
        except KnowledgeBaseDamaged:
            refused += 1
        shutil.rmtree(trial)
    assert refused > 8


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A segment of several blocks a file that counts as a large one."""
    facts = [Fact(f"火星{i}", "卫星", f"火卫{i}，又名月{i}号", "", f"第{i}页") for i in range(9_000)]
    KnowledgeBase.build(facts, tmp_path / "large", tokenizer=TOKENIZER).close()
    monkeypatch.setattr(segment_module, "FULL_CHECK_BYTES", 0)
    return tmp_path / "large" / "segments" / "0001"


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_the_tree_of_a_large_segment_is_compared_before_its_first_step(large):
    _flip(max((large / "trie").iterdir(), key=lambda path: path.stat().st_size), -1)
    with KnowledgeBase.open(large.parents[1]) as kb:
        assert len(kb) == 9_000
        for _ in range(2):
            with pytest.raises(KnowledgeBaseDamaged, match=r"trie.*checksum of block \d+"):
                _ = kb.snapshot().trie
        with pytest.raises(KnowledgeBaseDamaged, match="trie"):
            kb.add([FACTS[0]])


def test_facts_of_a_large_segment_are_compared_block_by_block_as_they_are_read(large):
    content = (large / "object-0000.arrow").read_bytes()
    _flip(large / "object-0000.arrow", content.index("月5000".encode()))
    with KnowledgeBase.open(large.parents[1]) as kb:
        assert kb.snapshot().find("火星77") == [Fact("火星77", "卫星", "火卫77，又名月77号", "", "第77页")]
        for read in (lambda: kb.snapshot().find("火星5000"), lambda: list(kb.snapshot().iter_facts()), kb.verify):
            with pytest.raises(KnowledgeBaseDamaged, match=r"object-0000.*checksum"):
                read()


@pytest.mark.parametrize("name", ["values.arrow", "subject.arrow", "key_ptr.npy", "source.arrow"])
def test_a_large_segment_whose_layout_is_damaged_is_not_opened(large, name):
    _flip(large / name, 40 if name.endswith("npy") else -20)
    with pytest.raises(KnowledgeBaseDamaged, match=rf"{name}.*checksum of block"):
        KnowledgeBase.open(large.parents[1]).snapshot().trie  # noqa: B018


def test_a_large_segment_answers_as_a_small_one(large):
    with KnowledgeBase.open(large.parents[1]) as kb:
        found = list(kb.snapshot().iter_facts())
        assert len(found) == len(set(found)) == 9_000
        assert kb.info()["subjects"] == 9_000
        assert kb.remove("火星3") == 1
        assert kb.compact().result()
        assert len(kb) == 8_999
    (large.parents[1] / "segments" / "0002").rename(large)
    with pytest.raises(KnowledgeBaseDamaged, match=r"segments.0002"):
        KnowledgeBase.open(large.parents[1])


def test_a_large_file_of_another_length_is_refused_when_opened(large):
    victim = large / "object-0000.arrow"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(KnowledgeBaseDamaged, match="bytes instead of"):
        KnowledgeBase.open(large.parents[1])


def test_a_later_format_is_named(sound, tmp_path):
    folder = Path(shutil.copytree(sound, tmp_path / "k"))
    from tianwen.ask import catalogue

    opened = catalogue.Catalogue(folder)
    with opened.writing() as connection:
        catalogue.change_settings(connection, {"format": "2"})
    opened.close()
    with pytest.raises(KnowledgeBaseError, match="has format 2; this version of Tianwen reads 1"):
        KnowledgeBase.open(folder)
