"""Which files make up a checkpoint, and the tensors in them: single files, sharded folders, runs of `fit`, live models.

What is understood, in this order, in a folder:
    *.safetensors.index.json or *.bin.index.json     shards, with a table of which tensor lies in which
    model.safetensors, pytorch_model.bin, model.pt   one file
    the only .safetensors, .bin, .pt, .pth or .ckpt file, or shards numbered -00001-of-00002 without a table
    checkpoints/step-00001000/                       a run of `tianwen.training.fit`: its newest step
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tianwen.counting import count
from tianwen.errors import InputError, ModelError
from tianwen.optim.stored_tensors import StoredTensor, read_safetensors

_ZIP = b"PK\x03\x04"
PICKLED = {".bin", ".pt", ".pth", ".ckpt"}
_NAMES = ("model.safetensors", "pytorch_model.bin", "model.pt", "model.pth", "best.safetensors")
_NOT_WEIGHTS = re.compile(r"optim|scheduler|scaler|rng_state|training_args|^ema\.", re.I)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by name, the files they come from, and the folder where a tokenizer may lie."""

    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    content: dict[Path, Any] = field(default_factory=dict, repr=False)
    """What torch.load gave, by file: a repaired file is written from it."""
    certain: frozenset[str] = frozenset()
    """Names of tables that a live model told by the type of its modules."""


def open_checkpoint(source: str | Path | nn.Module | Mapping[str, Tensor]) -> Checkpoint:
    """Open a file, a folder, a model or a state dict. Weights are not read yet, except from old torch files.

    Raises InputError if there is nothing to open and ModelError if a file is damaged; never executes a pickle.
    """
    certain: set[str] = set()
    if isinstance(source, nn.Module):
        modules = source.named_modules()
        certain = {f"{name}.weight".lstrip(".") for name, m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        source = source.state_dict()
    if isinstance(source, Mapping):
        tensors = {name: StoredTensor.in_memory(name, t) for name, t in flat_tensors(source).items()}
        return Checkpoint(tensors, certain=frozenset(certain))
    if not isinstance(source, str | Path):
        raise InputError(
            f"A checkpoint is a file, a folder, a model or a dict of tensors, not {type(source).__name__}."
        )
    path = Path(source)
    if not path.exists():
        raise InputError(f"There is no checkpoint at {path}. Give a weights file or the folder that holds one.")
    files = [path] if path.is_file() else weight_files(path)
    if path.is_file() and path.name.endswith(".index.json"):
        files = _shards(path)
    tensors = {}
    content: dict[Path, Any] = {}
    for file in files:
        _refuse_what_is_no_checkpoint(file)
        if _is_torch(file):
            content[file] = load_torch(file)
            found = {name: StoredTensor.in_memory(name, t) for name, t in flat_tensors(content[file]).items()}
        else:
            found, _ = read_safetensors(file)
        for name, tensor in found.items():
            tensors.setdefault(name, tensor)
    if not tensors:
        raise InputError(f"{path} holds no tensors. Give a weights file or the folder that holds one.")
    return Checkpoint(tensors, tuple(files), files[0].parent, content)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, see the order above. Raises InputError if there are none or too many."""
    for pattern in ("*.safetensors.index.json", "*.bin.index.json"):
        if tables := sorted(folder.glob(pattern)):
            return _shards(tables[0])
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not _NOT_WEIGHTS.search(file.name)]
    for endings in ({".safetensors"}, PICKLED):
        weights = [file for file in files if file.suffix in endings]
        if len(weights) == 1 or (weights and all(_SHARD.search(file.name) for file in weights)):
            return weights
        if weights:
            names = ", ".join(file.name for file in weights[:4])
            raise InputError(f"{folder} holds {len(weights)} weight files ({names} ...). Give the one you mean.")
    steps = sorted(folder.glob("checkpoints/step-*/model.safetensors")) + sorted(
        folder.glob("step-*/model.safetensors")
    )
    if steps:
        return steps[-1:]
    raise InputError(
        f"{folder} holds no weights (model.safetensors, pytorch_model.bin or a *.index.json with shards). "
        "Give a weights file or the folder that holds one."
    )


def _shards(table: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(table.read_bytes())["weight_map"].values()))
        files = [table.parent / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{table} is damaged: it gives no weight_map from tensors to files. Copy it again.") from error
    if not files or any(Path(name).name != name for name in names):
        raise ModelError(f"{table} names no files, or files of another folder: {names[:3]}. Copy the checkpoint again.")
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{table} names {count(len(missing), 'file')} not there, first {missing[0]}. Copy the rest too."
        )
    return files


def _refuse_what_is_no_checkpoint(file: Path) -> None:
    """A text, a picture or a workbook is told so; what may be a damaged checkpoint is left to its reader."""
    with file.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(_ZIP):
        foreign = zipfile.is_zipfile(file) and "data.pkl" not in _names_in(file)
    else:
        foreign = file.suffix not in {".safetensors", *PICKLED} and start[8:] != b"{"
    if foreign:
        raise InputError(
            f"{file} is no checkpoint: it begins neither as safetensors nor as what torch.save writes. Give a weights "
            f"file ({', '.join(['.safetensors', *sorted(PICKLED)])}) or the folder that holds one."
        )


def _names_in(archive: Path) -> set[str]:
    """What the files in it are called, without their folders; nothing where it is damaged."""
    try:
        with zipfile.ZipFile(archive) as file:
            return {name.rpartition("/")[2] for name in file.namelist()}
    except (zipfile.BadZipFile, OSError):
        return {"data.pkl"}


def _is_torch(file: Path) -> bool:
    """By content first: a zip archive is torch's, whatever its name."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if start == _ZIP:
        return True
    return file.suffix in PICKLED and file.suffix != ".safetensors"


def load_torch(file: Path) -> Any:
    """What torch.save wrote, mapped and not read where its format allows; only tensors and plain values, never code."""
    if file.stat().st_size == 0:
        raise ModelError(f"{file} is empty. Copy it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and odd pickles: what matters raises
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file} is damaged, or holds more than tensors and plain values, which is never executed here. "
            "Copy it again, or save it as torch.save(model.state_dict(), ...) or safetensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{file} is damaged or no file of torch.save: {first} Copy it again.") from error


def flat_tensors(tree: Any) -> dict[str, Tensor]:
    """The tensors of nested dicts by dotted name, without those of optimisers; {"model": {...}} adds no prefix.

    Tensors that share memory (tied weights) are given once, under their first name.
    """
    found: dict[str, Tensor] = {}
    if isinstance(tree, Tensor):
        found["tensor"] = tree
    _collect(tree, "", found)
    if len(prefixes := {name.partition("/")[0] for name in found if "/" in name}) == 1 and all("/" in n for n in found):
        found = {name.removeprefix(f"{next(iter(prefixes))}/"): tensor for name, tensor in found.items()}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in found.items():
        seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (name,), name)
    return {name.replace("/", "."): found[name] for name in seen.values()}


def _collect(tree: Any, path: str, found: dict[str, Tensor]) -> None:
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if _NOT_WEIGHTS.search(str(key)) and not isinstance(value, Tensor):
            continue
        name = f"{path}/{key}" if path else str(key)
        if isinstance(value, Tensor):
            if value.layout == torch.strided and not value.is_meta and not value.is_quantized:
                found[name] = value
        else:
            _collect(value, name, found)
