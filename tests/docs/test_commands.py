"""docs/commands.md is what the commands say of themselves: `make docs` runs this file and writes the page anew."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from tianwen.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
HEADER = """# Commands

Every command answers `--help`. Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 failed with a
sentence on stderr, 2 wrong usage, 130 stopped by Ctrl-C, 141 nobody reads the output. `make docs` writes this page.
"""


def commands(command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as its words, groups before what they hold."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def page() -> str:
    """The whole page."""
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"})
    parts = [HEADER]
    for path in commands(typer.main.get_command(app)):
        result = runner.invoke(app, [*path, "--help"], prog_name="tianwen")
        assert result.exit_code == 0, result.output
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts.append(f"## {' '.join(['tianwen', *path])}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def test_the_page_of_commands_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_help_is_quick_and_imports_nothing_heavy():
    check = (
        "import sys; sys.argv = ['tianwen', '--help']; import tianwen.cli\n"
        "try: tianwen.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'numba', 'polars', 'tokenizers', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    seconds = []  # of the processor: other programs may be using the machine
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", check], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stderr.strip() == "[]"
        assert "build" in done.stdout
    assert min(seconds) < 0.3


def test_a_knowledge_base_is_built_and_changed_without_torch():
    check = "import sys, tianwen.ask.fact_files, tianwen.ask.knowledge_base; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
