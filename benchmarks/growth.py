"""How things grow: lines on doubly logarithmic axes as an SVG picture, with nothing installed.

panels  {panel: {line: [(x, y), ...]}}, x and y above 0
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from curves import COLOURS, GAP, HEIGHT, WIDTH

Lines = Mapping[str, Sequence[tuple[float, float]]]


def plot(panels: Mapping[str, Lines], *, what: str, columns: int = 3) -> str:
    """The picture; all panels share the x axis, a line has the same colour everywhere."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colour = {name: (*COLOURS, "#e377a8", "#20b2aa")[i % (len(COLOURS) + 2)] for i, name in enumerate(names)}
    xs = [x for lines in panels.values() for points in lines.values() for x, _ in points]
    low, high = enclosing(min(xs), down=True), enclosing(max(xs))
    across = math.log10(low), math.log10(high if high > low else 10 * low)
    drawn = []
    for i, (title, lines) in enumerate(panels.items()):
        x, y = GAP + (i % columns) * (WIDTH + GAP), GAP + (i // columns) * (HEIGHT + GAP)
        drawn.append(f'<g transform="translate({x},{y})">{_panel(title, lines, colour, across)}</g>')
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    beside = len(panels) % columns  # panels of a last row with room for the legend, below which it stands otherwise
    wide, high = GAP + columns * (WIDTH + GAP), GAP + rows * (HEIGHT + GAP) + (0 if beside else 20)
    at = [(GAP + beside * (WIDTH + GAP), high - GAP - HEIGHT + 20 + 18 * i) for i in range(len(names))]
    at = at if beside else [(GAP + i * 104, high - 12) for i in range(len(names))]
    legend = "".join(
        f'<text x="{x}" y="{y}" fill="{colour[name]}">&#9644; {name}</text>'
        for (x, y), name in zip(at, names, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{GAP}" y="18">by number of {what}</text>{"".join(drawn)}{legend}</svg>\n'
    )


def decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose the values, one decade at least."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def enclosing(value: float, *, down: bool = False) -> float:
    """The next of 1, 2, 5, 10, 20 ... that is at least the value, or with `down` at most."""
    decade = 10.0 ** math.floor(math.log10(value))
    steps = [decade * step for step in (1, 2, 5, 10)]
    return max(step for step in steps if step <= value) if down else min(step for step in steps if step >= value)


def _panel(title: str, lines: Lines, colour: Mapping[str, str], across: tuple[float, float]) -> str:
    up = decades([y for points in lines.values() for _, y in points] or [1.0])

    def right(x: float) -> float:
        return (math.log10(x) - across[0]) / (across[1] - across[0]) * WIDTH

    def down(y: float) -> float:
        return HEIGHT - (math.log10(y) - up[0]) / (up[1] - up[0]) * HEIGHT

    grid = ""
    for power in range(up[0], up[1] + 1):
        y = down(10.0**power)
        grid += f'<line x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        grid += f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{_short(power)}</text>'
    for power in range(math.ceil(across[0]), math.floor(across[1]) + 1):
        x = right(10.0**power)
        grid += f'<line x1="{x:.1f}" x2="{x:.1f}" y2="{HEIGHT}" stroke="#eee"/>'
        grid += f'<text x="{x:.1f}" y="{HEIGHT + 15}" text-anchor="middle">{_short(power)}</text>'
    drawn = ""
    for name, points in lines.items():
        at = [(right(x), down(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        drawn += f'<polyline fill="none" stroke="{colour[name]}" stroke-width="1.8" points="{path}"/>'
        drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour[name]}"/>' for x, y in at)
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    return f'{grid}{frame}{drawn}<text x="4" y="-5" font-weight="bold">{title}</text>'


def _short(power: int) -> str:
    """10^4 as 10k."""
    if power < 0:
        return f"{10.0**power:g}"
    return f"{10 ** (power % 3)}{('', 'k', 'M', 'G')[power // 3]}"
