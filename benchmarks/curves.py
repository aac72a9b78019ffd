"""Curves as an SVG picture, one panel a task, with nothing installed. It measures nothing by itself.

panels  {panel: {line: {"curve": [[x, y], ...]}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

WIDTH, HEIGHT, GAP = 300, 200, 46
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5aa8", "#b8860b", "#444444")


def plot(panels: Mapping[str, Mapping[str, Any]], *, what: str, columns: int = 2) -> str:
    """The picture; every panel has axes of its own, a line the same colour everywhere."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    drawn = []
    for i, (title, lines) in enumerate(panels.items()):
        x, y = GAP + (i % columns) * (WIDTH + GAP), GAP + (i // columns) * (HEIGHT + GAP)
        drawn.append(f'<g transform="translate({x},{y})">{_panel(title, lines, colour)}</g>')
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    wide, high = GAP + max(GAP * 5 + WIDTH, columns * (WIDTH + GAP)), GAP + rows * (HEIGHT + GAP) + 20
    legend = "".join(
        f'<text x="{GAP + i * 96}" y="{high - 12}" fill="{colour[name]}">&#9644; {name}</text>'
        for i, name in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{GAP}" y="18">{what}, by number of steps</text>{"".join(drawn)}{legend}</svg>\n'
    )


def as_json(panels: Mapping[str, Mapping[str, Any]]) -> str:
    """The panels as JSON, one line of text a curve."""
    parts = []
    for title, lines in panels.items():
        inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(line)}" for name, line in lines.items())
        parts.append(f" {json.dumps(title)}: {{\n{inner}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _panel(title: str, lines: Mapping[str, Any], colour: Mapping[str, str]) -> str:
    points = [point for line in lines.values() for point in line["curve"]]
    right = max(x for x, _ in points) or 1
    low, high = min(y for _, y in points), max(y for _, y in points)
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high if high > low else low + 1)

    def place(x: float, y: float) -> str:
        return f"{x / right * WIDTH:.1f},{HEIGHT - (y - low) / (high - low) * HEIGHT:.1f}"

    paths = "".join(
        f'<polyline fill="none" stroke="{colour[name]}" stroke-width="1.8" '
        f'points="{" ".join(place(x, y) for x, y in line["curve"])}"/>'
        for name, line in lines.items()
    )
    marks = f'<text x="-6" y="8" text-anchor="end">{high:.3g}</text>'
    marks += f'<text x="-6" y="{HEIGHT}" text-anchor="end">{low:.3g}</text>'
    marks += f'<text x="{WIDTH}" y="{HEIGHT + 15}" text-anchor="end">{right}</text>'
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    return f'{frame}{paths}{marks}<text x="4" y="-5" font-weight="bold">{title}</text>'
