"""A state dict through JSON and a flat table of tensors, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from tianwen.errors import TrainingError
from tianwen.training.tree import pack, unpack

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int64, torch.bool]
TENSORS = st.builds(
    lambda shape, dtype, turned: (
        (torch.ones(shape).cumsum(0) if shape else torch.tensor(2.0)).to(dtype).mT
        if turned and len(shape) > 1
        else torch.full(shape, 3).to(dtype)
    ),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([*DTYPES, torch.complex64, torch.complex128]),
    st.booleans(),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def through_bytes(tree: Any) -> Any:
    node, tensors = pack(tree)
    return unpack(json.loads(json.dumps(node)), load(save(tensors)))


@given(TREES)
def test_any_state_comes_back(tree: Any):
    assert same(through_bytes(tree), tree)


def test_keys_that_look_like_paths_do_not_collide():
    tree = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, 1: torch.tensor(3), "1": torch.tensor(4)}
    assert same(through_bytes(tree), tree)


def test_shared_memory_is_stored_once_and_views_get_their_own():
    tied, buffer = torch.arange(6.0), torch.arange(8.0)
    _, tensors = pack({"a": tied, "b": tied, "left": buffer[:4], "right": buffer[4:]})
    assert len(tensors) == 3
    assert same(
        through_bytes({"a": tied, "b": tied, "left": buffer[:4], "right": buffer[4:]}),
        {"a": tied, "b": tied, "left": buffer[:4], "right": buffer[4:]},
    )


def test_what_cannot_be_kept_is_named():
    with pytest.raises(TrainingError, match=r"/state/0/hook.*function"):
        pack({"state": {0: {"hook": lambda: None}}})
    with pytest.raises(TrainingError, match="neither a string nor an int"):
        pack({(1, 2): 3})
