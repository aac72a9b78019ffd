"""A long text in overlapping windows of tokens, cut where sentences end, and what was found in them put together.

Notation
    L  most tokens of a window, without [CLS] and [SEP]      V  tokens that neighbouring windows share, about

A text is tokenised a block at a time (a million characters need no more memory than the block), each next block
beginning where the last window of the one before began, so that the cut between blocks is a cut between windows.

A window ends at the last sentence end in its second half, and the next begins at the first sentence start in the last V
tokens; where there is none, it is cut at L, and the next begins V tokens earlier. A mention that touches a cut in the
middle of a sentence may be half of a longer one: it is left to the neighbour, which sees it whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation, Event, Mention, Relation
from tianwen.sentences import sentence_ends
from tianwen.text import Tokenizer

BLOCK_CHARACTERS = 1 << 15

Thing = TypeVar("Thing", Mention, Relation, Event)


@dataclass(frozen=True, slots=True)
class Window:
    """Some tokens of a text: ids [n], and offsets [n, 2] in characters of the whole text.

    `open_start`, `open_end`: the cut is in the middle of a sentence.
    """

    ids: Int[np.ndarray, " tokens"]
    offsets: Int[np.ndarray, " tokens 2"]
    open_start: bool = False
    open_end: bool = False


def windows(text: str, tokenizer: Tokenizer, *, length: int, overlap: int) -> Iterator[Window]:
    """The windows of a text in order; none for a text without tokens.

    Raises InputError unless 0 <= overlap < length / 2.
    """
    if not 0 <= overlap < length / 2:
        raise InputError(f"Windows of {length} tokens that share {overlap}: at most half of a window may be shared.")
    start, at_start = 0, False  # where the block starts, and whether in the middle of a sentence
    while start < len(text):
        stop = min(len(text), start + max(BLOCK_CHARACTERS, 16 * length))
        block = text[start:stop]
        encoding = tokenizer.encode(block)
        bounds = token_boundaries(encoding.offsets, block)
        cuts = list(cut(len(encoding), bounds, length=length, overlap=overlap))
        if stop < len(text) and len(cuts) > 1:
            cuts, rest = cuts[:-1], cuts[-1][0]
        else:  # the last block, or one of next to no tokens
            rest = None
        known = set(bounds)
        for first, last in cuts:
            yield Window(
                encoding.ids[first:last],
                encoding.offsets[first:last] + start,
                open_start=at_start if first == 0 else first not in known,
                open_end=last not in known and (last < len(encoding) or stop < len(text)),
            )
        if rest is None:
            start, at_start = stop, False
        else:
            start, at_start = start + int(encoding.offsets[rest, 0]), rest not in known


def token_boundaries(offsets: Int[np.ndarray, " tokens 2"], text: str) -> list[int]:
    """Indices of the tokens that start a sentence, in order, those at the start and behind the last token left out."""
    ends = np.fromiter(sentence_ends(text), np.int64)
    places = np.unique(np.searchsorted(offsets[:, 0], ends))
    return [int(place) for place in places if 0 < place < len(offsets)]


def cut(tokens: int, boundaries: Sequence[int], *, length: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where windows of at most `length` tokens start and end: they cover all tokens, and each goes beyond the last."""
    first = 0
    while tokens:
        last = min(first + length, tokens)
        if last < tokens:
            at = bisect_right(boundaries, last) - 1
            if at >= 0 and boundaries[at] > first + length // 2:
                last = boundaries[at]
        yield first, last
        if last == tokens:
            return
        at = bisect_left(boundaries, last - overlap)
        whole = at < len(boundaries) and boundaries[at] <= last
        first = boundaries[at] if whole else last - overlap


def merged(text: str, parts: Sequence[Annotation], *, source: str = "") -> Annotation:
    """One annotation of `text` from those of its windows, all in offsets of the text: each thing once, best score."""
    if len(parts) == 1:
        return Annotation(text, parts[0].entities, parts[0].relations, parts[0].events, source)
    entities: dict[tuple, Mention] = {}
    relations: dict[tuple, Relation] = {}
    events: dict[tuple, Event] = {}
    for part in parts:
        for mention in part.entities:
            _keep_best(entities, _key(mention), mention)
        for fact in part.relations:
            _keep_best(relations, (_key(fact.subject), fact.predicate, _key(fact.object)), fact)
        for event in part.events:
            arguments = tuple((argument.role, _key(argument.mention)) for argument in event.arguments)
            _keep_best(events, (event.type, arguments), event)
    return Annotation(text, _in_order(entities), _in_order(relations), _in_order(events), source)


def _key(mention: Mention) -> tuple[int, int, str]:
    return mention.start, mention.end, mention.label


def _in_order(found: dict[tuple, Thing]) -> tuple[Thing, ...]:
    return tuple(sorted(found.values(), key=_place))


def _keep_best(found: dict[tuple, Thing], key: tuple, thing: Thing) -> None:
    if key not in found or found[key].score < thing.score:
        found[key] = thing


def _place(thing: Mention | Relation | Event) -> tuple:
    if isinstance(thing, Mention):
        return _key(thing)
    if isinstance(thing, Relation):
        return _key(thing.subject), _key(thing.object), thing.predicate
    return min((_key(a.mention) for a in thing.arguments), default=()), thing.type, len(thing.arguments)
