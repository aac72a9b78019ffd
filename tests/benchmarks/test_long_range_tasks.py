"""The generated tasks are what they claim: their answers follow from their inputs, and from nothing else."""

from __future__ import annotations

import gzip
import importlib.util
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

from tianwen.errors import InputError

FILE = Path(__file__).parents[2] / "benchmarks" / "long_range_tasks.py"


@pytest.fixture(scope="module")
def tasks():
    spec = importlib.util.spec_from_file_location("long_range_tasks", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["long_range_tasks"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows(batch):
    """(ids, wanted answers) of each example, as lists."""
    for ids, targets in zip(batch["ids"].tolist(), batch["targets"].tolist(), strict=True):
        yield ids, [target for target in targets if target >= 0]


@pytest.mark.parametrize("name", ["copying", "selective_copying"])
def test_what_is_wanted_is_what_was_given(tasks, name):
    task = getattr(tasks, name)()
    places = set()
    for ids, wanted in rows(task.test):
        assert len(ids) == task.length
        assert ids[-len(wanted) :] == [tasks.MARK] * len(wanted)
        assert [i for i in ids if i > tasks.MARK] == wanted
        assert max(ids) < task.vocabulary
        places.add(tuple(np.flatnonzero(np.array(ids) > tasks.MARK)))
    assert (len(places) == 1) == (name == "copying")


def evaluated(ids: list[int]) -> int:
    """The value of a ListOps expression, by a stack."""
    stack: list[list] = [[]]
    for i in ids:
        if i >= 12:
            stack.append([i - 12])
        elif i == 11:
            operator, *values = stack.pop()
            median = int(statistics.median(values))
            stack[-1].append([max(values), min(values), median, sum(values) % 10][operator])
        elif i:
            stack[-1].append(i - 1)
    ((value,),) = stack
    return value


def test_expressions_have_the_value_that_is_wanted(tasks):
    task = tasks.listops(tests=100)
    lengths, nested = set(), 0
    for ids, wanted in rows(task.test):
        assert [evaluated(ids) + 1] == wanted
        lengths.add(sum(i > 0 for i in ids))
        nested += sum(i >= 12 for i in ids) > 1
    assert min(lengths) >= 8
    assert max(lengths) <= 64
    assert nested > 20


def test_drawn_digits_differ_by_class_and_place(tasks):
    task = tasks.digits(tests=400)
    assert task.length == 14 * 14
    classes = [wanted[0] for _, wanted in rows(task.test)]
    assert set(classes) == set(range(1, 11))
    assert int(task.test["ids"].min()) >= 11
    assert int(task.test["ids"].max()) < task.vocabulary
    pictures, kinds = tasks.drawn(np.random.default_rng(0), 50, 14)
    for picture, kind in zip(pictures, kinds, strict=True):  # the glyph stands out from the noise, at one place
        found = [
            (picture[r : r + 7, c : c + 5] > 0.4) >= tasks.GLYPHS[k]
            for k in (kind,)
            for r in range(8)
            for c in range(10)
        ]
        assert any(match.all() for match in found)


def test_pictures_are_read_from_files_as_published(tasks, tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pictures, classes = random.integers(0, 256, (20, 28, 28), np.uint8), random.integers(0, 10, 20).astype(np.uint8)
        for name, header, values in (("images-idx3", 16, pictures), ("labels-idx1", 8, classes)):
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(bytes(header) + values.tobytes()))
    task = tasks.digits(tmp_path, side=7, tests=30)
    small = pictures.reshape(20, 7, 4, 7, 4).mean(axis=(2, 4)) / 255
    known = {
        tuple((11 + np.minimum(p * 16, 15).astype(int)).ravel().tolist()): c + 1
        for p, c in zip(small, classes, strict=True)
    }
    for ids, wanted in rows(task.test):  # of the test files, t10k
        assert known[tuple(ids)] == wanted[0]
    with pytest.raises(InputError, match="14 or 7"):
        tasks.digits(tmp_path, side=10)
    with pytest.raises(InputError, match="missing"):
        tasks.digits(tmp_path / "none")


def test_batches_follow_from_their_generator(tasks):
    task = tasks.selective_copying()
    first, second = (task.make(np.random.default_rng(3), 5)["ids"] for _ in range(2))
    assert first.tolist() == second.tolist()
