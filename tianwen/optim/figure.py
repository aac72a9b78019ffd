"""Line charts and bars as SVG, written by hand: a picture needs no plotting package.

A figure is panels beside each other; a panel has axes (linear or logarithmic), curves and marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from tianwen.errors import InputError

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#e08e1b", "#6f4e9c", "#4d4d4d", "#17888f", "#a3542c")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 340, 62, 14, 40, 52


@dataclass(frozen=True)
class Curve:
    """Points joined by a line, or shown as dots; a colour of its own unless one is given."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    style: Literal["line", "dashed", "dots"] = "line"
    colour: str | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its curves. On a logarithmic axis, points that are not positive are left out."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False


def draw(file: str | Path, panels: Sequence[Panel], *, title: str = "") -> None:
    """Write the panels, side by side, as one SVG. Raises InputError if the name does not end in .svg."""
    file = Path(file)
    if file.suffix.lower() != ".svg":
        raise InputError(f"{file}: figures are written as SVG. Give a name that ends in .svg; any browser opens it.")
    width, height = _WIDTH * len(panels), _HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="16" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _WIDTH} 24)">{"".join(_panel(panel))}</g>')
    file.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _panel(panel: Panel) -> list[str]:
    xs, ys = _usable(panel)
    x_axis, y_axis = _Axis.of(xs, log=panel.log_x), _Axis.of(ys, log=panel.log_y)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<text x="{(_LEFT + right) / 2}" y="28" text-anchor="middle" font-size="12">{escape(panel.title)}</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(panel.x_label)}</text>',
        f'<text transform="translate(14 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(panel.y_label)}</text>",
    ]
    for value in x_axis.ticks():
        x = x_axis.place(value, _LEFT, right)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_number(value)}</text>')
    for value in y_axis.ticks():
        y = y_axis.place(value, bottom, _TOP)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#444"/>')
    legend: list[tuple[str, str]] = []
    drawn: list[tuple[float, float]] = []
    for number, curve in enumerate(panel.curves):
        colour = curve.colour or COLOURS[number % len(COLOURS)]
        points = [
            (x_axis.place(x, _LEFT, right), y_axis.place(y, bottom, _TOP))
            for x, y in zip(curve.x, curve.y, strict=True)
            if x_axis.shows(x) and y_axis.shows(y)
        ]
        parts += _curve(points, curve.style, colour)
        drawn += points
        if curve.label:
            legend.append((curve.label, colour))
    return parts + _legend(legend, drawn)


def _legend(entries: Sequence[tuple[str, str]], drawn: Sequence[tuple[float, float]]) -> list[str]:
    """In the corner that hides the fewest points."""
    width = 34 + 6 * max((len(label) for label, _ in entries), default=0)
    height = 14 * len(entries) + 6
    corners = [(x, y) for y in (_TOP, _HEIGHT - _BOTTOM - height) for x in (_LEFT + 8, _WIDTH - _RIGHT - width)]

    def hidden(corner: tuple[float, float]) -> int:
        left, top = corner
        return sum(left <= x <= left + width and top <= y <= top + height for x, y in drawn)

    left, top = min(corners, key=hidden)
    parts = []
    for number, (label, colour) in enumerate(entries):
        y = top + 12 + 14 * number
        parts.append(f'<path d="M{left} {y - 4}h16" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 21}" y="{y}">{escape(label)}</text>')
    return parts


def _curve(points: Sequence[tuple[float, float]], style: str, colour: str) -> list[str]:
    if style == "dots" or len(points) == 1:
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in points]
    dash = ' stroke-dasharray="6 4"' if style == "dashed" else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'] if points else []


def _usable(panel: Panel) -> tuple[list[float], list[float]]:
    points = [
        (x, y)
        for curve in panel.curves
        for x, y in zip(curve.x, curve.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not panel.log_x) and (y > 0 or not panel.log_y)
    ]
    return [x for x, _ in points], [y for _, y in points]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], *, log: bool) -> _Axis:
        if not values:
            return cls(1.0 if log else 0.0, 10.0 if log else 1.0, log)
        low, high = min(values), max(values)
        if log:
            low, high = low / 1.15, high * 1.15
        elif low >= 0:
            low, high = 0.0, high * 1.05
        return cls(low, high if high > low else low + 1, log)

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def place(self, value: float, start: float, end: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(value) if self.log else value
        return start + (end - start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            step = max(1, len(powers) // 7 + 1) if len(powers) > 8 else 1
            whole = [10.0**power for power in list(powers)[::step]]
            return whole if len(whole) > 1 else [self.low * 1.15, self.high / 1.15]
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
