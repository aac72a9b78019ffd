"""The commands that make an encoder: train encoder, train multitask.

Post: 8998
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tianwen.cli.commands import Json, Quiet, say, table, train
from tianwen.counting import count


class Optimiser(str, Enum):
    adamw = "adamw"
    lamb = "lamb"
    tiger = "tiger"


class Words(str, Enum):
    jieba = "jieba"
    characters = "characters"


class Storage(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@train.command("encoder")
def train_encoder(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="UTF-8 text, a passage a line, or .jsonl; also .gz, .xz, .bz2."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the encoder.", show_default=False)
    ],
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", min=1, help="How long to train; or:")] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", metavar="N", help="How many tokens to read, such as 2e8; or:")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="X", help="How long by the clock; a few steps are timed first.")
    ] = None,
    layers: Annotated[int, typer.Option("--layers", metavar="N", min=1, help="Layers of the encoder.")] = 3,
    width: Annotated[int, typer.Option("--width", metavar="N", min=2, help="Size of a hidden state.")] = 256,
    length: Annotated[
        int, typer.Option("--length", metavar="N", min=16, help="Tokens read at once; longer passages are cut.")
    ] = 128,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=16, help="Tokens in a batch, over all processes.")
    ] = 4096,
    accumulate: Annotated[int, typer.Option("--accumulate", metavar="N", min=1, help="Batches in a step.")] = 1,
    optimiser: Annotated[
        Optimiser, typer.Option("--optimiser", help="lamb is the post's, for batches of 100,000 tokens and more.")
    ] = Optimiser.adamw,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", metavar="X", help="The highest; 2e-3, with lamb 1.76e-3, with tiger 1.5e-3."),
    ] = None,
    vocabulary: Annotated[
        str,
        typer.Option(
            "--vocabulary", metavar="N|FILE|bundled", help="Most pieces of a new one, a tokenizer.json, or the asker's."
        ),
    ] = "12000",
    words: Annotated[
        Words, typer.Option("--words", help="What is hidden as a whole; jieba is the extra 'pretrain'.")
    ] = Words.jieba,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", metavar="DIR", help="Keep the tokenised text there, for other runs too.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Processes that cut the text into words.")
    ] = 1,
    rate: Annotated[float, typer.Option("--rate", metavar="P", help="Share of words to guess.")] = 0.15,
    dropout: Annotated[float, typer.Option("--dropout", metavar="P", help="Share of states left out.")] = 0.1,
    held_out: Annotated[
        int, typer.Option("--held-out", metavar="N", min=0, help="Sequences of each file kept apart to measure on.")
    ] = 128,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda; without it a GPU where there is one.")
    ] = None,
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--fp32", help="Products in bfloat16; without either: on a GPU.")
    ] = None,
    storage: Annotated[
        Storage, typer.Option("--storage", help="How weights are stored; int8 is a quarter of fp32.")
    ] = Storage.fp32,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Pretrain an encoder on plain text: it guesses hidden words.

    Started again with the same folder and files, training goes on where it was stopped; torchrun shares the work. The
    course is in DIR/run/log.jsonl and DIR/curves.svg. Then: tianwen train ask --encoder DIR, or train extract.
    """
    if sum(value is not None for value in (steps, tokens, minutes)) != 1:
        raise typer.BadParameter("Give one of --steps, --tokens and --minutes.")
    from tianwen.pretrain import learning
    from tianwen.pretrain.settings import PretrainSettings
    from tianwen.terminal import progress
    from tianwen.training.distributed import chosen_device

    place = chosen_device(device)
    how = PretrainSettings(
        layers=layers,
        width=width,
        length=length,
        batch=batch,
        accumulate=accumulate,
        steps=steps,
        tokens=tokens,
        minutes=minutes,
        optimiser=optimiser.value,
        learning_rate=learning_rate,
        rate=rate,
        dropout=dropout,
        held_out=held_out,
        precision="bf16" if (bf16 if bf16 is not None else place.type == "cuda") else "fp32",
        storage=storage.value,
        seed=seed,
    )
    folder = corpus or out / "corpus"
    with progress("Reading", quiet=quiet) as bar:
        made = learning.prepare(
            files,
            folder,
            device=place,
            vocabulary=_vocabulary(vocabulary),
            words=words.value,
            workers=workers,
            report=bar,
        )
    numbers = learning.train_encoder(made, out, settings=how, device=place, quiet=quiet)
    if numbers["broken_lines"] and not quiet and _speaks():
        print(
            f"tianwen: {count(numbers['broken_lines'], 'line')} left out: not UTF-8, or JSON without a text.",
            file=sys.stderr,
        )
    _say_once(numbers, out, as_json=as_json)


@train.command("multitask")
def train_multitask(
    encoder: Annotated[Path, typer.Argument(metavar="ENCODER", help="Folder of a pretrained one; see: train encoder")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the new one.", show_default=False)
    ],
    labelled: Annotated[
        list[Path] | None,
        typer.Option("--labelled", metavar="FILE", help="Texts with entities, facts or events; a task each."),
    ] = None,
    questions: Annotated[
        list[Path] | None, typer.Option("--questions", metavar="FILE", help="Questions with answers; a task each.")
    ] = None,
    pairs: Annotated[
        list[Path] | None, typer.Option("--pairs", metavar="FILE", help="Text, text, label with tabs; a task each.")
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option("--text", metavar="FILE", help="Plain text, so that it is not forgotten.")
    ] = None,
    text_share: Annotated[float, typer.Option("--text-share", metavar="P", help="Share of batches of it.")] = 0.4,
    words: Annotated[Words, typer.Option("--words", help="What is hidden in it as a whole.")] = Words.jieba,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", metavar="DIR", help="Folder of the tokenised text, if it is there.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How long to train.")] = 1000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=64, help="Tokens in a batch.")] = 2048,
    accumulate: Annotated[
        int, typer.Option("--accumulate", metavar="N", min=1, help="Batches, each of one task, in a step.")
    ] = 4,
    length: Annotated[int, typer.Option("--length", metavar="N", min=16, help="Tokens of a text.")] = 128,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="The highest.")] = 1e-4,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda; without it a GPU where there is one.")
    ] = None,
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--fp32", help="Products in bfloat16; without either: on a GPU.")
    ] = None,
    storage: Annotated[
        Storage, typer.Option("--storage", help="How weights are stored; int8 is a quarter of fp32.")
    ] = Storage.fp32,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train an encoder on many labelled tasks at once, each with gradients of the same length.

    The result is an encoder like the first: for train ask --encoder and train extract --encoder. Started again with the
    same folder and files, training goes on where it was stopped.
    """
    if not (labelled or questions or pairs):
        raise typer.BadParameter("Give --labelled, --questions or --pairs, with a file each; several are fine.")
    from tianwen.pretrain import gathering, multitask
    from tianwen.terminal import progress
    from tianwen.training.distributed import chosen_device

    place = chosen_device(device)
    how = multitask.MultitaskSettings(
        steps=steps,
        accumulate=accumulate,
        learning_rate=learning_rate,
        text_share=text_share,
        precision="bf16" if (bf16 if bf16 is not None else place.type == "cuda") else "fp32",
        storage=storage.value,
        seed=seed,
    )
    files = gathering.TaskFiles(tuple(labelled or ()), tuple(questions or ()), tuple(pairs or ()), tuple(text or ()))
    with progress("Reading", quiet=quiet) as bar:
        begun, tasks = gathering.gather_tasks(
            encoder,
            files,
            corpus or out / "corpus",
            how=gathering.Reading(batch=batch, length=length, words=words.value, seed=seed, device=place),
            report=bar,
        )
    numbers = multitask.train_multitask(begun, tasks, out, settings=how, device=place, quiet=quiet)
    _say_once(numbers, out, as_json=as_json)


def _say_once(numbers: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Tell the numbers; under torchrun only one process does."""
    if _speaks():
        say(
            f"{table(numbers)}\nGo on: tianwen train ask --encoder {out} --questions FILE --out MODEL",
            numbers,
            as_json=as_json,
        )


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _vocabulary(name: str) -> str:
    if name != "bundled":
        return name
    from tianwen.ask.asker import BUNDLED

    return str(BUNDLED / "tokenizer.json")
