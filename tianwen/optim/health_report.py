"""The doctor's report for people: one block a table, worst tokens by name, what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tianwen.counting import count
from tianwen.optim.table_health import TableHealth, Wall

if TYPE_CHECKING:
    from tianwen.optim.embedding_health import EmbeddingHealth

_MORE = 300
"""Beyond the rows listed one a line, so many are named in passing."""

REMEDIES = """What to do
  now       write a copy whose drifted rows are small again: tianwen health CHECKPOINT --repair OUT
  training  make steps of rows without a gradient fade: Tiger(..., embedding_update="stale"), or "adam", or "lazy";
            with another optimiser, train the embeddings with Adam
  model     tie input and output embeddings (tianwen.optim.tying): rows then have a gradient while there is a loss"""


def report(health: EmbeddingHealth, *, worst: int) -> str:
    """All tables, remarks, and the remedies where something is wrong."""
    parts = [f"{health.source}: {health.verdict}"]
    parts += [_table(health, table, worst) for table in health.tables]
    parts += [f"Note: {remark}." for remark in health.remarks]
    if any(len(table.drifting) or table.verdict != "healthy" for table in health.tables):
        parts.append(REMEDIES)
    return "\n\n".join(parts)


def _table(health: EmbeddingHealth, table: TableHealth, worst: int) -> str:
    rows, dim = table.shape
    lines = [f"{table.name}  {rows:,} x {dim} {table.dtype}: {table.verdict}"]
    lines += [f"  {finding.severity}: {finding.message}" for finding in table.findings]
    lines += [f"  {line}" for line in _measures(table)]
    if table.deciles.known:
        lines += [f"  {line}" for line in _deciles(table)]
    if len(table.broken):
        lines.append(f"  not finite: {_names(health, table, table.broken[:_MORE])}{_and_more(len(table.broken))}")
    lines += [f"  {line}" for line in _worst(health, table, worst)]
    return "\n".join(lines)


def _measures(table: TableHealth) -> list[str]:
    statistics, wall, ordinary = table.statistics, table.wall, table.drift.ordinary
    largest = float(statistics.largest.max())
    lines = [f"max |w| {largest:.4g}{_of_wall(wall)}"]
    if wall.at is not None:
        at, half = int(statistics.at_wall.sum()), int(table.drift.by_wall.sum())
        lines[0] += f"; beyond 0.9/wd {table.saturated_share:.3%} of components, {at:,} at it"
        lines[0] += f", {count(half, 'row')} by half"
    good = statistics.rms[statistics.finite & (statistics.rms > 0)]
    if len(good):
        q10, median, q90, top = np.quantile(good, [0.1, 0.5, 0.9, 1])
        lines.append(
            f"row RMS {q10:.3g} .. {median:.3g} .. {q90:.3g} (10%, median, 90%), largest {top:.4g}; "
            f"ordinary rows {ordinary.rms:.3g}, their spread explains up to {ordinary.bound:.3g}"
        )
    return lines


def _of_wall(wall: Wall) -> str:
    if wall.at is None:
        return " (no 1/wd to compare with)"
    decay = 1 / wall.at
    source = {
        "given": "",
        "optimizer": ", from the optimiser",
        "assumed": " assumed; --weight-decay says better",
        "inferred": ", where flat rows have gathered",
    }[wall.source]
    return f" against 1/wd = {wall.at:.4g} (wd {decay:.4g}{source})"


def _deciles(table: TableHealth) -> list[str]:
    lines = ["frequency decile  counts                  RMS 10%     median        90%    largest"]
    for number, d in enumerate(table.deciles.groups, 1):
        counts = f"{d.counts[0]:,.0f} .. {d.counts[1]:,.0f}"
        lines.append(f"{number:>16}  {counts:<20} {d.q10:>10.4g} {d.median:>10.4g} {d.q90:>10.4g} {d.largest:>10.4g}")
    ratio = table.rare_over_frequent
    return lines if ratio is None else [*lines, f"rare / frequent {ratio:.2f}"]


def _worst(health: EmbeddingHealth, table: TableHealth, worst: int) -> list[str]:
    ids = table.drifting
    if not len(ids):
        return []
    half = "-" if table.wall.at is None else f"{0.5 * table.wall.at:.4g}"
    rate = f"lr {table.wall.lr:.3g}{'' if table.wall.lr_known else ' assumed'}"
    lines = [f"drifting rows: {len(ids):,}; the largest (steps until RMS {half} at {rate}):"]
    lines.append(f"{'id':>9} {'RMS':>9} {'x ordinary':>10} {'flatness':>8} {'steps':>8}  token")
    for row in health.worst(table, worst):
        lines.append(_line(row))
    if len(ids) > worst:
        rest = ids[worst : worst + _MORE]
        lines.append(f"and {_names(health, table, rest)}{_and_more(len(ids) - worst)}")
    return lines


def _line(row: dict[str, Any]) -> str:
    times = "-" if row["times_ordinary"] is None else f"{row['times_ordinary']:.1f}"
    steps = "-" if row["steps_until_half"] is None else f"{row['steps_until_half']:,}"
    token = "" if row["token"] is None else _quoted(row["token"])
    count = "" if row["count"] is None else f"  seen {row['count']:,.0f} times"
    return f"{row['id']:>9} {row['rms']:>9.4g} {times:>10} {row['flatness']:>8.3f} {steps:>8}  {token}{count}"


def _names(health: EmbeddingHealth, table: TableHealth, rows: np.ndarray) -> str:
    named = ((row, health.token(table, row)) for row in rows.tolist())
    return ", ".join(f"{row}" if token is None else f"{row} {_quoted(token)}" for row, token in named)


def _quoted(token: str) -> str:
    """In quotes on one line; what would steer a terminal or turn the line around is written as its code."""
    text = json.dumps(token, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _and_more(count: int) -> str:
    return f" and {count - _MORE:,} more" if count > _MORE else ""
