"""Builds that sort on disk: the same files as in memory, and nothing left behind whatever happens."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask import (
    distinct_facts,
    external_sort,
    fielded,
    knowledge_base,
    names_on_disk,
    numbered_facts,
    segment,
    segment_on_disk,
)
from tianwen.ask.column_writer import ColumnWriter
from tianwen.ask.columns import write_columns
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.memory import Bound
from tianwen.ask.scratch import Scratch
from tianwen.errors import InputError, KnowledgeBaseError

from .few_facts import FACTS, TOKENIZER, agree

NAMES = st.sampled_from(["火", "火星", "木星（行星）", "a", "A", "é", "𠮷", "白蛇（电影）", "a b"])
TEXTS = st.sampled_from(["1", "火卫一", "火卫一\n", "x" * 300, "é"])
FACT = st.builds(Fact, NAMES, NAMES, TEXTS, st.sampled_from(["", "行星", "a"]), st.sampled_from(["", "s", "t"]))
NUMBER = itertools.count()


def on_disk(patch: pytest.MonkeyPatch, size: int = 2**15) -> None:
    """Every build from here on has next to no memory."""
    patch.setattr(knowledge_base, "bound_of", lambda memory: Bound(size, by_user=True))


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in sorted((folder / "segments").rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small(patch: pytest.MonkeyPatch, draw) -> None:
    """Several runs, blocks, pieces and frames of few facts; keys that no integer holds, and keys of many facts."""
    patch.setattr(external_sort, "LEAST", draw(st.sampled_from([1, 300, 2000])))
    patch.setattr(external_sort, "BLOCK_BYTES", draw(st.sampled_from([40, 500, 10_000])))
    patch.setattr(distinct_facts, "LARGE", draw(st.sampled_from([0, 200, 2**24])))
    patch.setattr(distinct_facts, "_ROWS", draw(st.integers(1, 5)))
    patch.setattr(fielded, "SORTABLE_BITS", draw(st.sampled_from([0, 63])))
    patch.setattr(names_on_disk, "TEXTS_AT_ONCE", draw(st.integers(1, 4)))
    patch.setattr(names_on_disk, "_PIECE", draw(st.integers(1, 4)))
    patch.setattr(numbered_facts, "ROWS_OF_A_FRAME", draw(st.integers(4, 9)))
    for module in (numbered_facts, segment_on_disk, segment):
        patch.setattr(module, "AT_ONCE", 3)


@settings(deadline=None, max_examples=8)
@given(st.lists(FACT, min_size=1, max_size=30), st.sampled_from([2**15, 2**20]), st.data())
def test_the_same_bits_as_in_memory(tmp_path_factory, facts, size, data):
    folder = tmp_path_factory.mktemp("same")
    with pytest.MonkeyPatch.context() as patch:
        small(patch, data.draw)
        with KnowledgeBase.build(facts, folder / "memory", tokenizer=TOKENIZER):
            expected = sums(folder / "memory")
        on_disk(patch, size)
        with KnowledgeBase.build(facts, folder / "disk", tokenizer=TOKENIZER) as kb:
            assert sums(folder / "disk") == expected
            agree(kb.snapshot(), list(dict.fromkeys(facts)))
            assert kb.info()["duplicates"] == len(facts) - len(set(facts))
    assert sorted(os.listdir(folder)) == ["disk", "memory"]


def test_going_to_disk_half_way_is_the_same_too(tmp_path, monkeypatch, caplog):
    """The first frames were gathered in memory; a warning says why the rest was not, once."""
    facts = [Fact(f"s{k % 7}", f"p{k % 3}", str(k % 50)) for k in range(100)]
    monkeypatch.setattr(numbered_facts, "ROWS_OF_A_FRAME", 10)
    KnowledgeBase.build(facts, tmp_path / "memory", tokenizer=TOKENIZER).close()
    monkeypatch.setattr(numbered_facts, "held", lambda: 0)
    bound = Bound(15_000, by_user=False)
    monkeypatch.setattr(knowledge_base, "bound_of", lambda memory: bound)
    with caplog.at_level(logging.INFO):
        KnowledgeBase.build(facts, tmp_path / "disk", tokenizer=TOKENIZER).close()
    assert sums(tmp_path / "disk") == sums(tmp_path / "memory")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "sorted on disk" in caplog.text


def test_no_facts_and_one_fact(tmp_path, monkeypatch):
    on_disk(monkeypatch)
    with KnowledgeBase.build(FACTS[:1], tmp_path / "one", tokenizer=TOKENIZER) as kb:
        agree(kb.snapshot(), FACTS[:1])
    with KnowledgeBase.build([], tmp_path / "none", tokenizer=TOKENIZER) as kb:
        assert len(kb) == 0
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(InputError, match="no fact to build"):
        KnowledgeBase.build(tmp_path / "empty.tsv", tmp_path / "k", tokenizer=TOKENIZER)
    assert sorted(os.listdir(tmp_path)) == ["empty.tsv", "none", "one"]


def test_replacing_a_knowledge_base_and_counting_duplicates(tmp_path, monkeypatch):
    KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER).close()
    on_disk(monkeypatch)
    report = knowledge_base.Report()
    new = [Fact("a", "b", "c"), Fact("a", "b", "d"), Fact("a", "b", "c")]
    with KnowledgeBase.build(new, tmp_path / "k", tokenizer=TOKENIZER, overwrite=True, report=report) as kb:
        agree(kb.snapshot(), new[:2])
        assert (report.rows, report.merged, kb.info()["duplicates"]) == (3, 1, 1)
        kb.add([Fact("e", "f", "g")])
        kb.compact()
        agree(kb.snapshot(), [*new[:2], Fact("e", "f", "g")])


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, monkeypatch):
    KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER).close()
    on_disk(monkeypatch)
    facts = [Fact(f"s{k}", "p", "x" * 50) for k in range(3000)]
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for most in (2**12, 2**15, 2**17):  # while reading, sorting, writing
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1][1]))
            with pytest.raises(KnowledgeBaseError, match="no room to write"):
                KnowledgeBase.build(facts, tmp_path / "k", tokenizer=TOKENIZER, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    with KnowledgeBase.open(tmp_path / "k") as kb:
        agree(kb.snapshot(), FACTS)
    assert os.listdir(tmp_path) == ["k"]


@pytest.mark.parametrize("stage", ["reading", "indexing", "writing"])
def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, stage):
    def interrupted(done: int, total: int | None, what: str) -> None:
        if what == stage:
            raise KeyboardInterrupt

    on_disk(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER, progress=interrupted)
    assert not os.listdir(tmp_path)


KILLED = """
import os, signal, sys
from tianwen.ask import knowledge_base, segment_on_disk
from tianwen.ask.memory import Bound
from tests.ask.few_facts import FACTS, TOKENIZER
knowledge_base.bound_of = lambda memory: Bound(2**15, by_user=True)
segment_on_disk.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
knowledge_base.KnowledgeBase.build(FACTS, sys.argv[1], tokenizer=TOKENIZER)
"""


def test_what_a_killed_build_left_goes_with_the_next(tmp_path):
    folder = tmp_path / "k[1]"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert left == [".k[1].building", ".k[1].sorting"]
    with Scratch(folder) as living:  # another build of the same that goes on
        kept = living.path("file").parent
        with KnowledgeBase.build(FACTS, folder, tokenizer=TOKENIZER) as kb:  # in memory
            agree(kb.snapshot(), FACTS)
        assert sorted(tmp_path.iterdir()) == sorted([kept, folder])
    assert os.listdir(tmp_path) == [folder.name]


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 1000])
def test_columns_are_written_as_polars_writes_them(tmp_path, rows):
    import polars as pl

    texts = ["é" * (k % 4) for k in range(rows)]
    numbers = np.arange(rows, dtype=np.uint32)
    write_columns(tmp_path / "whole", pl.DataFrame({"text": texts, "number": numbers}))
    with Scratch(tmp_path / "k") as scratch:
        column = ColumnWriter(tmp_path / "pieces", {"text": "text", "number": "number"}, scratch)
        for part in (slice(0, rows // 2), slice(rows // 2, rows)):
            data = [text.encode() for text in texts[part]]
            length = np.array([len(text) for text in data], np.int64)
            column.append_texts("text", length, np.frombuffer(b"".join(data), np.uint8))
            column.append_numbers("number", numbers[part])
        column.finish()
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
