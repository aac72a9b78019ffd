"""The command `tianwen`: one short function per command, heavy imports inside."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="tianwen", help="Ask your own knowledge; every answer exists.", rich_markup_mode=None, no_args_is_help=True
)


@app.callback()
def root() -> None:
    """Ask your own knowledge; every answer exists."""


def main() -> None:
    app()
