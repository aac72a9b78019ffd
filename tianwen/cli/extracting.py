"""Commands that extract and measure extraction: extract, eval extract.

Post: 8888
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tianwen.cli.commands import Json, Quiet, app, evaluate, say, table, unless_bundled
from tianwen.cli.extracting_texts import Document, documents, lines_of
from tianwen.counting import count

if TYPE_CHECKING:
    from io import BufferedReader

    from tianwen.extract.annotation import Annotation
    from tianwen.extract.extractor import Extractor

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="DIR",
        callback=unless_bundled,
        help="A model of your own; entities: the bundled one for ten kinds of names, no facts.",
    ),
]
Int8 = Annotated[bool, typer.Option("--int8", help="Products in int8: faster, scores differ by about .01.")]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", help="Probability, above 0 and below 1: higher finds less and is surer."),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option("--schema", metavar="FILE", help="Only facts with the predicates and types of this schema."),
]
NeedsTrigger = Annotated[bool, typer.Option("--needs-trigger", help="Leave out events without a trigger.")]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Keep facts that come out only because links of other facts cross.")
]


@app.command()
def extract(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT", help="A text, a file, a folder of .txt and .md files; - is stdin.")
    ],
    threshold: Threshold = None,
    entities_only: Annotated[bool, typer.Option("--entities-only", help="Entities alone, no facts.")] = False,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="Every line is a text of its own, not the file; stdin is answered as it comes."),
    ] = False,
    schema: SchemaFile = None,
    needs_trigger: NeedsTrigger = False,
    no_verify: NoVerify = False,
    view: Annotated[bool, typer.Option("--view", help="The view for people where stdout is no terminal, too.")] = False,
    model: Model = None,
    int8: Int8 = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find entities, facts and events in texts.

    A file is one text, so a fact may join words of two of its lines; with --lines every line is a text of its own.

    At a terminal: the sentences with their entities marked, and the facts. With --json, or into a pipe: one line of
    JSON for each text, with places in characters of the text as given, ends exclusive. A knowledge base reads these
    lines: tianwen extract page.txt --json | tianwen build - --kb page.kb
    """
    from tianwen.extract.extractor import Extractor
    from tianwen.extract.found import CapReport
    from tianwen.terminal import progress

    options = _options(threshold, schema, needs_trigger=needs_trigger, no_verify=no_verify)
    options["entities_only"] = entities_only
    extractor, report, crossings = Extractor.load(model, int8=int8), CapReport(), Counter[str]()
    show = _printer(as_json=as_json, view=view)
    with progress("Reading windows", quiet=quiet) as bar:
        for batch in _batches(texts, by_lines=lines):
            for annotation in _extracted(extractor, batch, report=report, **options):
                show(annotation)
                if number := _across_lines(annotation):
                    crossings[annotation.source] += number
                if bar is not None:
                    bar(report.windows, None)
    if report.reached and not quiet:
        print(f"tianwen: {report.summary()}", file=sys.stderr)
    if not quiet:
        _hint_at_lines(crossings)


@evaluate.command("extract")
def evaluate_extract(
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="FILE", help="Labelled texts; may be given several times; - is stdin."),
    ],
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="What counts as right; an unknown name lists them all.")
    ] = "triples",
    per_label: Annotated[bool, typer.Option("--per-label", help="The numbers of each predicate or type, too.")] = False,
    threshold: Threshold = None,
    format: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="Of the data; without it the content says.")
    ] = None,
    aliases: Annotated[
        Path | None, typer.Option("--aliases", metavar="FILE", help="For --protocol duie: other names, with tabs.")
    ] = None,
    symmetric: Annotated[
        list[str] | None,
        typer.Option("--symmetric", metavar="PREDICATE", help="Subject and object may be exchanged; several times."),
    ] = None,
    schema: SchemaFile = None,
    needs_trigger: NeedsTrigger = False,
    no_verify: NoVerify = False,
    model: Model = None,
    int8: Int8 = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Extract from labelled texts and count what is right.

    Precision, recall and F1 by the protocol, and how many texts a second went through.
    """
    from itertools import chain

    from tianwen.extract import evaluation
    from tianwen.extract.annotation_files import read_annotations
    from tianwen.extract.extractor import Extractor
    from tianwen.extract.reading_report import Report
    from tianwen.extract.scoring import check_protocol, read_aliases
    from tianwen.terminal import progress

    check_protocol(protocol)
    options = _options(threshold, schema, needs_trigger=needs_trigger, no_verify=no_verify)
    reading = Report()
    extractor = Extractor.load(model, int8=int8)
    gold = list(chain.from_iterable(read_annotations(file, format=format, report=reading) for file in data))
    if (reading.skipped or reading.dropped) and not quiet:
        print(f"tianwen: {reading.summary()}", file=sys.stderr)
    with progress("Extracting", quiet=quiet) as bar:
        numbers = evaluation.evaluate_extract(
            extractor,
            gold,
            protocol,
            aliases=None if aliases is None else read_aliases(aliases),
            symmetric=symmetric or (),
            options=options,
            progress=bar,
        )
    labels = numbers.pop("per_label")
    shown = table(numbers)
    if per_label:
        numbers["per_label"] = labels
        shown = f"{shown}\n\n{_label_table(labels)}"
    say(shown, numbers, as_json=as_json)


def _options(threshold: float | None, schema: Path | None, *, needs_trigger: bool, no_verify: bool) -> dict[str, Any]:
    from tianwen.extract.schema import Schema

    if threshold is not None and not 0 < threshold < 1:
        raise typer.BadParameter(f"--threshold is a probability above 0 and below 1, not {threshold}.")
    return {
        "threshold": threshold,
        "schema": None if schema is None else Schema.load(schema),
        "needs_trigger": needs_trigger,
        "verify": not no_verify,
    }


def _batches(texts: list[str], *, by_lines: bool) -> Iterator[Iterable[Document]]:
    """Texts that go through the network together: all, or of stdin by lines those that have arrived."""
    if by_lines and texts == ["-"]:
        yield from lines_of(cast("BufferedReader", sys.stdin.buffer))
    else:
        yield documents(texts, by_lines=by_lines)


def _extracted(extractor: Extractor, batch: Iterable[Document], **options: Any) -> Iterator[Annotation]:
    own, names = tee(batch)
    return extractor.stream((text for text, _ in own), sources=(name for _, name in names), **options)


def _across_lines(annotation: Annotation) -> int:
    """How many facts join words of different lines of a file."""
    pairs = [sorted([fact.subject, fact.object]) for fact in annotation.relations if annotation.source]
    return sum("\n" in annotation.text[one.end : other.start] for one, other in pairs)


def _hint_at_lines(crossings: Counter[str]) -> None:
    """A list of sentences, read as one text, gives facts that none of them states."""
    for source, number in list(crossings.items())[:1]:
        file = "-" if source == "stdin" else shlex.quote(source)
        joined = f"{count(number, 'fact joins', 'facts join')} words of different lines"
        print(
            f"tianwen: {source} was read as one text, and {joined}. "
            f"If every line is a text of its own: tianwen extract {file} --lines",
            file=sys.stderr,
        )


def _printer(*, as_json: bool, view: bool) -> Callable[[Annotation], None]:
    from tianwen.cli.extracting_view import View, has_colours
    from tianwen.extract.writing import to_json
    from tianwen.terminal import json_line

    if as_json or not (view or sys.stdout.isatty()):
        return lambda annotation: print(json_line(to_json(annotation)), flush=True)
    # Only the view's own marks may steer the terminal; with no terminal, or NO_COLOR, there are none.
    shown = View(colours=has_colours())
    return lambda annotation: print(shown.show(annotation) + "\n", flush=True)


def _label_table(labels: dict[str, dict[str, float]]) -> str:
    width = max((len(label) for label in labels), default=0)
    rows = [f"{label:{width}}  {_row(numbers)}" for label, numbers in labels.items()]
    return "\n".join(["per label", *rows])


def _row(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
