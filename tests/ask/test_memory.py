"""Amounts of memory as people write them, and what a machine or its control group leaves free."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tianwen.ask import memory
from tianwen.ask.memory import Bound, bound_of, bytes_of
from tianwen.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("600MB", 600e6),
        (" 1.5 gb ", 1.5e9),
        ("2GiB", 2**31),
        ("300M", 3e8),
        ("1000", 1000),
        (10**9, 1e9),
        (2.5e9, 2.5e9),
    ],
)
def test_amounts(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1 apple", "-1GB", "1e9", "nan", "1GB2", "٣GB", "1.2.3GB", "9" * 400, True])
def test_what_is_no_amount_is_named(text):
    with pytest.raises(InputError, match=r"is not an amount of memory.*600MB"):
        bytes_of(text)


@pytest.mark.parametrize("text", ["0", "255.9MB", "1KB", 5])
def test_too_little_says_the_least(text):
    with pytest.raises(InputError, match=r"too little.*the least is 256 MB"):
        bound_of(text)


def test_a_bound_is_what_was_said_or_most_of_what_is_free(monkeypatch):
    assert bound_of("1GB") == Bound(10**9, by_user=True)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    monkeypatch.setattr(memory, "held", lambda: 10**8)
    assert bound_of(None) == Bound(9 * 10**8, by_user=False)
    assert Bound(3 * 10**8, by_user=True).room() == 2 * 10**8
    assert Bound(16 * 10**6, by_user=True).room() == 10**6  # never nothing
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert bound_of(None) is None


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_control_groups_of_both_versions_and_those_around_them(tmp_path):
    """The tightest of all counts; pages of files that nobody uses are free; nonsense and no limit are no bound."""
    group(tmp_path / "a" / "b", memory__max="max\n", memory__current="5\n")
    group(tmp_path / "a", memory__max="1000\n", memory__current="900\n", memory__stat="anon 1\ninactive_file 300\n")
    group(tmp_path / "memory" / "c", memory__limit_in_bytes="500\n", memory__usage_in_bytes="600\n")
    group(tmp_path / "memory", memory__limit_in_bytes="nonsense", memory__usage_in_bytes="")
    membership = tmp_path / "cgroup"
    membership.write_text("9:cpu:/x\n4:memory:/c\n0::/a/b\nnonsense\n")
    assert memory._free_of_groups(membership, tmp_path) == [0, 400]
    assert memory._free_of_groups(tmp_path / "missing", tmp_path) == []


def test_this_process_holds_something_and_something_is_free():
    assert memory.held() > 10**7
    assert (memory.free_bytes() or 1) > 0


def test_a_system_that_tells_nothing(monkeypatch):
    monkeypatch.setattr(memory, "_lines", lambda _: [])
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.free_bytes() is None
    assert memory.held() > 0
    logging.getLogger(__name__).debug("bound: %s", bound_of(None))
    assert bound_of(None) is None
