"""Stopping a training run politely: SIGTERM and Ctrl-C finish the step, save, and leave with a sentence.

The first Ctrl-C (SIGINT) or SIGTERM only sets a flag. `fit` finishes the current step, saves a checkpoint, says on
stderr how to go on and raises TrainingInterrupted. This is a SystemExit with code 128 + signal (130 for Ctrl-C, 143 for
SIGTERM): a script ends without a traceback, and `except Exception` does not swallow it. A second Ctrl-C, a second or
more after the first, raises KeyboardInterrupt at once and nothing more is saved (the last checkpoint stays good).
Outside the main thread Python allows no handlers; there `fit` runs without them.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

GRACE = 1.0
"""Seconds in which a repeated Ctrl-C counts as the same one: launchers pass on the signal the terminal sent already."""


class TrainingInterrupted(SystemExit):
    """`fit` was asked to stop; everything up to `step` is saved in `folder`."""

    def __init__(self, number: int, *, step: int, folder: Path) -> None:
        super().__init__(128 + number)
        self.signal, self.step, self.folder = signal.Signals(number), step, folder

    def __str__(self) -> str:
        return (
            f"Stopped by {self.signal.name} after step {self.step}. The state is saved in {self.folder}; "
            "run the same command again to go on from there."
        )


class StopRequest:
    """While the block runs, `requested` is the number of the signal that asked to stop, or 0."""

    def __init__(self) -> None:
        self.requested = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > GRACE:
            raise KeyboardInterrupt
