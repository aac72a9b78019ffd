"""A trained model on disk: a folder with `model.safetensors` (weights, shape, settings) and what its texts are read by.

Every part that keeps models uses these functions, so that what is missing, damaged or of another kind is told alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tianwen.errors import ModelError
from tianwen.training.weights import Weights, load_weights, save_weights

WEIGHTS = "model.safetensors"


def open_weights(folder: Path, *, architecture: str, kind: str, train: str) -> Weights:
    """The weights in a model's folder.

    Raises ModelError when there are none, or when they are of another architecture; `kind` ("asker") and the command
    `train` are for its sentence.
    """
    file = folder / WEIGHTS
    if not file.exists():
        raise ModelError(f"There is no {kind} in {str(folder)!r}: {WEIGHTS} is missing. Train one: {train}")
    weights = load_weights(file)
    found = weights.metadata.get("architecture")
    if found != architecture:
        raise ModelError(
            f"{file} holds {found or f'no {kind}'!r}; this version reads {architecture!r}. Train one: {train}"
        )
    return weights


def require_reader(folder: Path, what: str, found: str, recorded: str) -> None:
    """Raise ModelError unless the fingerprint of the tokenizer in the folder is the one the model was trained with."""
    if found != recorded:
        raise ModelError(
            f"The {what} in {str(folder)!r} ({found}) is not the one that the model was trained with ({recorded}). "
            "Copy all files of the model again."
        )


def fill(model: nn.Module, weights: Weights, folder: Path) -> None:
    """Put the weights into a model of the shape that they state; stored as fp16 or int8 they become float32.

    Raises ModelError when they do not fit, or when some are not numbers.
    """
    file = folder / WEIGHTS
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"The weights in {file} do not fit the shape they state: {error}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ModelError(f"Some weights in {file} are not numbers: the training went wrong. Train it anew.")


def replace_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write other settings into a saved model; what is stored as int8 or fp16 comes back to the same bytes."""
    weights = load_weights(folder / WEIGHTS)
    save_weights(folder / WEIGHTS, weights.tensors, weights.metadata | {"settings": settings}, storage=weights.storage)
