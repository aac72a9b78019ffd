"""What each parameter is - matrix, embedding, bias, gain - told by the module that holds it.

Post: 9512, 9736 (rates and weight decay by kind of parameter)

    kind        step of Tiger            weight decay    drawn to, after a gradient that is not finite
    matrix      alpha RMS(theta)         yes             0
    embedding   alpha RMS(row), by row   yes             0
    bias        alpha / 2                no              0
    gain        alpha / 2                no              1

    Tiger(param_groups_for(model), lr=1e-3)
    Tiger(param_groups_for(model, kinds={"router.table": "embedding", MyScale: "gain"}), lr=1e-3)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn

from tianwen.errors import InputError

Kind = Literal["auto", "matrix", "embedding", "bias", "gain"]
"""auto: a matrix where there are two axes or more, else a bias. Nothing else can be told from a tensor alone."""

KINDS: tuple[str, ...] = get_args(Kind)
NEUTRAL: dict[str, float] = {"gain": 1.0}
"""The value at which a parameter of a kind has no effect, where it is not 0."""

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def param_groups_for(
    model: nn.Module, *, kinds: Mapping[str | type[nn.Module], Kind] | None = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups, one a kind, with the names of the parameters; frozen parameters are left out.

    kinds: exceptions, by the name of a parameter, the name of a module (all its parameters) or the type of a module.
    weight_decay: for matrices and embeddings; None leaves it to the optimiser. Biases and gains have none.
    A parameter that several modules share is an embedding if one of them is, else what the first says.
    Raises InputError for a name or type that the model does not have, or an unknown kind.
    """
    exceptions = dict(kinds or {})
    _check(model, exceptions)
    found: dict[int, tuple[str, Tensor, str]] = {}
    for name, parameter, kind in _told(model, exceptions):
        known = found.get(id(parameter))
        if known is None:
            found[id(parameter)] = (name, parameter, kind)
        elif kind == "embedding":
            found[id(parameter)] = (known[0], parameter, kind)
    groups: list[dict[str, Any]] = []
    for kind in KINDS[1:]:
        members = [(name, parameter) for name, parameter, its in found.values() if its == kind]
        if members:
            decay = 0.0 if kind in ("bias", "gain") else weight_decay
            groups.append({"params": members, "kind": kind} | ({} if decay is None else {"weight_decay": decay}))
    return groups


def kind_of(parameter: Tensor, kind: str) -> str:
    """`kind`, with "auto" decided by the number of axes."""
    if kind != "auto":
        return kind
    return "matrix" if parameter.ndim >= 2 else "bias"


def _told(model: nn.Module, exceptions: Mapping[Any, str]) -> Iterator[tuple[str, Tensor, str]]:
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                name = f"{path}.{own}" if path else own
                yield name, parameter, _exception(exceptions, name, module) or _kind(module, own, parameter)


def _exception(exceptions: Mapping[Any, str], name: str, module: nn.Module) -> str | None:
    """What the user said: the longest name that fits first, then the type."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (kind := exceptions.get(".".join(parts[:length]))) is not None:
            return kind
    types = (kind for key, kind in exceptions.items() if isinstance(key, type) and isinstance(module, key))
    return next(types, None)


def _kind(module: nn.Module, own: str, parameter: Tensor) -> str:
    normalises = "Norm" in type(module).__name__  # LayerNorm, GroupNorm, RMSNorm of any library
    if isinstance(module, _EMBEDDINGS) and parameter.ndim >= 2:
        return "embedding"
    if own == "bias" or own.startswith("bias_") or own.endswith("_bias"):
        return "bias"
    if normalises and own in ("weight", "gain", "gamma", "scale"):
        return "gain"
    return kind_of(parameter, "auto")


def _check(model: nn.Module, exceptions: Mapping[Any, str]) -> None:
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name for name, _ in model.named_modules()}
    for key, kind in exceptions.items():
        if kind not in KINDS[1:]:
            raise InputError(f"kinds[{key!r}] is {kind!r}; a parameter is one of {', '.join(KINDS[1:])}.")
        if isinstance(key, type):
            if not any(isinstance(module, key) for module in model.modules()):
                raise InputError(f"kinds names the type {key.__name__}, but no module of the model is of this type.")
        elif key not in names:
            raise InputError(f"kinds names {key!r}, but the model has no parameter or module of this name.")
