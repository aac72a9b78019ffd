"""Train an extractor from labelled texts: from scratch, or on from another model's encoder.

Post: 8888. The post's settings (a pretrained base model, Adam 2e-5, batches of 64, 20 epochs) are for 100M parameters;
ours are for a few million without pretraining: AdamW 2e-3, names swapped, tokens hidden, moving average, recurrent
layers, and biases that begin at "no".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config, residual_weight
from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation
from tianwen.extract.annotation_files import read_annotations
from tianwen.extract.batches import Collate, Noise
from tianwen.extract.data_check import DataReport, check_data
from tianwen.extract.evaluation import evaluate_extract
from tianwen.extract.extractor import Extractor
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.labels import Example, Labeller, Labels
from tianwen.extract.model_files import ExtractorSettings, replace_settings, save_extractor
from tianwen.extract.reading_report import Report
from tianwen.extract.schema import Schema, infer_schema
from tianwen.extract.scoring import check_protocol
from tianwen.extract.start import Start, read_start
from tianwen.extract.thresholds import better_thresholds
from tianwen.optim.schedule import piecewise_linear
from tianwen.text import Tokenizer
from tianwen.training.atomic import write_file
from tianwen.training.data_order import Ordered, in_token_budget
from tianwen.training.distributed import local_device
from tianwen.training.loop import fit
from tianwen.training.settings import FitSettings
from tianwen.words.features import WordFeatures
from tianwen.words.table import WordTable

MixerName = Literal["roformer_v2", "attention", "lru", "slru", "rwkv"]


@dataclass(frozen=True)
class TrainExtractSettings:
    """How to train an extractor.

    `mixer` "roformer_v2" is the pretrained kind of backbone, the others are a `Shell`; `reach`: neighbours whose
    embeddings are added on either side; `feed_forward` None: twice the width. `swap`, `hide`: shares of mentions
    swapped and tokens hidden. `budget`: tokens of a batch, with padding. `length`, `overlap`: of windows, in tokens.
    `policy`: which mentions are meant where the data give strings only. `protocol` None: by what the data hold.
    `storage`: how the weights are saved. `thresholds`: learn them on the development texts (`thresholds.py`).
    """

    epochs: float = 20
    budget: int = 1024
    learning_rate: float = 2e-3
    mixer: MixerName = "lru"
    layers: int = 2
    width: int = 192
    feed_forward: int | None = None
    dropout: float = 0.2
    reach: int = 2
    head: Literal["efficient", "standard"] = "efficient"
    swap: float = 0.0
    hide: float = 0.0
    vocabulary: int = 8000
    length: int = 256
    overlap: int = 64
    policy: str = "all"
    protocol: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    storage: Literal["fp32", "fp16", "int8"] = "fp32"
    thresholds: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise InputError(f"epochs={self.epochs}: training goes through the texts more than 0 times.")
        if not (0 <= self.swap <= 1 and 0 <= self.hide < 1):
            raise InputError(f"swap={self.swap}, hide={self.hide}: both are shares, from 0 to 1.")
        if self.budget < self.length + 10:
            raise InputError(
                f"budget={self.budget} tokens of a batch, length={self.length} of a text: a text must fit into a batch."
            )
        if self.protocol is not None:
            check_protocol(self.protocol)


@dataclass(frozen=True)
class Texts:
    """Labelled texts that were read, with the schema they are read by and what is to be said of them."""

    train: list[Annotation]
    dev: list[Annotation]
    schema: Schema
    report: DataReport
    dev_report: DataReport | None


def read_texts(
    data: Sequence[str | Path], dev: Sequence[str | Path] = (), *, schema: Schema | None = None, policy: str = "all"
) -> Texts:
    """Read and check training and development texts; the schema is inferred from the training texts if not given."""
    reports = Report(), Report()
    train, held = (
        [one for file in files for one in read_annotations(file, policy=policy, report=report)]
        for files, report in zip((data, dev), reports, strict=True)
    )
    known = schema or infer_schema(train)
    checked = check_data(train, known, report=reports[0])
    checked_dev = check_data(held, known, report=reports[1], against=train) if held else None
    return Texts(train, held, known, checked, checked_dev)


def train_extract(
    texts: Texts,
    out: str | Path,
    *,
    settings: TrainExtractSettings | None = None,
    start: str | Path | None = None,
    words: WordTable | None = None,
    **fit_options: Any,
) -> tuple[Extractor, dict[str, Any]]:
    """Train and save an extractor in the folder `out` (its run, for resuming, in `out`/run); gives it and its numbers.

    With development texts they are scored after each epoch, the best weights are kept, thresholds are learned, and the
    scores of each label are written to `out`/scores.json. `start`: a model whose encoder and tokenizer to go on from
    (an encoder, an extractor, an asker). `words`: a table whose words' vectors are read with the text; kept in `out`.
    `fit_options` go to `FitSettings`. Raises InputError if there is nothing to learn.
    """
    how = settings or TrainExtractSettings()
    folder, protocol = Path(out), how.protocol or usual_protocol(texts.schema)
    labels = Labels.of(texts.schema)
    torch.manual_seed(how.seed)
    begun = None if start is None else read_start(Path(start))
    tokenizer = begun.tokenizer if begun else Tokenizer.train([one.text for one in texts.train], size=how.vocabulary)
    labeller = Labeller(tokenizer, labels, how.length, how.overlap)
    examples = [example for one in texts.train for example in labeller.examples(one)]
    if not any(len(example.mentions) for example in examples):
        raise InputError(
            f"No text has a label that can be learned: {told(labeller.problems) or 'there are no labels'}."
        )
    model = new_model(labels, tokenizer, how, begun, words).to(local_device())
    batches = _batches(examples, model, tokenizer, how)
    steps = max(1, round(how.epochs * batches.order.batches))  # type: ignore[attr-defined]
    longest = longest_mentions(examples, len(labels.roles) or len(labels.entity_labels))
    extractor_settings = ExtractorSettings(length=how.length, overlap=how.overlap, longest=longest)

    def evaluate(network: GPLinker) -> Mapping[str, float]:
        extractor = Extractor(network, tokenizer, texts.schema, extractor_settings)
        numbers = evaluate_extract(extractor, texts.dev, protocol)
        return {name: numbers[name] for name in ("f1", "precision", "recall")}

    fit(
        model,
        extract_loss,
        batches,
        optimiser=torch.optim.AdamW(model.parameters(), lr=how.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=piecewise_linear({0: 0.0, max(1, min(200, steps // 10)): 1.0, max(steps, 2): 0.02}),
        settings=_fit_settings(how, steps, batches.order.batches, dev=bool(texts.dev), **fit_options),  # type: ignore[attr-defined]
        folder=folder / "run",
        evaluate=evaluate if texts.dev else None,
        before_step=_residual_schedule(model, steps, scratch=begun is None),
    )
    save_extractor(model, tokenizer, texts.schema, extractor_settings, folder, storage=how.storage)
    extractor = Extractor(model, tokenizer, texts.schema, extractor_settings)
    numbers: dict[str, Any] = {"labelled": dict(labeller.labelled), "left_out": dict(labeller.problems)}
    numbers |= {"parameters": model.parameter_count(), "steps": steps}
    if texts.dev:
        scores = evaluate_extract(extractor, texts.dev, protocol)
        if how.thresholds:
            extractor, scores, learned = better_thresholds(extractor, texts.dev, protocol, scores)
            replace_settings(folder, extractor.settings)
            numbers["thresholds"] = learned
        write_file(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1).encode())
        numbers |= {name: scores[name] for name in ("protocol", "precision", "recall", "f1", "sentences_per_second")}
    return extractor, numbers


LONGER = 1.5
"""A mention that is found may be so many times as long as the longest that was learnt, and a token more."""


def longest_mentions(examples: Sequence[Example], classes: int) -> tuple[int, ...]:
    """Tokens that a mention of each class may have; elsewhere false ones can be whole lines."""
    found = np.ones(classes, np.int64)
    for example in examples:
        label, first, last = example.mentions.T
        np.maximum.at(found, label, last - first + 1)
    return tuple(int(tokens * LONGER) + 1 for tokens in found)


def extract_loss(model: GPLinker, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch for `fit`: a mean over texts, and the part of each map."""
    loss, parts = model.loss(batch["ids"], batch["lengths"], batch["positives"])
    return loss, {**parts, "weight": float(len(batch["ids"])), "tokens": float(batch["ids"].numel())}


def usual_protocol(schema: Schema) -> str:
    """The protocol that is usual for what the schema holds."""
    if schema.events:
        return "argument-spans"
    return "triples" if schema.relations else "entities"


def told(problems: Mapping[str, int]) -> str:
    """Counts of problems in words, the frequent first."""
    return "; ".join(f"{count:,} x {name}" for name, count in sorted(problems.items(), key=lambda item: -item[1]))


def new_model(
    labels: Labels,
    tokenizer: Tokenizer,
    how: TrainExtractSettings,
    begun: Start | None = None,
    words: WordTable | None = None,
) -> GPLinker:
    """A model with new heads, its encoder new or from `begun`; every label begins improbable."""
    if begun:
        backbone, reach = begun.backbone, begun.reach
    elif how.mixer == "roformer_v2":
        backbone, reach = _roformer(tokenizer, how), how.reach
    else:
        backbone, reach = _shell(tokenizer, how), how.reach
    kinds = {"entity_labels": labels.entity_labels, "predicates": labels.predicates, "roles": labels.roles}
    width = words.width if words is not None else 0
    features = WordFeatures(words, tokenizer, backbone.width) if words is not None else None
    model = GPLinker(GPLinkerConfig(backbone, **kinds, head=how.head, reach=reach, words=width), features)
    if begun:
        begun.into(model)
    return model


def _roformer(tokenizer: Tokenizer, how: TrainExtractSettings) -> RoFormerV2Config:
    return RoFormerV2Config(
        vocabulary=tokenizer.size,
        layers=how.layers,
        width=how.width,
        heads=max(1, how.width // 64),
        feed_forward=how.feed_forward or 2 * how.width,
        dropout=how.dropout,
        attention_dropout=0.0,  # keeps attention in one kernel
    )


def _shell(tokenizer: Tokenizer, how: TrainExtractSettings) -> ShellConfig:
    assert how.mixer != "roformer_v2"
    return ShellConfig(
        vocabulary=tokenizer.size,
        mixer=how.mixer,
        layers=how.layers,
        width=how.width,
        heads=max(1, how.width // 64),
        feed_forward=how.feed_forward or 2 * how.width,
        bidirectional=True,
        dropout=how.dropout,
    )


@dataclass(frozen=True)
class _WithWords(Ordered):
    """Batches of texts that are read with this word table: a run goes on with the same one only."""

    table: str

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"word_table": self.table}


def _batches(examples: list[Example], model: GPLinker, tokenizer: Tokenizer, how: TrainExtractSettings) -> Ordered:
    noise = Noise(swap=how.swap, hide=how.hide)
    events, words = model.config.events, model.encoder.words
    collate = Collate(examples, events=events, mask_id=tokenizer.mask_id, noise=noise, longest=2 * how.length)
    lengths = [len(example) for example in examples]
    batches = in_token_budget(examples, lengths, collate, budget=how.budget, seed=how.seed)
    return batches if words is None else _WithWords(**vars(batches), table=words.table.fingerprint)


def _fit_settings(how: TrainExtractSettings, steps: int, epoch: int, *, dev: bool, **options: Any) -> FitSettings:
    usual: dict[str, Any] = {"checkpoint_every": epoch, "log_every": 20, "ema_decay": 0.998 if steps > 500 else None}
    if dev:
        usual |= {"evaluate_every": epoch, "keep_best": "f1"}
    return FitSettings(**{"steps": steps, "precision": how.precision, "seed": how.seed, **usual, **options})


def _residual_schedule(model: GPLinker, steps: int, *, scratch: bool) -> Any:
    """From scratch a RoFormerV2's residual weight rises from 0 to 1 over a tenth of the steps, as its post asks."""
    backbone = model.encoder.backbone
    if not (scratch and isinstance(backbone, RoFormerV2)):
        return None

    def before(step: int) -> None:
        backbone.residual_weight = residual_weight(step, steps=steps // 10)

    return before
