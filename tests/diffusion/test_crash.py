"""kill -9 at any moment of a training: started again, it ends with the same weights, state and pages of samples.

Three rounds run with the tests; TIANWEN_CRASH_ROUNDS=20 pytest tests/diffusion/test_crash.py runs twenty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("TIANWEN_CRASH_ROUNDS", "3"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="reading pictures needs Pillow")
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("crash_rounds.py")), str(tmp_path), str(ROUNDS)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["codes"] == [0, 0], told["said"]
    assert told["killed"] == ROUNDS
    assert told["files"] == 7, "the generator, the three parts of the state, three pages"
    assert not any(told["differ"])
    assert not told["said"]
