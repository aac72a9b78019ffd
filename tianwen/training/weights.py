"""A model's weights for release: one safetensors file with metadata, in fp32, fp16 or int8.

Notation
    W  a weight of two or more axes, seen as rows: [rows, rest]        s  scale of a row: [rows]
    int8: s = max |W| of the row / 127,  stored q = round(W / s),  read back W' = s q, so |W' - W| <= s / 2

Tensors that are not floating point, and vectors under int8 (gains, biases), are stored as they are. Tensors that share
memory (tied weights) are stored once. A checksum over names, types, shapes, bytes and metadata is kept in the file: a
flipped byte is refused with ModelError, never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tianwen.errors import ModelError
from tianwen.training.atomic import replace_file

FORMAT = 1
_SCALE = "::scale"  # the row scales of the int8 tensor `name` are stored as `name::scale`
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.float16)} | {
    "bfloat16": torch.bfloat16
}

Storage = Literal["as is", "fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Weights:
    """What `load_weights` found: tensors by name, in the types they had when saved, and the caller's metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    storage: Storage


def save_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    storage: Storage = "as is",
) -> None:
    """Write tensors (for example `model.state_dict()`) and metadata (plain JSON values) to one file, in one step.

    "as is" and "fp32" lose nothing of an fp32 model; "fp16" halves the file; "int8" quarters it, by rows (see above).
    Raises ModelError if a value does not fit the storage (fp16 ends at 65504, int8 needs finite values) or the file
    cannot be written.
    """
    stored: dict[str, Tensor] = {}
    entries: dict[str, dict[str, str]] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach()
        place = (plain.data_ptr(), plain.shape, plain.stride(), plain.dtype, plain.device)
        if plain.numel() and place in seen:
            entries[name] = {"same": seen[place]}
            continue
        seen[place] = name
        parts, entries[name] = _encode(name, plain.cpu(), storage)
        stored.update(parts)
    header = {"format": FORMAT, "storage": storage, "entries": entries, "metadata": dict(metadata or {})}
    try:
        text = json.dumps(header, ensure_ascii=False)
    except TypeError as error:
        raise ModelError(f"The metadata of {path} must be plain JSON values: {error}.") from error
    # One key only: safetensors writes several in random order, and the same weights should give the same bytes.
    known = {"tianwen": json.dumps({"header": text, "sha256": _checksum(stored, text)}, ensure_ascii=False)}
    try:
        replace_file(Path(path), lambda part: save_file(stored, part, metadata=known))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The weights could not be written to {path}: {error}.") from error


def load_weights(path: str | Path) -> Weights:
    """Read a file of `save_weights`, on the CPU. Raises ModelError if it is missing, damaged or of another kind."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There are no weights at {path}. Give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            known = (file.metadata() or {}).get("tianwen")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}. Fetch or write it again.") from error
    if known is None:
        raise ModelError(
            f"{path} is a safetensors file, but not one of Tianwen's weights (its metadata has no 'tianwen'). "
            "Files of other projects are read by their own readers, see tianwen.backbone."
        )
    header = _checked_header(path, known, stored)
    if header["format"] != FORMAT:
        raise ModelError(f"{path} has format {header['format']}, this version of Tianwen reads format {FORMAT}.")
    tensors: dict[str, Tensor] = {}
    for name, entry in header["entries"].items():
        tensors[name] = tensors[entry["same"]] if "same" in entry else _decode(name, stored, entry)
    return Weights(tensors, header["metadata"], header["storage"])


def _checked_header(path: Path, known: str, stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """The header of a file, once its checksum has been found right."""
    try:
        outer = json.loads(known)
        text, checksum = outer["header"], outer["sha256"]
    except (ValueError, KeyError, TypeError):
        text, checksum = "", None
    if checksum != _checksum(stored, text):
        raise ModelError(f"{path} is damaged: its content does not match its checksum. Fetch or write it again.")
    return json.loads(text)


def _encode(name: str, tensor: Tensor, storage: Storage) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store for one weight, and its entry in the header."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    entry = {"dtype": dtype}
    if not tensor.is_floating_point() or dtype not in _DTYPES or storage == "as is":
        return {name: tensor.contiguous().clone()}, entry
    if storage == "int8" and tensor.ndim >= 2 and tensor.numel():
        codes, scale = quantise_rows(name, tensor)
        return {name: codes, name + _SCALE: scale}, {**entry, "as": "int8"}
    small = tensor.to(torch.float16 if storage == "fp16" else torch.float32, copy=True).contiguous()
    if storage == "fp16" and bool((small.isinf() & ~tensor.isinf()).any()):
        raise ModelError(f"{name} has values up to {tensor.abs().max():.3g}, fp16 ends at 65504: store it as fp32.")
    return {name: small}, {**entry, "as": str(small.dtype).removeprefix("torch.")}


def _decode(name: str, stored: Mapping[str, Tensor], entry: Mapping[str, str]) -> Tensor:
    tensor = stored[name]
    match entry.get("as"):
        case "int8":
            return restore_rows(tensor, stored[name + _SCALE]).to(_DTYPES[entry["dtype"]])
        case None:
            return tensor
        case _:
            return tensor.to(_DTYPES[entry["dtype"]])


def quantise_rows(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes of the weight's shape and fp32 scales [rows]; a row of zeros has scale 1. See the notation above."""
    rows = weight.float().flatten(1)  # [rows, rest]
    if not bool(rows.isfinite().all()):
        raise ModelError(f"{name} holds values that are not finite: int8 has no way to write them. Store it as fp32.")
    scale = rows.abs().amax(dim=1) / 127  # [rows]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes.contiguous().view(weight.shape), scale


def restore_rows(codes: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `quantise_rows` up to half a scale: fp32, of the shape of the codes."""
    return (codes.flatten(1).float() * scale[:, None]).view(codes.shape)


def _checksum(stored: Mapping[str, Tensor], header: str) -> str:
    digest = sha256(header.encode())
    for name in sorted(stored):
        tensor = stored[name].contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
