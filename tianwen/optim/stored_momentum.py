"""The momentum of embedding rows, from an optimiser's saved state: which rows are silent, and what the settings were.

Notation
    m      momentum of a row: [dim]; a silent row had g = 0 for long, so m decayed by beta^t and kept its signs
    quiet  max |m| of a silent row is below 1e-5 of the table's largest, and not 0

Understood: what `torch.save` wrote of an optimiser's state_dict, alone or under "optimizer", and the folder of a
checkpoint of `tianwen.training`. Tables are matched by parameter names where the state has them, else by shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.errors import InputError, ModelError
from tianwen.optim.checkpoint_files import load_torch
from tianwen.optim.stored_tensors import StoredTensor, read_safetensors

MOMENTUM = ("exp_avg", "momentum_buffer", "momentum", "m", "mu")
_SECOND = ("exp_avg_sq", "second_moment", "v", "nu", "exp_inf")
_WRAPPERS = ("optimizer", "optimiser", "optimizer_state_dict", "optimiser_state_dict", "optimizer_states", "optim")
_HEAD = re.compile(r"head|output|embed_out|decoder", re.I)
QUIET = 1e-5
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Momentum:
    """One parameter's momentum and the settings of its group."""

    tensor: StoredTensor
    state: dict[str, StoredTensor]
    """All tensors kept for the parameter, by their keys."""
    settings: dict[str, Any]
    key: str

    @property
    def by_sign(self) -> bool:
        """Whether the step is a sign: no second moment, and not plain SGD with momentum."""
        return not any(key in self.state for key in _SECOND) and "dampening" not in self.settings

    @property
    def plain(self) -> bool:
        """Whether rows without a gradient still take full steps."""
        return self.by_sign and self.settings.get("embedding_update", "plain") == "plain"

    @property
    def relative(self) -> bool:
        """Whether the rate is relative to the row's RMS (Tiger, with one beta) or constant (Lion, with two)."""
        return "betas" not in self.settings


@dataclass(frozen=True)
class StoredOptimizer:
    """An optimiser's saved state: tensors and settings by parameter."""

    momenta: list[Momentum]
    names: list[str | None]
    content: Any = field(repr=False)
    file: Path | None = None

    def match(self, tables: Sequence[StoredTensor]) -> dict[str, Momentum]:
        """The momentum of each table that has one, by the table's name."""
        found: dict[str, Momentum] = {}
        for table in tables:
            for name, momentum in zip(self.names, self.momenta, strict=True):
                if name and _same(name, table.name) and momentum.tensor.shape == table.shape:
                    found[table.name] = momentum
        left = [table for table in tables if table.name not in found]
        for shape in {table.shape for table in left}:
            same = sorted((t for t in left if t.shape == shape), key=lambda t: bool(_HEAD.search(t.name)))
            free = [m for m in self.momenta if m.tensor.shape == shape and m not in found.values()]
            if len(free) == 1:  # a tied head may be stored beside its table
                free *= len(same)
            if len(free) == len(same):  # parameters come in the order of the model: the head after the table
                found |= {table.name: momentum for table, momentum in zip(same, free, strict=True)}
        return found


def open_optimizer(source: str | Path | Mapping[str, Any]) -> StoredOptimizer:
    """Open a saved state, or a state_dict. Raises InputError or ModelError, with one sentence, if there is none."""
    file = None
    if isinstance(source, Mapping):
        tree: Any = source
    else:
        file = Path(source)
        if file.is_dir():
            file = _in_folder(file)
        if not file.is_file():
            raise InputError(f"There is no optimiser state at {file}. Give the file that torch.save wrote of it.")
        tree = _of_fit(file) if file.suffix == ".safetensors" else load_torch(file)
    state = _unwrap(tree)
    if state is None:
        raise InputError(
            f"{file or 'The optimiser state'} holds no state of an optimiser (a dict with 'state' and 'param_groups'). "
            "Save it with torch.save(optimizer.state_dict(), ...)."
        )
    return _read(state, tree, file)


def optimizer_within(content: Any) -> StoredOptimizer | None:
    """The state that a torch file holds beside the weights; None where it holds none."""
    state = _unwrap(content)
    return None if state is None else _read(state, content, None)


def find_optimizer(folder: Path | None) -> Path | None:
    """The optimiser's file that `fit` or a Hugging Face trainer left beside the weights."""
    for name in ("optimiser.safetensors", "optimizer.pt", "optimizer.bin") if folder else ():
        if (folder / name).is_file():  # type: ignore[operator]
            return folder / name  # type: ignore[operator]
    return None


def _in_folder(folder: Path) -> Path:
    file = find_optimizer(folder)
    if file is None:
        raise InputError(f"{folder} holds no optimiser state (optimiser.safetensors or optimizer.pt). Give the file.")
    return file


def _of_fit(file: Path) -> Any:
    """The tree of a checkpoint of `tianwen.training`, with stored tensors for leaves."""
    tensors, _ = read_safetensors(file)
    try:
        node = json.loads((file.parent / "state.json").read_bytes())["states"][file.stem]
        return _unpack(node, tensors)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ModelError(f"{file} has no readable state.json beside it, which tells what its tensors are.") from error


def _unpack(node: dict[str, Any], tensors: Mapping[str, StoredTensor]) -> Any:
    kind, content = next(iter(node.items()))
    if kind == "dict":
        return {key: _unpack(child, tensors) for key, child in content}
    if kind in ("list", "tuple"):
        return [_unpack(child, tensors) for child in content]
    return tensors[content] if kind == "tensor" else content


def _unwrap(tree: Any) -> Mapping[Any, Any] | None:
    for _ in range(4):
        if isinstance(tree, Sequence) and not isinstance(tree, str) and tree:
            tree = tree[0]
        if not isinstance(tree, Mapping):
            return None
        if isinstance(tree.get("state"), Mapping) and isinstance(tree.get("param_groups"), Sequence):
            return tree
        tree = next((tree[key] for key in _WRAPPERS if key in tree), None)
    return None


def _read(state: Mapping[Any, Any], tree: Any, file: Path | None) -> StoredOptimizer:
    momenta: list[Momentum] = []
    names: list[str | None] = []
    for group in state["param_groups"]:
        settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        known = group.get("param_names") or [None] * len(group["params"])
        for number, name in zip(group["params"], known, strict=False):
            entries = state["state"].get(number, {})
            tensors = {str(key): _stored(str(key), t) for key, t in entries.items() if _is_tensor(t)}
            key = next((key for key in MOMENTUM if key in tensors and tensors[key].floating), None)
            if key is not None:
                momenta.append(Momentum(tensors[key], tensors, settings, key))
                names.append(name or (number if isinstance(number, str) else None))
    return StoredOptimizer(momenta, names, tree, file)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | StoredTensor)


def _stored(key: str, value: Tensor | StoredTensor) -> StoredTensor:
    return StoredTensor.in_memory(key, value) if isinstance(value, Tensor) else value


def _same(parameter: str, table: str) -> bool:
    return parameter == table or table.endswith(f".{parameter}") or parameter.endswith(f".{table}")


@dataclass(frozen=True)
class RowMomentum:
    """How large the momentum of each row is, and whether the row moves along it."""

    largest: Float[np.ndarray, " rows"]
    """max |m| of the row."""
    agreement: Float[np.ndarray, " rows"]
    """Share of components with sign(w) = -sign(m): 1 where the row has gone where its momentum pushes."""
    broken: int

    @property
    def silent(self) -> np.ndarray:
        """bool [rows]: m != 0, yet so small that the last gradient is long past."""
        top = self.largest.max(initial=0.0)
        return (self.largest > 0) & (self.largest < QUIET * top)


def row_momentum(table: StoredTensor, momentum: StoredTensor) -> RowMomentum:
    """Read table and momentum side by side, some rows at a time."""
    rows, dim = table.shape
    step = max(1, _CHUNK // max(dim, 1))
    largest, agreement, broken = np.zeros(rows), np.zeros(rows), 0
    for first in range(0, rows, step):
        end = min(rows, first + step)
        w, m = table.read(first, end).float(), momentum.read(first, end).float()
        bad = ~torch.isfinite(m)
        broken += int(bad.any(1).sum())
        largest[first:end] = m.masked_fill(bad, 0.0).abs().amax(1).double().numpy()
        agreement[first:end] = ((torch.sign(w) * torch.sign(m)) < 0).double().mean(1).numpy()
    return RowMomentum(largest, agreement, broken)
