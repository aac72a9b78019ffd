from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.extract import windows as module
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.windows import cut, merged, windows
from tianwen.text import Tokenizer

TOKENIZER = Tokenizer.train(["战神从佛罗里达升空。abc def ghi."] * 2)


@given(st.integers(1, 200), st.sets(st.integers(1, 199), max_size=30), st.integers(4, 40), st.integers(0, 19))
def test_windows_cover_all_tokens_and_go_on(tokens, boundaries, length, overlap):
    overlap = min(overlap, (length - 1) // 2)
    bounds = sorted(b for b in boundaries if b < tokens)
    cuts = list(cut(tokens, bounds, length=length, overlap=overlap))
    assert cuts[0][0] == 0
    assert cuts[-1][1] == tokens
    for (a, b), (c, d) in pairwise(cuts):
        assert a < c <= b < d
        assert b - a <= length
        assert c in bounds or c == b - overlap
        assert b in bounds or b == a + length


def test_windows_are_cut_where_sentences_end():
    text = "战神升空。" * 40
    cuts = [TOKENIZER.decode(window.ids) for window in windows(text, TOKENIZER, length=32, overlap=10)]
    assert len(cuts) > 5
    assert all(part.startswith("战神") and part.endswith("。") for part in cuts)
    assert not any(w.open_start or w.open_end for w in windows(text, TOKENIZER, length=32, overlap=10))


def test_a_sentence_longer_than_a_window_is_cut_with_overlap():
    text = "战神升空" * 40
    found = list(windows(text, TOKENIZER, length=32, overlap=10))
    assert [w.open_start for w in found] == [False] + [True] * (len(found) - 1)
    assert [w.open_end for w in found] == [True] * (len(found) - 1) + [False]
    for one, other in pairwise(found):
        assert one.offsets[-1, 1] - other.offsets[0, 0] == 10


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="战神升空。. abc\nİ😀א\ud800\0", max_size=300))
def test_offsets_are_those_of_the_whole_text(text):
    whole = TOKENIZER.encode(text)
    seen = set()
    for window in windows(text, TOKENIZER, length=12, overlap=4):
        assert len(window.ids) == len(window.offsets) <= 12
        seen |= {(int(i), *map(int, place)) for i, place in zip(window.ids, window.offsets, strict=True)}
    assert seen == {(int(i), *map(int, place)) for i, place in zip(whole.ids, whole.offsets, strict=True)}


def test_blocks_do_not_show(monkeypatch):
    text = "战神从佛罗里达升空。abc def, 升空" * 60
    whole = list(windows(text, TOKENIZER, length=20, overlap=6))
    monkeypatch.setattr(module, "BLOCK_CHARACTERS", 330)
    parts = list(windows(text, TOKENIZER, length=20, overlap=6))
    assert len(parts) > 30
    assert [w.offsets.tolist() for w in parts] == [w.offsets.tolist() for w in whole]
    assert [(w.open_start, w.open_end) for w in parts] == [(w.open_start, w.open_end) for w in whole]


@pytest.mark.parametrize("block", [200, 230, 260])
def test_a_cut_between_blocks_knows_whether_a_sentence_ends_there(monkeypatch, block):
    """What is found at an open side is left to the neighbour: open on both sides of a cut, or on none."""
    monkeypatch.setattr(module, "BLOCK_CHARACTERS", block)
    for text in ("战神升空" * 200, "战神升空。" * 200, "战神升空" * 30 + "。" + "战神升空。" * 100):
        found = list(windows(text, TOKENIZER, length=12, overlap=4))
        assert not found[0].open_start
        assert not found[-1].open_end
        for one, other in pairwise(found):
            ends, starts = (text[int(place) - 1] == "。" for place in (one.offsets[-1, 1], other.offsets[0, 0]))
            assert one.open_end == (not ends)
            assert other.open_start == (not starts)


def test_a_million_characters_need_the_memory_of_a_block():
    text = "战神从佛罗里达升空。" * 100_000
    tracemalloc.start()
    count = sum(1 for _ in windows(text, TOKENIZER, length=126, overlap=32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 7000
    assert peak < 30e6


def test_texts_without_tokens_have_no_windows():
    assert not list(windows("", TOKENIZER, length=12, overlap=4))
    assert not list(windows(" \n ", TOKENIZER, length=12, overlap=4))


def test_too_much_overlap_is_refused():
    with pytest.raises(InputError, match="half"):
        list(windows("a", TOKENIZER, length=10, overlap=5))


def test_things_found_in_two_windows_are_one_with_the_better_score():
    text = "战神升空战神"
    a, b = Mention(0, 2, "火箭", 0.6), Mention(2, 4, "", 0.7)
    better = Mention(0, 2, "火箭", 0.9)
    one = Annotation(text, (a, b), (Relation(a, "做", b, 0.6),), (Event("升空", (Argument("谁", a),), 0.6),))
    other = Annotation(
        text, (better,), (Relation(better, "做", b, 0.8),), (Event("升空", (Argument("谁", better),), 0.5),)
    )
    both = merged(text, [one, other], source="x")
    assert both.entities == (better, b)
    assert [fact.score for fact in both.relations] == [0.8]
    assert [event.score for event in both.events] == [0.6]
    assert both.source == "x"
    assert merged(text, []) == Annotation(text)
