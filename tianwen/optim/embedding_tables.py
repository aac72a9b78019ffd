"""Which tensors of a checkpoint are embedding tables: by the names that projects give them, and by their shape.

A table is a matrix [rows, dim] of floating-point numbers with one row a token (position, segment, class, expert ...),
of which a batch touches few. An output head counts too: one row a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tianwen.errors import InputError
from tianwen.optim.stored_tensors import StoredTensor

# The last part of a name that says "table" in the models of Hugging Face, Meta, OpenAI, Google and our own.
_SAYS_TABLE = re.compile(
    r"(?:^|_)(?:emb|embs|embed|embeds|embedding|embeddings|embed_tokens|embed_positions|embed_out|lm_head)(?:_|$)"
    r"|^(?:wte|wpe|wte_?\d*|shared|tokens|segments|tok_embeddings|embedder|vocab|codebook|lookup)$",
    re.I,
)
_SAYS_LAYER = re.compile(r"proj|linear|mapping|dense|conv|patch|norm|bias|lora|\bfc|mlp", re.I)
_WRAPPERS = {"weight", "weights", "embedding", "data", "tensor", "original", "parametrizations", "module"}
_MANY_ROWS, _TALL = 1000, 8


def find_tables(
    tensors: Mapping[str, StoredTensor],
    *,
    vocabulary: int | None = None,
    names: Sequence[str] = (),
    certain: Collection[str] = (),
) -> list[StoredTensor]:
    """The embedding tables, in the order of the checkpoint; with `names` (whole names, or their last parts) just those.

    vocabulary: number of tokens, if known: a matrix with as many rows is a table whatever its name. certain: names of
    tensors that are tables for sure. Raises InputError for a name that is not there or no matrix, and if no tensor
    looks like a table.
    """
    if names:
        return list({table.name: table for name in names for table in _named(tensors, name)}.values())
    matrices = [t for t in tensors.values() if is_matrix(t)]
    tables = [t for t in matrices if t.name in certain or _looks_like_table(t, vocabulary)]
    if not tables and len(matrices) == 1:
        tables = matrices
    if not tables:
        raise InputError(
            f"None of the {len(tensors)} tensors looks like an embedding table ({_some(tensors)}). "
            "Name the one you mean with --table (tables=[...] in Python)."
        )
    return tables


def is_matrix(tensor: StoredTensor) -> bool:
    """Whether it has rows of floating-point numbers at all; empty ones too."""
    return len(tensor.shape) == 2 and tensor.floating


def _looks_like_table(tensor: StoredTensor, vocabulary: int | None) -> bool:
    rows, dim = tensor.shape
    parts = [part for part in tensor.name.split(".") if part not in _WRAPPERS] or [tensor.name]
    if _SAYS_LAYER.search(parts[-1]):
        return False
    if _SAYS_TABLE.search(parts[-1]) or (tensor.name.endswith(".embedding") or tensor.name == "embedding"):
        return True
    return rows == vocabulary or (rows >= _MANY_ROWS and rows >= _TALL * dim)


def _named(tensors: Mapping[str, StoredTensor], name: str) -> list[StoredTensor]:
    found = [tensors[name]] if name in tensors else []
    found = found or [t for full, t in tensors.items() if full.endswith(f".{name}") or full == f"{name}.weight"]
    found = found or [t for full, t in tensors.items() if full.endswith(f".{name}.weight")]
    if not found:
        raise InputError(f"There is no tensor {name!r} in the checkpoint. There are: {_some(tensors)}.")
    for tensor in found:
        if not is_matrix(tensor):
            raise InputError(
                f"{tensor.name} is {tensor.dtype} of shape {list(tensor.shape)}: a table is a matrix [rows, dim] of "
                "floating-point numbers."
            )
        if not all(tensor.shape):
            raise InputError(f"{tensor.name} is empty (shape {list(tensor.shape)}): there are no rows to look at.")
    return found


def _some(tensors: Mapping[str, StoredTensor]) -> str:
    names = [f"{t.name} {list(t.shape)}" for t in tensors.values()]
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")


def vocabulary_of(folder: Path | None) -> int | None:
    """The number of tokens that a config.json beside the weights tells; None without one."""
    try:
        config = json.loads((folder / "config.json").read_bytes()) if folder else {}
    except (OSError, ValueError):
        return None
    for part in (config, config.get("text_config")) if isinstance(config, dict) else ():
        if isinstance(part, dict) and isinstance(part.get("vocab_size"), int):
            return part["vocab_size"]
    return None
