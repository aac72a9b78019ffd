"""Answers on a terminal: how one looks to a person and to a program, the prompt, and questions that stream in.

A question with a Han character is answered with Chinese labels, any other with English ones.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tianwen.errors import InputError
from tianwen.not_text import refuse_what_is_no_text

if TYPE_CHECKING:
    from tianwen.ask.asker import Answer

Ask = Callable[[list[str]], "list[list[Answer]]"]
"""Several questions in, the answers of each out."""

Bytes = BufferedReader | BytesIO
"""A stream of bytes that gives what has arrived without waiting for more."""

HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
ENGLISH = {"path": "path  ", "source": "source", "unsure": "I don't know; closest: ", "nothing": "I don't know."}
CHINESE = {"path": "路径", "source": "来源", "unsure": "不知道；最接近的：", "nothing": "不知道。"}


def path_of(answer: Answer) -> str:
    """The way through the tree: subject, its sense in full-width brackets, predicate."""
    sense = f"（{answer.sense}）" if answer.sense else ""
    return f"{answer.subject}{sense} → {answer.predicate}"


def for_people(question: str, answers: Sequence[Answer]) -> str:
    """One question's answers, best first: objects and probability, below them path and source.

    Only the best can be unsure; of the others nobody says that they answer.
    """
    words = CHINESE if HAN.search(question) else ENGLISH
    if not answers:
        return words["nothing"]
    return ("" if answers[0].known else words["unsure"]) + "\n".join(_block(answer, words) for answer in answers)


def _block(answer: Answer, words: dict[str, str]) -> str:
    objects = typer.style("; ".join(answer.objects), bold=True)
    lines = [f"{objects}  {answer.probability:.0%}"]
    lines.append(typer.style(f"    {words['path']}  {path_of(answer)}", dim=True))
    if sources := list(dict.fromkeys(filter(None, answer.sources))):  # one for each object, often the same or none
        lines.append(typer.style(f"    {words['source']}  {'; '.join(sources)}", dim=True))
    return "\n".join(lines)


def for_programs(question: str, answers: Sequence[Answer]) -> str:
    """One line of JSON: the question and its answers, best first."""
    return json_line({"question": question, "answers": [as_dict(answer) for answer in answers]})


def as_dict(answer: Answer) -> dict[str, Any]:
    return {
        "objects": list(answer.objects),
        "probability": float(answer.probability),
        "known": bool(answer.known),
        "subject": answer.subject,
        "sense": answer.sense,
        "predicate": answer.predicate,
        "sources": list(answer.sources),
    }


def json_line(value: Any) -> str:
    """JSON on one line; half a surrogate pair, which no stream can write, as its escape."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def answer_stream(stream: Bytes, ask: Ask, *, batch: int = 32) -> Iterator[str]:
    """A JSON line for every line of the stream, in order; a question that cannot be asked yields its error instead."""
    for questions in batches(stream, batch):
        try:
            found = ask(questions)
        except InputError:
            yield from (_answer_alone(question, ask) for question in questions)
        else:
            yield from map(for_programs, questions, found)


def _answer_alone(question: str, ask: Ask) -> str:
    try:
        return for_programs(question, ask([question])[0])
    except InputError as error:
        return json_line({"question": question, "answers": [], "error": str(error)})


def batches(stream: Bytes, size: int) -> Iterator[list[str]]:
    """Lines in batches: whatever has arrived, at most `size`, so that a slow writer gets its answer at once.

    Bytes that are not UTF-8 become lone surrogates, which the tokenizer knows how to read. Raises InputError if what
    arrives first is no text at all.
    """
    waiting: list[bytes] = []  # the beginning of a line whose end has not arrived
    begun = False
    while chunk := stream.read1(1 << 16):
        if not begun:
            refuse_what_is_no_text(chunk, "stdin")
            begun = True
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*waiting, lines[0]])
            waiting = []
            for first in range(0, len(lines), size):
                yield [_text(line) for line in lines[first : first + size]]
        waiting.append(rest)
    if last := b"".join(waiting):
        yield [_text(last)]


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[..., None] | None]:
    """A bar on stderr to report (done, total[, what]) to, total None if unknown; None unless stderr is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int | None, what: str = what) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report


def prompt(ask: Ask) -> None:
    """Ask until Ctrl-D; an empty line is skipped, the arrow keys bring back earlier questions."""
    with History(Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tianwen" / "questions"):
        print("Ask in Chinese or English; Ctrl-D leaves. 可以用中文或英文提问，按 Ctrl-D 离开。", file=sys.stderr)
        while (question := _read_line()) is not None:
            if not question.strip():
                continue
            try:
                typer.echo(for_people(question, ask([question])[0]))
            except InputError as error:
                print(error, file=sys.stderr)


def _read_line() -> str | None:
    try:
        return input("? ")
    except EOFError:
        print()
        return None


class History:
    """While open, readline keeps the questions asked, and saves them at the end; without readline it does nothing."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        with suppress(ImportError, OSError):
            import readline

            readline.read_history_file(self.file)

    def __exit__(self, *error: object) -> None:
        with suppress(ImportError, OSError):
            import readline

            self.file.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(self.file)
