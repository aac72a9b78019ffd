"""The command that trains an extractor: train extract.

Post: 8888
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tianwen.cli.commands import Json, Quiet, say, table, train

if TYPE_CHECKING:
    from tianwen.words.table import WordTable


class Mixer(str, Enum):
    lru = "lru"
    slru = "slru"
    rwkv = "rwkv"
    attention = "attention"
    roformer_v2 = "roformer_v2"


class Policy(str, Enum):
    all = "all"
    nearest = "nearest"
    first = "first"


class Storage(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@train.command("extract")
def train_extract(
    data: Annotated[
        list[Path],
        typer.Option("--data", metavar="FILE", help="Labelled texts of any known format; may be given several times."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the model.")
    ] = None,
    dev: Annotated[
        list[Path] | None,
        typer.Option("--dev", metavar="FILE", help="Labelled texts to score after each epoch; the best is kept."),
    ] = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", metavar="FILE", help="What to find; without it, all labels of the data.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the data; exit code 1 if there are errors.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="PATH", help="Go on from this extractor's or asker's encoder.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder", metavar="DIR", help="Start from a pretrained one (see: train encoder); bundled: ours."
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            "--words",
            metavar="FILE",
            help="A word table whose vectors are read with the text (see: train words), bundled, or none; "
            "if not given, that of --model, or the bundled one.",
        ),
    ] = None,
    mixer: Annotated[
        Mixer, typer.Option("--mixer", help="What carries words to each other, from scratch.")
    ] = Mixer.lru,
    layers: Annotated[int, typer.Option("--layers", metavar="N", min=1, help="From scratch.")] = 2,
    width: Annotated[int, typer.Option("--width", metavar="N", min=2, help="From scratch.")] = 192,
    vocabulary: Annotated[
        int,
        typer.Option("--vocabulary", metavar="N", min=300, help="From scratch: rarer characters are spelt in bytes."),
    ] = 8000,
    epochs: Annotated[
        float, typer.Option("--epochs", metavar="N", min=0.01, help="How often all texts are seen.")
    ] = 20,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=64, help="Tokens in a step, with padding.")] = 1024,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="The highest.")] = 2e-3,
    dropout: Annotated[float, typer.Option("--dropout", metavar="P", min=0.0, max=0.9, help="From scratch.")] = 0.2,
    swap: Annotated[
        float, typer.Option("--swap", metavar="P", min=0.0, max=1.0, help="Share of mentions that others replace.")
    ] = 0.0,
    hide: Annotated[
        float, typer.Option("--hide", metavar="P", min=0.0, max=0.9, help="Share of tokens hidden while training.")
    ] = 0.0,
    length: Annotated[
        int, typer.Option("--length", metavar="N", min=8, help="Longer texts are read in windows of so many tokens.")
    ] = 256,
    policy: Annotated[
        Policy, typer.Option("--policy", help="Which mentions are meant where the data give strings without places.")
    ] = Policy.all,
    protocol: Annotated[
        str | None, typer.Option("--protocol", metavar="NAME", help="How to score; see: tianwen eval extract --help")
    ] = None,
    storage: Annotated[
        Storage, typer.Option("--storage", help="How weights are stored; int8 is a quarter of fp32.")
    ] = Storage.fp32,
    fixed_threshold: Annotated[
        bool, typer.Option("--fixed-threshold", help="Learn no thresholds on the development texts: .5 for all.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Products in bfloat16; not every processor is fast at it.")] = (
        False
    ),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model to extract entities, facts or events from labelled texts.

    What is wrong with the data is said first. Started again with the same folder and files, training goes on where it
    was stopped; the course of the loss and of the scores is in DIR/run/log.jsonl, those of each label in
    DIR/scores.json.
    """
    if out is None and not check:
        raise typer.BadParameter("Give --out DIR, or --check to look at the data only.")
    if model is not None and encoder is not None:
        raise typer.BadParameter("Training begins from one of --model and --encoder.")
    from tianwen.extract import learning
    from tianwen.extract.schema import Schema
    from tianwen.extract.scoring import check_protocol

    if protocol is not None:
        check_protocol(protocol)
    known = None if schema is None else Schema.load(schema)
    texts = learning.read_texts(data, dev or [], schema=known, policy=policy.value)
    if not quiet or check:
        told = [("training texts", texts.report), ("development texts", texts.dev_report)]
        for name, report in told:
            if report is not None:
                print(f"{name}: {report.table()}", file=sys.stdout if check and not as_json else sys.stderr)
    if check or out is None:
        if as_json:
            reports = {"data": texts.report, "dev": texts.dev_report}
            say("", {name: one and one.to_json() for name, one in reports.items()}, as_json=True)
        raise typer.Exit(0 if texts.report.ok and (texts.dev_report is None or texts.dev_report.ok) else 1)
    how = learning.TrainExtractSettings(
        epochs=epochs,
        budget=max(batch, length + 16),
        learning_rate=learning_rate,
        mixer=mixer.value,
        layers=layers,
        width=width,
        dropout=dropout,
        swap=swap,
        hide=hide,
        vocabulary=vocabulary,
        length=length,
        overlap=length // 4,
        policy=policy.value,
        protocol=protocol,
        storage=storage.value,
        thresholds=not fixed_threshold,
        precision="bf16" if bf16 else "fp32",
        seed=seed,
    )
    read = _table(words, encoder or model)
    _, numbers = learning.train_extract(texts, out, settings=how, start=encoder or model, words=read, quiet=quiet)
    if numbers["left_out"] and not quiet:
        print(f"tianwen: not labelled: {learning.told(numbers['left_out'])}.", file=sys.stderr)
    say(
        f"{table({**numbers, **_told(numbers)})}\nUse it: tianwen extract --model {out} page.txt",
        numbers,
        as_json=as_json,
    )


def _table(words: str | None, start: Path | None) -> WordTable | None:
    """The word table that is meant: what is learnt of words stays right with the same table only."""
    from tianwen.extract.start import table_of
    from tianwen.words.table import WordTable, bundled_table

    if words is None:
        return (table_of(start) if start is not None else None) or bundled_table()
    if words == "none":
        return None
    return bundled_table() if words == "bundled" else WordTable.load(words)


def _told(numbers: dict[str, Any]) -> dict[str, Any]:
    """What was learned of thresholds, in one line."""
    learned = numbers.get("thresholds")
    if learned is None:
        return {}
    if not learned["kept"]:
        return {"thresholds": "0.5 for all; others did not help"}
    f1 = f"F1 {learned['f1_fixed']:.4f} before"
    return {"thresholds": f"{learned['threshold']:g}, and {len(learned['own'])} labels have their own; {f1}"}
