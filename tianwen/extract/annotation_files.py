"""Read labelled texts of any known format, which is guessed from the content where it is not given.

Post: 8888 (facts), 8926 (events)

| format  | what                                                        | told by                    |
|---------|-------------------------------------------------------------|----------------------------|
| jsonl   | ours, with places or without (`writing`, `span_records`)    | text and facts, entities … |
| duie    | DuIE 1 and 2, CMeIE (`fact_records`)                        | spo_list                   |
| triples | WebNLG, NYT, full or starred (`fact_records`)               | triple_list                |
| spert   | CoNLL04, SciERC as SpERT and PFN have them (`span_records`) | tokens                     |
| cluener | CLUENER's entities (`span_records`)                         | label                      |
| fewfc   | FewFC's events (`event_records`)                            | content                    |
| duee    | DuEE's and DuEE-fin's events (`event_records`)              | event_list                 |
| brat    | a folder of .txt and .ann, or one such file (`brat`)        | the names of the files     |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal, get_args

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation
from tianwen.extract.brat import is_brat, read_brat
from tianwen.extract.event_records import duee, fewfc
from tianwen.extract.fact_records import duie, triples
from tianwen.extract.labelled_files import STDIN, Record, opened, records
from tianwen.extract.mentions import check_policy
from tianwen.extract.reading import Reading, Unusable
from tianwen.extract.reading_report import Report
from tianwen.extract.span_records import cluener, own, spert

Format = Literal["jsonl", "duie", "triples", "spert", "cluener", "fewfc", "duee", "brat"]
FORMATS: tuple[Format, ...] = get_args(Format)
LOOKED_AT = 100  # records that are looked at to tell the format

_READERS: dict[str, Callable[[Record, Reading], Annotation]] = {
    "jsonl": own,
    "duie": duie,
    "triples": triples,
    "spert": spert,
    "cluener": cluener,
    "fewfc": fewfc,
    "duee": duee,
}
_TOLD_BY = {
    "spo_list": "duie",
    "triple_list": "triples",
    "tokens": "spert",
    "label": "cluener",
    "event_list": "duee",
    "content": "fewfc",
    "facts": "jsonl",
    "entities": "jsonl",
    "relations": "jsonl",
    "events": "jsonl",
}


def read_annotations(
    source: str | Path, *, format: str | None = None, policy: str = "all", report: Report | None = None
) -> Iterator[Annotation]:
    """Yield the labelled texts of a file ("-": standard input) in its order, as a stream.

    `format` is one of `FORMATS`, without it the content decides. `policy` (of `mentions.POLICIES`) says which mentions
    are meant where the data give strings without places. What is broken is left out and counted in `report`; with
    `Report(strict=True)` the first error raises InputError. A text whose data name no source gets "FILE, line N".

    Raises InputError: the file is missing, empty, in no known format, or holds no text that can be used.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"The format {format!r} is not known; allowed are {', '.join(FORMATS)}.")
    chosen, report = check_policy(policy), Report() if report is None else report
    if format == "brat" or (format is None and str(source) != STDIN and is_brat(Path(source))):
        yield from read_brat(Path(source), chosen, report)
        return
    before = report.texts
    with opened(source) as (name, stream):
        numbered = records(stream, name, report)
        head = list(islice(numbered, LOOKED_AT)) if format is None else []
        read = _READERS[format or _guess([record for _, record in head], name, report)]
        reading = Reading(name, chosen, report)
        for reading.place, record in chain(head, numbered):
            try:
                annotation = read(record, reading)
            except Unusable as problem:
                report.skipped += 1
                reading.note(problem.kind, problem.example)
                continue
            report.texts += 1
            yield annotation
    if report.texts == before:
        raise InputError(f"{name} holds no text that can be used. {report.summary()}")


def _guess(head: list[Record], name: str, report: Report) -> str:
    for record in head:
        for key, format in _TOLD_BY.items():
            if key in record:
                return format
    if any("text" in record for record in head):  # texts without labels
        return "jsonl"
    if not head:
        raise InputError(f"{name} holds no text that can be used. {report.summary()}")
    keys = ", ".join(map(repr, list(head[0])[:8])) or "nothing"
    raise InputError(
        f"The format of {name} cannot be told: its first record has {keys}. Say it (one of {', '.join(FORMATS)}), or "
        'write it as {"text": "…", "facts": [{"subject": "…", "predicate": "…", "object": "…"}]}, one a line.'
    )
