"""A state dict as a tree of JSON nodes beside a flat table of tensors, and back, exactly.

Optimisers keep nested dicts with integer keys, tuples, None and tensors of any type; safetensors knows only a flat
table name -> tensor. A node is
    {"dict": [[key, node], ...]}    {"list": [...]}    {"tuple": [...]}    {"tensor": name}    {"value": scalar}
    {"complex": name} for a complex tensor, kept as pairs [..., 2]
Two entries that are the same memory (tied weights) are stored once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tianwen.errors import TrainingError

Node = dict[str, Any]
_SCALAR = (bool, int, float, str, type(None))


def pack(tree: Any) -> tuple[Node, dict[str, Tensor]]:
    """Split a tree into JSON nodes and contiguous CPU tensors. Raises TrainingError for a value it cannot keep."""
    tensors: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], Node] = {}
    return _pack(tree, "", tensors, seen), tensors


def unpack(node: Node, tensors: dict[str, Tensor]) -> Any:
    """Rebuild the tree; the tensors are those given, not copies."""
    (kind, content) = next(iter(node.items()))
    match kind:
        case "dict":
            return {key: unpack(child, tensors) for key, child in content}
        case "list":
            return [unpack(child, tensors) for child in content]
        case "tuple":
            return tuple(unpack(child, tensors) for child in content)
        case "tensor":
            return tensors[content]
        case "complex":
            return torch.view_as_complex(tensors[content])
        case "value":
            return content
    raise TrainingError(f"The saved state has a node of unknown kind {kind!r}; it was written by a newer version.")


def _pack(tree: Any, path: str, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], Node]) -> Node:
    if isinstance(tree, Tensor):
        return _pack_tensor(tree, path, tensors, seen)
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, _SCALAR):
        return {"value": tree}
    if isinstance(tree, dict):
        odd = [key for key in tree if type(key) not in (int, str)]
        if odd:
            raise TrainingError(f"Cannot save {path or 'the state'}: key {odd[0]!r} is neither a string nor an int.")
        return {"dict": [[key, _pack(value, f"{path}/{key}", tensors, seen)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_pack(value, f"{path}/{i}", tensors, seen) for i, value in enumerate(tree)]}
    raise TrainingError(
        f"Cannot save {path or 'the state'} of type {type(tree).__name__}: "
        "a state may hold tensors, numbers, strings, None, lists, tuples and dicts."
    )


def _pack_tensor(tensor: Tensor, path: str, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], Node]) -> Node:
    tensor = tensor.detach()
    place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
    if tensor.numel() and place in seen:
        return seen[place]
    name = path.removeprefix("/") or "tensor"
    while name in tensors:  # keys with a slash inside can meet another path
        name += "~"
    node = {"complex" if tensor.is_complex() else "tensor": name}
    seen[place] = node
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    plain = plain.cpu().contiguous()
    # A view into larger memory (two halves of one buffer) would be refused by safetensors as shared: give it its own.
    tensors[name] = plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()
    return node
