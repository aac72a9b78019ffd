"""Every example runs, in an empty folder, and says something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
QUICK = ("8802_", "8998_", "9152_", "9181_")
"""The others train small models: half a minute each."""

EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[] if path.name.startswith(QUICK) else pytest.mark.slow)
    for path in sorted(FOLDER.glob("*.py"))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs(example, tmp_path):
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout
