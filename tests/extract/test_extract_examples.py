"""What the examples of extraction leave behind, and what they say where something is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tianwen.extract.extractor import BUNDLED

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.skipif(not BUNDLED.exists(), reason="no bundled extractor")
def test_the_page_is_answered_and_nothing_stays_on_disk(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "0229_ares.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "肯尼迪航天中心" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_example_of_onnx_says_what_it_needs(tmp_path: Path) -> None:
    script = "import runpy, sys; sys.modules['onnxruntime'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", script, str(EXAMPLES / "8888_onnx.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "This example needs onnxruntime: pip install 'tianwen[export]'\n"
