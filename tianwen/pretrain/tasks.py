"""Labelled sets as tasks on one encoder: each a head, batches and a loss of its own.

Post: 8998 (92 tasks at once; its mixture gives plain text 60 shares of 152).

    labelled    entities, facts or events in texts (any format of `tianwen train extract`): a GPLinker
    questions   questions with paths (any format of `tianwen train ask`): a question writes its path, as an asker does
    pairs       two texts and a label
    text        plain text, words hidden: what the encoder knows already and should not forget

A head is the model of its task with the shared encoder in the place of its own. Of every labelled set a part is kept
apart to measure the loss on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tianwen.ask.mixture import Mixture, MixtureSettings, ask_loss
from tianwen.ask.mixture import collate as ask_collate
from tianwen.ask.questions import read_questions
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.encoder_folder import Encoder
from tianwen.backbone.heads import MaskedLanguageModel
from tianwen.errors import InputError
from tianwen.extract.batches import Collate, Noise
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.labels import Labeller, Labels
from tianwen.extract.learning import extract_loss, read_texts
from tianwen.pretrain.objective import MaskedText, masked_loss
from tianwen.pretrain.pairs import PairCollate, PairModel, pair_loss, read_pairs
from tianwen.training.data_order import BatchSource, in_token_budget

KEPT, MOST_KEPT, AT_ONCE = 0.05, 200, 16
LossFunction = Callable[[Any, Any], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Task:
    """One task: its head (which holds the shared encoder), batches, loss, size, and batches kept apart."""

    name: str
    head: nn.Module
    source: BatchSource
    loss: LossFunction
    examples: int
    held_out: Callable[[], Iterator[Any]]


def labelled_task(name: str, file: str | Path, encoder: Encoder, *, budget: int, length: int, seed: int) -> Task:
    """Entities, facts or events of a file. Raises InputError if nothing in it can be learned."""
    texts = read_texts([file])
    labels = Labels.of(texts.schema)
    labeller = Labeller(encoder.tokenizer, labels, min(length, budget) - 2, 0)
    known = [example for one in texts.train for example in labeller.examples(one)]
    if not any(len(example.mentions) for example in known):
        raise InputError(f"{file} has no label that can be learned.")
    kinds = {"entity_labels": labels.entity_labels, "predicates": labels.predicates, "roles": labels.roles}
    head = GPLinker(GPLinkerConfig(encoder.backbone.config, **kinds, reach=0))
    head.encoder.backbone = encoder.backbone
    train, kept = _split(known)
    mask = encoder.tokenizer.mask_id
    collate = Collate(train, events=head.config.events, mask_id=mask, noise=Noise(), longest=2 * length)
    source = in_token_budget(train, [len(one) for one in train], collate, budget=budget, seed=seed)
    return Task(name, head, source, extract_loss, len(train), lambda: _batches(kept, collate))


def questions_task(name: str, file: str | Path, encoder: Encoder, *, size: int, seed: int) -> Task:
    """Questions of a file, each of which writes its path. Raises InputError if there are none."""
    read = [q for q in read_questions([file]) if q.text.strip() and q.subject.strip() and q.predicate.strip()]
    if not read:
        raise InputError(f"{file} has no question with subject and predicate.")
    head = AskModel(AskConfig(encoder.backbone.config))
    head.backbone = encoder.backbone
    nn.init.zeros_(head.previous.weight)
    train, kept = _split(read)
    settings = replace(MixtureSettings(), batch=size, synthetic=0.0, seed=seed)
    source = Mixture(train, encoder.tokenizer, settings)

    def held_out() -> Iterator[Any]:
        for some in _parts(kept):
            yield ask_collate([source.encoded(question) for question in some])

    return Task(name, head, source, ask_loss, len(train), held_out)


def pairs_task(name: str, file: str | Path, encoder: Encoder, *, budget: int, length: int, seed: int) -> Task:
    """Labelled pairs of a file."""
    pairs = read_pairs(file)
    labels = sorted({pair.label for pair in pairs})
    collate = PairCollate(encoder.tokenizer, labels, length=min(length, budget))
    train, kept = _split(pairs)
    lengths = [len(collate.ids(pair)) for pair in train]
    source = in_token_budget(train, lengths, collate, budget=max(budget, -(-max(lengths) // 8) * 8), seed=seed)
    head = PairModel(encoder.backbone, len(labels))
    return Task(name, head, source, pair_loss, len(train), lambda: _batches(kept, collate))


def text_task(text: MaskedText, encoder: Encoder) -> Task:
    """Plain text with words hidden."""
    head = MaskedLanguageModel(encoder.backbone)
    return Task("text", head, text, masked_loss, len(text.spans.train), lambda: (batch for _, batch in text.held_out()))


def _split(examples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """To learn from, and evenly spread a twentieth (200 at most) to measure on."""
    count = min(MOST_KEPT, int(KEPT * len(examples)))
    apart = {i * len(examples) // count for i in range(count)}
    train = [one for i, one in enumerate(examples) if i not in apart]
    return train, [examples[i] for i in sorted(apart)]


def _parts(kept: list[Any]) -> Iterator[list[Any]]:
    return (kept[start : start + AT_ONCE] for start in range(0, len(kept), AT_ONCE))


def _batches(kept: list[Any], collate: Callable[[list[Any], np.random.Generator], Any]) -> Iterator[Any]:
    for some in _parts(kept):
        yield collate(some, np.random.default_rng(0))
