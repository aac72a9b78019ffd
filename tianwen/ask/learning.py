"""Train an asker: from scratch, or on from the bundled model; from questions, or from a knowledge base alone.

Post: 8802. The settings of the post (a pretrained base model, Adam 5e-6, batch 32, 3 epochs) are for 124M parameters;
ours are for a model of a few million without pretraining: AdamW 1e-3, bf16, moving average, names swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tianwen.ask.asker import Asker
from tianwen.ask.cold_start import ColdStart
from tianwen.ask.from_encoder import asker_from_encoder
from tianwen.ask.mixture import Mixture, MixtureSettings, ask_loss
from tianwen.ask.model_files import AskerSettings
from tianwen.ask.paraphrases import read_paraphrases
from tianwen.ask.patterns import load_patterns
from tianwen.ask.questions import Question, read_questions
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError
from tianwen.optim.schedule import piecewise_linear
from tianwen.recurrent.parameter_groups import parameter_groups
from tianwen.text import Tokenizer
from tianwen.training.loop import fit
from tianwen.training.settings import FitSettings

if TYPE_CHECKING:
    from tianwen.ask.knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class TrainAskSettings:
    """How to train an asker. `learning_rate` None: 1e-3 from scratch, 5e-4 from an encoder, 2e-4 from a trained model.

    `synthetic` is the share of made-up questions (`english`: of these, in English), `prior` that of bare subjects;
    `mixer`, `layers`, `width` and `vocabulary` shape a model from scratch: RoFormerV2, or a shell of recurrent layers
    that reads from left to right. `storage` is how its weights are saved.
    """

    steps: int = 600
    batch: int = 64
    learning_rate: float | None = None
    synthetic: float = 0.45
    english: float = 0.3
    prior: float = 0.12
    swap: float = 0.3
    mixer: Literal["roformer_v2", "lru", "slru", "rwkv"] = "roformer_v2"
    layers: int = 4
    width: int = 256
    vocabulary: int = 9000
    precision: Literal["fp32", "bf16"] = "bf16"
    storage: Literal["fp32", "fp16", "int8"] = "fp32"
    seed: int = 0
    copying: bool = True
    order: Literal["spm", "smp"] = "spm"


def train_ask(
    questions: Sequence[str | Path],
    out: str | Path,
    *,
    kb: KnowledgeBase | None = None,
    start: str | Path | None = None,
    scratch: bool = False,
    encoder: str | Path | None = None,
    settings: TrainAskSettings | None = None,
    **fit_options: Any,
) -> Asker:
    """Train and save an asker in the folder `out` (its run, for resuming, in `out`/run); returns it.

    `questions`: files of questions with paths; may be empty if `kb` is given, whose facts then are asked for by
    patterns and paraphrases. `start`: the model to go on from (default: the bundled one), unless `scratch` or
    `encoder`: a pretrained encoder (`tianwen train encoder`) whose weights and vocabulary a new asker begins with.
    `fit_options` go to `FitSettings`. Raises InputError for unreadable files, nothing to learn from, or two beginnings;
    ModelError where `encoder` is none.
    """
    how = settings or TrainAskSettings()
    if how.mixer != "roformer_v2" and not scratch:
        raise InputError(f"mixer={how.mixer!r} shapes a model from scratch; one that exists has its own. Say scratch.")
    if (start is not None) + scratch + (encoder is not None) > 1:
        raise InputError("Training begins from one thing: a trained model, an encoder, or nothing (scratch).")
    read = [q for q in read_questions(questions) if q.text.strip() and q.subject.strip() and q.predicate.strip()]
    if questions and not read:
        files = ", ".join(map(str, questions))
        raise InputError(f"There is no question with subject and predicate in {files}. Give at least one, or no file.")
    names, predicates, only_own = _material(read, kb)
    invent = (
        ColdStart(names, predicates, only_own=only_own, english=how.english).question
        if how.synthetic or not read
        else None
    )
    if encoder is not None:
        asker = asker_from_encoder(encoder, copying=how.copying, seed=how.seed)
    else:
        asker = _from_scratch(read, names, predicates, how) if scratch else Asker.load(start)
    mixture = Mixture(read, asker.tokenizer, _mixture_settings(how), invent=invent)
    usual = 1e-3 if scratch else 2e-4 if encoder is None else 5e-4
    rate = how.learning_rate if how.learning_rate is not None else usual
    model = asker.model
    shell = isinstance(model.config.backbone, ShellConfig)
    groups: Any = parameter_groups(model, lr=rate, weight_decay=0.01) if shell else model.parameters()
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(200, max(1, how.steps // 10))
    fit(
        asker.model,
        ask_loss,
        mixture,
        optimiser=optimiser,
        schedule=piecewise_linear({0: 0.0, warmup: 1.0, max(how.steps, warmup + 1): 0.02}),
        settings=FitSettings(steps=how.steps, precision=how.precision, ema_decay=0.998, seed=how.seed, **fit_options),
        folder=Path(out) / "run",
    )
    asker.model.eval()
    asker.save(out, storage=how.storage)
    return asker


def _mixture_settings(how: TrainAskSettings) -> MixtureSettings:
    return replace(
        MixtureSettings(),
        batch=how.batch,
        synthetic=how.synthetic,
        prior=how.prior,
        swap=how.swap,
        order=how.order,
        seed=how.seed,
    )


def _material(read: Sequence[Question], kb: KnowledgeBase | None) -> tuple[list[tuple[str, str]], list[str], bool]:
    """Names and predicates to make questions of, and whether they are those of one knowledge base."""
    if kb is not None:
        facts = list(kb.snapshot().iter_facts())
        if not facts:
            raise InputError("The knowledge base is empty: there is nothing to make questions of. Add facts first.")
        return [(fact.subject, fact.sense) for fact in facts], [fact.predicate for fact in facts], True
    if not read:
        raise InputError("Give question files, or a knowledge base to make questions from.")
    return [(question.subject, question.sense) for question in read], [q.predicate for q in read], False


REPEATS = 5
"""How often the English tables are counted, so that each word that stands there twice becomes one piece. Question files
that are Chinese hold too little English for that, and "site" in the pieces si ##te is a word that nobody learns."""


def _from_scratch(
    read: Sequence[Question], names: Iterable[tuple[str, str]], predicates: Sequence[str], how: TrainAskSettings
) -> Asker:
    """A new model, its vocabulary learnt from the questions, names and predicates, and from the tables of patterns."""
    torch.manual_seed(how.seed)
    texts = [text for q in read for text in (q.text, q.subject, q.predicate, q.sense)]
    texts += [part for name in names for part in name] if not read else []
    texts += predicates if not read else []
    texts += [part for entry in read_paraphrases().values() for part in (*entry.synonyms, *entry.templates)]
    for language, times in (("zh", 1), ("en", REPEATS)):
        tables = load_patterns(language)
        listed = [part for family in tables.families for part in (*family.names, *family.questions)]
        listed += [*tables.sentences, *(pattern for group in tables.patterns.values() for pattern in group)]
        listed += [wrapper for wrapper, _ in tables.wrappers]
        texts += listed * times
    tokenizer = Tokenizer.train(texts, size=how.vocabulary, min_count=2)
    return Asker(AskModel(AskConfig(_shape(how, tokenizer.size), copying=how.copying)), tokenizer, AskerSettings())


def _shape(how: TrainAskSettings, vocabulary: int) -> RoFormerV2Config | ShellConfig:
    if how.mixer != "roformer_v2":
        return ShellConfig(vocabulary, how.mixer, how.layers, how.width)
    return RoFormerV2Config(
        vocabulary=vocabulary,
        layers=how.layers,
        width=how.width,
        heads=max(1, how.width // 64),
        attention_dropout=0.0,  # keeps attention in one kernel; what little it would bring costs a third of the speed
    )
