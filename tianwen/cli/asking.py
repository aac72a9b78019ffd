"""Commands that ask, learn to ask and measure asking: ask, demo, train ask, eval ask.

Post: 8802
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tianwen.cli.asking_numbers import numbers_for_people
from tianwen.cli.commands import KB, Json, Model, Quiet, app, evaluate, open_kb, say, table, train
from tianwen.errors import InputError

if TYPE_CHECKING:
    from io import BufferedReader

    from tianwen.ask.asker import Answer


class Search(str, Enum):
    auto = "auto"
    beam = "beam"
    exact = "exact"


class Storage(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


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
    typer.Option(
        "--threshold",
        metavar="P",
        min=0.0,
        max=1.0,
        help="Below this probability say: I don't know. Without it the model's own, 0.45 of the bundled one.",
    ),
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


class AskMixer(str, Enum):
    """Backbones of an asker."""

    roformer_v2 = "roformer_v2"
    lru = "lru"
    slru = "slru"
    rwkv = "rwkv"


@train.command("ask")
def train_ask(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the model.", show_default=False)
    ],
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
        float | None,
        typer.Option("--learning-rate", metavar="X", help="1e-3 with --scratch, 5e-4 with --encoder, else 2e-4."),
    ] = None,
    synthetic: Annotated[
        float,
        typer.Option("--synthetic", metavar="P", min=0.0, max=1.0, help="Share of questions made up by patterns."),
    ] = 0.45,
    english: Annotated[
        float, typer.Option("--english", metavar="P", min=0.0, max=1.0, help="Share of these that are in English.")
    ] = 0.3,
    scratch: Annotated[bool, typer.Option("--scratch", help="Start from nothing instead of a trained model.")] = False,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder", metavar="DIR", help="Start from a pretrained one (see: train encoder); bundled: ours."
        ),
    ] = None,
    mixer: Annotated[
        AskMixer, typer.Option("--mixer", help="What carries words to each other; with --scratch.")
    ] = AskMixer.roformer_v2,
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
    if (model is not None) + scratch + (encoder is not None) > 1:
        raise typer.BadParameter("Training begins from one of --model, --encoder and --scratch.")
    from tianwen.ask import learning

    how = learning.TrainAskSettings(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        synthetic=synthetic,
        english=english,
        mixer=mixer.value,
        layers=layers,
        width=width,
        storage=storage.value,
        seed=seed,
    )
    with nullcontext() if kb is None else open_kb(kb) as base:
        begin: dict[str, Any] = {"start": model, "scratch": scratch, "encoder": encoder}
        learning.train_ask(questions or [], out, kb=base, settings=how, quiet=quiet, **begin)
    use = f"tianwen ask --kb {kb or 'DIR'} --model {out} QUESTION"
    say(f"The model is in {out}. Ask with it: {use}", {"model": str(out)}, as_json=as_json)


@train.command("matcher")
def train_matcher(
    model: Annotated[
        Path, typer.Option("--model", metavar="DIR", help="The asker that gets it; it goes into its folder.")
    ],
    questions: Annotated[
        list[Path],
        typer.Option("--questions", metavar="FILE", help="Questions with answers; may be given several times."),
    ],
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How long to train.")] = 3000,
    words: Annotated[
        Path | None,
        typer.Option("--words", metavar="FILE", help="Another word table than the bundled one; see: train words"),
    ] = None,
    again: Annotated[bool, typer.Option("--replace", help="Also where there is a matcher already.")] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Teach an asker by word vectors which words ask for which predicate.

    Word vectors hold the meaning of words that are in no question file: "taste" asks for "flavour". Afterwards fit the
    probabilities again: tianwen eval ask --kb DIR --questions FILE --model DIR --calibrate
    """
    if not (model / "model.safetensors").exists():
        train_it = f"tianwen train ask --questions FILE --out {model}"
        raise typer.BadParameter(f"There is no asker in {str(model)!r}. Train one first: {train_it}")
    from tianwen.ask import matcher, matcher_learning
    from tianwen.words.table import WordTable, bundled_table

    if (model / matcher.FILE).exists() and not again:
        raise typer.BadParameter(
            f"The asker in {str(model)!r} has a matcher already, as the bundled one and what is trained from it have. "
            "To train another in its place, give the same command with --replace."
        )
    table = bundled_table() if words is None else WordTable.load(words)
    how = matcher_learning.MatcherSettings(steps=steps, seed=seed)
    matcher_learning.train_matcher(questions, table, model, settings=how, quiet=quiet)
    say(
        f"The asker in {model} has a matcher now. Fit it: tianwen eval ask --kb DIR --questions FILE --model {model} "
        "--calibrate",
        {"model": str(model)},
        as_json=as_json,
    )


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

    if not (known := read_questions(questions)):
        files = ", ".join(map(str, questions))
        raise InputError(f"There is no question in {files}: a header alone, or nothing. Give at least one.")
    options = AskOptions(beams=beams, search=search.value, threshold=threshold)
    with open_kb(kb) as base, progress("Asking", quiet=quiet) as bar:
        asker = Asker.load(model)
        if calibrate and model is not None:
            asker = calibration.calibrated_in_place(asker, model, base, known, options=options, progress=bar)
        numbers = evaluation.evaluate_ask(asker, base, known, options=options, progress=bar)
    say(table(numbers_for_people(numbers)), numbers, as_json=as_json)


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
