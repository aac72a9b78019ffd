"""Curves become a picture that a browser can read, and JSON that comes back as it was."""

from __future__ import annotations

import importlib.util
import json
import xml.dom.minidom
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "curves.py"


@pytest.fixture(scope="module")
def curves():
    spec = importlib.util.spec_from_file_location("curves", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PANELS = {
    "copying": {"lru": {"curve": [[1, 0.1], [2, 1.0]]}, "lstm": {"curve": [[1, 0.2], [2, 0.2]]}},
    "bits": {"lru": {"curve": [[40, 9.0], [80, 8.0]]}},
    "flat": {"lru": {"curve": [[0, 3.0]]}},
}


def test_every_line_is_drawn_within_its_panel(curves):
    picture = xml.dom.minidom.parseString(curves.plot(PANELS, what="accuracy").encode())
    lines = picture.getElementsByTagName("polyline")
    assert len(lines) == 4
    for line in lines:
        for point in line.getAttribute("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= curves.WIDTH
            assert 0 <= y <= curves.HEIGHT
    assert lines[0].getAttribute("points") == f"{curves.WIDTH / 2:.1f},{0.9 * curves.HEIGHT:.1f} {curves.WIDTH}.0,0.0"
    assert lines[0].getAttribute("stroke") == lines[2].getAttribute("stroke") != lines[1].getAttribute("stroke")


def test_the_json_is_the_panels(curves):
    assert json.loads(curves.as_json(PANELS)) == PANELS
