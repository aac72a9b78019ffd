"""A language model on disk: a folder with `model.safetensors` (weights and shape) and `characters.json`.

Post: 9554
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tianwen.backbone.mixers import ShellConfig
from tianwen.errors import InputError, ModelError
from tianwen.training import model_folder
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
    save_weights(folder / model_folder.WEIGHTS, model.state_dict(), metadata)


def load_language_model(folder: Path) -> tuple[LanguageModel, Characters]:
    """Read a folder that `save_language_model` wrote, in evaluation mode.

    Raises ModelError that says what is missing, damaged or different.
    """
    weights = model_folder.open_weights(
        folder, architecture=ARCHITECTURE, kind="language model", train="tianwen train lm TEXT.txt --out MODEL"
    )
    characters = Characters.load(folder / "characters.json")
    model_folder.require_reader(folder, "list of characters", characters.fingerprint, weights.metadata["characters"])
    try:
        model = LanguageModel(ShellConfig(**weights.metadata["config"]))
    except (TypeError, InputError) as error:
        raise ModelError(f"The weights in {str(folder)!r} do not fit the shape they state: {error}") from error
    model_folder.fill(model, weights, folder)
    return model.eval(), characters


def refuse_other_model(folder: Path) -> None:
    """Raises ModelError if the folder holds a model of another kind, which a training would overwrite."""
    file = folder / model_folder.WEIGHTS
    if file.exists() and (kind := load_weights(file).metadata.get("architecture")) != ARCHITECTURE:
        raise ModelError(f"{str(folder)!r} already holds another model, {kind!r}. Choose another folder.")
