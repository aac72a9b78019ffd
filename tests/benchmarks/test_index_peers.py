"""The judge of the index's peers: keys made without the index, what may follow by brute force, and the picture."""

from __future__ import annotations

import sys
import xml.dom.minidom
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tianwen.ask.facts import split_sense

FOLDER = Path(__file__).parents[2] / "benchmarks"
END = 3
FIELDS = [["甲乙", "甲"], ["丙", "丙丁"], ["", "戊"]]  # two subjects, two predicates, two senses
KEYS = [[5, 6, END, 7, END, END], [5, END, 7, 8, END, 9, END]]


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))  # as `python benchmarks/index_peers.py` has it
    yield tuple(map(import_module, ("index_keys", "index_peers", "growth")))
    sys.path.remove(str(FOLDER))


def ragged(texts):
    tokens = [["甲乙丙丁戊".index(c) + 5 for c in text] for text in texts]
    return np.cumsum([0, *map(len, tokens)]), np.array([token for row in tokens for token in row])


@pytest.fixture
def keys(bench):
    found, length = bench[0].padded([ragged(field) for field in FIELDS], END)
    return found[np.argsort(bench[0].as_bytes(found))], np.sort(length)[::-1]


def test_a_key_is_its_fields_each_closed(bench):
    found, length = bench[0].padded([ragged(field) for field in FIELDS], END)
    assert [row[:size].tolist() for row, size in zip(found, length, strict=True)] == KEYS
    assert (found[0, length[0] :] == bench[0].FILL).all()


def test_bytes_sort_as_tokens_do(bench):
    rows = np.random.default_rng(0).integers(0, 600, (200, 3)).astype(np.uint16)
    rows = rows[np.argsort(bench[0].as_bytes(rows), kind="stable")].tolist()
    assert rows == sorted(rows)


def test_children_are_read_off_the_sorted_keys(bench, keys):
    index_keys, index_peers, _ = bench
    assert index_keys.children(keys[0], np.array([], np.uint16)).tolist() == [5]
    assert index_keys.children(keys[0], np.array([5], np.uint16)).tolist() == [END, 6]
    ids = np.array([[5], [5]])
    right = index_peers.right_tokens(keys[0], ids)
    assert right == [{END, 6}, {END, 6}]
    assert index_peers.first_difference(right, ids, [[6, END], [END, 6]]) == ""
    assert "1 missing [6], 1 foreign [9]" in index_peers.first_difference(right, ids, [[END, 6], [END, 9]])


def test_random_paths_are_keys(bench, keys):
    ids, length = bench[0].random_paths(*keys, np.random.default_rng(0))
    assert {tuple(row[:size]) for row, size in zip(ids.tolist(), length, strict=True)} == set(map(tuple, KEYS))
    rows = bench[1].rows_at(ids, length, 6)  # only one of the two keys is that long
    assert rows.shape == (bench[0].ROWS, 6)
    assert (rows == KEYS[1][:6]).all()


def test_subjects_are_split_as_the_reader_of_facts_does(bench):
    subjects = ["白蛇（电影）", "白蛇", "白（蛇）传", "白蛇（1）（电影）"]
    found = bench[0].split_subjects(pl.DataFrame({"subject": subjects, "predicate": ["导演"] * 4}))
    assert list(zip(found["subject"], found["sense"], strict=True)) == list(map(split_sense, subjects))


def test_points_stand_where_their_logarithms_say(bench):
    panels = {"MB": {"ours": [(100.0, 1.0), (10_000.0, 10.0)], "theirs": [(100.0, 100.0)]}}
    picture = xml.dom.minidom.parseString(bench[2].plot(panels, what="facts").encode())
    lines = [line.getAttribute("points") for line in picture.getElementsByTagName("polyline")]
    width, height = bench[2].WIDTH, bench[2].HEIGHT
    assert lines == [f"0.0,{height}.0 {width}.0,{height / 2}", "0.0,0.0"]


def test_results_of_both_benchmarks_are_drawn_together(bench):
    peers = {"facts": 10, "peers": {"dict": {"build_seconds": 2.0, "step_scores_us": 5.0}, "gone": {"note": "late"}}}
    whole = {"facts": 5, "build_seconds": 3.0, "index_mb": 0.5, "step_scores_us": 4.0}
    panels = bench[1].lines_of([peers, whole])
    assert panels["seconds to build"] == {"tianwen build": [(5, 3.0)], "dict": [(10, 2.0)]}
    assert panels["index on disk, MB"] == {"tianwen build": [(5, 0.5)]}
