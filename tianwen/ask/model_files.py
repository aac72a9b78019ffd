"""An asker on disk: a folder with `model.safetensors` (weights, shape, settings) and `tokenizer.json`.

Post: 8802.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.training import model_folder
from tianwen.training.weights import save_weights

ARCHITECTURE = "tianwen asker 1"
FAINTEST = -20.0
"""Evidence below this log-probability counts as this: all of it means that the thing is not there."""


@dataclass(frozen=True)
class AskerSettings:
    """What belongs to a trained asker besides its weights.

    `prior_weight`: share of the prior that scoring subtracts. `match_weight`: share of the matcher's opinion that it
    adds, where there is a matcher. `temperature` and `evidence` (bias, weights of subject, of predicate, and of how the
    matcher finds that it fits) turn scores into probabilities; see `calibrated`. `threshold`: "don't know" below it.
    `max_question`: longest question, in tokens. `most_candidates`: entries of one subject scored as a whole; of larger
    subjects a wide beam's best. `bf16`: run under autocast.
    """

    prior_weight: float = 0.9
    match_weight: float = 1.0
    temperature: float = 1.0
    evidence: tuple[float, float, float, float] | None = None
    threshold: float = 0.0
    max_question: int = 200
    most_candidates: int = 256
    bf16: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 <= self.threshold <= 1 and np.isfinite(self.prior_weight)) or not (
            0 <= self.match_weight < np.inf
        ):
            raise InputError(
                "An asker's temperature is above 0, its threshold from 0 to 1, its prior_weight finite and its "
                "match_weight at least 0; "
                f"given was {self}."
            )
        if self.evidence is not None and not (len(self.evidence) == 4 and np.isfinite(self.evidence).all()):
            raise InputError(
                "An asker's evidence is four numbers (bias, weights of subject, of predicate and of the matcher's fit) "
                f"or None; given was {self.evidence}."
            )
        if min(self.max_question, self.most_candidates) < 1:
            raise InputError(f"An asker reads at least 1 token and scores at least 1 candidate; given was {self}.")

    def calibrated(self, score: np.ndarray, subject: np.ndarray, predicate: np.ndarray, fit: float = 0.0) -> np.ndarray:
        """Probabilities of one question's candidates: softmax(score / T) times the chance that there is an answer.

        That chance is a logistic function of how likely the model alone finds the best candidate's subject and
        predicate (log-probabilities), and of the matcher's `fit` of that predicate: a tree always has a best path, also
        for a question about something else.
        """
        scaled = score / self.temperature
        parts = np.exp(scaled - scaled.max())
        share = parts / parts.sum()
        if self.evidence is None:
            return share
        best = int(score.argmax())
        bias, *weights = self.evidence
        found = (max(one, FAINTEST) for one in (subject[best], predicate[best], fit))
        logit = bias + sum(weight * one for weight, one in zip(weights, found, strict=True))
        return share / (1 + np.exp(-np.clip(logit, -60, 60)))


def save_asker(
    folder: Path,
    model: AskModel,
    tokenizer: Tokenizer,
    settings: AskerSettings,
    *,
    storage: Literal["fp32", "fp16", "int8"] = "fp32",
) -> None:
    """Write the folder; each file is replaced in one step, the weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    metadata = {
        "architecture": ARCHITECTURE,
        "config": asdict(model.config),
        "settings": asdict(settings),
        "tokenizer": tokenizer.fingerprint,
    }
    save_weights(folder / model_folder.WEIGHTS, model.state_dict(), metadata, storage=storage)


def replace_settings(folder: Path, settings: AskerSettings) -> None:
    """Write other settings into a saved asker; what is stored as int8 or fp16 comes back to the same bytes."""
    model_folder.replace_settings(folder, asdict(settings))


def load_asker(folder: Path) -> tuple[AskModel, Tokenizer, AskerSettings]:
    """Read a folder that `save_asker` wrote. Raises ModelError that says what is missing, damaged or different."""
    weights = model_folder.open_weights(
        folder, architecture=ARCHITECTURE, kind="asker", train="tianwen train ask --kb DIR --out MODEL"
    )
    metadata = weights.metadata
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model_folder.require_reader(folder, "tokenizer", tokenizer.fingerprint, metadata["tokenizer"])
    config = dict(metadata["config"])
    shape = ShellConfig if "mixer" in config["backbone"] else RoFormerV2Config
    model = AskModel(AskConfig(**{**config, "backbone": shape(**config["backbone"])}))
    model_folder.fill(model, weights, folder)
    return model, tokenizer, AskerSettings(**_known(metadata["settings"]))


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(AskerSettings)}
    known = {name: value for name, value in settings.items() if name in names}
    evidence = known.get("evidence")
    return known | {"evidence": None if evidence is None else (*evidence, 0.0)[:4]}  # older models had three
