"""What README and the quickstarts show is run: every block that follows a line `<!-- run -->`.

A `console` block: lines that begin with `$ ` are commands, the lines below are their output. A `python` block: as in an
interactive session. A block under `<!-- file NAME -->` is written to that file. `...` stands for anything. The blocks
of a page run in order, in one empty folder.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- (run|file \S+) -->\n```(\w+)\n(.*?)^```$", re.M | re.S)


def run_console(text: str, folder: Path) -> None:
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=1200,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": path, "COLUMNS": "100"},
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert matches(done.stdout, expected), f"{command} printed\n{done.stdout}\nbut the page says\n{expected}"


def matches(output: str, expected: str) -> bool:
    pattern = expected.strip().replace("[", "[[]").replace("?", "[?]").replace("*", "[*]").replace("...", "*")
    return not pattern or fnmatchcase(output.strip(), pattern)


def run_python(text: str, folder: Path, names: dict) -> None:
    test = doctest.DocTestParser().get_doctest(text, names, "page", None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert runner.failures == 0, "".join(report)


QUICK = ["README.md", "README.zh.md", "docs/extraction.md", "docs/plugs.md"]
SLOW = ["docs/quickstart.md", "docs/quickstart.zh.md"]  # these train a model


@pytest.mark.parametrize("page", [*QUICK, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW)])
def test_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks, f"{page} shows nothing that runs"
    names: dict = {}
    for mark, language, text in blocks:
        match mark.split(), language:
            case ["file", name], _:
                (tmp_path / name).write_text(text, encoding="utf-8")
            case ["run"], "console":
                run_console(text, tmp_path)
            case ["run"], "python":
                run_python(text, tmp_path, names)
            case _:
                pytest.fail(f"{page}: no way to run a {language} block")


def test_a_wrong_output_on_a_page_is_noticed(tmp_path):
    run_console("$ echo one two\none ...\n", tmp_path)
    with pytest.raises(AssertionError, match="but the page says"):
        run_console("$ echo one\ntwo\n", tmp_path)
    with pytest.raises(AssertionError):
        run_python(">>> 1 + 1\n3\n", tmp_path, {})
