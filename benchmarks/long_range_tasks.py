"""Tasks whose answer depends on tokens far back, each a generator without end: the data of `long_range.py`.

Post: 9554 (and the Long Range Arena, arXiv 2011.04006; copying: arXiv 1511.06464; selective copying: arXiv 2312.00752)

Notation
    B  examples      T  length of an example      V  ids; 0 is never used
    batch {"ids", "targets"} [B, T]: at most places nothing is wanted (target -1), at the last ones the answer is

    listops    "[MAX 2 9 [MIN 4 7 ] 0 ]" -> 9: operators MAX, MIN, MED (median) and SM (sum modulo 10), nested; the
               grammar of the Long Range Arena, with a shorter longest length
    digits     pictures read pixel by pixel, in grey levels -> the class. Fashion-MNIST if its files are given, else
               digits drawn here from a font of 5 x 7 points, shifted, with noise
    copying    some symbols, then blanks, then as many marks: the symbols once more
    selective  symbols scattered among blanks, then as many marks: the symbols in their order
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.write.language_model import UNWANTED

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """`make(random, count)` gives a batch for training, `test` a fixed one to measure on; `chance` is blind luck."""

    name: str
    vocabulary: int
    length: int
    chance: float
    make: Callable[[np.random.Generator, int], Batch]
    test: Batch


def copying(*, symbols: int = 8, delay: int = 48, kinds: int = 8, tests: int = 256) -> Task:
    """Repeat what stood at the beginning, after a pause."""

    def make(random: np.random.Generator, count: int) -> Batch:
        given = random.integers(3, 3 + kinds, (count, symbols))
        pause = np.full((count, delay), BLANK)
        return _to_be_recalled(np.concatenate([given, pause], axis=1), given)

    return _recall("copying", make, kinds, symbols + delay + symbols, tests)


def selective_copying(*, symbols: int = 8, among: int = 56, kinds: int = 8, tests: int = 256) -> Task:
    """Repeat, in order, what stood at places that differ from example to example."""

    def make(random: np.random.Generator, count: int) -> Batch:
        given = random.integers(3, 3 + kinds, (count, symbols))
        places = np.sort(random.permuted(np.tile(np.arange(among), (count, 1)), axis=1)[:, :symbols], axis=1)
        rows = np.full((count, among), BLANK)
        np.put_along_axis(rows, places, given, axis=1)
        return _to_be_recalled(rows, given)

    return _recall("selective", make, kinds, among + symbols, tests)


BLANK, MARK = 1, 2


def _to_be_recalled(rows: np.ndarray, given: np.ndarray) -> Batch:
    """`rows`, then as many marks as symbols were given; at the marks the symbols are wanted."""
    marks = np.full_like(given, MARK)
    ids = np.concatenate([rows, marks], axis=1)
    targets = np.concatenate([np.full_like(rows, UNWANTED), given], axis=1)
    return {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}


def _recall(name: str, make: Callable[..., Batch], kinds: int, length: int, tests: int) -> Task:
    return Task(name, 3 + kinds, length, 1 / kinds, make, make(np.random.default_rng(0), tests))


# ListOps


def median(values: list[int]) -> int:
    """Of an even number, the mean of the middle two, rounded down: int(numpy.median(values)), 10 times as fast."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": median,
    "SM": lambda values: sum(values) % 10,
}
CLOSE = 11  # ids: 1 .. 10 the digits, then "]", then the operators, each with its bracket
FIRST_OPERATOR = 12


def listops(*, longest: int = 64, shortest: int = 8, depth: int = 10, arguments: int = 10, tests: int = 512) -> Task:
    """Nested operations on digits; expressions are `shortest` to `longest` tokens, padded with 0 in front."""

    def make(random: np.random.Generator, count: int) -> Batch:
        ids = np.zeros((count, longest), np.int64)
        targets = np.full((count, longest), UNWANTED)
        for row in range(count):
            tokens, value = expression(random, longest=longest, shortest=shortest, depth=depth, arguments=arguments)
            ids[row, -len(tokens) :] = tokens
            targets[row, -1] = value + 1
        return {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}

    test = make(np.random.default_rng(0), tests)
    return Task("listops", FIRST_OPERATOR + len(OPERATORS), longest, 0.1, make, test)


def expression(
    random: np.random.Generator, *, longest: int, shortest: int, depth: int, arguments: int
) -> tuple[list[int], int]:
    """Tokens of a random expression and its value; drawn again until its length fits."""
    while True:
        tokens: list[int] = []
        value = _grow(random, tokens, depth, arguments, longest)
        if shortest <= len(tokens) <= longest:
            return tokens, value


def _grow(random: np.random.Generator, tokens: list[int], depth: int, arguments: int, longest: int) -> int:
    """Add an expression to `tokens`; a quarter of all arguments are expressions themselves. Its value."""
    if depth <= 1 or len(tokens) > longest or (tokens and random.random() > 0.25):
        value = int(random.integers(10))
        tokens.append(value + 1)
        return value
    which = int(random.integers(len(OPERATORS)))
    tokens.append(FIRST_OPERATOR + which)
    count = int(random.integers(2, arguments + 1))
    values = [_grow(random, tokens, depth - 1, arguments, longest) for _ in range(count)]
    tokens.append(CLOSE)
    return list(OPERATORS.values())[which](values)


# Pictures, pixel by pixel

LEVELS = 16
FONT = (
    "01110100011001110101110011000101110 00100011000010000100001000010001110 01110100010000100010001000100011111",
    "11111000100010000010000011000101110 00010001100101010010111110001000010 11111100001111000001000011000101110",
    "00110010001000011110100011000101110 11111000010001000100010000100001000 01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
)
GLYPHS = np.array([[int(point) for point in glyph] for row in FONT for glyph in row.split()]).reshape(10, 7, 5)


def digits(folder: Path | None = None, *, side: int = 14, tests: int = 1000) -> Task:
    """Pictures of `side` x `side` pixels, row by row, and their class: Fashion-MNIST from `folder`, or drawn digits."""
    test_random = np.random.default_rng(0)
    if folder is None:
        return _pictures("drawn digits", lambda random, count: drawn(random, count, side), side, test_random, tests)
    train, train_classes = _fashion(folder, "train", side)
    held_out, held_out_classes = _fashion(folder, "t10k", side)

    def choose(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        pictures, classes = (held_out, held_out_classes) if random is test_random else (train, train_classes)
        places = random.integers(0, len(pictures), count)
        return pictures[places], classes[places]

    return _pictures("fashion", choose, side, test_random, tests)


def drawn(random: np.random.Generator, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of the font at random places, each point a little darker or brighter, on a noisy ground: 0 to 1."""
    classes = random.integers(0, 10, count)
    pictures = random.uniform(0, 0.4, (count, side, side))
    rows, columns = random.integers(0, side - 6, count), random.integers(0, side - 4, count)
    for picture, kind, row, column in zip(pictures, classes, rows, columns, strict=True):
        picture[row : row + 7, column : column + 5] += GLYPHS[kind] * random.uniform(0.4, 0.6, (7, 5))
    return pictures, classes


def _pictures(
    name: str, choose: Callable[..., tuple[np.ndarray, np.ndarray]], side: int, test: np.random.Generator, tests: int
) -> Task:
    def make(random: np.random.Generator, count: int) -> Batch:
        pictures, classes = choose(random, count)
        ids = 11 + np.minimum(pictures * LEVELS, LEVELS - 1).astype(np.int64).reshape(count, side * side)
        targets = np.full_like(ids, UNWANTED)
        targets[:, -1] = 1 + classes
        return {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}

    return Task(name, 11 + LEVELS, side * side, 0.1, make, make(test, tests))


def _fashion(folder: Path, part: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [n, side, side] in 0 to 1, averaged over 28 / side pixels each way, and their classes."""
    pictures = _idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    each = 28 // side
    if each * side != 28:
        raise InputError(f"Pictures of 28 pixels cannot be cut to {side}; the side is 28, 14 or 7.")
    small = pictures.reshape(-1, side, each, side, each).mean(axis=(2, 4), dtype=np.float32) / 255  # [n, side, side]
    return small, _idx(folder / f"{part}-labels-idx1-ubyte.gz", 8)


def _idx(file: Path, header: int) -> np.ndarray:
    if not file.exists():
        raise InputError(f"{file} is missing; give the folder of Fashion-MNIST's four files, as they are published.")
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)
