"""What a replacement takes away and what it brings: the facts that stay as they are belong to neither.

Post: 8802
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64

from tianwen.ask.facts import FIELDS
from tianwen.ask.loading import rows_about, without_known
from tianwen.ask.snapshot import Snapshot
from tianwen.errors import InputError

KEY = ["subject", "predicate", "sense"]

Rows = tuple[int, Int64[np.ndarray, " rows"]]  # of a part of the snapshot


class Replaced(NamedTuple):
    """How many facts went and how many came; those that were there before and are there now count in neither."""

    removed: int
    added: int


class Exchange(NamedTuple):
    """Rows that go, by part of the snapshot, and facts that come."""

    gone: list[Rows]
    fresh: pl.DataFrame

    @property
    def removed(self) -> int:
        return sum(len(rows) for _, rows in self.gone)


def exchange(facts: pl.DataFrame, snapshot: Snapshot, wanted: dict[str, str | None]) -> Exchange:
    """Put facts in the place of those with the texts in `wanted`, or without any, of those with the same keys.

    Raises InputError when texts are given and no fact has them.
    """
    if all(text is None for text in wanted.values()):
        replaced = list(_of_same_keys(facts, snapshot))
    else:
        replaced = list(snapshot.find_rows(wanted))
        if not replaced:
            raise InputError(_nothing_there(snapshot, wanted))
    gone = [(part, kept) for part, rows in replaced if len(kept := _not_among(facts, snapshot, part, rows))]
    return Exchange(gone, without_known(facts, snapshot))


def _of_same_keys(facts: pl.DataFrame, snapshot: Snapshot) -> Iterator[Rows]:
    """The facts whose subject, predicate and sense are those of one of `facts`."""
    for part, rows in rows_about(facts["subject"], snapshot):
        here = snapshot.parts[part].segment.frame(rows).with_row_index("place")
        places = here.join(facts, on=KEY, how="semi")["place"].sort().to_numpy()
        yield part, rows[places]


def _not_among(
    facts: pl.DataFrame, snapshot: Snapshot, part: int, rows: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, " some"]:
    """The rows whose facts are none of `facts`."""
    here = snapshot.parts[part].segment.frame(rows).with_row_index("place")
    return rows[here.join(facts, on=list(FIELDS), how="anti")["place"].sort().to_numpy()]


def _nothing_there(snapshot: Snapshot, wanted: dict[str, str | None]) -> str:
    named = ", ".join(
        f"{field} {text!r}" if text else f"no {field}" for field, text in wanted.items() if text is not None
    )
    message = f"No fact has {named}, so there is nothing to replace. Nothing was changed."
    if wanted["sense"] is not None and wanted["subject"] is not None:
        others = snapshot.find(wanted["subject"], wanted["predicate"], wanted["object"])
        if senses := list(dict.fromkeys(fact.sense for fact in others)):
            message += f" There are such facts with another sense: {', '.join(map(repr, senses))}."
    return message + " To add one: tianwen add --kb DIR SUBJECT PREDICATE OBJECT (in Python: KnowledgeBase.add)."
