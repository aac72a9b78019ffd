"""Facts from tables: TSV, CSV and Parquet, their header names and their column orders.

Post: 8802

Columns without a header, by the number of them: `subject predicate object`, `... source`, `... sense source`. A header
may name the columns in any order, in English or Chinese, with others among them. A table of two named columns is a
glossary: the second column's name is the predicate of every row (`术语 / 定义`).
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tianwen.ask.fact_lines import BLOCK_BYTES, LINE_LIMIT, FactStream, line_blocks
from tianwen.ask.fact_report import RAW_SCHEMA, Report
from tianwen.ask.facts import FIELDS
from tianwen.errors import InputError

ROWS_AT_ONCE = 500_000
LINES_OF_A_RECORD = 1_000  # a quote open for longer was never meant to span lines

_NAMES = {
    "subject": "subject subj s head entity name term 主语 主体 主题 主词 实体 头实体 名称 术语 词条",
    "predicate": "predicate pred p relation property attribute 谓语 谓词 谓项 关系 属性 属性名",
    "object": "object obj o tail value answer definition 宾语 客体 宾词 尾实体 值 属性值 答案 定义 解释 释义",
    "sense": "sense meaning disambiguation 义项 词义 含义 消歧",
    "source": "source url reference provenance 来源 出处 参考",
}
FIELD_OF_NAME = {name: field for field, names in _NAMES.items() for name in names.split()}
_ORDERS = {
    3: ("subject", "predicate", "object"),
    4: ("subject", "predicate", "object", "source"),
    5: ("subject", "predicate", "object", "sense", "source"),
}


@dataclass(frozen=True, slots=True)
class Header:
    """Which column holds which field, and the one predicate of a glossary."""

    place: dict[str, int]
    width: int
    predicate: str | None = None

    @classmethod
    def of(cls, names: list[str]) -> Header | None:
        """Read the first row as a header; None when it is not one (then it is data)."""
        names = [name.strip() for name in names]
        fields = [FIELD_OF_NAME.get(name.lower()) for name in names]
        place = {field: fields.index(field) for field in FIELDS if field in fields}
        if {"subject", "predicate", "object"} <= place.keys():
            return cls(place, len(names))
        if {"subject", "object"} == place.keys() and len(names) == 2:
            return cls(place, 2, predicate=names[place["object"]])
        return None

    def raw(self, columns: list[pl.Expr]) -> list[pl.Expr]:
        """The raw columns of `fact_report`, from the table's columns in their order."""
        chosen = {field: columns[at] for field, at in self.place.items()}
        if self.predicate is not None:
            chosen["predicate"] = pl.lit(self.predicate, pl.String)
        if "sense" in chosen:
            chosen["sense"] = chosen["sense"].fill_null("")
        return [chosen.get(field, pl.lit(None, pl.String)).alias(field) for field in FIELDS]


def read_separated(stream: FactStream, report: Report, *, separator: str) -> Iterator[pl.DataFrame]:
    """Facts of a TSV (separator tab, no quoting) or CSV (comma, quoting with `"`), in frames of `facts.FIELDS`.

    Lines without quotes are split in bulk; from the first block of a CSV that has a quote on, `csv` reads the rest.
    """
    header: Header | None = None
    blocks = line_blocks(stream, report)
    for number, lines in blocks:
        if separator == "," and lines.str.contains('"', literal=True).any():
            yield from _read_quoted(number, lines, blocks, header, stream.name, report)
            return
        frame = lines.to_frame().with_columns((pl.int_range(pl.len(), dtype=pl.Int64) + number).alias("line"))
        if number == 1 and lines.len() and lines[0] is not None:
            header = Header.of(lines[0].split(separator))
            frame = frame.slice(1) if header else frame
        raw = _split(frame, header, separator, stream.name, report)
        yield report.keep(raw, stream.name, named=header is not None)


def read_parquet(stream: FactStream, path: str | Path, report: Report) -> Iterator[pl.DataFrame]:
    """Facts of a Parquet file with the header names above; `line` in reports is the row, counted from 1."""
    seekable = stream.name == str(path) and not stream.compressed
    source: str | io.BytesIO = str(path) if seekable else io.BytesIO(stream.read_all())
    try:
        table = pl.scan_parquet(source, glob=False) if seekable else pl.read_parquet(source).lazy()
        schema = table.collect_schema()
        header = Header.of(list(schema.names()))
        if header is None:
            raise InputError(
                f"{stream.name} has the columns {', '.join(schema.names())}; needed are subject, predicate and object "
                "(or 主语, 谓语, 宾语), sense and source may follow. Rename the columns."
            )
        columns = header.raw([_as_text(pl.col(name), schema[name]) for name in schema.names()])
        start, step = 0, min(ROWS_AT_ONCE, (report.block_bytes or BLOCK_BYTES) * ROWS_AT_ONCE // BLOCK_BYTES)
        while (part := table.slice(start, step).collect()).height:
            raw = part.with_columns((pl.int_range(pl.len(), dtype=pl.Int64) + start + 1).alias("line"))
            yield report.keep(_explode_objects(raw.select("line", *columns)), stream.name)
            start += part.height
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{stream.name} cannot be read as Parquet: {str(error).splitlines()[0]:.200}") from error


def _split(frame: pl.DataFrame, header: Header | None, separator: str, name: str, report: Report) -> pl.DataFrame:
    """Lines [text, line] -> raw columns; lines of a wrong width are reported."""
    frame = frame.filter(pl.col("text").is_not_null() & (pl.col("text").str.strip_chars(" ") != ""))
    frame = frame.with_columns((pl.col("text").str.count_matches(separator, literal=True) + 1).alias("width"))
    most = header.width if header else max(_ORDERS)
    least = 1 + max(header.place[field] for field in ("subject", "object")) if header else min(_ORDERS)
    if header and "predicate" in header.place:
        least = max(least, 1 + header.place["predicate"])
    fits = pl.col("width").is_between(least, most)
    for line, width in frame.filter(~fits).select("line", "width").iter_rows():
        report.skip(name, line, _width_reason(width, least, most))
    frame = frame.filter(fits)
    cells = frame.select("line", "width", pl.col("text").str.split_exact(separator, most - 1).alias("cells")).unnest(
        "cells"
    )
    columns = [pl.col(f"field_{at}") for at in range(most)]
    if header:
        return cells.select("line", *header.raw(columns))
    groups = []
    for width, order in _ORDERS.items():
        shape = Header({field: at for at, field in enumerate(order)}, width)
        groups.append(cells.filter(pl.col("width") == width).select("line", *shape.raw(columns)))
    filled = [group for group in groups if group.height]
    return filled[0] if len(filled) == 1 else pl.concat(groups).sort("line")


def _width_reason(width: int, least: int, most: int) -> str:
    allowed = f"{least} are needed" if least == most else f"{least} to {most} are allowed"
    return f"{width} column{'s' if width > 1 else ''}, {allowed}"


def _read_quoted(
    number: int,
    lines: pl.Series,
    blocks: Iterator[tuple[int, pl.Series]],
    header: Header | None,
    name: str,
    report: Report,
) -> Iterator[pl.DataFrame]:
    """CSV with quotes, from line `number` on, by the `csv` module.

    A record that is no CSV costs its first line only: reading goes on with the second, so that a quote which is never
    closed does not swallow the rest of the file.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))
    waiting = _Lines(number, lines, blocks)
    raw: list[tuple[int, list[str]]] = []
    while waiting.more():
        start, taken = waiting.number, []
        try:
            cells = next(csv.reader(waiting.take(taken), strict=True))
        except csv.Error as error:
            report.skip(name, start, f"not CSV: {error}", kind="not CSV")
            waiting.put_back(taken[1:])
            continue
        if start == 1 and (header := Header.of(cells)):
            continue
        if any(cell.strip() for cell in cells):
            raw.append((start, cells))
        if len(raw) >= ROWS_AT_ONCE // 10:
            yield report.keep(_rows_frame(raw, header, name, report), name, named=header is not None)
            raw = []
    yield report.keep(_rows_frame(raw, header, name, report), name, named=header is not None)


class _Lines:
    """Numbered lines of a file, one after the other, that can be put back."""

    def __init__(self, number: int, lines: pl.Series, blocks: Iterator[tuple[int, pl.Series]]) -> None:
        self.number = number  # of the line that comes next
        self._waiting = deque(lines.to_list())
        self._blocks = blocks

    def more(self) -> bool:
        while not self._waiting:
            following = next(self._blocks, None)
            if following is None:
                return False
            self.number = following[0]
            self._waiting.extend(following[1].to_list())
        return True

    def take(self, taken: list[str | None]) -> Iterator[str]:
        """Lines with their ends, as many as one record may have, noted in `taken`."""
        while len(taken) < LINES_OF_A_RECORD and self.more():
            taken.append(self._waiting.popleft())
            self.number += 1
            yield (taken[-1] or "") + "\n"

    def put_back(self, taken: list[str | None]) -> None:
        self._waiting.extendleft(reversed(taken))
        self.number -= len(taken)


def _rows_frame(rows: list[tuple[int, list[str]]], header: Header | None, name: str, report: Report) -> pl.DataFrame:
    columns: dict[str, list[object]] = {field: [] for field in RAW_SCHEMA}
    for line, cells in rows:
        place = header.place if header else {field: at for at, field in enumerate(_ORDERS.get(len(cells), ()))}
        least = 1 + max(place[field] for field in FIELDS[:3] if field in place) if place else min(_ORDERS)
        most = header.width if header else max(_ORDERS)
        if not least <= len(cells) <= most:
            report.skip(name, line, _width_reason(len(cells), least, most))
            continue
        columns["line"].append(line)
        for field in FIELDS:
            at = place.get(field)
            cell = cells[at] if at is not None and at < len(cells) else ("" if at is not None else None)
            columns[field].append(header.predicate if header and field == "predicate" and header.predicate else cell)
    return pl.DataFrame(columns, schema=RAW_SCHEMA)


def _as_text(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    return column if isinstance(kind, pl.List) else column.cast(pl.String, strict=False)


def _explode_objects(raw: pl.DataFrame) -> pl.DataFrame:
    """A list of objects in one row is several facts."""
    kind = raw.schema["object"]
    if isinstance(kind, pl.List):
        raw = raw.with_columns(pl.col("object").cast(pl.List(pl.String))).explode("object")
    return raw
