"""Files of weights: what is read is what was written, within the storage's error, or nothing at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tianwen.errors import ModelError
from tianwen.training import load_weights, save_weights
from tianwen.training.weights import quantise_rows, restore_rows


def tensors() -> dict[str, torch.Tensor]:
    return {
        "matrix": torch.randn(6, 5) * torch.logspace(-3, 3, 6)[:, None],
        "vector": torch.randn(7),
        "kernel": torch.randn(4, 3, 2, 2),
        "zeros": torch.zeros(3, 4),
        "half": torch.randn(2, 3).half(),
        "brain": torch.randn(2, 3).bfloat16(),
        "ids": torch.tensor([[1, 2], [3, 2**40]]),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "turned": torch.randn(3, 4).T,
    }


def test_as_is_loses_nothing(tmp_path: Path):
    given_tensors = tensors()
    save_weights(tmp_path / "w.safetensors", given_tensors, {"名": "天问", "n": [1, 2.5, None]})
    read = load_weights(tmp_path / "w.safetensors")
    assert read.metadata == {"名": "天问", "n": [1, 2.5, None]}
    assert read.tensors.keys() == given_tensors.keys()
    for name, tensor in given_tensors.items():
        assert read.tensors[name].dtype == tensor.dtype, name
        assert torch.equal(read.tensors[name], tensor), name


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_small_storage_keeps_types_and_comes_close(tmp_path: Path, storage: str):
    given_tensors = tensors()
    save_weights(tmp_path / "w.safetensors", given_tensors, storage=storage)
    read = load_weights(tmp_path / "w.safetensors").tensors
    for name, tensor in given_tensors.items():
        assert read[name].dtype == tensor.dtype, name
        assert read[name].shape == tensor.shape, name
        if not tensor.is_floating_point():
            assert torch.equal(read[name], tensor), name
    rows, back = given_tensors["matrix"], read["matrix"]
    allowed = rows.abs().amax(1, keepdim=True) / 127 / 2 * 1.001 if storage == "int8" else rows.abs() * 2**-10
    assert bool(((rows - back).abs() <= allowed).all())
    assert not torch.equal(rows, back)
    exact = "vector" if storage == "int8" else "half"
    assert torch.equal(read[exact], given_tensors[exact])


def test_sizes(tmp_path: Path):
    weight = {"w": torch.randn(200, 500)}
    sizes = {}
    for storage in ("fp32", "fp16", "int8"):
        save_weights(tmp_path / storage, weight, storage=storage)
        sizes[storage] = (tmp_path / storage).stat().st_size
    assert sizes["fp16"] < 0.51 * sizes["fp32"]
    assert sizes["int8"] < 0.26 * sizes["fp32"]


@given(st.integers(1, 5), st.integers(1, 7), st.floats(1e-30, 1e30), st.integers(0, 10**6))
def test_rows_come_back_within_half_a_scale(rows: int, width: int, size: float, seed: int):
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * size
    codes, scale = quantise_rows("w", weight)
    assert bool(((restore_rows(codes, scale) - weight).abs() <= scale[:, None] * 0.5001).all())


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path):
    model = nn.ModuleDict({"a": nn.Linear(100, 100, bias=False), "b": nn.Linear(100, 100, bias=False)})
    model["b"].weight = model["a"].weight
    save_weights(tmp_path / "w", model.state_dict())
    read = load_weights(tmp_path / "w").tensors
    assert (tmp_path / "w").stat().st_size < 1.1 * 4 * 100 * 100
    assert read["a.weight"].data_ptr() == read["b.weight"].data_ptr()


def test_same_content_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        save_weights(tmp_path / name, tensors_of_seed(3), {"x": 1, "y": 2}, storage="int8")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def tensors_of_seed(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return tensors()


def test_flipped_bytes_and_cut_files_are_refused(tmp_path: Path):
    path = tmp_path / "w"
    save_weights(path, {"w": torch.randn(3, 4), "b": torch.randn(2)}, {"kind": "test"}, storage="int8")
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        refused_or_same(path, whole)
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load_weights(path)


def refused_or_same(path: Path, whole: bytes) -> None:
    """A flip in the padding of the header changes nothing; all others must be refused."""
    try:
        read = load_weights(path)
    except ModelError:
        return
    reference = path.with_name("reference")
    reference.write_bytes(whole)
    expected = load_weights(reference)
    assert read.metadata == expected.metadata
    assert all(torch.equal(read.tensors[name], expected.tensors[name]) for name in expected.tensors)


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="no weights at"):
        load_weights(tmp_path / "nothing")
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(ModelError, match="not one of Tianwen's"):
        load_weights(tmp_path / "foreign")


def test_values_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="65504"):
        save_weights(tmp_path / "w", {"w": torch.tensor([1e6])}, storage="fp16")
    with pytest.raises(ModelError, match="not finite"):
        save_weights(tmp_path / "w", {"w": torch.tensor([[float("nan")]])}, storage="int8")
    with pytest.raises(ModelError, match="plain JSON"):
        save_weights(tmp_path / "w", {"w": torch.zeros(1)}, {"x": object()})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "w"
    save_weights(path, {"w": torch.zeros(2)})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        save_weights(path, {"w": torch.ones(2)})
    assert torch.equal(load_weights(path).tensors["w"], torch.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == ["w"]
