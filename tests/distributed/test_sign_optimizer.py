"""Tiger and Lion on two processes, replicated (DDP) and spread (FSDP2), step as one process does."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("sign_optimizer_script.py")


def test_two_processes_step_as_one_does(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.Popen([*torchrun, str(SCRIPT), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
    script = runpy.run_path(str(SCRIPT))
    said = two.communicate(timeout=600)[1]
    assert two.returncode == 0, said
    for rank in (0, 1):
        found = torch.load(tmp_path / f"end-{rank}.pt", weights_only=True)
        for case in script["CASES"]:
            expected = script["alone"](case)
            for way in ("ddp", "fsdp"):
                for name, value in expected.items():
                    torch.testing.assert_close(
                        found[case][way][name],
                        value,
                        rtol=1e-11,
                        atol=1e-12,
                        msg=lambda m: f"{case} {way} {name}: {m}",  # noqa: B023
                    )
