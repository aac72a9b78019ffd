"""The groups of commands, how their errors end, and the options that many of them share.

A file of this folder registers its commands on `app`, `train` or `evaluate`; heavy imports stand inside the commands.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tianwen.errors import TianwenError

if TYPE_CHECKING:
    from tianwen.ask.knowledge_base import KnowledgeBase


FIRST = ("ask", "build", "add", "remove", "compact", "info")


class Commands(TyperGroup):
    """The group of all commands: turns errors raised on purpose into one sentence and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The main job's commands first, in the order of their use; the others by name."""
        names = sorted(super().list_commands(ctx))
        return [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe must show here, not while the interpreter shuts down
            return result
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except (TianwenError, OSError) as error:
            print(f"tianwen: {told(error)}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\ntianwen: stopped by Ctrl-C; what was reported as done stays done.", file=sys.stderr)
            raise typer.Exit(130) from None


def told(error: Exception) -> str:
    """The error as a sentence; the system's own messages are bare numbers and words."""
    if not isinstance(error, OSError) or isinstance(error, TianwenError) or error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}The disk is full, and what was being written is not complete. Make room and run it again."
    return f"{where}The system says: {error.strerror}."


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


def _version(wanted: bool) -> None:
    if wanted:
        from tianwen import __version__

        typer.echo(f"tianwen {__version__}")
        raise typer.Exit()


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask your own knowledge; every answer exists."""


app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")


def unless_bundled(model: Path | None) -> Path | None:
    """None, the model that comes with Tianwen, for the word "bundled" too, unless there is a folder of that name."""
    return None if str(model) == "bundled" and not Path("bundled").exists() else model


KB = Annotated[Path, typer.Option("--kb", metavar="DIR", help="Folder of the knowledge base.", show_default=False)]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="PATH",
        callback=unless_bundled,
        help="A model of your own instead of the bundled one.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def open_kb(folder: Path) -> KnowledgeBase:
    from tianwen.ask.knowledge_base import KnowledgeBase

    return KnowledgeBase.open(folder)


def say(text: str, value: Any, *, as_json: bool) -> None:
    """Print the text, or with --json the value."""
    from tianwen.terminal import json_line

    typer.echo(json_line(value) if as_json else text)


def table(values: dict[str, Any]) -> str:
    """Names and values below each other; of a list one line each."""
    rows = []
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            parts = (
                [f"{key} {_shown(part)}" for key, part in item.items()] if isinstance(item, dict) else [_shown(item)]
            )
            rows.append((name, ", ".join(parts)))
            name = ""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"
