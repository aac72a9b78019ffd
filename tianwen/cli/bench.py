"""The command bench: runs a file of benchmarks/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tianwen.cli.commands import app
from tianwen.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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
