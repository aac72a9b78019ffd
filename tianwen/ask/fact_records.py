"""Facts from JSON lines: one object or one array a line.

Post: 8802

`{"subject": ..., "predicate": ..., "object": ..., "sense": ..., "source": ...}` with the header names of tables (主语,
谓语, 宾语 too), or `[subject, predicate, object, source]`. The object may be a list: one fact each. Numbers keep the
way they are written. Lines that `tianwen extract --json` prints are told by their shape (`extracted_facts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import polars as pl

from tianwen.ask.extracted_facts import BrokenFact, extracted, is_extraction
from tianwen.ask.fact_lines import FactStream, line_blocks
from tianwen.ask.fact_report import RAW_SCHEMA, Report
from tianwen.ask.fact_tables import FIELD_OF_NAME
from tianwen.ask.facts import FIELDS

_ARRAYS = {3: FIELDS[:3], 4: (*FIELDS[:3], "source"), 5: FIELDS}
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)

Row = tuple[int | str | None, ...]  # line, then FIELDS


class _NotAFact(ValueError):
    """A record that is JSON but no fact; the message is the reason."""


def read_jsonl(stream: FactStream, report: Report) -> Iterator[pl.DataFrame]:
    """Facts of a JSON-lines file in frames of `facts.FIELDS`; what is not JSON or not a fact is reported by line."""
    for number, lines in line_blocks(stream, report):
        rows: list[Row] = []
        for offset, line in enumerate(lines):
            if line is None or not line.strip():
                continue
            try:
                for row in _rows_of(line, number + offset):
                    if isinstance(row, BrokenFact):  # of one text several facts may be broken, others not
                        report.skip(stream.name, number + offset, str(row))
                    else:
                        rows.append(row)
            except _NotAFact as error:
                report.skip(stream.name, number + offset, str(error))
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                report.skip(stream.name, number + offset, f"not JSON: {reason}", kind="not JSON")
        yield report.keep(pl.DataFrame(rows, schema=RAW_SCHEMA, orient="row"), stream.name)


def _rows_of(line: str, number: int) -> Iterator[Row | BrokenFact]:
    record = _DECODER.decode(line.strip())
    if is_extraction(record):
        for fields in extracted(record):
            yield from [fields] if isinstance(fields, BrokenFact) else _rows(fields, line, number)
    else:
        yield from _rows(_fields_of(record), line, number)


def _rows(fields: dict[str, object], line: str, number: int) -> Iterator[Row]:
    objects = fields.get("object")
    for value in objects if isinstance(objects, list) else [objects]:
        texts = [_text(value if field == "object" else fields.get(field), field) for field in FIELDS]
        # Only an escape can bring half a surrogate pair: the line itself is UTF-8.
        if "\\u" in line and not _all_encode(texts):
            raise _NotAFact("an escape is half a surrogate pair, which is not text")
        yield (number, *texts)


def _fields_of(record: object) -> dict[str, object]:
    if isinstance(record, dict):
        fields: dict[str, object] = {}
        for name, value in record.items():
            fields.setdefault(FIELD_OF_NAME.get(str(name).strip().lower(), ""), value)
        return fields
    if isinstance(record, list) and len(record) in _ARRAYS:
        return dict(zip(_ARRAYS[len(record)], record, strict=True))
    if isinstance(record, list):
        raise _NotAFact(f"an array of {len(record)}, 3 to 5 are allowed")
    raise _NotAFact("neither an object nor an array")


def _text(value: object, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _NotAFact(f"the {field} is {type(value).__name__}, not text")


def _all_encode(texts: list[str | None]) -> bool:
    try:
        "".join(text for text in texts if text).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
