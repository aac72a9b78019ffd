"""Every example runs, in an empty folder, and says something."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
QUICK = ("0229_", "8802_", "8888_", "8998_", "9152_", "9181_")
"""The others train small models: half a minute each."""

EXTRACTOR = FOLDER.parent / "tianwen" / "models" / "extractor" / "model.safetensors"


def marks(path: Path) -> list[pytest.MarkDecorator]:
    """Slow ones, and those that need the bundled extractor where a checkout has none."""
    bundled = "0229_" in path.name or "onnx" in path.name
    needs = [pytest.mark.skipif(not EXTRACTOR.exists(), reason="no bundled extractor")] if bundled else []
    if "onnx" in path.name:
        missing = not (find_spec("onnx") and find_spec("onnxruntime"))
        needs.append(pytest.mark.skipif(missing, reason="the extra 'export' is not installed"))
    return needs if path.name.startswith(QUICK) else [*needs, pytest.mark.slow]


EXAMPLES = [pytest.param(path, id=path.stem, marks=marks(path)) for path in sorted(FOLDER.glob("*.py"))]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs(example, tmp_path):
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout
