"""Optimisers with signs, their schedules, and a doctor for what they do to embeddings.

    from tianwen.optim import EmbeddingHealth, Lion, Tiger, param_groups_for, piecewise_linear

The names below are imported on first use, as those of `tianwen` are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tianwen.optim.ema import Ema as Ema
    from tianwen.optim.embedding_health import EmbeddingHealth as EmbeddingHealth
    from tianwen.optim.lamb import Lamb as Lamb
    from tianwen.optim.lion import Lion as Lion
    from tianwen.optim.param_groups import param_groups_for as param_groups_for
    from tianwen.optim.schedule import piecewise_linear as piecewise_linear
    from tianwen.optim.sign_update import lion_update as lion_update
    from tianwen.optim.sign_update import tiger_update as tiger_update
    from tianwen.optim.tiger import Tiger as Tiger
    from tianwen.optim.tying import TiedHead as TiedHead
    from tianwen.optim.tying import tie_embeddings as tie_embeddings

_HOME = {
    "Ema": "ema",
    "EmbeddingHealth": "embedding_health",
    "Lamb": "lamb",
    "Lion": "lion",
    "TiedHead": "tying",
    "Tiger": "tiger",
    "lion_update": "sign_update",
    "param_groups_for": "param_groups",
    "piecewise_linear": "schedule",
    "tie_embeddings": "tying",
    "tiger_update": "sign_update",
}

__all__ = [
    "Ema",
    "EmbeddingHealth",
    "Lamb",
    "Lion",
    "TiedHead",
    "Tiger",
    "lion_update",
    "param_groups_for",
    "piecewise_linear",
    "tie_embeddings",
    "tiger_update",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"tianwen.optim has no {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(import_module(f"tianwen.optim.{_HOME[name]}"), name)
    globals()[name] = value  # found once; the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
