"""The command `tianwen`: one short function per command, heavy imports inside.

Exit codes: 0 done, 1 failed with a sentence on stderr, 2 wrong usage, 130 stopped by Ctrl-C, 141 the reader of the
output went away.
"""

from __future__ import annotations

import sys

from tianwen.cli import (
    asking,
    bench,
    draw,
    exporting,
    extracting,
    extracting_train,
    health,
    knowledge_base,
    language,
    pretraining,
    words,
)
from tianwen.cli.commands import app

__all__ = [
    "app",
    "asking",
    "bench",
    "draw",
    "exporting",
    "extracting",
    "extracting_train",
    "health",
    "knowledge_base",
    "language",
    "main",
    "pretraining",
    "words",
]


def main() -> None:
    """Entry point of the command `tianwen`."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # never fail on what it cannot show
    app(prog_name="tianwen")
