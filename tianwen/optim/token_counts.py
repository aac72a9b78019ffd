"""How often each token was seen in training, from a file of counts.

Understood: `.npy`, `.pt` (a tensor), `.json` (a list, {id: count} or {token: count}), text (`.txt`, `.tsv`, `.csv`)
with one count a line, or an id or a token and its count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from tianwen.counting import count
from tianwen.errors import InputError
from tianwen.optim.checkpoint_files import load_torch

_HOW = "A file of counts is .npy, .json, .txt, .tsv, .csv or .pt, with one number >= 0 a token id."


def read_counts(path: str | Path, names: Mapping[int, str] | None = None) -> Float[np.ndarray, " tokens"]:
    """Counts by token id; names are needed only where the file counts tokens instead of ids.

    Raises InputError, with one sentence, for a file that is missing, damaged, or holds anything but counts.
    """
    path = Path(path)
    try:
        match path.suffix:
            case ".npy":
                values = np.load(path, allow_pickle=False)
            case ".pt" | ".pth":
                values = torch.as_tensor(load_torch(path)).numpy()
            case ".json":
                values = _from_json(json.loads(path.read_text(encoding="utf-8")), names or {})
            case ".txt" | ".tsv" | ".csv":
                values = _from_lines(path.read_text(encoding="utf-8").splitlines(), names or {})
            case _:
                raise InputError(f"{path} has an unknown ending. {_HOW}")
        counts = np.asarray(values, dtype=np.float64)
    except FileNotFoundError:
        raise InputError(f"There is no file of counts at {path}.") from None
    except InputError:
        raise
    except (ValueError, TypeError, EOFError, RuntimeError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The counts of {path} cannot be read ({first}). {_HOW}") from error
    return checked_counts(counts, str(path))


def checked_counts(counts: Any, source: str = "counts") -> Float[np.ndarray, " tokens"]:
    """Counts as an array of fp64. Raises InputError unless they are one list of finite numbers >= 0."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or not len(counts):
        raise InputError(f"{source}: counts of shape {list(counts.shape)}; one number for each token id is needed.")
    if not np.isfinite(counts).all() or (counts < 0).any():
        worst = int(np.flatnonzero(~np.isfinite(counts) | (counts < 0))[0])
        raise InputError(f"{source}: the count of id {worst} is {counts[worst]}; counts are finite and >= 0.")
    return counts


def _from_json(content: Any, names: Mapping[int, str]) -> Any:
    return _by_key(content.items(), names) if isinstance(content, dict) else content


def _from_lines(lines: Iterable[str], names: Mapping[int, str]) -> Any:
    rows = [line.rsplit("\t" if "\t" in line else ",", 1) for line in lines if line.strip()]
    if all(len(row) == 1 for row in rows):
        return [float(row[0]) for row in rows]
    return _by_key(((row[0], row[-1]) for row in rows), names)


def _by_key(pairs: Iterable[tuple[str, Any]], names: Mapping[int, str]) -> list[float]:
    """Counts of ids or of token names; ids that are not mentioned were never seen."""
    ids = {name: number for number, name in names.items()}
    pairs = [(str(key), float(count)) for key, count in pairs]
    by_name = bool(ids) and not all(key.isdecimal() for key, _ in pairs)
    if not by_name and not all(key.isdecimal() for key, _ in pairs):
        raise InputError(
            "Counts by token need the tokenizer beside the checkpoint (or --tokenizer FILE) to know the ids."
        )
    if by_name and (unknown := [key for key, _ in pairs if key not in ids]):
        raise InputError(f"Not in the tokenizer: {count(len(unknown), 'counted token')}, first {unknown[0]!r}.")
    found = {ids[key] if by_name else int(key): count for key, count in pairs}
    size = 1 + max([*found, *names], default=-1)
    if size > 100_000_000 or any(math.isnan(count) for count in found.values()):
        raise InputError(f"The counts name id {size - 1:,}, or a count that is no number.")
    return [found.get(number, 0.0) for number in range(size)]
