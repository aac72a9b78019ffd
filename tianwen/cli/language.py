"""Commands of the language model: train lm, write.

Post: 9554
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tianwen.cli.commands import Json, Quiet, app, say, table, train
from tianwen.counting import count


class Mixer(str, Enum):
    lru = "lru"
    slru = "slru"
    rwkv = "rwkv"
    complex_rwkv = "complex_rwkv"
    attention = "attention"


class Documents(str, Enum):
    file = "file"
    blank = "blank"
    line = "line"


@train.command("lm")
def train_lm(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="UTF-8 text, also .gz, .xz, .bz2; - is stdin.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the model.", show_default=False)
    ],
    mixer: Annotated[Mixer, typer.Option("--mixer", help="What carries the text so far.")] = Mixer.lru,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How long to train.")] = 1000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Windows of text in a step.")] = 16,
    length: Annotated[
        int, typer.Option("--length", metavar="N", min=1, help="Characters in a window; attention sees no further.")
    ] = 256,
    layers: Annotated[int, typer.Option("--layers", metavar="N", min=1, help="Layers of the model.")] = 4,
    width: Annotated[int, typer.Option("--width", metavar="N", min=2, help="Size of a hidden state.")] = 192,
    heads: Annotated[int, typer.Option("--heads", metavar="N", min=1, help="With --mixer attention.")] = 4,
    dropout: Annotated[
        float, typer.Option("--dropout", metavar="P", min=0.0, max=0.9, help="Share of states left out in training.")
    ] = 0.1,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", metavar="X", help="The highest; it rises first and falls later.")
    ] = 2e-3,
    vocabulary: Annotated[
        int, typer.Option("--vocabulary", metavar="N", min=259, help="Rarer characters are spelt in bytes.")
    ] = 6000,
    documents: Annotated[
        Documents,
        typer.Option("--documents", help="What begins anew: a file, what follows a blank line, or every line."),
    ] = Documents.file,
    bf16: Annotated[bool, typer.Option("--bf16", help="Products in bfloat16; not every processor is fast at it.")] = (
        False
    ),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a language model on text files.

    A twentieth of the text is held out to measure on. Started again with the same folder and files, training goes on
    where it was stopped.
    """
    from tianwen.write import learning

    how = learning.TrainLmSettings(
        steps=steps,
        batch=batch,
        length=length,
        learning_rate=learning_rate,
        mixer=mixer.value,
        layers=layers,
        width=width,
        heads=heads,
        dropout=dropout,
        vocabulary=vocabulary,
        documents=documents.value,
        precision="bf16" if bf16 else "fp32",
        seed=seed,
    )
    _, numbers = learning.train_lm(files, out, settings=how, quiet=quiet, checkpoint_every=200)
    if numbers["broken_bytes"] and not quiet:
        print(f"tianwen: read as \ufffd: {count(numbers['broken_bytes'], 'byte')} that no UTF-8 has.", file=sys.stderr)
    say(f"{table(numbers)}\nLet it write: tianwen write {out} --prompt TEXT", numbers, as_json=as_json)


@app.command()
def write(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a language model; see: tianwen train lm")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to go on from; - is stdin.")] = "",
    length: Annotated[int, typer.Option("--length", metavar="N", min=0, help="How many characters to write.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="X", min=0.0, help="0: always the likeliest; 1: as it was learnt.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="N", min=1, help="Choose among the N likeliest only.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", min=0.0, max=1.0, help="Choose among the likeliest that together have P."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="The same number, the same text.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write on from a prompt with a language model.

    Characters appear as they come, however many: memory stays the same.
    """
    from tianwen.write.sampling import SamplingSettings
    from tianwen.write.writer import Writer

    how = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    writer = Writer.load(model)
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
    pieces = writer.write(prompt, length=length, how=how)
    if as_json:
        _as_json(prompt, pieces)
        return
    print(_shown(prompt), end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _as_json(prompt: str, pieces: Iterator[str]) -> None:
    """One object, its text written as it comes, so that memory stays the same here, too."""
    print(f'{{"prompt": {_quoted(prompt)}, "text": "', end="")
    count, started = 0, time.perf_counter()
    for piece in pieces:
        print(_quoted(piece)[1:-1], end="", flush=True)
        count += len(piece)
    seconds = time.perf_counter() - started
    print(f'", "characters": {count}, "seconds": {seconds:.3f}}}')


def _quoted(text: str) -> str:
    """A JSON string; half a surrogate pair, which no stream can write, as its escape."""
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(text: str) -> str:
    """Odd bytes of stdin, and half surrogate pairs, as U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
