"""The course of a pretraining as a picture: loss, and by source the share of hidden words guessed right, or by task.

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
    panels = [Panel("training loss", "step", "nats", [_curve(_thinned(steps), "loss")])]
    told = list(found[-1]["evaluation"]) if found else []
    names = [name for name in told if name.startswith("accuracy")] or [n for n in told if n.startswith("loss of")]
    if names:
        curves = [
            Curve([line["step"] for line in found], [line["evaluation"].get(name, 0.0) for line in found], _short(name))
            for name in names
        ]
        guessed = names[0].startswith("accuracy")
        title = "hidden tokens guessed right, held-out text" if guessed else "loss on what was kept apart"
        panels.append(Panel(title, "step", "share" if guessed else "nats", curves))
    draw(picture, panels, title=f"{steps[-1]['step']:,} steps")


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    return Curve([line["step"] for line in lines], [line[name] for line in lines], name)


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines[:: max(1, len(lines) // MOST_POINTS)]


def _short(name: str) -> str:
    return name.removeprefix("accuracy of ").removeprefix("loss of ").replace("accuracy", "all")
