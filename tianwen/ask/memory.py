"""How much memory a build may use: what the user says, or what the machine has free.

Post: 8802

A bound is on the process's own memory. Pages of files that it has mapped are not counted: the system takes them back
when it needs them.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tianwen.errors import InputError

LEAST = 256 * 10**6
"""The least bound: Python with its libraries takes 60 MB, reading in small blocks as much again."""

PART_OF_FREE = 0.8
"""Part of the free memory that a build takes by itself; the rest is for others, and for the files' pages."""

_UNITS = {"": 1} | {f"{unit}b": 1000**power for power, unit in enumerate(("", "k", "m", "g", "t"))}
_UNITS |= {unit: 1000**power for power, unit in enumerate("kmgt", 1)}
_UNITS |= {f"{unit}ib": 1024**power for power, unit in enumerate("kmgt", 1)}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_UNKNOWN_HELD = 150 * 10**6


@dataclass(frozen=True, slots=True)
class Bound:
    """Bytes that the process may hold; `by_user` when somebody said so."""

    bytes: int
    by_user: bool

    def room(self) -> int:
        """What is left of it now, at least a sixteenth."""
        return max(self.bytes - held(), self.bytes // 16)


def bound_of(memory: str | float | None) -> Bound | None:
    """The bound that was given, or the one of this machine; None where nothing is known about that.

    Raises InputError when `memory` is not a number of bytes or less than LEAST.
    """
    if memory is None:
        free = free_bytes()
        return None if free is None else Bound(held() + int(PART_OF_FREE * free), by_user=False)
    size = bytes_of(memory)
    if size < LEAST:
        raise InputError(
            f"{memory} of memory are too little to build a knowledge base; the least is {LEAST // 10**6} MB, however "
            "many facts there are."
        )
    return Bound(size, by_user=True)


def bytes_of(amount: str | float) -> int:
    """`bytes_of("1.5GB")` is 1,500,000,000; `GiB` counts by 1,024. A number without a unit is bytes.

    Raises InputError when it is none of that.
    """
    found = _AMOUNT.fullmatch(amount if isinstance(amount, str) else repr(amount))
    unit = found and _UNITS.get(found[2].lower())
    if found is None or unit is None or isinstance(amount, bool) or math.isinf(float(found[1])):
        raise InputError(
            f"{amount!r} is not an amount of memory. Allowed are numbers with MB, GB, MiB or GiB: 600MB, 1.5GB."
        )
    return int(float(found[1]) * unit)


def held() -> int:
    """Bytes that this process holds, mapped files not counted; a guess where the system does not tell."""
    found = _table(Path("/proc/self/status")).get("RssAnon")
    return _UNKNOWN_HELD if found is None else found


def free_bytes() -> int | None:
    """Bytes that this process could still take, by the machine and its control groups; None where that is unknown."""
    known = [
        amount for amount in (_free_of_machine(), *_free_of_groups(Path("/proc/self/cgroup"))) if amount is not None
    ]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    free = _table(Path("/proc/meminfo")).get("MemAvailable")
    if free is None:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not Linux
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return free


def _free_of_groups(membership: Path, root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What the control groups of this process, and those around them, leave it; of either version."""
    found = []
    for line in _lines(membership):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            free = _free_of_group(folder)
            if free is not None:
                found.append(free)
            if folder == top:
                break
    return found


def _free_of_group(folder: Path) -> int | None:
    """The limit of a group less what it uses; pages of files that nobody has looked at lately are free."""
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = (_number(folder / name) for name in (limit, used))
        if most is not None and now is not None:
            stat = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) > 1)
            return max(0, most - now + int(stat.get(idle, "0")))
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None when there is none ("max" is no limit)."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """Lines `name: 123 kB` as bytes."""
    found = {}
    for line in _lines(path):
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
