"""A language model on disk: a folder with `model.safetensors` (weights and shape) and `characters.json`.

Post: 9554
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from tianwen.backbone.mixers import ShellConfig
from tianwen.errors import InputError, ModelError
from tianwen.training.weights import load_weights, save_weights
from tianwen.write.characters import Characters
from tianwen.write.language_model import LanguageModel

ARCHITECTURE = "tianwen language model 1"


def save_language_model(folder: Path, model: LanguageModel, characters: Characters) -> None:
    """Write the folder; each file is replaced in one step, the weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    characters.save(folder / "characters.json")
    metadata = {
        "architecture": ARCHITECTURE,
        "config": asdict(model.config),
        "characters": characters.fingerprint,
    }
    save_weights(folder / "model.safetensors", model.state_dict(), metadata)


def load_language_model(folder: Path) -> tuple[LanguageModel, Characters]:
    """Read a folder that `save_language_model` wrote, in evaluation mode.

    Raises ModelError that says what is missing, damaged or different.
    """
    file = folder / "model.safetensors"
    if not file.exists():
        raise ModelError(
            f"There is no language model in {str(folder)!r}: model.safetensors is missing. "
            "Train one: tianwen train lm TEXT.txt --out MODEL"
        )
    weights = load_weights(file)
    metadata = weights.metadata
    if metadata.get("architecture") != ARCHITECTURE:
        raise ModelError(
            f"{file} holds {metadata.get('architecture', 'no language model')!r}; this command reads "
            f"{ARCHITECTURE!r}. Train one: tianwen train lm TEXT.txt --out MODEL"
        )
    characters = Characters.load(folder / "characters.json")
    if characters.fingerprint != metadata["characters"]:
        raise ModelError(
            f"The characters in {str(folder)!r} ({characters.fingerprint}) are not those that the model was trained "
            f"with ({metadata['characters']}). Copy both files of the model again."
        )
    try:
        model = LanguageModel(ShellConfig(**metadata["config"]))
        model.load_state_dict(weights.tensors)
    except (RuntimeError, TypeError, InputError) as error:
        raise ModelError(f"The weights in {file} do not fit the shape they state: {error}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.tensors.values()):
        raise ModelError(f"Some weights in {file} are not numbers: the training went wrong. Train it anew.")
    return model.eval(), characters


def refuse_other_model(folder: Path) -> None:
    """Raises ModelError if the folder holds a model of another kind, which a training would overwrite."""
    file = folder / "model.safetensors"
    if file.exists() and (kind := load_weights(file).metadata.get("architecture")) != ARCHITECTURE:
        raise ModelError(f"{str(folder)!r} already holds another model, {kind!r}. Choose another folder.")
