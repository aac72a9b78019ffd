"""Every model of the benchmark of long-range tasks has as many weights, and hears at the end what stood first."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))  # as `python benchmarks/long_range.py` has it
    spec = importlib.util.spec_from_file_location("long_range", FOLDER / "long_range.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


def test_the_first_symbol_reaches_the_answer(bench):
    task = bench.copying(symbols=2, delay=6, tests=4)
    other = {"ids": task.test["ids"].clone(), "targets": task.test["targets"]}
    other["ids"][:, 0] = 3 + (other["ids"][:, 0] - 2) % 8
    for name in bench.MODELS:  # no blank may set a state back
        model = bench.make_model(name, task).eval()
        first, second = (bench.loss(model, batch)[0].item() for batch in (task.test, other))
        assert abs(first - second) > 1e-6, name


def test_models_have_equally_many_weights(bench):
    counts = [bench.make_model(name, bench.copying(tests=1)).shell.parameter_count() for name in bench.MODELS]
    assert max(counts) < 1.02 * min(counts)


def test_accuracy_counts_what_is_wanted(bench):
    task = bench.copying(symbols=3, delay=2, tests=200)
    model = bench.make_model("lru", task)
    assert 0 <= bench.accuracy(model, task.test) < 0.4  # untrained: about one in eight
