"""Batches by index: pure, complete in every epoch, the same examples for any number of processes."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.training import BatchSource, FromFunction, in_batches, in_packs, in_token_budget, mixture
from tianwen.training.ahead import made_ahead

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def as_given(chosen: list[int], random: np.random.Generator) -> list[int]:
    return chosen


def noisy(chosen: list[int], random: np.random.Generator) -> list[float]:
    return [x + random.random() for x in chosen]


def whole(source: BatchSource, index: int, world: int) -> list[int]:
    return sorted(x for rank in range(world) for x in source.batch(index, rank, world) or [])


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
def test_every_example_once_an_epoch(count: int, size: int, seed: int):
    source = in_batches(range(count), as_given, size=size, seed=seed)
    stream = [x for i in range(3 * count) for x in source.batch(i, 0, 1)]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ():
    def first(seed: int, epoch: int) -> list[int]:
        source = in_batches(range(50), as_given, size=50, seed=seed)
        return source.batch(epoch, 0, 1)

    orders = [first(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


@settings(max_examples=40)
@given(LENGTHS, st.integers(40, 200), st.integers(1, 4), st.integers(0, 99))
def test_token_budget_is_kept_and_every_example_seen(lengths: list[int], budget: int, world: int, seed: int):
    source = in_token_budget(range(len(lengths)), lengths, as_given, budget=budget, seed=seed, rounding=1)
    count = source.order.batches
    for epoch in range(2):
        batches = [whole(source, epoch * count + i, world) for i in range(count)]
        assert sorted(x for batch in batches for x in batch) == list(range(len(lengths)))
        assert all(len(batch) * max(lengths[x] for x in batch) <= budget for batch in batches)


def test_token_budget_wastes_little():
    lengths = np.random.default_rng(0).integers(5, 120, 3000)
    source = in_token_budget(range(3000), lengths, as_given, budget=2048)
    batches = [source.batch(i, 0, 1) for i in range(source.order.batches)]
    padded = sum(len(batch) * int(max(lengths[batch])) for batch in batches)
    assert padded < 1.08 * lengths.sum()
    assert len(batches) * 2048 < 1.12 * lengths.sum()


@settings(max_examples=40)
@given(LENGTHS, st.integers(40, 200), st.integers(0, 99))
def test_packs_keep_the_budget_and_every_example(lengths: list[int], budget: int, seed: int):
    source = in_packs(range(len(lengths)), lengths, as_given, budget=budget, seed=seed)
    seen: Counter[int] = Counter()
    index = 0
    while sum(seen.values()) < 3 * len(lengths):
        batch = source.batch(index, 0, 1)
        assert 0 < sum(lengths[x] for x in batch) <= budget
        seen.update(batch)
        index += 1
    assert set(seen.values()) == {3}


@pytest.mark.parametrize("kind", ["batches", "budget", "packs", "mixture"])
def test_a_batch_does_not_depend_on_the_batches_before(kind: str):
    lengths = [1 + (7 * i) % 23 for i in range(41)]

    def source() -> BatchSource:
        match kind:
            case "batches":
                return in_batches(range(41), noisy, size=6, seed=4)
            case "budget":
                return in_token_budget(range(41), lengths, noisy, budget=50, seed=4)
            case "packs":
                return in_packs(range(41), lengths, noisy, budget=50, seed=4)
        parts = {"a": in_batches(range(9), noisy, size=2), "b": in_packs(range(41), lengths, noisy, budget=30)}
        return mixture(parts, {"a": 2, "b": 3}, seed=4)

    one = source()
    walked = [one.batch(i, 0, 1) for i in range(60)]
    for index in (59, 0, 17, 43, 42):
        assert source().batch(index, 0, 1) == walked[index]
    assert one.batch(3, 0, 1) == walked[3]


def test_processes_share_a_batch():
    source = in_batches(range(20), as_given, size=5, seed=1)
    for index in range(8):
        assert whole(source, index, 1) == whole(source, index, 3) == whole(source, index, 7)
    assert source.batch(0, 6, 7) is None


def test_mixture_gives_every_source_its_share_and_its_own_order():
    a = FromFunction(lambda index, rank, world: ("a", index), "a")
    b = FromFunction(lambda index, rank, world: ("b", index), "b")
    stream = [mixture({"a": a, "b": b}, {"a": 3, "b": 1}, seed=2).batch(i, 0, 1) for i in range(40)]
    assert [i for name, i in stream if name == "a"] == list(range(30))
    assert [i for name, i in stream if name == "b"] == list(range(10))
    assert len({tuple(name for name, _ in stream[i : i + 4]) for i in range(0, 40, 4)}) > 1


def test_made_ahead_gives_the_same_also_after_a_jump_back():
    source = in_batches(range(20), noisy, size=5, seed=1)
    with made_ahead(source, rank=0, world=1, depth=3) as take:
        for index in [0, 1, 2, 3, 10, 11, 1, 2]:
            assert take(index) == source.batch(index, 0, 1)


def test_an_error_in_the_making_comes_out():
    def broken(index: int, rank: int, world: int) -> int:
        return 1 // (3 - index)

    with made_ahead(FromFunction(broken), rank=0, world=1, depth=2) as take:
        assert [take(i) for i in range(3)] == [0, 0, 1]
        with pytest.raises(ZeroDivisionError):
            take(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: in_batches([], as_given, size=3),
        lambda: in_batches([1], as_given, size=0),
        lambda: in_token_budget([1, 2], [3], as_given, budget=10),
        lambda: in_token_budget([1], [9], as_given, budget=10),  # 9 is rounded up to 16
        lambda: in_packs([1], [11], as_given, budget=10),
        lambda: in_packs([1], [0], as_given, budget=10),
        lambda: mixture({"a": FromFunction(lambda *_: None)}, {"b": 1}),
        lambda: mixture({"a": FromFunction(lambda *_: None)}, {"a": 0}),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(InputError):
        make()


def test_descriptions_tell_sources_apart():
    sources = [
        in_batches(range(9), as_given, size=3),
        in_batches(range(9), as_given, size=3, seed=1),
        in_batches(range(8), as_given, size=3),
        in_packs(range(3), [1, 2, 3], as_given, budget=5),
        in_packs(range(3), [1, 3, 2], as_given, budget=5),
        in_token_budget(range(3), [1, 3, 2], as_given, budget=8),
    ]
    told = [repr(source.describe()) for source in islice(sources, None)]
    assert len(set(told)) == len(told)
