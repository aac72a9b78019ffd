"""Facts, entities and events out of text: GPLinker, its loss and training, the readers and the protocols.

Post: 8888

The names below are imported on first use, so that reading and writing annotations needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tianwen.extract.loss import multilabel_loss as multilabel_loss

_HOME = {"multilabel_loss": "tianwen.extract.loss"}

__all__ = ["multilabel_loss"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"tianwen.extract has no {name!r}; its names are {', '.join(__all__)}, and its modules")
    return getattr(import_module(_HOME[name]), name)
