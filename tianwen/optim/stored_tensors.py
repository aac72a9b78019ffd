"""Tensors that stay in their file: shape and type are known at once, rows are read when asked for.

Notation
    header   a safetensors file is 8 bytes (length of the header), a header (JSON: name -> type, shape, place), bytes
    W = s q  a weight stored as int8 by `save_weights`: codes q [rows, dim], one fp32 scale s a row, as `name::scale`

Nothing is mapped into memory: a chunk of rows is read, looked at and forgotten, so a table may be larger than memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from tianwen.errors import ModelError

Rows = Callable[[int, int], Tensor]
"""(first, end) -> the rows first..end-1, [end - first, ...], in the type of the file or, for int8, in fp32."""

SCALE = "::scale"
_LARGEST_HEADER = 100_000_000
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie in a safetensors file; whole rows follow each other from `offset` on."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, first: int, end: int) -> Shaped[Tensor, " rows ..."]:
        """Rows first..end-1. Raises ModelError if the file has become shorter since its header was read."""
        buffer = bytearray((end - first) * self.row_bytes)
        shape = (end - first, *self.shape[1:])
        if not buffer:
            return torch.empty(shape, dtype=self.dtype)
        with self.file.open("rb") as file:
            file.seek(self.offset + first * self.row_bytes)
            if file.readinto(buffer) != len(buffer):
                raise ModelError(f"{self.file} ended while it was read. Copy it again.")
        return torch.frombuffer(buffer, dtype=self.dtype).view(shape)  # [rows, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's name, shape and type, and how its rows are read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    floating: bool
    read: Rows
    place: Place | None = None
    """Of the tensor's own bytes; of its row scales where the tensor is stored as int8."""
    tensor: Tensor | None = None
    """The tensor itself where it is in memory (or mapped there by torch.load)."""

    @classmethod
    def in_memory(cls, name: str, tensor: Tensor) -> StoredTensor:
        """A tensor that is here already; it is not copied."""
        plain = tensor.detach()
        dtype = str(plain.dtype).removeprefix("torch.")
        floating = plain.is_floating_point()
        return cls(name, tuple(plain.shape), dtype, floating, lambda a, b: plain[a:b], tensor=plain)


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata. Only the header is read.

    Weights that `save_weights` stored as int8 stand under their own names, decoded when read. Raises ModelError,
    with one sentence, if the file is cut short or no safetensors file at all.
    """
    places, metadata = read_places(path)
    return _tensors(path, places, metadata), metadata


def read_places(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Where each tensor of a safetensors file lies, as it is stored, and the file's metadata."""
    header, start, size = _header(path)
    metadata = header.pop("__metadata__", {})
    places: dict[str, Place] = {}
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
            first, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} is damaged: its header says nothing useful about {name!r}.") from error
        if not 0 <= first <= end or min(shape, default=0) < 0:
            raise ModelError(f"{path} is damaged: its header gives {name!r} impossible bytes {first}..{end}.")
        if start + end > size:
            raise ModelError(
                f"{path} is cut short: {name!r} ends at byte {start + end:,}, the file at {size:,}. Copy it again."
            )
        if dtype not in _DTYPES:
            continue  # packed types of a few bits: no rows to look at
        if math.prod(shape) * _DTYPES[dtype].itemsize != end - first:
            raise ModelError(
                f"{path} is damaged: {name!r} of shape {list(shape)} does not fill its {end - first} bytes."
            )
        places[name] = Place(path, start + first, _DTYPES[dtype], shape)
    return places, metadata if isinstance(metadata, dict) else {}


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """(header, where the bytes begin, size of the file)."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_LARGEST_HEADER, size - 8):
            raise ModelError(
                f"{path} is no safetensors file, or cut short: its header should take {length:,} of {size:,} bytes. "
                "Copy it again."
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"{path} is damaged or no safetensors file: its header is not JSON. Copy it again."
            ) from error
    if not isinstance(header, dict):
        raise ModelError(f"{path} is damaged: its header is no table of tensors. Copy it again.")
    return header, 8 + length, size


def _tensors(path: Path, places: Mapping[str, Place], metadata: Mapping[str, Any]) -> dict[str, StoredTensor]:
    entries = _entries(path, metadata)
    tensors = {}
    for name, place in places.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in places:
            continue
        if entries.get(name, {}).get("as") == "int8" and name + SCALE in places:
            tensors[name] = _int8(name, place, places[name + SCALE])
        else:
            dtype = str(place.dtype).removeprefix("torch.")
            tensors[name] = StoredTensor(name, place.shape, dtype, place.dtype.is_floating_point, place.read, place)
    return tensors


def _int8(name: str, codes: Place, scale: Place) -> StoredTensor:
    if scale.shape != codes.shape[:1] or scale.dtype != torch.float32:
        raise ModelError(f"{codes.file} is damaged: the row scales of {name!r} do not fit its {codes.shape[0]} rows.")

    def read(first: int, end: int) -> Tensor:
        rows = codes.read(first, end)
        return rows.float() * scale.read(first, end).view(-1, *[1] * (rows.ndim - 1))

    return StoredTensor(name, codes.shape, "int8 with row scales", True, read, scale)


def _entries(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of `save_weights` says of its tensors; nothing for files of others."""
    if "tianwen" not in metadata:
        return {}
    try:
        entries = json.loads(json.loads(metadata["tianwen"])["header"])["entries"]
        return {name: dict(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: the description of its weights cannot be read. Copy it again.") from error
