"""Made-up facts of KgCLUE's shape, any number of them, as a table on disk.

Post: 8802. What is known of the full base: 20,559,652 facts, 3,121,457 subjects, 245,838 predicates, senses with 27% of
the subjects, about 12 tokens a key; a dump lists the facts of a subject together. What is made up follows it: as many
subjects and predicates a fact, predicates and characters drawn by Zipf's law, lengths of names so that a key has 12
tokens; the characters are those of a vocabulary, as Chinese names are.

    subjects    0.1518 a fact, 2 to 9 characters, 27% with a sense of 3 to 10 characters in a full-width bracket
    predicates  245,838 for 20.56 million facts, growing with the square root of their number as vocabularies do
    objects     2 to 30 characters, one in ten repeated; source: one of a thousand names
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from tianwen.ask.ragged import pointers

KGCLUE_FACTS = 20_559_652
SUBJECTS_A_FACT = 3_121_457 / KGCLUE_FACTS
PREDICATES = 245_838
FACTS_AT_ONCE = 500_000


def write_table(path: Path, facts: int, characters: str, *, seed: int = 0) -> int:
    """Write `facts` made-up facts as TSV; the bytes written."""
    with path.open("wb") as file:
        for frame in tables(facts, characters, seed=seed):
            frame.write_csv(file, separator="\t", include_header=False, quote_style="never")
    return path.stat().st_size


def tables(facts: int, characters: str, *, seed: int = 0) -> Iterator[pl.DataFrame]:
    """Made-up facts in frames with columns subject, predicate, object, source; subjects ascend with the frames."""
    rng = np.random.default_rng(seed)
    predicates = texts(rng, int(PREDICATES * min(1.0, (facts / KGCLUE_FACTS) ** 0.5)) + 1, (2, 6), characters)
    predicates = predicates.unique(maintain_order=True)
    objects = texts(rng, 100_000, (2, 31), characters)
    sources = texts(rng, 1_000, (4, 12), characters)
    for start in range(0, facts, FACTS_AT_ONCE):
        count = min(FACTS_AT_ONCE, facts - start)
        subjects = _with_senses(rng, max(1, round(count * SUBJECTS_A_FACT)), start, characters)
        of_subject = np.sort(rng.integers(0, len(subjects), count))
        # Density 1 / rank: Zipf's law.
        rank = np.minimum((len(predicates) + 1.0) ** rng.random(count) - 1, len(predicates) - 1).astype(np.int64)
        new = texts(rng, count, (2, 31), characters)
        object = new.zip_with(pl.Series(rng.random(count) < 0.9), objects[rng.integers(0, len(objects), count)])
        source = sources[rng.integers(0, len(sources), count)]
        yield pl.DataFrame(
            {"subject": subjects[of_subject], "predicate": predicates[rank], "object": object, "source": source}
        )


def _with_senses(rng: np.random.Generator, count: int, start: int, characters: str) -> pl.Series:
    """Names of subjects; those with a sense carry it in a full-width bracket."""
    names = texts(rng, count, (2, 9), characters)
    senses = texts(rng, count, (3, 11), characters)
    has_sense = pl.Series(rng.random(count) < 0.27)
    return (names + "（" + senses + "）").zip_with(has_sense, names)


def texts(rng: np.random.Generator, count: int, lengths: tuple[int, int], characters: str) -> pl.Series:
    """`count` texts of lengths[0] .. lengths[1] - 1 characters, frequent ones most often."""
    size = rng.integers(*lengths, count)
    rank = np.minimum((len(characters) + 1.0) ** rng.random(int(size.sum())) - 1, len(characters) - 1).astype(np.int64)
    points = np.array([ord(character) for character in characters], np.uint32)[rank]
    data = np.frombuffer(points.tobytes().decode("utf-32-le").encode(), np.uint8)
    widths = np.where(points < 0x80, 1, np.where(points < 0x800, 2, np.where(points < 0x10000, 3, 4)))
    ends = pointers(widths)[pointers(size)]  # bytes before each text
    text = data.tobytes()
    return pl.Series([text[a:b].decode() for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)])
