"""What a run tells while it goes: a JSONL log, a progress bar at a terminal, TensorBoard if asked.

FOLDER/log.jsonl has one JSON object a line:
    {"step", "loss", "lr", "grad_norm", "tokens_per_second" (if the batches tell), "seconds", and the loss's own values}
    {"step", "evaluation": {...}}       {"step", "event": "rollback" | "skipped", ...}
"loss" and "grad_norm" are means over the steps since the line before; "seconds" counts from the start of the run, over
all resumed parts. When a run resumes, lines of steps that will be done again are removed: each step is there once.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tianwen.errors import MissingExtra
from tianwen.training.atomic import write_file


@runtime_checkable
class Scribe(Protocol):
    """Whoever wants to hear of the run."""

    def line(self, content: Mapping[str, Any]) -> None:
        """One line of the log, with its "step"."""
        ...

    def step(self, step: int) -> None:
        """`step` steps are done."""
        ...

    def close(self) -> None:
        """The run ends."""
        ...


class JsonLog:
    """log.jsonl, cut back to the step the run resumes from."""

    def __init__(self, path: Path, *, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
            write_file(path, b"".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def line(self, content: Mapping[str, Any]) -> None:
        """See Scribe."""
        self._file.write(json.dumps({key: _plain(value) for key, value in content.items()}, ensure_ascii=False) + "\n")
        self._file.flush()

    def step(self, step: int) -> None:
        """See Scribe."""

    def close(self) -> None:
        """See Scribe."""
        self._file.close()


class Bar:
    """A rich progress bar on stderr with the time that is left, the loss and the latest evaluation."""

    def __init__(self, *, steps: int, done: int) -> None:
        columns = [TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        self._progress = Progress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[told]}"), console=Console(stderr=True)
        )
        self._task = self._progress.add_task("", total=steps, completed=done, told="")
        self._told: dict[str, str] = {}
        self._progress.start()

    def line(self, content: Mapping[str, Any]) -> None:
        """See Scribe."""
        speed = {key: content[key] for key in ("loss", "tokens_per_second") if key in content}
        shown = content.get("evaluation", speed)
        self._told |= {key: f"{key} {value:.4g}" for key, value in shown.items() if isinstance(value, int | float)}
        self._progress.update(self._task, told="  ".join(list(self._told.values())[:4]))

    def step(self, step: int) -> None:
        """See Scribe."""
        self._progress.update(self._task, completed=step)

    def close(self) -> None:
        """See Scribe."""
        self._progress.stop()


class Board:
    """TensorBoard events; needs the extra "logs"."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "logs") from error
        self._writer = SummaryWriter(str(folder))

    def line(self, content: Mapping[str, Any]) -> None:
        """See Scribe."""
        values = {"training/" + key: value for key, value in content.items() if key not in ("step", "evaluation")}
        values |= {"evaluation/" + key: value for key, value in content.get("evaluation", {}).items()}
        for key, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, content["step"])

    def step(self, step: int) -> None:
        """See Scribe."""

    def close(self) -> None:
        """See Scribe."""
        self._writer.close()


class Scribes:
    """All scribes of a run, closed together when the block ends."""

    def __init__(self) -> None:
        self._all: list[Scribe] = []

    def add(self, scribe: Scribe) -> None:
        """From now on `scribe` hears everything."""
        self._all.append(scribe)

    def line(self, content: Mapping[str, Any]) -> None:
        """See Scribe."""
        for scribe in self._all:
            scribe.line(content)

    def step(self, step: int) -> None:
        """See Scribe."""
        for scribe in self._all:
            scribe.step(step)

    def __enter__(self) -> Scribes:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for scribe in self._all:
            scribe.close()


def at_terminal() -> bool:
    """True if stderr is a terminal: only there a bar is drawn."""
    return sys.stderr is not None and sys.stderr.isatty()


def _step_of(line: bytes) -> float:
    """The step of a log line; infinite for a line that a killed process left incomplete."""
    if not line.endswith(b"\n"):
        return math.inf
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity: null stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
