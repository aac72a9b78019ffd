"""Run by test_crash.py: train a tiny drawer, kill it at random moments, start it again, print the outcome.

    python tests/diffusion/crash_rounds.py FOLDER ROUNDS

One process imports torch once and forks for each run: it has started no threads, so its children are sound.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from tianwen.diffusion import learning
from tianwen.diffusion.grid_images import png_bytes

STEPS = 24


def paint(folder: Path) -> None:
    """Pictures with labels, and one that is broken."""
    random_bytes = np.random.default_rng(1)
    for number in range(12):
        place = folder / ("a" if number % 3 else "b")
        place.mkdir(parents=True, exist_ok=True)
        pixels = random_bytes.integers(0, 256, (1, 12, 12), dtype=np.uint8)
        (place / f"{number}.png").write_bytes(png_bytes(pixels))
    (folder / "a" / "broken.png").write_bytes(b"no picture")


def train(pictures: Path, out: Path) -> None:
    settings = learning.TrainDrawSettings(
        steps=STEPS, batch=4, side=8, width=8, blocks=1, times=20, samples_every=9, flip=True, precision="fp32"
    )
    learning.train_drawer(pictures, out, settings=settings, quiet=True, checkpoint_every=4)


def start(pictures: Path, out: Path) -> int:
    """A child that trains; what goes wrong is printed to OUT.err."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(pictures, out)
        code = 0
    except BaseException:
        with open(f"{out}.err", "a") as errors:
            traceback.print_exc(file=errors)
    finally:
        os._exit(code)


def outcome(out: Path) -> dict[str, str]:
    """Checksums of the drawer, of the state of the run, and of the pages of samples."""
    state = out / "run" / "checkpoints" / f"step-{STEPS:08d}"
    files = [out / "model.safetensors", *state.glob("*.safetensors"), *sorted((out / "samples").glob("*.png"))]
    return {str(file.relative_to(out)): sha256(file.read_bytes()).hexdigest() for file in files}


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # imports half of torch at its first use: once, not in every child
    learning.SHOWN = 2
    paint(root / "pictures")
    started = time.monotonic()
    codes = [wait(start(root / "pictures", root / "whole"))]
    whole = time.monotonic() - started
    chance = random.Random(11)
    killed = finished = 0
    differ = []
    while killed < rounds:
        child = start(root / "pictures", root / "killed")
        time.sleep(chance.uniform(0.02, 0.5) * whole)
        os.kill(child, signal.SIGKILL)
        ended = wait(child)
        killed += ended == -signal.SIGKILL
        if ended == 0:  # it came to its end: compare, and begin another
            differ.append(outcome(root / "killed") != outcome(root / "whole"))
            finished += 1
            os.rename(root / "killed", root / f"killed-{finished}")
        elif ended > 0:
            codes.append(ended)
            break
    codes.append(wait(start(root / "pictures", root / "killed")))
    differ.append(outcome(root / "killed") != outcome(root / "whole"))
    said = "".join(path.read_text() for path in root.glob("*.err"))
    told = {"codes": codes, "killed": killed, "differ": differ, "files": len(outcome(root / "whole")), "said": said}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
