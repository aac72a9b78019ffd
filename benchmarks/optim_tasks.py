"""Four small trainings of our own, from scratch, each with a loss on data held out: what optimisers are compared by.

Post: 9512, 9473, 9736

    asker             two layers of RoFormerV2, width 128, on questions with facts
    language_model    two layers of LRU, width 128, on text, windows of 128 characters
    extractor         two layers of LRU, width 128, on labelled texts
    pictures          the light U-Net, width 16, on Fashion-MNIST at 16 x 16
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from picture_measures import CLASSES, read_fashion
from torch import nn

from tianwen.ask.mixture import Mixture, MixtureSettings, ask_loss
from tianwen.ask.questions import read_questions
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.diffusion.grid_images import from_bytes
from tianwen.diffusion.learning import DiffusionLoss, PictureBatches, TrainDrawSettings, untrained
from tianwen.diffusion.picture_cache import pictures_of
from tianwen.extract.annotation_files import read_annotations
from tianwen.extract.batches import padded
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.labels import Labeller, Labels
from tianwen.extract.learning import extract_loss
from tianwen.extract.schema import infer_schema
from tianwen.optim.schedule import piecewise_linear
from tianwen.text import Tokenizer
from tianwen.training import FitSettings, fit
from tianwen.training.data_order import in_token_budget
from tianwen.write.language_model import LanguageModel, lm_loss
from tianwen.write.learning import bits_of
from tianwen.write.text_files import in_windows, read_texts

Make = Callable[[nn.Module, float], torch.optim.Optimizer]


@dataclass(frozen=True)
class Task:
    """What is trained, on which batches, and how the weights at the end are judged (lower is better)."""

    name: str
    new: Callable[[], Any]
    loss: Callable[..., Any]
    batches: Any
    held_out: Callable[[Any], float]
    steps: int

    def trained(self, make: Make, rate: float, seed: int) -> float:
        """Held-out loss after training from the weights and noise of `seed`."""
        torch.manual_seed(seed)
        model = self.new()
        with tempfile.TemporaryDirectory() as folder:
            fit(
                model,
                self.loss,
                self.batches,
                optimiser=make(model, rate),
                schedule=piecewise_linear({0: 0.0, max(1, self.steps // 10): 1.0, self.steps: 0.02}),
                settings=FitSettings(steps=self.steps, seed=seed, checkpoint_every=self.steps, quiet=True),
                folder=folder,
            )
        model.eval()
        torch.manual_seed(0)
        with torch.no_grad():
            return self.held_out(model)


def asker(questions: Path, held_out: Path, steps: int) -> Task:
    """Questions to facts."""
    known, unknown = read_questions([questions]), read_questions([held_out])
    texts = [text for q in known for text in (q.text, q.subject, q.predicate, q.sense)]
    tokenizer = Tokenizer.train(texts, size=5000)
    still = MixtureSettings(batch=64, prior=0.0, synthetic=0.0, swap=0.0)
    judged = [Mixture(unknown, tokenizer, still).batch(at, 0, 1) for at in range(4)]
    shape = RoFormerV2Config(vocabulary=tokenizer.size, layers=2, width=128, heads=2, attention_dropout=0.0)
    return Task(
        "asker",
        lambda: AskModel(AskConfig(shape)),
        ask_loss,
        Mixture(known, tokenizer, MixtureSettings(batch=32, prior=0.0, synthetic=0.0)),
        lambda model: statistics.mean(float(ask_loss(model, one)[0]) for one in judged if one),
        steps,
    )


def language_model(file: Path, steps: int) -> Task:
    """The next character; judged in bits."""
    text = read_texts([file], documents="line", vocabulary=3000, shortest=129)
    shape = ShellConfig(text.characters.size, "lru", 2, 128, 2)
    return Task(
        "language_model",
        lambda: LanguageModel(shape),
        lm_loss,
        in_windows(text, length=128, batch=16, seed=0),
        lambda model: bits_of(model, text.held_out, length=128, most=128),
        steps,
    )


def extractor(labelled: Path, held_out: Path, steps: int) -> Task:
    """Facts of texts; judged by the loss of all three maps."""
    known, unknown = list(read_annotations(labelled)), list(read_annotations(held_out))
    labels = Labels.of(infer_schema(known))
    tokenizer = Tokenizer.train([one.text for one in known], size=5000)
    examples, judged = (
        [x for one in part for x in Labeller(tokenizer, labels).examples(one)] for part in (known, unknown)
    )
    collate = lambda rows, _: padded(rows, events=False)  # noqa: E731
    shape = ShellConfig(tokenizer.size, "lru", 2, 128, 2, feed_forward=256, bidirectional=True)
    config = GPLinkerConfig(shape, labels.entity_labels, labels.predicates)
    batches = [padded(judged[at : at + 32], events=False) for at in range(0, len(judged), 32)]
    return Task(
        "extractor",
        lambda: GPLinker(config),
        extract_loss,
        in_token_budget(examples, list(map(len, examples)), collate, budget=1024, seed=0),
        lambda model: statistics.mean(float(extract_loss(model, one)[0]) for one in batches),
        steps,
    )


def pictures(folder: Path, steps: int) -> Task:
    """The noise in pictures; judged on 512 test pictures at fixed times and noises."""
    data = read_fashion(folder, 16)
    if data is None:
        raise SystemExit(f"Fashion-MNIST is not in {folder}: apt-get install dataset-fashion-mnist.")
    how = TrainDrawSettings(batch=32, side=16, width=16)
    known = pictures_of(*data["train"], CLASSES)
    drawer = untrained(known, how)
    loss = DiffusionLoss(drawer.schedule, how.target)
    test, labels = (
        from_bytes(pictures_of(*data["test"], CLASSES).pixels[:512]),
        torch.from_numpy(data["test"][1][:512].astype("int64")),
    )
    times = torch.linspace(0, drawer.schedule.T - 1, 512).long()[
        torch.randperm(512, generator=torch.Generator().manual_seed(1))
    ]
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(2))
    return Task(
        "pictures",
        lambda: untrained(known, TrainDrawSettings(batch=32, side=16, width=16, seed=torch.initial_seed() % 2**31)).net,
        loss,
        PictureBatches(known, how),
        lambda net: float(loss.mean(net, test, noise, times, labels)),
        steps,
    )
