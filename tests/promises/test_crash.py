"""kill -9 loses nothing that was acknowledged, and damaged files are never answered from: a few rounds of many.

`make crash` runs 500 rounds and thousands of damages (`crash_rounds`, `flip_rounds`).
"""

from __future__ import annotations

import os

from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase

from . import flip_rounds
from .crash_edits import TOKENIZER
from .crash_rounds import run


def test_a_few_rounds(tmp_path):
    counts = run(10, tmp_path)
    assert counts["rounds"] == 10
    assert counts["acknowledged changes"] > 0


def test_some_flips_and_every_truncation():
    counts = flip_rounds.run(flips=24, changes=1)
    assert sum(counts.values()) > 500
    assert all(kind.endswith((": refused", ": harmless")) for kind in counts)


def test_what_a_dead_builder_left_is_cleaned_by_the_next(tmp_path):
    (tmp_path / ".k.building-1-abc" / "segments").mkdir(parents=True)
    KnowledgeBase.build([Fact("a", "b", "c")], tmp_path / "k", tokenizer=TOKENIZER).close()
    assert os.listdir(tmp_path) == ["k"]
