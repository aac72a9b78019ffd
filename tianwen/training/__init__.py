"""One training loop for every model: `fit` and what is given to it.

    from tianwen.training import FitSettings, fit, in_batches

See `loop` for how to use it, `data_order` for batches, `weights` for files to release.
"""

from tianwen.training.data_order import BatchSource, FromFunction, in_batches, in_packs, in_token_budget, mixture
from tianwen.training.distributed import local_device
from tianwen.training.interrupts import TrainingInterrupted
from tianwen.training.loop import fit
from tianwen.training.settings import FitResult, FitSettings
from tianwen.training.weights import Weights, load_weights, save_weights

__all__ = [
    "BatchSource",
    "FitResult",
    "FitSettings",
    "FromFunction",
    "TrainingInterrupted",
    "Weights",
    "fit",
    "in_batches",
    "in_packs",
    "in_token_budget",
    "load_weights",
    "local_device",
    "mixture",
    "save_weights",
]
