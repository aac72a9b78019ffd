"""The doctor's picture: one panel a table, rows by size (or by frequency decile) against the wall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tianwen.errors import InputError
from tianwen.optim.figure import Curve, Panel, draw
from tianwen.optim.table_health import TableHealth

if TYPE_CHECKING:
    from tianwen.optim.embedding_health import EmbeddingHealth

_MOST_TABLES, _POINTS = 4, 400


def plot(health: EmbeddingHealth, file: Path) -> None:
    """Write the picture. Raises InputError if the name does not end in .svg or the file cannot be written."""
    panels = [_deciles(table) if table.deciles.known else _by_size(table) for table in health.tables[:_MOST_TABLES]]
    try:
        draw(file, panels, title=f"{Path(health.source).name}: {health.verdict}")
    except OSError as error:
        raise InputError(f"The picture cannot be written to {file} ({error.strerror}).") from error


def _by_size(table: TableHealth) -> Panel:
    rms = table.statistics.rms
    order = np.flatnonzero(np.isfinite(rms) & (rms > 0))
    order = order[np.argsort(-rms[order], kind="stable")]
    place = np.unique(np.geomspace(1, max(len(order), 1), _POINTS).astype(int)) - 1 if len(order) else np.zeros(0, int)
    drifting = np.flatnonzero(table.drift.rows[order])
    shown = drifting[:: max(1, len(drifting) // _POINTS)]
    curves = [
        Curve((place + 1).tolist(), rms[order[place]].tolist(), "rows"),
        Curve((shown + 1).tolist(), rms[order[shown]].tolist(), f"drifting: {len(drifting):,}", "dots"),
        *_levels(table, 1, max(len(order), 2)),
    ]
    return Panel(table.name, "row, in order of size", "RMS", curves, log_x=True, log_y=True)


def _deciles(table: TableHealth) -> Panel:
    deciles = table.deciles.groups
    numbers = list(range(1, len(deciles) + 1))
    curves = [
        Curve(numbers, [decile.median for decile in deciles], "median"),
        Curve(numbers, [decile.q10 for decile in deciles], "10% and 90%", "dashed", "#6f4e9c"),
        Curve(numbers, [decile.q90 for decile in deciles], "", "dashed", "#6f4e9c"),
        Curve(numbers, [decile.largest for decile in deciles], "largest", "dots"),
        *_levels(table, 1, max(len(deciles), 2)),
    ]
    return Panel(table.name, "frequency decile, the most frequent first", "row RMS", curves, log_y=True)


def _levels(table: TableHealth, first: float, last: float) -> list[Curve]:
    levels = [("spread explains", table.drift.ordinary.bound, "#3a7d44")]
    if table.wall.at is not None:
        levels.append((f"1/wd ({table.wall.source})", table.wall.at, "#4d4d4d"))
    shown = [(label, at, colour) for label, at, colour in levels if 0 < at < 1e6 * table.drift.ordinary.rms]
    return [Curve([first, last], [at, at], label, "dashed", colour) for label, at, colour in shown]
