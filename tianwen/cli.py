"""The command `tianwen`: one short function per command, heavy imports inside.

Exit codes: 0 done, 1 failed with a sentence on stderr, 2 wrong usage, 130 stopped by Ctrl-C, 141 the reader of the
output went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from tianwen.errors import InputError, TianwenError

if TYPE_CHECKING:
    from io import BufferedReader

    from tianwen.ask.asker import Answer
    from tianwen.ask.fact_report import Report
    from tianwen.ask.knowledge_base import KnowledgeBase
    from tianwen.text import Tokenizer


BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


class Commands(TyperGroup):
    """The group of all commands: turns errors raised on purpose into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe must show here, not while the interpreter shuts down
            return result
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except (TianwenError, OSError) as error:
            print(f"tianwen: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\ntianwen: stopped by Ctrl-C; what was reported as done stays done.", file=sys.stderr)
            raise typer.Exit(130) from None


def group(help: str) -> typer.Typer:
    return typer.Typer(
        cls=Commands,
        help=help,
        rich_markup_mode=None,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


app = group("Ask your own knowledge; every answer exists.")
train = group("Train a model on your own data.")
evaluate = group("Measure a model on questions with known answers.")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")


class Search(str, Enum):
    auto = "auto"
    beam = "beam"
    exact = "exact"


class Storage(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


KB = Annotated[Path, typer.Option("--kb", metavar="DIR", help="Folder of the knowledge base.", show_default=False)]
Model = Annotated[
    Path | None, typer.Option("--model", metavar="PATH", help="A model of your own instead of the bundled one.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="FORMAT", help="tsv, csv, jsonl, parquet or ntriples; without it the file's ending says."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse everything when one line cannot be read.")]
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many answers to show.")]
Beams = Annotated[int, typer.Option("--beams", metavar="N", min=1, help="How many paths to follow at once.")]
How = Annotated[
    Search,
    typer.Option(
        "--search", help="auto: best first, with an end; beam: pruned; exact: proves that nothing scores higher."
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", min=0.0, max=1.0, help="Below this probability say: I don't know."),
]


@app.command()
def ask(
    kb: KB,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="Without it: a prompt, or one question a line of stdin.")
    ] = None,
    top: Top = 1,
    beams: Beams = 4,
    search: How = Search.auto,
    threshold: Threshold = None,
    model: Model = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ask a knowledge base; every answer stands in it.

    With QUESTION: one answer. Without, at a terminal: a prompt. Without, from a pipe: JSON lines, one for each line
    of stdin, as they come.
    """
    from tianwen import terminal
    from tianwen.ask.asker import Asker

    with open_kb(kb) as base:
        asker = Asker.load(model)

        def find(questions: list[str]) -> list[list[Answer]]:
            return asker.ask(questions, base, top=top, beams=beams, search=search.value, threshold=threshold)

        if question is not None:
            answers = find([question])[0]
            typer.echo((terminal.for_programs if as_json else terminal.for_people)(question, answers))
        elif sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
            terminal.prompt(find)
        else:
            for line in terminal.answer_stream(cast("BufferedReader", sys.stdin.buffer), find):
                print(line, flush=True)


@app.command()
def build(
    facts: Annotated[list[str], typer.Argument(metavar="FACTS", help="Tables of facts; - is stdin.")],
    kb: KB,
    format: Format = None,
    strict: Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a knowledge base that is already there.")] = False,
    model: Model = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a knowledge base from tables of facts.

    TSV, CSV, JSON lines, Parquet and N-Triples are read, compressed or not. The columns are subject, predicate, object
    and, if you like, source. A full-width bracket at the end of a subject is its sense: 白蛇（电影）. Lines that cannot
    be read are left out, counted and named.
    """
    from tianwen.ask.fact_files import Report
    from tianwen.ask.knowledge_base import KnowledgeBase
    from tianwen.terminal import progress

    report = Report(strict=strict)
    with progress("Building", quiet=quiet) as bar:
        source, tokenizer = tables(facts, format, report), tokenizer_of(model)
        built = KnowledgeBase.build(source, kb, tokenizer=tokenizer, overwrite=force, report=report, progress=bar)
    built.close()
    name_skipped(report, quiet=quiet)
    say(f"{report.summary()} Knowledge base: {kb}", as_counts(report) | {"kb": str(kb)}, as_json=as_json)


@app.command()
def add(
    kb: KB,
    subject: Annotated[
        str | None, typer.Argument(metavar="SUBJECT", help="What the fact is about; 白蛇（电影） names a sense.")
    ] = None,
    predicate: Annotated[str | None, typer.Argument(metavar="PREDICATE", help="What is said of it.")] = None,
    object: Annotated[str | None, typer.Argument(metavar="OBJECT", help="The answer.")] = None,
    source: Annotated[str, typer.Option("--source", metavar="TEXT", help="Where the fact comes from.")] = "",
    facts: Annotated[str | None, typer.Option("--facts", metavar="FILE", help="A table of facts; - is stdin.")] = None,
    format: Format = None,
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add one fact, or a table of facts.

    When the command returns they are on disk, and the next question sees them.
    """
    from tianwen.ask.fact_files import Report
    from tianwen.ask.facts import Fact

    single = [part for part in (subject, predicate, object) if part is not None]
    if bool(single) == (facts is not None) or len(single) not in (0, 3):
        raise typer.BadParameter("Give either SUBJECT PREDICATE OBJECT, or --facts FILE.")
    report = Report(strict=strict)
    with open_kb(kb) as base:
        given = [Fact.of(*single, source=source)] if facts is None else tables([facts], format, report)
        added = base.add(given, report=report)
    name_skipped(report, quiet=quiet)
    say(f"{count(added, 'fact')} added.", {"added": added, "skipped": report.skipped}, as_json=as_json)


@app.command()
def remove(
    kb: KB,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="What the facts are about; 白蛇（电影） names a sense.")
    ],
    predicate: Annotated[
        str | None, typer.Argument(metavar="PREDICATE", help="Only facts with this predicate.")
    ] = None,
    object: Annotated[str | None, typer.Argument(metavar="OBJECT", help="Only the fact with this object.")] = None,
    as_json: Json = False,
) -> None:
    """Remove the facts about a subject, or some of them.

    The next question no longer sees them. Without a sense in brackets, all senses of the subject are meant.
    """
    from tianwen.ask.facts import split_sense

    name, sense = split_sense(subject)
    with open_kb(kb) as base:
        removed = base.remove(name, predicate, object, sense or None)
    say(f"{count(removed, 'fact')} removed.", {"removed": removed}, as_json=as_json)


@app.command()
def compact(kb: KB, quiet: Quiet = False, as_json: Json = False) -> None:
    """Merge all additions and removals into one piece, for speed."""
    from tianwen.terminal import progress

    with open_kb(kb) as base, progress("Merging", quiet=quiet) as bar:
        base.compact(progress=bar)
        facts = base.info()
    say(f"{kb} is compact.", facts, as_json=as_json)


@app.command()
def info(
    kb: KB,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte with its checksum first.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a knowledge base holds."""
    with open_kb(kb) as base:
        if verify:
            base.verify()
        facts = base.info()
    say(table(facts), facts, as_json=as_json)


@train.command("ask")
def train_ask(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the model.", show_default=False)],
    questions: Annotated[
        list[Path] | None,
        typer.Option("--questions", metavar="FILE", help="Questions with answers; may be given several times."),
    ] = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", metavar="DIR", help="Make more questions from the facts of this one.")
    ] = None,
    model: Model = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How long to train.")] = 600,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Questions in a step.")] = 64,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="X", help="1e-3 with --scratch, else 2e-4.")
    ] = None,
    synthetic: Annotated[
        float,
        typer.Option("--synthetic", metavar="P", min=0.0, max=1.0, help="Share of questions made up by patterns."),
    ] = 0.45,
    english: Annotated[
        float, typer.Option("--english", metavar="P", min=0.0, max=1.0, help="Share of these that are in English.")
    ] = 0.3,
    scratch: Annotated[bool, typer.Option("--scratch", help="Start from nothing instead of a trained model.")] = False,
    layers: Annotated[int, typer.Option("--layers", metavar="N", min=1, help="With --scratch.")] = 4,
    width: Annotated[int, typer.Option("--width", metavar="N", min=2, help="With --scratch.")] = 256,
    storage: Annotated[
        Storage, typer.Option("--storage", help="How weights are stored; int8 is a quarter of fp32.")
    ] = (Storage.fp32),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model to ask, from questions, a knowledge base or both.

    Question files: KgCLUE JSON lines, NLPCC text, or TSV with question, subject, predicate and object. Started again
    with the same folder, training goes on where it was stopped.
    """
    if not questions and kb is None:
        raise typer.BadParameter("Give --questions FILE, --kb DIR, or both.")
    from tianwen.ask import learning

    how = learning.TrainAskSettings(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        synthetic=synthetic,
        english=english,
        layers=layers,
        width=width,
        storage=storage.value,
        seed=seed,
    )
    with nullcontext() if kb is None else open_kb(kb) as base:
        learning.train_ask(questions or [], out, kb=base, start=model, scratch=scratch, settings=how, quiet=quiet)
    say(f"The model is in {out}. Ask with it: tianwen ask --model {out} ...", {"model": str(out)}, as_json=as_json)


@evaluate.command("ask")
def evaluate_ask(
    kb: KB,
    questions: Annotated[
        list[Path],
        typer.Option("--questions", metavar="FILE", help="Questions with answers; may be given several times."),
    ],
    beams: Beams = 4,
    search: How = Search.auto,
    threshold: Threshold = None,
    model: Model = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="First fit the probabilities of --model to these questions; saved in it."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ask questions whose answers are known, and count the right ones.

    The numbers are those of KgCLUE, how well the probabilities fit, how often the model was called, how fast it was,
    and what share is answered, and right, at each threshold.
    """
    if calibrate and model is None:
        raise typer.BadParameter("--calibrate changes a model of your own: name it with --model.")
    from tianwen.ask import calibration, evaluation
    from tianwen.ask.asker import Asker, AskOptions
    from tianwen.ask.questions import read_questions
    from tianwen.terminal import progress

    known = read_questions(questions)
    options = AskOptions(beams=beams, search=search.value, threshold=threshold)
    with open_kb(kb) as base, progress("Asking", quiet=quiet) as bar:
        asker = Asker.load(model)
        if calibrate and model is not None:
            asker = calibration.calibrated_in_place(asker, model, base, known, options=options, progress=bar)
        numbers = evaluation.evaluate_ask(asker, base, known, options=options, progress=bar)
    say(table(numbers), numbers, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of the files of benchmarks/, such as: ask")],
) -> None:
    """Measure speed, side by side with the alternatives.

    The benchmarks come with the source checkout. Options after NAME, such as --json, go to the benchmark.
    """
    import runpy

    names = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))
    if not names:
        raise InputError("The benchmarks come with the source checkout, not with the installed package.")
    if name not in names:
        raise typer.BadParameter(f"There is no benchmark {name!r}; there are: {', '.join(names)}.")
    script = str(BENCHMARKS / f"{name}.py")
    sys.argv = [script, *context.args]
    sys.path.insert(0, str(BENCHMARKS))  # as `python benchmarks/NAME.py` has it
    runpy.run_path(script, run_name="__main__")


@app.command()
def demo(
    kb: Annotated[
        Path | None,
        typer.Option("--kb", metavar="DIR", help="Keep the knowledge base there; by default it is removed."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ask ten questions on spaceflight; at a terminal, then yours."""
    import tempfile

    from tianwen import demonstration, terminal
    from tianwen.ask.asker import Asker
    from tianwen.ask.knowledge_base import KnowledgeBase

    asker = Asker.load()
    with tempfile.TemporaryDirectory(prefix="tianwen-") as scratch:
        folder = kb or Path(scratch) / "demo.kb"
        with KnowledgeBase.build(demonstration.fact_files(), folder, tokenizer=asker.tokenizer, overwrite=True) as base:

            def find(questions: list[str]) -> list[list[Answer]]:
                return asker.ask(questions, base)

            results = list(demonstration.ask_all(find))
            right = sum(result[2] for result in results)
            if as_json:
                rows = [demonstration.as_row(*result) for result in results]
                print(terminal.json_line({"right": right, "questions": len(rows), "answers": rows}))
                return
            for result in results:
                typer.echo(demonstration.for_people_with_verdict(*result) + "\n")
            print(f"{right} of {len(results)} right. Your own table: tianwen build facts.tsv --kb my.kb")
            if sys.stdin.isatty() and sys.stdout.isatty() and not quiet:
                terminal.prompt(find)


def open_kb(folder: Path) -> KnowledgeBase:
    from tianwen.ask.knowledge_base import KnowledgeBase

    return KnowledgeBase.open(folder)


def tokenizer_of(model: Path | None) -> Tokenizer:
    """A knowledge base is built with the vocabulary of the model that will be asked; this needs no torch."""
    from tianwen.text import Tokenizer

    return Tokenizer.load((model or Path(__file__).parent / "models" / "asker") / "tokenizer.json")


def tables(files: list[str], format: str | None, report: Report) -> Iterable[Any]:
    """What a knowledge base reads: the files' names, or with --format their contents."""
    from tianwen.ask.fact_files import read_facts

    if format is None:
        return files
    return chain.from_iterable(read_facts(file, format=format, report=report) for file in files)


def say(text: str, value: Any, *, as_json: bool) -> None:
    """Print the text, or with --json the value."""
    from tianwen.terminal import json_line

    typer.echo(json_line(value) if as_json else text)


def table(values: dict[str, Any]) -> str:
    """Names and values below each other; of a list one line each."""
    rows = []
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            text = ", ".join(f"{key} {part}" for key, part in item.items()) if isinstance(item, dict) else item
            rows.append((name, f"{text:.4g}" if isinstance(text, float) else f"{text}"))
            name = ""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows)


def name_skipped(report: Report, *, quiet: bool, most: int = 10) -> None:
    """Name the first lines that were left out, on stderr."""
    if quiet:
        return
    for problem in report.problems[:most]:
        print(f"tianwen: left out: {problem}", file=sys.stderr)
    if report.skipped > most:
        print(f"tianwen: ... and {report.skipped - most:,} more lines", file=sys.stderr)


def as_counts(report: Report) -> dict[str, Any]:
    problems = [{"file": problem.file, "line": problem.line, "reason": problem.reason} for problem in report.problems]
    return {"facts": report.rows, "skipped": report.skipped, "duplicates": report.merged, "problems": problems}


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def main() -> None:
    """Entry point of the command `tianwen`."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # never fail on what it cannot show
    app(prog_name="tianwen")
