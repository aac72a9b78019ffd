"""From files to tasks on one encoder.

Post: 8998 (its multi-task stage).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tianwen.backbone.encoder_folder import Encoder, load_encoder
from tianwen.errors import InputError
from tianwen.pretrain.corpus import names_of
from tianwen.pretrain.learning import prepare
from tianwen.pretrain.objective import MaskedText
from tianwen.pretrain.sequences import split_spans
from tianwen.pretrain.tasks import Task, labelled_task, pairs_task, questions_task, text_task
from tianwen.pretrain.tokenising import Report
from tianwen.pretrain.words import Words

TOKENS_OF_A_QUESTION = 32
"""A batch of questions has about as many tokens as the others."""


@dataclass(frozen=True)
class TaskFiles:
    """The files of each kind of task; each file is a task, but the plain texts are one together."""

    labelled: tuple[Path, ...] = ()
    questions: tuple[Path, ...] = ()
    pairs: tuple[Path, ...] = ()
    text: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How the files are read: tokens of a batch and of a text, what is hidden as a whole, seed, device."""

    batch: int = 2048
    length: int = 128
    words: Words = "jieba"
    seed: int = 0
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.batch < self.length + 8:
            raise InputError(f"A batch of {self.batch} tokens is too small for texts of {self.length}.")


def gather_tasks(
    folder: str | Path, files: TaskFiles, corpus: str | Path, *, how: Reading, report: Report | None = None
) -> tuple[Encoder, list[Task]]:
    """The encoder in `folder` and the tasks on it; `corpus` is the place for the tokenised plain text.

    New heads are the same for the same seed. Raises ModelError where there is no encoder, InputError for files that
    cannot be used.
    """
    encoder = load_encoder(folder)
    common = {"budget": how.batch, "length": how.length, "seed": how.seed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        tasks = _each("labelled", files.labelled, lambda name, file: labelled_task(name, file, encoder, **common))
        size = max(1, how.batch // TOKENS_OF_A_QUESTION)
        tasks += _each(
            "questions",
            files.questions,
            lambda name, file: questions_task(name, file, encoder, size=size, seed=how.seed),
        )
        tasks += _each("pairs", files.pairs, lambda name, file: pairs_task(name, file, encoder, **common))
    if files.text:
        tasks.append(text_task(_plain_text(encoder, files.text, Path(corpus), how=how, report=report), encoder))
    return encoder, tasks


def _each(kind: str, files: Sequence[Path], made: Callable[[str, Path], Task]) -> list[Task]:
    return [made(f"{kind} {name}", file) for name, file in zip(names_of(files), files, strict=True)]


def _plain_text(
    encoder: Encoder, files: Sequence[Path], corpus: Path, *, how: Reading, report: Report | None
) -> MaskedText:
    made = prepare(files, corpus, device=how.device, vocabulary=encoder.tokenizer, words=how.words, report=report)
    spans = split_spans(made, length=how.length, held_out=128)
    return MaskedText(made, spans, budget=how.batch, seed=how.seed)
