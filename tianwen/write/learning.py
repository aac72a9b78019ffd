"""Train a language model on text files, with the loop that every model uses; stopped runs go on to the same bits.

Post: 9554. The post trains 100 million parameters with a context of 128, then 512; the defaults are for a laptop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tianwen.backbone.mixers import MixerName, ShellConfig
from tianwen.errors import InputError
from tianwen.optim.schedule import piecewise_linear
from tianwen.recurrent.parameter_groups import parameter_groups
from tianwen.training.loop import fit
from tianwen.training.settings import FitResult, FitSettings
from tianwen.write.language_model import LanguageModel, lm_loss
from tianwen.write.model_files import refuse_other_model
from tianwen.write.text_files import Documents, Text, in_windows, read_texts, windows
from tianwen.write.writer import Writer


@dataclass(frozen=True)
class TrainLmSettings:
    """How to train. `length` is the window that is learnt from, and how far back attention looks when it writes.

    `vocabulary` is the most ids there may be; `documents` says what one document is.
    """

    steps: int = 1000
    batch: int = 16
    length: int = 256
    learning_rate: float | int = 2e-3
    mixer: MixerName = "lru"
    layers: int = 4
    width: int = 192
    heads: int = 4
    dropout: float | int = 0.1
    vocabulary: int = 6000
    documents: Documents = "file"
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.length) < 1:
            raise InputError(f"steps, batch and length are at least 1; given was {self}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"The learning rate is {self.learning_rate}; it is a number above 0, such as 0.002.")


def train_lm(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    settings: TrainLmSettings | None = None,
    **fit_options: Any,
) -> tuple[Writer, dict[str, Any]]:
    """Train and save a language model in the folder `out` (its run, for resuming, in `out`/run).

    Gives the writer and numbers: loss, bits a character on text held out, characters of each kind. `files` are UTF-8
    texts, compressed or not, `-` is stdin; `fit_options` go to `FitSettings`. Raises InputError for files that cannot
    be used, TrainingError for a run of other settings in `out`, ModelError for another kind of model in `out`.
    """
    how = settings or TrainLmSettings()
    refuse_other_model(Path(out))
    text = read_texts(files, documents=how.documents, vocabulary=how.vocabulary, shortest=how.length + 1)
    model, result = fit_language_model(text, Path(out) / "run", how, **fit_options)
    writer = Writer(model, text.characters)
    writer.save(out)
    numbers = {
        "model": str(out),
        "mixer": how.mixer,
        "parameters": model.shell.parameter_count(),
        "vocabulary": text.characters.size,
        "ids": len(text.train) + len(text.held_out),
        "broken_bytes": text.broken,
        "loss": result.loss,
        "held_out_bits": result.evaluation.get("bits"),
        "seconds": round(result.seconds, 1),
    }
    return writer, numbers


def fit_language_model(
    text: Text, folder: Path, how: TrainLmSettings, **fit_options: Any
) -> tuple[LanguageModel, FitResult]:
    """A model trained on `text`, in evaluation mode, and what `fit` says of its run in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        model = LanguageModel(shape_of(how, text.characters.size))
    groups = parameter_groups(model, lr=how.learning_rate, weight_decay=0.01)
    warmup = min(200, max(1, how.steps // 10))
    held_out = text.held_out if len(text.held_out) > how.length else None
    result = fit(
        model,
        lm_loss,
        in_windows(text, length=how.length, batch=how.batch, seed=how.seed),
        optimiser=torch.optim.AdamW(groups, betas=(0.9, 0.98)),
        schedule=piecewise_linear({0: 0.0, warmup: 1.0, max(how.steps, warmup + 1): 0.05}),
        settings=FitSettings(steps=how.steps, precision=how.precision, seed=how.seed, **fit_options),
        folder=folder,
        evaluate=None if held_out is None else lambda m: {"bits": bits_of(m, held_out, length=how.length)},
    )
    return model, result


def shape_of(how: TrainLmSettings, vocabulary: int) -> ShellConfig:
    """The shape that the settings mean."""
    return ShellConfig(
        vocabulary=vocabulary,
        mixer=how.mixer,
        layers=how.layers,
        width=how.width,
        heads=how.heads,
        window=how.length,
        dropout=how.dropout,
    )


@torch.no_grad()
def bits_of(model: LanguageModel, ids: np.ndarray, *, length: int, most: int = 32) -> float:
    """Mean -log2 p over `most` windows spread evenly over `ids`, each read from a state of zero."""
    starts = np.unique(np.linspace(0, len(ids) - length - 1, most).astype(np.int64))
    total = 0.0
    for part in np.array_split(starts, -(-len(starts) // 8)):
        total += float(lm_loss(model, windows(ids, part, length))[0]) * len(part)
    return total / len(starts) / math.log(2)
