"""A doctor for embedding tables: which rows drift to 1/wd, how far they are, what to do - from a checkpoint alone.

Post: 9736

    health = EmbeddingHealth.of("checkpoint", optimizer="optimizer.pt", counts="counts.npy")
    print(health.text()); health.verdict; health.tables[0].drifting; health.repair("repaired")

Sign optimisers (Lion, Tiger) go on moving the row of a token that no longer occurs, by full steps along its last signs,
to the wall at 1/wd. The loss looks normal. What is measured: `row_statistics`; when a row counts as drifting: `drift`;
what is said of it: `table_health`. Tables are read in chunks and may be larger than memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tianwen.counting import count
from tianwen.errors import InputError, ModelError
from tianwen.optim.checkpoint_files import Checkpoint, open_checkpoint
from tianwen.optim.drift import Drift, find_drift, steps_until_half
from tianwen.optim.embedding_tables import find_tables, vocabulary_of
from tianwen.optim.row_statistics import RowStatistics, row_statistics
from tianwen.optim.stored_momentum import (
    Momentum,
    RowMomentum,
    StoredOptimizer,
    find_optimizer,
    open_optimizer,
    optimizer_within,
    row_momentum,
)
from tianwen.optim.stored_tensors import StoredTensor
from tianwen.optim.table_health import Deciles, TableHealth, Verdict, Wall, as_dict, findings_of
from tianwen.optim.token_counts import checked_counts, read_counts
from tianwen.optim.token_names import find_token_names, read_token_names

USUAL_WEIGHT_DECAY, USUAL_LR = 0.01, 1e-3
MOST_LISTED = 10_000
_AT_ONE_PLACE, _VERY_FLAT, _FEWEST_AT_WALL = 0.02, 0.97, 3

Source = str | Path | nn.Module | Mapping[str, Tensor]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class EmbeddingHealth:
    """The health of every embedding table of a checkpoint."""

    source: str
    checkpoint: Checkpoint = field(repr=False)
    tables: list[TableHealth]
    names: dict[int, str] = field(repr=False)
    """Tokens by id; empty if no tokenizer was found."""
    optimizer: StoredOptimizer | None = field(repr=False)
    counts: np.ndarray | None = field(repr=False)
    remarks: list[str]
    """What could not be looked at, and why."""

    def __new__(cls, *given: Any, **named: Any) -> EmbeddingHealth:
        if len(given) == 1:
            shown = repr(given[0]) if isinstance(given[0], str | Path) else type(given[0]).__name__
            raise InputError(f"EmbeddingHealth({shown}): a checkpoint is examined by EmbeddingHealth.of({shown}).")
        return super().__new__(cls)

    @classmethod
    def of(
        cls,
        source: Source,
        *,
        optimizer: str | Path | Mapping[str, Any] | None = None,
        counts: str | Path | Sequence[float] | np.ndarray | None = None,
        weight_decay: float | int | None = None,
        lr: float | int | None = None,
        tokenizer: str | Path | None = None,
        tables: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> EmbeddingHealth:
        """Examine a weights file, a folder (Hugging Face, sharded or not, or of `fit`), a model or a state dict.

        optimizer: its saved state, which tells weight decay, rate and silent rows; looked for beside the weights.
        counts: how often each token was seen: a file or numbers, one a row. weight_decay, lr: of the training, where
        the optimiser does not tell (.01 and 1e-3 are assumed). tokenizer: file that names the ids, looked for beside
        the weights. tables: names, where they are not found by themselves. progress: told (rows done, rows, table).
        Raises InputError or ModelError, with one sentence, for input that cannot be used.
        """
        _check("weight_decay", weight_decay)
        _check("lr", lr)
        checkpoint = open_checkpoint(source)
        names = read_token_names(Path(tokenizer)) if tokenizer is not None else find_token_names(checkpoint.folder)
        vocabulary = vocabulary_of(checkpoint.folder) or (1 + max(names) if names else None)
        found = find_tables(checkpoint.tensors, vocabulary=vocabulary, names=tables, certain=checkpoint.certain)
        remarks = [f"{t.name} has no rows and was left out" for t in found if not all(t.shape)]
        found = [table for table in found if all(table.shape)]
        if not found:
            raise InputError(f"{_name(source)}: {'; '.join(remarks)}. There is nothing to look at.")
        state = _optimizer(optimizer, checkpoint, remarks)
        momenta = state.match(found) if state else {}
        if state and not momenta:
            remarks.append("the optimiser's state holds no momentum that fits a table by name or shape")
        known = None if counts is None else _counts(counts, names, found)
        examine = _Examination(momenta, known, weight_decay, lr, progress)
        return cls(_name(source), checkpoint, [examine(t) for t in found], names, state, known, remarks)

    @property
    def verdict(self) -> Verdict:
        """The worst of all tables."""
        known = {table.verdict for table in self.tables}
        return "error" if "error" in known else "warning" if "warning" in known else "healthy"

    def token(self, table: TableHealth, row: int) -> str | None:
        """The name of a row's token; None for tables of positions and the like, and without a tokenizer."""
        is_vocabulary = self.names and table.shape[0] > max(self.names) * 0.9
        return self.names.get(row) if is_vocabulary else None

    def worst(self, table: TableHealth, limit: int = MOST_LISTED) -> list[dict[str, Any]]:
        """The largest drifting rows: id, token, rms, times the ordinary RMS, flatness, share saturated, steps left."""
        ids = table.drifting[:limit]
        rms, wall = table.statistics.rms[ids], table.wall
        steps = np.full(len(ids), math.inf)
        if wall.at is not None and wall.lr > 0:
            steps = steps_until_half(rms, lr=wall.lr, wall=wall.at, relative=wall.relative)
        return [
            {
                "id": row,
                "token": self.token(table, row),
                "rms": float(size),
                "times_ordinary": float(size / table.drift.ordinary.rms) if table.drift.ordinary.rms else None,
                "flatness": float(table.statistics.flatness[row]),
                "saturated": int(table.statistics.saturated[row]),
                "steps_until_half": int(left) if math.isfinite(left) else None,
                "count": None if self.counts_for(table) is None else float(self.counts_for(table)[row]),  # type: ignore[index]
            }
            for row, size, left in zip(ids.tolist(), rms, steps, strict=True)
        ]

    def counts_for(self, table: TableHealth) -> np.ndarray | None:
        """The counts of a table's rows, if there are any."""
        return _fitting(self.counts, table.shape[0], len(self.names)) if self.counts is not None else None

    def text(self, *, worst: int = 20) -> str:
        """The report for people, with this many of the worst tokens a table."""
        from tianwen.optim.health_report import report

        return report(self, worst=worst)

    def as_dict(self) -> dict[str, Any]:
        """The report for programs: plain values."""
        return {
            "checkpoint": self.source,
            "verdict": self.verdict,
            "tables": [as_dict(table, self.worst(table)) for table in self.tables],
            "remarks": self.remarks,
        }

    def json(self) -> str:
        """`as_dict` as one line of JSON."""
        text = json.dumps(self.as_dict(), ensure_ascii=False)
        # Halves of a pair of UTF-16, which tokenizer files may hold, can be written in JSON but not in UTF-8.
        return re.sub(r"[\ud800-\udfff]", lambda half: json.dumps(half[0])[1:-1], text)

    def plot(self, file: str | Path) -> None:
        """Draw the rows of each table: their RMS in order of size, or by frequency decile, and the wall. SVG."""
        from tianwen.optim.health_plot import plot

        plot(self, Path(file))

    def repair(self, out: str | Path) -> list[Path]:
        """Write a copy with the drifting and broken rows reset; gives the files written. See `row_repair`."""
        from tianwen.optim.row_repair import repair

        return repair(self, Path(out))


@dataclass(frozen=True)
class _Examination:
    """How tables are examined: what is known besides the weights."""

    momenta: Mapping[str, Momentum]
    counts: np.ndarray | None
    weight_decay: float | int | None
    lr: float | int | None
    progress: Progress | None

    def __call__(self, table: StoredTensor) -> TableHealth:
        momentum = self.momenta.get(table.name)
        wall = self._wall(momentum)
        statistics = self._statistics(table, wall)
        drift = find_drift(statistics, wall=wall.at)
        if wall.source == "assumed" and (better := _wall_seen(statistics, drift, wall)) != wall:
            wall = better
            statistics = self._statistics(table, wall)
            drift = find_drift(statistics, wall=wall.at)
        moving: tuple[RowMomentum, bool] | None = None
        if momentum is not None:
            moving = (row_momentum(table, momentum.tensor), momentum.plain)
        rows: tuple[int, int] = (table.shape[0], table.shape[1])
        counts = None if self.counts is None else _fitting(self.counts, rows[0], 0)
        order = counts if counts is not None else -np.arange(rows[0], dtype=np.float64)
        deciles = Deciles.of(statistics, order, known=counts is not None)
        return TableHealth(
            table.name,
            rows,
            table.dtype,
            statistics,
            drift,
            wall,
            deciles,
            moving[0] if moving else None,
            findings_of(statistics, drift, wall, deciles, moving),
            _target(statistics, drift, counts),
        )

    def _statistics(self, table: StoredTensor, wall: Wall) -> RowStatistics:
        tell = self.progress
        report = None if tell is None else lambda done, rows: tell(done, rows, table.name)
        return row_statistics(table, wall=wall.at, progress=report)

    def _wall(self, momentum: Momentum | None) -> Wall:
        settings = momentum.settings if momentum else {}
        saved_lr = next((settings[k] for k in ("lr", "initial_lr") if float(settings.get(k) or 0) > 0), None)
        lr = self.lr if self.lr is not None else saved_lr
        decay, source = self.weight_decay, "given"
        if decay is None and "weight_decay" in settings:
            decay, source = float(settings["weight_decay"]), "optimizer"
        elif decay is None:
            decay, source = USUAL_WEIGHT_DECAY, "assumed"
        at = 1 / decay if decay > 0 else None
        relative = bool(settings.get("relative", momentum.relative)) if momentum else True
        return Wall(at, source, float(USUAL_LR if lr is None else lr), lr is not None, relative)  # type: ignore[arg-type]


def _wall_seen(statistics: RowStatistics, drift: Drift, wall: Wall) -> Wall:
    """A better guess of the wall than the usual weight decay, where the rows show one."""
    assert wall.at is not None
    ordinary = drift.ordinary
    if ordinary.rms >= 0.25 * wall.at and ordinary.flatness < _VERY_FLAT:
        return replace(wall, at=None)  # a table of this scale says nothing about 1/.01
    if drift.by_wall.any() or not drift.by_shape.any():
        return wall
    flat = statistics.rms[drift.by_shape & (statistics.flatness > _VERY_FLAT)]
    top = float(flat.max(initial=0.0))
    if top < 20 * ordinary.rms or (flat > top * (1 - _AT_ONE_PLACE)).sum() < _FEWEST_AT_WALL:
        return wall
    return replace(wall, at=top, source="inferred")


def _target(statistics: RowStatistics, drift: Drift, counts: np.ndarray | None) -> float:
    good = statistics.finite & (statistics.rms > 0) & ~drift.rows
    if counts is not None:
        order = np.argsort(-counts, kind="stable")
        frequent = order[: max(1, len(order) // 10)]
        frequent = frequent[good[frequent]]
        if len(frequent):
            return float(np.median(statistics.rms[frequent]))
    return drift.ordinary.rms if drift.ordinary.rms > 0 else 0.0


def _counts(counts: Any, names: Mapping[int, str], tables: Sequence[StoredTensor]) -> np.ndarray:
    known = read_counts(counts, names) if isinstance(counts, str | Path) else checked_counts(counts)
    padded = 1 + max(names) if names else 0
    if not any(_fitting(known, table.shape[0], padded) is not None for table in tables):
        rows = ", ".join(f"{table.name} has {count(table.shape[0], 'row')}" for table in tables[:4])
        raise InputError(f"The counts are {len(known):,}, but {rows}. Give one count for each token id.")
    fitting = next(t.shape[0] for t in tables if _fitting(known, t.shape[0], padded) is not None)
    return np.concatenate([known, np.zeros(fitting - len(known))])


def _fitting(counts: np.ndarray, rows: int, tokens: int) -> np.ndarray | None:
    """The counts of a table with this many rows; a table may be padded beyond the tokens, not the other way round."""
    if len(counts) == rows:
        return counts
    return counts if tokens and len(counts) == tokens < rows <= tokens * 1.1 + 256 else None


def _optimizer(given: Any, checkpoint: Checkpoint, remarks: list[str]) -> StoredOptimizer | None:
    if given is not None:
        return open_optimizer(given)
    for content in checkpoint.content.values():  # {"model": ..., "optimizer": ...} in one file
        if (within := optimizer_within(content)) is not None:
            return within
    beside = find_optimizer(checkpoint.folder)
    if beside is None:
        return None
    try:
        return open_optimizer(beside)
    except (InputError, ModelError) as error:
        remarks.append(f"the optimiser's state beside the weights was left out: {error}")
        return None


def _name(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return type(source).__name__


def _check(name: str, value: float | int | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} is {value}; it must be a number >= 0.")
