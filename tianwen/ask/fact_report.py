"""What came of reading facts: how many were kept, which lines were left out and why.

Post: 8802

Every reader hands over raw frames with the columns

| column                       | type   | meaning                                                                      |
|------------------------------|--------|------------------------------------------------------------------------------|
| line                         | Int64  | line of the file (row, in Parquet), counted from 1                           |
| subject, predicate, object   | String | null where the line has none                                                 |
| sense                        | String | null: take it from the subject's bracket; a text, "" too: the subject stands |
| source                       | String | null or "" when unknown                                                      |

and `Report.keep` returns the rows that are facts, with the five columns of `facts.FIELDS`, none of them null.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from tianwen.ask.facts import FIELDS, NAME_LIMIT, OBJECT_LIMIT, split_sense
from tianwen.ask.wide_tables import sign_of_things
from tianwen.counting import count
from tianwen.errors import InputError

PROBLEMS_KEPT = 1_000
LOOKED_AT, LETTERS = 2_000, 60
"""Lines by which `Report.doubt` judges a table, and characters of their cells."""
RAW_SCHEMA = {"line": pl.Int64, **dict.fromkeys(FIELDS, pl.String)}
FACT_SCHEMA = dict.fromkeys(FIELDS, pl.String)


@dataclass(frozen=True, slots=True)
class Problem:
    """One line that is not a fact."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line:,}: {self.reason}"


@dataclass(slots=True)
class Report:
    """Counts and reasons of one reading, over all its files.

    `problems` holds the first 1,000 lines left out, in order; `reasons` counts them all. With `strict` the first one
    raises InputError instead.
    """

    strict: bool = False
    rows: int = 0
    skipped: int = 0
    merged: int = 0  # exact duplicates; counted by who stores the facts
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    bytes_done: int = 0
    block_bytes: int | None = None  # text that is read at once, where memory is short
    _pending: list[Problem] = field(default_factory=list, repr=False)
    _looking_at: str = field(default="", repr=False)  # a table whose columns have no names known here
    _looked_at: list[tuple[str, ...]] = field(default_factory=list, repr=False)  # its first lines: the cells of each
    _doubts: list[str] = field(default_factory=list, repr=False)  # about the tables before it

    def skip(self, file: str, line: int, reason: str, *, kind: str | None = None) -> None:
        """Note one line that is not a fact; `kind` is the reason without its numbers, for counting."""
        self._pending.append(Problem(file, line, reason))
        self.reasons[kind or reason] += 1

    def settle(self) -> None:
        """Take in what was noted since the last time, in the order of the lines; with `strict` refuse the first."""
        pending, self._pending = sorted(self._pending, key=lambda problem: problem.line), []
        if pending and self.strict:
            raise InputError(
                f"{pending[0]}. Repair the line, or read without --strict (in Python: strict=True), which leaves such "
                "lines out."
            )
        self.skipped += len(pending)
        self.problems += pending[: PROBLEMS_KEPT - len(self.problems)]

    def keep(self, raw: pl.DataFrame, file: str, *, named: bool = True) -> pl.DataFrame:
        """Check a raw frame, the last step of a block of lines; return its facts and note the other lines.

        With `named` the input says what its columns are; otherwise `doubt` may doubt that they are a fact's parts.
        """
        if not named:
            self._look_at(raw, file)
        split = _split_senses(raw.with_columns(pl.col(FIELDS).str.strip_chars()))
        judged = split.with_columns(_problem().alias("problem"))
        bad = judged.filter(pl.col("problem").is_not_null())
        if bad.height:
            for line, reason in bad.select("line", "problem").iter_rows():
                self.skip(file, line, reason)
            judged = judged.filter(pl.col("problem").is_null())
        self.settle()
        self.rows += judged.height
        return judged.select(FIELDS)

    def summary(self) -> str:
        """One sentence for people: what was read and, most frequent reason first, what was left out."""
        text = f"{count(self.rows, 'fact')} read"
        if self.merged:
            text += f", {self.merged:,} of them exact duplicates"
        if not self.skipped:
            return text + "."
        reasons = "; ".join(f"{times:,} x {reason}" for reason, times in self.reasons.most_common(5))
        return f"{text}; {count(self.skipped, 'line')} left out ({reasons})."

    def advice(self) -> str:
        """What to do where tables had more columns than a fact has parts; else nothing."""
        widths = [int(found[1]) for reason in self.reasons if (found := re.match(r"(\d+) columns, ", reason))]
        return f" {_TURN}" if max(widths, default=0) > 5 else ""

    def doubt(self) -> str:
        """A sentence where a table looks as if it had a line for each thing, see `wide_tables`; else nothing."""
        doubts = [*self._doubts, *self._doubt_at_hand()]
        if not doubts:
            return ""
        others = f" The same goes for {count(len(doubts) - 1, 'more table')}." if len(doubts) > 1 else ""
        return f"{doubts[0]}.{others} {_TURN}"

    def _look_at(self, raw: pl.DataFrame, file: str) -> None:
        if file != self._looking_at:
            self._doubts += self._doubt_at_hand()
            self._looking_at, self._looked_at = file, []
        if (room := LOOKED_AT - len(self._looked_at)) > 0:
            cells = pl.col(FIELDS).fill_null("").str.strip_chars().str.slice(0, LETTERS)
            self._looked_at += raw.head(room).select(cells).iter_rows()

    def _doubt_at_hand(self) -> list[str]:
        sign = sign_of_things(self._looked_at)
        if not sign:
            return []
        line = " → ".join(self._looked_at[min(1, len(self._looked_at) - 1)][:3])
        return [f"{self._looking_at} was read as facts ({line}), but looks like a table of things: {sign}"]


_TURN = (
    "A line is a fact: subject, predicate, object. A table with a line for each thing and a column for each "
    "predicate has to be turned first; the quickstart shows how (docs/quickstart.md, part 1)."
)


def _split_senses(raw: pl.DataFrame) -> pl.DataFrame:
    """Fill `sense` where the row has none of its own, from the subject's trailing full-width bracket."""
    subject, last = pl.col("subject"), r"（([^（）]+)）$"
    open_question = pl.col("sense").is_null() & subject.str.ends_with("）")
    raw = raw.with_columns(
        pl.when(open_question).then(subject.str.extract(last).str.strip_chars()).alias("inner"),
        pl.when(open_question).then(subject.str.replace(last, "").str.strip_chars()).alias("name"),
    )
    plain = pl.col("inner").is_not_null() & (pl.col("inner") != "") & (pl.col("name") != "")
    # Nested, unmatched and empty brackets are rare: they take the exact function.
    rare = raw.filter(open_question & ~plain.fill_null(False))["subject"].unique(maintain_order=True)
    parts = [split_sense(text) for text in rare]
    table = pl.DataFrame(
        {"subject": rare, "rare_name": [name for name, _ in parts], "rare_sense": [sense for _, sense in parts]},
        schema=dict.fromkeys(("subject", "rare_name", "rare_sense"), pl.String),
    )
    if table.height:
        raw = raw.join(table, on="subject", how="left", maintain_order="left")
    else:
        raw = raw.with_columns(pl.lit(None, pl.String).alias("rare_name"), pl.lit(None, pl.String).alias("rare_sense"))
    return raw.with_columns(
        pl.when(plain).then("name").when(open_question).then("rare_name").otherwise(subject).alias("subject"),
        pl.when(plain)
        .then("inner")
        .when(open_question)
        .then("rare_sense")
        .otherwise("sense")
        .fill_null("")
        .alias("sense"),
        pl.col("source").fill_null(""),
    ).select(RAW_SCHEMA.keys())


def _problem() -> pl.Expr:
    """The first reason why a row is not a fact, null when it is one; the same rules as `facts.problem_of`."""
    reason = pl.lit(None, pl.String)
    for name in reversed(FIELDS):
        text = pl.col(name)
        limit = OBJECT_LIMIT if name == "object" else NAME_LIMIT
        # len_bytes is free and an upper bound of the characters.
        long = (text.str.len_bytes() > limit) & (text.str.len_chars() > limit)
        reason = pl.when(long).then(pl.lit(f"the {name} has more than {limit:,} characters")).otherwise(reason)
        nul = text.str.contains("\0", literal=True)
        reason = pl.when(nul).then(pl.lit(f"the {name} holds a NUL character")).otherwise(reason)
        if name in FIELDS[:3]:
            empty = text.is_null() | (text == "")
            reason = pl.when(empty).then(pl.lit(f"the {name} is empty")).otherwise(reason)
    return reason
