"""Optimisers with signs, their schedules, and a doctor for what they do to embeddings.

    from tianwen.optim import EmbeddingHealth, Lion, Tiger, param_groups_for, piecewise_linear

The names below are imported on first use, as those of `tianwen` are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tianwen.lazy import lazy_names

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
    "Ema": "tianwen.optim.ema",
    "EmbeddingHealth": "tianwen.optim.embedding_health",
    "Lamb": "tianwen.optim.lamb",
    "Lion": "tianwen.optim.lion",
    "TiedHead": "tianwen.optim.tying",
    "Tiger": "tianwen.optim.tiger",
    "lion_update": "tianwen.optim.sign_update",
    "param_groups_for": "tianwen.optim.param_groups",
    "piecewise_linear": "tianwen.optim.schedule",
    "tie_embeddings": "tianwen.optim.tying",
    "tiger_update": "tianwen.optim.sign_update",
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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
