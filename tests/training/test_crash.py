"""Killed or stopped at any moment, a run that is started again ends where a run ends that nobody touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("TIANWEN_CRASH_ROUNDS", "6"))
KILLED, STOPPED = {-9}, {143, 130}
EARLY = {-15, 77}  # the signal came before the loop began, or after it: it does what it does to any program


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")
def test_stopped_at_random_moments(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_rounds.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(ROUNDS)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert (told["first"], told["last"]) == (0, 0), told["said"]
    codes = set(told["codes"])
    assert codes <= KILLED | STOPPED | EARLY | {0}, told["said"]
    assert codes & KILLED, "no run was killed in the middle: the test showed nothing"
    assert codes & STOPPED, "no run was stopped in the middle: the test showed nothing"
    assert "run the same command again to go on from there" in told["said"]
    assert "Traceback" not in told["said"]
    for outcome in told["ended"]:
        assert outcome == told["whole"]
