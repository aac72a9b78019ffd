"""Repair of drifted embedding rows: reset to the size of frequent rows, direction kept, momentum zeroed, in new files.

Post: 9736

Notation
    w    a drifted or broken row: [dim]       R*   median RMS of the frequent rows (without counts: of ordinary rows)
    w <- w R* / rms(w); NaN and infinite components are 0 first, and a row without any other gets noise of size R*

All else is copied bit for bit: a safetensors file is copied and only the bytes of those rows are written over. Rows
stored as int8 keep their codes, only their scale changes. Files are written beside and renamed: complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.errors import InputError, ModelError
from tianwen.optim.stored_momentum import Momentum
from tianwen.optim.stored_tensors import Place, StoredTensor, read_places
from tianwen.optim.table_health import TableHealth

if TYPE_CHECKING:
    from tianwen.optim.embedding_health import EmbeddingHealth

_COPIED = {".json", ".txt", ".model", ".jinja", ".md", ".py"}
"""Small files of a checkpoint's folder that a repaired folder needs too."""


def repair(health: EmbeddingHealth, out: Path) -> list[Path]:
    """Write the repaired checkpoint to `out` and, where an optimiser's file is known, its state beside it.

    A single file becomes the file `out`, or, if the checkpoint was given as a folder and `out` has no ending, a file
    of the same name in the folder `out`; shards become a folder. Gives the files written.
    Raises InputError if there is nothing to repair, no file to copy, or something in the place of `out`.
    """
    files = health.checkpoint.files
    sick = {table.name: np.union1d(table.drifting, table.broken) for table in health.tables}
    sick = {name: rows for name, rows in sick.items() if len(rows)}
    if not files:
        raise InputError("A model in memory has no file to copy. Save it first, and repair the file.")
    if not sick:
        raise InputError(f"Nothing was written: no table of {health.source} has drifting or broken rows.")
    targets = _targets(health, out)
    state = _optimizer_target(health, out)
    for target in [*targets.values(), *([state] if state else [])]:
        if target.exists():
            raise InputError(f"{target} exists already; a repaired checkpoint goes to a new place.")
    new_rows = {table.name: _rows_of(health, table, sick[table.name]) for table in health.tables if table.name in sick}
    for file, target in targets.items():
        _copy_weights(health, file, target, {name: (sick[name], rows) for name, rows in new_rows.items()})
    if Path(health.source).is_dir() and out.is_dir():
        _copy_the_rest(files[0].parent, out)
    written = list(targets.values())
    if state is not None:
        _repair_optimizer(health, {name: (sick[name], rows) for name, rows in new_rows.items()}, state)
        written.append(state)
    return written


def reset_rows(rows: Float[Tensor, "rows dim"], *, rms: float) -> Float[Tensor, "rows dim"]:
    """The rows in fp64 with this RMS and their own directions; see the notation for broken ones."""
    wide = rows.double()
    wide = torch.where(torch.isfinite(wide), wide, torch.zeros_like(wide))
    wide = wide / wide.abs().amax(1, keepdim=True).clamp(min=1e-300)  # squares of 1e200 would be infinite
    empty = (wide == 0).all(1)
    noise = torch.randn(wide.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = torch.where(empty[:, None], noise, wide)
    return wide * (rms / wide.square().mean(1, keepdim=True).sqrt())


def _rows_of(health: EmbeddingHealth, table: TableHealth, ids: np.ndarray) -> Tensor:
    if table.target_rms <= 0:
        raise InputError(f"{table.name} has no healthy row to take a size from: there is nothing to repair it with.")
    stored = health.checkpoint.tensors[table.name]
    rows = torch.cat([stored.read(int(row), int(row) + 1) for row in ids])  # [rows, dim]
    return reset_rows(rows, rms=table.target_rms)


def _targets(health: EmbeddingHealth, out: Path) -> dict[Path, Path]:
    """Where each file of the checkpoint is copied to."""
    files = health.checkpoint.files
    if out.is_dir():
        return {file: out / file.name for file in files}
    if len(files) == 1 and (out.suffix or not Path(health.source).is_dir()):
        return {files[0]: out}
    if out.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        raise InputError(f"{health.source} has {len(files)} files: name a new folder for the copies, not {out.name}.")
    return {file: out / file.name for file in files}


def _optimizer_target(health: EmbeddingHealth, out: Path) -> Path | None:
    """Beside the weights; None where no optimiser's file was read."""
    file = health.optimizer.file if health.optimizer is not None else None
    if file is None:
        return None
    as_folder = out.is_dir() or not out.suffix
    return out / file.name if as_folder else out.with_name(f"{out.stem}.optimizer{file.suffix}")


def _copy_weights(
    health: EmbeddingHealth, file: Path, target: Path, new: Mapping[str, tuple[np.ndarray, Tensor]]
) -> None:
    tensors = health.checkpoint.tensors
    if file in health.checkpoint.content:
        content = health.checkpoint.content[file]
        jobs = [(tensors[name], *rows) for name, rows in new.items() if tensors[name].tensor is not None]
        if health.optimizer is not None and health.optimizer.content is content:
            jobs += _optimizer_jobs(health, new)
        with _new_file(target) as part:
            _save_changed(content, jobs, part)
        return
    with _new_file(target) as part:
        shutil.copyfile(file, part)
        changed = False
        for name, (ids, rows) in new.items():
            place = tensors[name].place
            if place is not None and place.file == file:
                _patch(part, tensors[name], place, ids, rows)
                changed = True
        if changed:
            _renew_checksum(part)


def _save_changed(content: Any, jobs: Sequence[tuple[StoredTensor, np.ndarray, Tensor]], part: Path) -> None:
    """Save with other rows; in memory what was examined stays as it was."""
    before: list[tuple[Tensor | None, np.ndarray, Tensor]] = []
    try:
        for stored, ids, rows in jobs:
            before.append((stored.tensor, ids, _write_in_memory(stored, ids, rows)))
        torch.save(content, part)
    finally:
        for tensor, ids, rows in before:
            _put(tensor, ids, rows)


def _write_in_memory(stored: StoredTensor, ids: np.ndarray, rows: Tensor) -> Tensor:
    assert stored.tensor is not None
    before = stored.tensor[torch.from_numpy(ids)].clone()
    _put(stored.tensor, ids, rows.to(stored.tensor.dtype))
    return before


def _put(tensor: Tensor | None, ids: np.ndarray, rows: Tensor) -> None:
    assert tensor is not None
    for row, values in zip(ids.tolist(), rows, strict=True):  # types of 8 bits know no indexed assignment
        tensor[row].copy_(values)


def _patch(part: Path, stored: StoredTensor, place: Place, ids: np.ndarray, rows: Tensor) -> None:
    """Write rows over the copy; where the tensor is stored as int8, only the scales."""
    if stored.dtype.startswith("int8"):
        old = torch.cat([stored.read(int(row), int(row) + 1) for row in ids]).double()
        scales = torch.cat([place.read(int(row), int(row) + 1) for row in ids]).double()
        ratio = rows.square().mean(1).sqrt() / old.square().mean(1).sqrt()
        rows = scales * ratio
    values = rows.to(place.dtype).contiguous()
    with part.open("r+b") as file:
        for row, value in zip(ids.tolist(), values, strict=True):
            file.seek(place.offset + row * place.row_bytes)
            file.write(value.reshape(-1).view(torch.uint8).numpy().tobytes())


def _renew_checksum(part: Path) -> None:
    """A file of `tianwen.training.weights` keeps a checksum in its header; give the copy its own."""
    _, metadata = read_places(part)
    if "tianwen" not in metadata:
        return
    outer = json.loads(metadata["tianwen"])
    old = outer["sha256"]
    new = _checksum(part, outer["header"])
    with part.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        if header.count(old.encode()) != 1:
            raise ModelError(f"{part.name}: the checksum could not be renewed, its header has an unknown form.")
        file.seek(8)
        file.write(header.replace(old.encode(), new.encode()))


def _checksum(file: Path, header: str) -> str:
    digest = hashlib.sha256(header.encode())
    places, _ = read_places(file)
    for name in sorted(places):
        place = places[name]
        digest.update(f"\0{name}\0{place.dtype}\0{tuple(place.shape)}\0".encode())
        with file.open("rb") as stream:
            stream.seek(place.offset)
            left = place.row_bytes * place.shape[0] if place.shape else place.dtype.itemsize
            while left:
                block = stream.read(min(left, 1 << 22))
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _repair_optimizer(health: EmbeddingHealth, new: Mapping[str, tuple[np.ndarray, Tensor]], target: Path) -> None:
    """The optimiser's state with the rows' momentum at 0; a float32 copy of the weights in it is repaired too."""
    optimizer = health.optimizer
    assert optimizer is not None
    assert optimizer.file is not None
    jobs = _optimizer_jobs(health, new)
    with _new_file(target) as part:
        if optimizer.file.suffix == ".safetensors":
            shutil.copyfile(optimizer.file, part)
            for tensor, ids, rows in jobs:
                assert tensor.place is not None
                _patch(part, tensor, tensor.place, ids, rows)
        else:
            _save_changed(optimizer.content, jobs, part)


def _optimizer_jobs(
    health: EmbeddingHealth, new: Mapping[str, tuple[np.ndarray, Tensor]]
) -> list[tuple[StoredTensor, np.ndarray, Tensor]]:
    """What to write where in the optimiser's state."""
    assert health.optimizer is not None
    matched = health.optimizer.match([health.checkpoint.tensors[name] for name in new])
    return [job for name, momentum in matched.items() for job in _jobs(momentum, *new[name])]


def _jobs(momentum: Momentum, ids: np.ndarray, rows: Tensor) -> Iterator[tuple[StoredTensor, np.ndarray, Tensor]]:
    yield momentum.tensor, ids, torch.zeros_like(rows)
    master: Any = momentum.state.get("master")
    if master is not None and master.shape == momentum.tensor.shape:
        yield master, ids, rows


def _copy_the_rest(source: Path, out: Path) -> None:
    for file in sorted(source.iterdir()):
        if (
            file.is_file()
            and file.suffix in _COPIED
            and file.name != "manifest.json"
            and not (out / file.name).exists()
        ):
            shutil.copyfile(file, out / file.name)


@contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its name when the block ends well."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise ModelError(f"The repaired file cannot be written to {target} ({error}).") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
