"""The course of a pretraining as a picture: loss, and the share of hidden words guessed right in each source.

Post: 8998.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tianwen.optim.figure import Curve, Panel, draw

MOST_POINTS = 400


def draw_curves(log: Path, picture: Path) -> None:
    """Write the picture (SVG) of a run's log.jsonl; nothing if the log has no step yet."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line.get("loss") is not None and "event" not in line]
    found = [line for line in lines if line.get("evaluation")]
    if not steps:
        return
    panels = [Panel("training loss", "step", "nats a hidden token", [_curve(_thinned(steps), "loss")])]
    names = [name for name in (found[-1]["evaluation"] if found else {}) if name.startswith("accuracy")]
    if names:
        curves = [
            Curve([line["step"] for line in found], [line["evaluation"].get(name, 0.0) for line in found], _short(name))
            for name in names
        ]
        panels.append(Panel("hidden tokens guessed right, held-out text", "step", "share", curves))
    draw(picture, panels, title=f"{steps[-1]['step']:,} steps")


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    return Curve([line["step"] for line in lines], [line[name] for line in lines], name)


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines[:: max(1, len(lines) // MOST_POINTS)]


def _short(name: str) -> str:
    return name.removeprefix("accuracy of ").replace("accuracy", "all")
