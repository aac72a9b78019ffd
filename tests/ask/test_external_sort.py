"""The external sort: what Python's sort gives, whatever the sizes of buffers, blocks and records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask import external_sort as module
from tianwen.ask.external_sort import Block, Sorter
from tianwen.ask.ragged import pointers
from tianwen.ask.scratch import Scratch

# Bodies that are closed, so that none is the beginning of another.
RECORDS = st.lists(st.tuples(st.sampled_from([0, 1, 7, 2**63, 2**64 - 1]), st.text("ab", max_size=9)), max_size=40)


def block(records: list[tuple[int, bytes]]) -> Block:
    head = np.array([head for head, _ in records], np.uint64)
    ptr = pointers(np.array([len(body) for _, body in records], np.int64))
    return Block(head, ptr, np.frombuffer(b"".join(body for _, body in records), np.uint8))


def records_of(found: Block) -> list[tuple[int, bytes]]:
    bodies = [found.body[a:b].tobytes() for a, b in zip(found.ptr[:-1], found.ptr[1:], strict=True)]
    return list(zip(found.head.tolist(), bodies, strict=True))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(RECORDS, max_size=4), st.booleans(), st.sampled_from([1, 60, 200, 10**5]), st.sampled_from([8, 40, 4000])
)
def test_records_come_out_as_python_sorts_them(tmp_path_factory, blocks, by_body, memory, block_bytes):
    given_blocks = [[(head, text.encode() + b"\0") for head, text in records] for records in blocks]
    everything = [record for records in given_blocks for record in records]
    with pytest.MonkeyPatch.context() as patch, Scratch(tmp_path_factory.mktemp("s") / "k") as scratch:
        patch.setattr(module, "LEAST", memory)
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
        sorter = Sorter(scratch, "test", memory=memory, by_body=by_body)
        for records in given_blocks:
            sorter.add(block(records))
        assert memory > 1 or sorter.runs >= len(everything) - 1  # a run each
        found = [record for part in sorter.sorted() for record in records_of(part)]
        assert found == (sorted(everything) if by_body else sorted(everything, key=lambda record: record[0]))
        assert not list(scratch.path("none").parent.glob("*test*"))


def test_what_was_read_is_let_go_and_every_run_is_read_ahead(tmp_path, monkeypatch):
    """Windows of a page, runs of many pages: nothing is lost when pages are given back."""
    monkeypatch.setattr(module, "LEAST", 2**16)
    monkeypatch.setattr(module, "BLOCK_BYTES", 2**12)
    monkeypatch.setattr(module, "_LEAST_WINDOW", 2**12)
    rng = np.random.default_rng(0)
    heads = rng.integers(0, 1000, 20_000).astype(np.uint64)
    with Scratch(tmp_path / "k") as scratch:
        sorter = Sorter(scratch, "test", memory=2**16)
        sorter.add(module.of_arrays(heads, [np.arange(20_000)]))
        assert sorter.runs > 10
        order = np.concatenate([part.body.view(np.int64).copy() for part in sorter.sorted()])
    assert (order == np.argsort(heads, kind="stable")).all()
    assert not list(tmp_path.iterdir())
