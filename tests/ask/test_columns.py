"""Columns mapped out of Arrow files: the same values as any other reader of Arrow finds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tianwen.ask.columns import Pieces, Texts, map_columns, write_columns
from tianwen.ask.knowledge_base import KnowledgeBase

from .few_facts import FACTS, TOKENIZER


def test_values_are_ordinary_arrow_files(tmp_path):
    KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER).close()
    segment = tmp_path / "k" / "segments" / "0001"
    values, names = pl.read_ipc(segment / "values.arrow"), pl.read_ipc(segment / "subject.arrow")
    objects = pl.read_ipc(segment / "object-0000.arrow")
    assert sorted(objects["text"]) == sorted(fact.object for fact in FACTS)
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


def test_texts_in_pieces_are_taken_as_from_one():
    texts = [f"{n}号" for n in range(23)]
    pieces = Pieces([Texts.of(texts[start : start + 5]) for start in range(0, 23, 5)], 5)
    assert len(pieces) == 23
    assert pieces.take(range(3, 12)) == texts[3:12]
    rows = np.array([22, 0, 5, 4, 5, 19])
    assert pieces.take(rows) == [texts[row] for row in rows]
    assert pieces.take(rows[:0]) == []


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"ARROW1\0\0" + b"\xff" * 60 + b"ARROW1", b"x" * 100])
def test_a_file_of_another_kind_is_not_mapped(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - an empty file has the system's own words
        map_columns(tmp_path / "f", {"n": "number"})
