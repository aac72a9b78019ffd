"""What is found in one embedding table, and how bad it is.

Post: 9736

Notation
    W      1/wd, the wall           R, R_ref   RMS of a row, and of the table's ordinary rows (see `drift`)
    decile d of ten groups of rows by token count, 0 the most frequent; without counts by id, as most tokenizers number
        their tokens by frequency
    rare / frequent: the largest median R of deciles 1..9 over that of decile 0; above 5 a warning, above 20 an error
        (by id a warning only)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from tianwen.counting import count
from tianwen.optim.drift import ERROR_RATIO, WARN_RATIO, Drift, Ordinary
from tianwen.optim.row_statistics import NORMAL_FLATNESS, RowStatistics
from tianwen.optim.stored_momentum import RowMomentum

Severity = Literal["error", "warning", "note"]
Verdict = Literal["error", "warning", "healthy"]

_UNTRAINED_SHARE = 0.01
_MANY_ROWS = 1000


@dataclass(frozen=True)
class Wall:
    """Where silent rows end: at 1/wd."""

    at: float | None
    """None where the weight decay is 0."""
    source: Literal["given", "optimizer", "assumed", "inferred"]
    lr: float
    lr_known: bool
    relative: bool = True
    """The rate is relative to the RMS (Tiger) or constant (Lion)."""


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad, a short name, a sentence."""

    severity: Severity
    kind: str
    message: str


@dataclass(frozen=True)
class Decile:
    """RMS of the rows of one frequency decile that are neither zeros nor broken."""

    counts: tuple[float, float]
    """Least and largest count."""
    rows: int
    q10: float
    median: float
    q90: float
    largest: float


@dataclass(frozen=True)
class Deciles:
    """Ten groups of rows, the most frequent first; fewer for fewer than ten rows."""

    groups: list[Decile]
    known: bool
    """By counts; otherwise by id, which is a guess."""

    @classmethod
    def of(cls, statistics: RowStatistics, frequency: Float[np.ndarray, " rows"], *, known: bool) -> Deciles:
        """RMS quantiles of the groups."""
        order = np.argsort(-frequency, kind="stable")
        groups = []
        for ids in np.array_split(order, min(10, len(order))):
            rms = statistics.rms[ids]
            rms = rms[np.isfinite(rms) & (rms > 0)]
            q10, median, q90, largest = np.quantile(rms, [0.1, 0.5, 0.9, 1]) if len(rms) else (0.0, 0.0, 0.0, 0.0)
            span = (float(frequency[ids].min()), float(frequency[ids].max()))
            groups.append(Decile(span, len(ids), float(q10), float(median), float(q90), float(largest)))
        return cls(groups, known)

    @property
    def ratio(self) -> float | None:
        """The largest median of the rarer groups over that of the first; None where there is nothing to compare."""
        if len(self.groups) < 2 or self.groups[0].median == 0:
            return None
        return max(group.median for group in self.groups[1:]) / self.groups[0].median


@dataclass(frozen=True)
class TableHealth:
    """One table: what was measured, which rows drift, and the findings."""

    name: str
    shape: tuple[int, int]
    dtype: str
    statistics: RowStatistics = field(repr=False)
    drift: Drift = field(repr=False)
    wall: Wall
    deciles: Deciles
    momentum: RowMomentum | None = field(repr=False)
    findings: list[Finding]
    target_rms: float
    """What a repaired row is reset to: the median of the frequent rows, or of the ordinary ones without counts."""

    @property
    def verdict(self) -> Verdict:
        """The worst finding."""
        known = {finding.severity for finding in self.findings}
        return "error" if "error" in known else "warning" if "warning" in known else "healthy"

    @property
    def drifting(self) -> np.ndarray:
        """Ids of drifting rows, the largest first."""
        ids = np.flatnonzero(self.drift.rows)
        return ids[np.argsort(-self.statistics.rms[ids], kind="stable")]

    @property
    def broken(self) -> np.ndarray:
        """Ids of rows with NaN or infinite components."""
        return np.flatnonzero(~self.statistics.finite)

    @property
    def saturated_share(self) -> float:
        """Share of all components beyond 0.9 W."""
        return float(self.statistics.saturated.sum()) / (self.shape[0] * self.shape[1])

    @property
    def rare_over_frequent(self) -> float | None:
        """See the notation; None without counts."""
        return self.deciles.ratio if self.deciles.known else None


def findings_of(
    statistics: RowStatistics,
    drift: Drift,
    wall: Wall,
    deciles: Deciles,
    momentum: tuple[RowMomentum, bool] | None,
) -> list[Finding]:
    """Everything worth saying, the worst first. momentum: with whether rows without a gradient take full steps."""
    found = [*_broken(statistics), *_drifting(statistics, drift), *_ratio(deciles, len(statistics.rms))]
    if momentum is not None:
        found += _silent(*momentum)
    found += _saturated(statistics, drift, wall) + _zeros(statistics)
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _broken(statistics: RowStatistics) -> list[Finding]:
    rows = int((~statistics.finite).sum())
    if not rows:
        return []
    values = int(statistics.broken.sum())
    return [Finding("error", "not finite", f"{rows:,} {_rows(rows)} {values:,} values that are NaN or infinite")]


def _drifting(statistics: RowStatistics, drift: Drift) -> list[Finding]:
    found = []
    rms, ref = statistics.rms, drift.ordinary.rms
    if saturated := int(drift.by_wall.sum()):
        text = f"{saturated:,} {_rows(saturated)} more than half of the components beyond 0.9/wd"
        found.append(Finding("error", "saturated rows", text))
    far = drift.by_reach & ~drift.by_wall
    if count := int(far.sum()):
        text = f"{count:,} {_rows(count)} an RMS up to {float(rms[far].max()):.3g}: on the way to 1/wd"
        found.append(Finding("error", "far rows", text))
    flat = drift.by_shape & ~drift.by_wall & ~drift.by_reach
    if count := int(flat.sum()):
        top = float(rms[flat].max())
        severity: Severity = "error" if top > ERROR_RATIO * ref else "warning"
        text = (
            f"{count:,} {_rows(count)} drifted along a fixed sign vector: flat, and up to {top / ref:.1f} times "
            "as large as ordinary rows"
        )
        found.append(Finding(severity, "drifting rows", text))
    large = drift.by_size & ~drift.by_wall & ~drift.by_reach & ~drift.by_shape
    if count := int(large.sum()):
        found.append(_large(statistics, large, drift.ordinary))
    return found


def _large(statistics: RowStatistics, large: np.ndarray, ordinary: Ordinary) -> Finding:
    rms, flatness = statistics.rms[large], statistics.flatness[large]
    count, ratio = len(rms), float(rms.max()) / ordinary.rms
    text = f"{count:,} {_rows(count)} an RMS up to {ratio:.1f} times that of ordinary rows"
    untrained = abs(float(np.median(rms)) - 1) < 0.05 and abs(float(np.median(flatness)) - NORMAL_FLATNESS) < 0.02
    if untrained and float(np.std(np.log(rms))) < 2 * (2 * statistics.dim) ** -0.5:
        return Finding("warning", "large rows", text + "; an RMS of 1 may be torch's initial value, never trained")
    if count > _UNTRAINED_SHARE * len(statistics.rms):
        return Finding("warning", "large rows", text + "; so many, and not flat: perhaps the only trained ones")
    return Finding("error" if ratio > ERROR_RATIO else "warning", "large rows", text)


def _ratio(deciles: Deciles, rows: int) -> list[Finding]:
    ratio = deciles.ratio
    if ratio is None or ratio <= WARN_RATIO:
        return []
    if deciles.known:
        text = f"rare rows are {ratio:.1f} times as large as frequent ones (medians of frequency deciles)"
        return [Finding("error" if ratio > ERROR_RATIO else "warning", "rare over frequent", text)]
    if rows < _MANY_ROWS:
        return []
    text = (
        f"late ids are {ratio:.1f} times as large as early ones; if tokens are numbered by frequency, rare rows drift"
    )
    return [Finding("warning", "late over early", text + " (--counts tells)")]


def _silent(momentum: RowMomentum, plain: bool) -> list[Finding]:
    found = []
    if momentum.broken:
        text = f"the momentum of {count(momentum.broken, 'row')} is NaN or infinite: they will never move again"
        found.append(Finding("error", "momentum not finite", text))
    silent = int(momentum.silent.sum())
    if silent:
        agree = float(np.median(momentum.agreement[momentum.silent]))
        text = f"{silent:,} silent {_rows(silent)} momentum, but no gradient for long"
        text += (
            f"; {agree:.0%} of their components lie where it pushes them" if plain else "; the optimiser spares them"
        )
        found.append(Finding("warning" if plain else "note", "silent rows", text))
    return found


def _saturated(statistics: RowStatistics, drift: Drift, wall: Wall) -> list[Finding]:
    alone = int(statistics.saturated[~drift.rows].sum())
    if not alone:
        return []
    text = f"beyond 0.9/wd lie {count(alone, 'component')} of rows that look well otherwise"
    return [Finding("warning" if wall.source in ("given", "optimizer") else "note", "saturated components", text)]


def _zeros(statistics: RowStatistics) -> list[Finding]:
    zeros = int((statistics.rms == 0).sum())
    return [Finding("note", "rows of zeros", f"{zeros:,} {_rows(zeros)} only zeros (padding?)")] if zeros else []


def _rows(count: int) -> str:
    return "row has" if count == 1 else "rows have"


def as_dict(table: TableHealth, worst: list[dict[str, Any]]) -> dict[str, Any]:
    """Plain values for JSON; `worst` are the drifting rows with their names."""
    statistics, ordinary = table.statistics, table.drift.ordinary
    finite = statistics.rms[statistics.finite]
    quantiles = np.quantile(finite, [0.1, 0.5, 0.9, 1]) if len(finite) else np.zeros(4)
    return {
        "name": table.name,
        "shape": list(table.shape),
        "dtype": table.dtype,
        "verdict": table.verdict,
        "findings": [{"severity": f.severity, "kind": f.kind, "message": f.message} for f in table.findings],
        "wall": table.wall.at,
        "wall_from": table.wall.source,
        "largest": float(statistics.largest.max()),
        "saturated_share": table.saturated_share,
        "at_wall": int(statistics.at_wall.sum()),
        "half_saturated_rows": int(table.drift.by_wall.sum()),
        "row_rms": dict(zip(("q10", "median", "q90", "largest"), map(float, quantiles), strict=True)),
        "ordinary_rms": ordinary.rms,
        "largest_natural_rms": ordinary.bound,
        "rare_over_frequent": table.rare_over_frequent,
        "deciles": [vars(group) for group in table.deciles.groups] if table.deciles.known else None,
        "zero_rows": int((statistics.rms == 0).sum()),
        "silent_rows": None if table.momentum is None else int(table.momentum.silent.sum()),
        "broken_rows": table.broken.tolist(),
        "drifting_rows": table.drifting.tolist(),
        "worst": worst,
    }
