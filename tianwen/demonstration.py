"""The demonstration: build a small knowledge base of spaceflight from packaged files, and ask it ten questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import typer

from tianwen.terminal import Ask, for_people, path_of

if TYPE_CHECKING:
    from tianwen.ask.asker import Answer


def fact_files() -> list[Path]:
    """The packaged tables of facts, one for each language."""
    with as_file(files("tianwen") / "demo") as folder:
        return sorted(folder.glob("*.tsv"))


def questions() -> list[dict]:
    """The ten questions: `question`, `subject`, `predicate` and the list of objects `answer`."""
    text = (files("tianwen") / "demo" / "questions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def is_right(expected: dict, answers: list[Answer]) -> bool:
    """All objects of the first answer, and no others, are those expected; an unsure answer is not right."""
    return bool(answers) and answers[0].known and set(answers[0].objects) == set(expected["answer"])


def ask_all(ask: Ask) -> Iterator[tuple[dict, list[Answer], bool]]:
    """Every question of the demonstration with its answers and whether the first of them is right."""
    asked = questions()
    for expected, answers in zip(asked, ask([row["question"] for row in asked]), strict=True):
        yield expected, answers, is_right(expected, answers)


def for_people_with_verdict(expected: dict, answers: list[Answer], right: bool) -> str:
    """A question, a mark, its answer, and where it is wrong the answer expected."""
    mark = typer.style("✓", fg="green") if right else typer.style("✗", fg="red")
    lines = [f"{mark} {expected['question']}", indent(for_people(expected["question"], answers), "  ")]
    if not right:
        lines.append(
            f"      expected  {'; '.join(expected['answer'])}  ({expected['subject']} → {expected['predicate']})"
        )
    return "\n".join(lines)


def as_row(expected: dict, answers: list[Answer], right: bool) -> dict:
    """The same for a program."""
    best = answers[0] if answers else None
    return {
        "question": expected["question"],
        "expected": expected["answer"],
        "objects": list(best.objects) if best else [],
        "probability": float(best.probability) if best else 0.0,
        "path": path_of(best) if best else "",
        "sources": list(dict.fromkeys(filter(None, best.sources))) if best else [],
        "right": right,
    }
