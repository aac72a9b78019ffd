"""Markup of texts against a grammar of twenty lines, and the links read back."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.entity_linking import Link, Marks, MarkupConstraint, read_links
from tianwen.ask.walking import read_from
from tianwen.errors import InputError

from .agreement import END, agrees, catalogue, fielded, segmented
from .oracle import Oracle

MARKS = Marks(30, 31, 32, 33, 34)


def markups(text, names, candidates):
    """Every way to mark up a text: `candidates(mention)` are the entries a stretch may be linked to."""
    if not text:
        yield ()
        return
    for rest in markups(text[1:], names, candidates):
        yield (text[0], *rest)
    for length in range(1, names + 1):
        if length > len(text):
            break
        for entry, rest in product(candidates(text[:length]), markups(text[length:], names, candidates)):
            yield (30, *text[:length], 31, 32, *entry, 33, *rest)


class OfText:
    """One text's part of the constraint, to be held against an oracle."""

    def __init__(self, markup, number):
        self.markup, self.number = markup, number

    def __getattr__(self, name):
        return getattr(self.markup, name)

    def walk(self, ids, lengths):
        return read_from(self.markup, self.markup.roots(np.full(len(lengths), self.number)), ids, lengths)


texts = st.lists(st.lists(st.integers(4, 6), max_size=3).map(tuple), min_size=1, max_size=2)
names = st.lists(st.lists(st.integers(4, 7), min_size=1, max_size=2).map(tuple), min_size=1, max_size=2)


@settings(max_examples=6)
@given(texts=texts, entries=names, mentions=st.none() | names, kind=st.sampled_from(["catalogue", "segmented"]))
def test_every_markup_and_nothing_else(texts, entries, mentions, kind):
    tree = catalogue(entries)[0] if kind == "catalogue" else segmented(catalogue, [entries, entries[:1]], set())[0]
    known = None if mentions is None else catalogue(mentions)[0]
    markup = MarkupConstraint(texts, tree, marks=MARKS, mentions=known, longest=2)
    for number, text in enumerate(texts):
        may = lambda mention: sorted(set(entries)) if mentions is None or mention in mentions else []  # noqa: E731
        keys = [(*written, 34) for written in markups(text, 2, may)]
        assert len(set(keys)) == len(keys)
        agrees(OfText(markup, number), Oracle(keys, 34))


@settings(max_examples=6)
@given(texts=texts, pairs=st.lists(st.tuples(names.map(lambda n: n[0]), names.map(lambda n: n[0])), max_size=3))
def test_candidates_of_each_mention(texts, pairs):
    tree = catalogue([(*mention, 31, *entry) for mention, entry in pairs])[0]
    markup = MarkupConstraint(texts, tree, marks=MARKS, by_mention=True, longest=2)
    for number, text in enumerate(texts):
        may = lambda mention: sorted({entry for known, entry in pairs if known == mention})  # noqa: E731
        agrees(OfText(markup, number), Oracle([(*written, 34) for written in markups(text, 2, may)], 34))


def test_texts_of_a_batch_go_their_own_ways():
    markup = MarkupConstraint([[4, 5], [6]], catalogue([(7, 8)])[0], marks=MARKS, longest=2)
    state = markup.root(4)
    state = markup.advance(state, np.array([4, 30, 30, 6]))
    state = markup.advance(state, np.array([5, 4, 6, 34]))
    state = markup.advance(state, np.array([34, 31, 31, 6]))
    assert markup.field(state).tolist() == [1, 0, 0, -1]
    row_ptr, token, after = markup.allowed(state)
    assert (row_ptr.tolist(), token.tolist()) == ([0, 0, 1, 2, 2], [32, 32])
    state = markup.advance(after, np.array([7, 7]))
    assert [edge.tolist() for edge in markup.rows(state)] == [[0, 0], [1, 1]]
    assert markup.allowed(markup.advance(state, np.array([8, 8])))[1].tolist() == [33, 33]
    with pytest.raises(InputError, match="3 rows cannot be shared evenly by 2 texts"):
        markup.root(3)


def test_facts_can_be_linked_to():
    """Any constraint serves; the END that is not the last is written as it is."""
    facts = fielded([((7,), (8,), ())])[0]
    markup = MarkupConstraint([[4]], facts, marks=MARKS)
    assert markup.completions(markup.root(1), limit=9).tokens.tolist() == [
        *[4, 34],
        *[30, 4, 31, 32, 7, END, 8, END, 33, 34],
    ]


def test_a_key_that_is_a_prefix_of_another_can_be_linked():
    markup = MarkupConstraint([[4]], catalogue([(7,), (7, 8)])[0], marks=MARKS)
    found = markup.completions(markup.root(1), limit=9)
    assert len(found.terminal) == 3


def test_a_dictionary_of_mentions_leaves_no_choice_elsewhere():
    text = list(range(40, 140))
    markup = MarkupConstraint([text], catalogue([(7,)])[0], marks=MARKS, mentions=catalogue([(90, 91)])[0])
    state, forks = markup.root(1), 0
    for token in text:
        row_ptr, _, _ = markup.allowed(state)
        forks += int(row_ptr[-1]) > 1
        state = markup.advance(state, np.array([token]))
    assert forks == 1


def test_links_are_read_back():
    written = [4, 30, 5, 6, 31, 32, 7, 8, 33, 4, 30, 4, 31, 32, 9, 33, 34, 0, 0]
    assert read_links(written, MARKS) == [Link(1, 3, (7, 8)), Link(4, 5, (9,))]
    assert read_links([], MARKS) == []
    for wrong in ([30, 31], [31], [4, 32], [30, 4, 31, 4], [30, 4, 34]):
        with pytest.raises(InputError, match="mark out of order"):
            read_links(wrong, MARKS)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([[4, 32]], {}, "Token 32 of a text is one of the marks"),
        ([], {}, "a text and a length"),
        ([[4]], {"longest": 0}, "a length of at least 1"),
        ([[4]], {"marks": Marks(30, 31, 31, 33, 34)}, "Five different marks"),
        ([[4]], {"mentions": catalogue([(4,)])[0], "by_mention": True}, "leave `mentions` out"),
    ],
)
def test_what_cannot_be_marked_is_refused(texts, options, message):
    with pytest.raises(InputError, match=message):
        MarkupConstraint(texts, catalogue([(7,)])[0], **{"marks": MARKS} | options)


def test_an_entry_with_the_closing_mark_is_refused():
    markup = MarkupConstraint([[4]], catalogue([(33, 7)])[0], marks=MARKS)
    state = markup.walk(np.array([[30, 4, 31, 32]]), np.array([4]))
    with pytest.raises(InputError, match="contains the mark 33"):
        markup.allowed(state)
