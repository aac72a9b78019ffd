"""Facts as numbers: the same facts come out as a plain table would give, however they came in."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask import numbered_facts as module
from tianwen.ask.facts import FIELDS
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.numbered_facts import NAMED, Gathering, NumberedFacts

from .few_facts import FACTS, TOKENIZER

FEW = st.sampled_from(["", "火星", "a", "é", "天问\n一号", "𠮷"])
ROWS = st.lists(st.tuples(FEW, FEW, FEW, FEW, FEW), max_size=12)


def frame(rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(FIELDS, pl.String), orient="row")


def texts(facts: NumberedFacts, order: np.ndarray | None = None) -> list[tuple[str, ...]]:
    """What stands in the facts, as rows of `FIELDS`."""
    order = np.arange(facts.height) if order is None else order
    columns = {field: facts.names[field].gather(facts.numbers[field][order]) for field in NAMED}
    columns["object"] = pl.concat([pl.Series(dtype=pl.String), *facts.objects_in(order)])
    return [tuple(row) for row in pl.DataFrame({field: columns[field] for field in FIELDS}).iter_rows()]


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=4), st.sampled_from([0, 2**26]), st.integers(1, 4))
def test_frames_come_out_once_each_in_order(frames, kept, at_once):
    with pytest.MonkeyPatch.context() as patch, Gathering() as gathering:
        patch.setattr(module, "KEPT_IN_MEMORY", kept)
        patch.setattr(module, "AT_ONCE", at_once)
        for rows in frames:
            gathering.take(frame(rows))
        facts = gathering.finish()
        everything = [row for rows in frames for row in rows]
        expected = list(dict.fromkeys(everything))
        assert texts(facts) == expected
        assert facts.duplicates == len(everything) - len(expected)
        backwards = np.arange(facts.height)[::-1]
        assert texts(facts, backwards) == expected[::-1]
        assert all(facts.names[field].n_unique() == len(facts.names[field]) for field in NAMED)


def test_a_hash_that_two_facts_share_loses_neither():
    rows = [("a", "p", "1", "", ""), ("b", "p", "1", "", ""), ("a", "p", "1", "", ""), ("a", "p", "2", "", "")]
    with Gathering() as gathering:
        gathering.take(frame(rows))
        gathering._hashes = [np.zeros(4, np.uint64)]
        facts = gathering.finish()
    assert texts(facts) == [rows[0], rows[1], rows[3]]


def test_objects_beyond_memory_wait_in_a_file_that_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_IN_MEMORY", 10)
    with KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER) as kb:
        kb.remove(FACTS[0].subject)
        kb.compact()
        left = [fact for fact in FACTS if fact.subject != FACTS[0].subject]
        assert sorted(map(str, kb.snapshot().iter_facts())) == sorted(map(str, left))
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert not [path for path in (tmp_path / "k").iterdir() if "tmp" in path.name]
