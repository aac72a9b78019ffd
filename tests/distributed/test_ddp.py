"""Two processes under torchrun train as one process does on the same global batches."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_script.py")


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    two = subprocess.Popen([*torchrun, str(SCRIPT), str(together)], env=environment, stderr=subprocess.PIPE, text=True)
    runpy.run_path(str(SCRIPT))["main"](alone)  # one process: this one
    said = two.communicate(timeout=600)[1]
    assert two.returncode == 0, said
    expected = torch.load(alone / "end-alone.pt", weights_only=True)
    for rank in (0, 1):
        found = torch.load(together / f"end-{rank}.pt", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12)
    assert len(log(together)) == len(log(alone)) == 8  # at 4, 6, 6 evaluated, 8, 8 evaluated, 12, 16, 16 evaluated
    for mine, theirs in zip(log(alone), log(together), strict=True):
        assert theirs.pop("evaluation", {}) == pytest.approx(mine.pop("evaluation", {}), rel=1e-11)
        mine.pop("longest", None), theirs.pop("longest", None)  # a mean over other parts
        assert theirs == pytest.approx(mine, rel=1e-11)
    files = [path.name for path in together.iterdir()]
    assert sorted(files) == ["checkpoints", "end-0.pt", "end-1.pt", "lock", "log.jsonl"]
