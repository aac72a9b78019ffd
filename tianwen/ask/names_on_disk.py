"""Lists of different names, numbered and sorted where memory is short.

Post: 8802

    1. numbers: equal entries get one number, in the order of their first coming. Entries that may be equal have equal
       hashes, so parts of them, chosen by hash, are compared one after the other; each part fits in memory
    2. tokens: each different name is tokenised when its first entry comes by, and goes into an external sort
    3. ranks: what comes out of the sort are the names in the order of their tokens; equal tokens are one name there

Notation
    v  different names      u  different sequences of tokens      number [v]  by first coming      rank [v]  by tokens
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64, UInt32

from tianwen.ask.column_writer import ColumnWriter
from tianwen.ask.external_sort import Block, Sorter, of_arrays
from tianwen.ask.facts_on_disk import Entries
from tianwen.ask.fielded import BatchTokenizer
from tianwen.ask.memory import Bound
from tianwen.ask.ragged import close_rows, kernel, pointers
from tianwen.ask.scratch import Scratch, Spool

AN_ENTRY, A_BYTE = 70, 3
"""Bytes of memory that comparing needs for each entry, and for each byte of its text."""

TEXTS_AT_ONCE = 20_000
_PIECE = 2**18
_TOKEN = 4  # bytes
_BITS = 21  # of the first three tokens, from which the head of a record is made


class SortedNames(NamedTuple):
    """The different sequences of tokens in their order, each closed by END, in files."""

    different: int
    longest: int
    highest: int  # token
    tokens: Spool  # uint32
    length: Spool  # uint32 [u]
    shared: Spool  # uint32 [u]: tokens that it has in common with the one before
    rank: Spool  # uint32 [v]

    def remove(self) -> None:
        """Delete the files but for the ranks."""
        for spool in (self.tokens, self.length, self.shared):
            spool.remove()


def number_entries(entries: Entries, scratch: Scratch, bound: Bound) -> Spool:
    """The number of each entry's name."""
    room = bound.room() // 2
    parts = max(1, -(-(len(entries) * AN_ENTRY + entries.nbytes * A_BYTE) // room), -(-len(entries) // 2**30))
    found = scratch.spool("entry-numbers", np.uint32)
    if parts == 1:
        _, code, _ = _compared(entries, 0, 1)
        found.append(code)
        return found
    sorter = Sorter(scratch, "first-entries", memory=room // 4)
    for part in range(parts):
        place, code, first = _compared(entries, part, parts)
        for start in range(0, len(place), _PIECE):
            piece = slice(start, start + _PIECE)
            sorter.add(of_arrays(place[piece], [first[code[piece]]]))
        del place, code, first
    words = -(-len(entries) // 64)
    bits, before = np.zeros(words, np.uint64), np.zeros(words, np.uint32)
    total = 0
    for block in sorter.sorted():
        out = np.empty(len(block.head), np.uint32)
        total = _number_firsts(block.head.astype(np.int64), block.body.view(np.int64), bits, before, total, out)
        found.append(out)
    return found


def _compared(
    entries: Entries, part: int, parts: int
) -> tuple[Int64[np.ndarray, " k"], UInt32[np.ndarray, " k"], Int64[np.ndarray, " names"]]:
    """A part of the entries: which they are, the number of each one's name within the part, each name's first entry."""
    texts, lengths, hashes, places = [np.zeros(0, np.uint8)], [], [], []
    for before, names in zip(entries.first[:-1], entries, strict=True):
        hashed = names.hash(seed=1).to_numpy()
        chosen = np.flatnonzero(hashed % np.uint64(parts) == part)
        own = names.gather(chosen)
        texts.append(np.frombuffer((own.str.join("").item() or "").encode(), np.uint8))
        lengths.append(own.str.len_bytes().to_numpy())
        hashes.append(hashed[chosen] // np.uint64(parts))
        places.append(chosen + before)
    text, ptr, hashed, place = (
        np.concatenate(texts),
        pointers(np.concatenate(lengths)),
        np.concatenate(hashes),
        np.concatenate(places),
    )
    del texts, lengths, hashes, places
    code, table = np.empty(len(place), np.uint32), np.full(1 << (2 * len(place)).bit_length(), -1, np.int32)
    first = np.empty(len(place), np.int64)
    different = _number_names(text, ptr, hashed, place, table, code, first)
    return place, code, first[:different]


@kernel
def _number_names(text, ptr, hashes, place, table, code, first):
    """Number names in the order of their coming, and note where each first came; `table` is a hash table of them."""
    mask, different = np.uint64(len(table) - 1), 0
    for i in range(len(code)):
        slot, size = hashes[i] & mask, ptr[i + 1] - ptr[i]
        while table[slot] >= 0:
            j = table[slot]
            if hashes[j] == hashes[i] and ptr[j + 1] - ptr[j] == size:
                k = 0
                while k < size and text[ptr[j] + k] == text[ptr[i] + k]:
                    k += 1
                if k == size:
                    break
            slot = (slot + np.uint64(1)) & mask
        if table[slot] >= 0:
            code[i] = code[table[slot]]
        else:
            table[slot] = i
            first[different] = place[i]
            code[i] = different
            different += 1
    return different


@kernel
def _number_firsts(entry, first, bits, before, total, out):
    """Number entries in their order: a first one gets the next number, any other that of its first one.

    `bits` marks the first ones, `before` counts those before each 64.
    """
    one = np.uint64(1)
    for i in range(len(entry)):
        e, f = entry[i], first[i]
        if e % 64 == 0:
            before[e // 64] = total
        if e == f:
            bits[e // 64] |= one << np.uint64(e % 64)
            out[i] = total
            total += 1
        else:
            word = bits[f // 64] & ((one << np.uint64(f % 64)) - one)
            count = before[f // 64]
            while word:
                word &= word - one
                count += 1
            out[i] = count
    return total


def different_names(entries: Entries, numbers: Spool) -> Iterator[pl.Series]:
    """The names in the order of their numbers, some at a time."""
    seen = 0
    for frame, names in enumerate(entries):
        # Names are numbered as they come: those with a number not seen before are new, and there in order.
        new = names.filter(pl.Series(numbers.read(*entries.first[frame : frame + 2]) >= seen))
        seen += len(new)
        for start in range(0, len(new), TEXTS_AT_ONCE):
            yield new.slice(start, TEXTS_AT_ONCE)


def write_names(names: Iterator[pl.Series], column: ColumnWriter) -> Iterator[pl.Series]:
    """The same names, being written on their way."""
    for some in names:
        data = np.frombuffer(some.str.join("").item().encode(), np.uint8)
        column.append_texts("text", some.str.len_bytes().to_numpy(), data)
        yield some
    column.finish()


def sort_names(names: Iterator[pl.Series], tokenizer: BatchTokenizer, scratch: Scratch, bound: Bound) -> SortedNames:
    """Tokenise names and sort them by their tokens."""
    end_id, count, highest, longest = int(tokenizer.sep_id), 0, 0, 0
    sorter = Sorter(scratch, "names", memory=bound.room() // 2, by_body=True)
    for some in names:
        row_ptr, ids = tokenizer.ids_batch(some.to_list())
        ptr, closed = close_rows(row_ptr, ids, end_id)
        sorter.add(_name_records(ptr, closed, count))
        count += len(some)
        highest = max(highest, int(closed.max()))
        longest = max(longest, int(np.diff(ptr).max()))
    tokens, length, shared = (scratch.spool(name, np.uint32) for name in ("tokens", "token-counts", "shared"))
    by_number = Sorter(scratch, "ranks", memory=bound.room() // 4)
    last, state = np.zeros(longest * _TOKEN, np.uint8), np.zeros(2, np.int64)  # its bytes; how many names, its bytes
    for block in sorter.sorted():
        n = len(block.head)
        which, rank, new = np.empty(n, np.int64), np.empty(n, np.uint32), np.zeros(n, np.bool_)
        same = np.empty(n, np.uint32)
        _rank(block.ptr, block.body, last, state, (which, rank, new, same))
        sizes = (np.diff(block.ptr) - 8) // _TOKEN
        own = np.empty(int(sizes[new].sum()), np.uint32)
        _tokens_of(np.flatnonzero(new), block.ptr, block.body, own)
        tokens.append(own)
        length.append(sizes[new])
        shared.append(same[new])
        by_number.add(of_arrays(which, [rank]))
    ranks = scratch.spool("name-ranks", np.uint32)
    for block in by_number.sorted():
        ranks.append(block.body.view(np.uint32))
    return SortedNames(int(state[0]), longest, highest, tokens, length, shared, ranks)


def _name_records(ptr: Int64[np.ndarray, " n+1"], closed: UInt32[np.ndarray, " t"], first: int) -> Block:
    """Closed names as records: the body is their tokens and their number, so that bytes sort as tokens do."""
    count = len(ptr) - 1
    head, body = np.empty(count, np.uint64), np.empty((len(closed) + 2 * count) * _TOKEN, np.uint8)
    _fill_names(ptr, closed, first, head, body)
    return Block(head, (ptr + 2 * np.arange(count + 1)) * _TOKEN, body)


@kernel
def _fill_names(ptr, closed, first, head, body):
    at = 0
    largest = (np.int64(1) << _BITS) - 1
    for row in range(len(head)):
        word, exact = np.int64(0), True
        for k in range(3):
            part = np.int64(0)
            if exact and ptr[row] + k < ptr[row + 1]:
                part = min(np.int64(closed[ptr[row] + k]), largest)
                exact = part < largest  # what follows a token that has no room does not count
            word = word << _BITS | part
        head[row] = word
        for k in range(ptr[row], ptr[row + 1]):
            for shift in (24, 16, 8, 0):
                body[at] = (np.int64(closed[k]) >> shift) & 0xFF
                at += 1
        for shift in (56, 48, 40, 32, 24, 16, 8, 0):
            body[at] = ((first + row) >> shift) & 0xFF
            at += 1


@kernel
def _rank(ptr, body, last, state, out):
    """For each record its name's number and rank, whether it is a new one, and the tokens shared with that before."""
    number, rank, new, shared = out
    for i in range(len(number)):
        start, stop = ptr[i], ptr[i + 1] - 8
        size, same = stop - start, 0
        while same < size and same < state[1] and body[start + same] == last[same]:
            same += 1
        if same < size:  # closed sequences: none is the beginning of another
            new[i] = True
            shared[i] = same // 4
            last[same:size] = body[start + same : stop]
            state[0] += 1
            state[1] = size
        value = np.int64(0)
        for k in range(stop, stop + 8):
            value = value << 8 | np.int64(body[k])
        number[i] = value
        rank[i] = state[0] - 1


@kernel
def _tokens_of(rows, ptr, body, out):
    at = 0
    for row in rows:
        for start in range(ptr[row], ptr[row + 1] - 8, 4):
            value = np.int64(0)
            for k in range(start, start + 4):
                value = value << 8 | np.int64(body[k])
            out[at] = value
            at += 1
