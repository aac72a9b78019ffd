"""brat's standoff files: a text in NAME.txt, its labels in NAME.ann.

Post: 8888 (facts), 8926 (events)

    T1	person 0 4	Ares            a mention: type, start, exclusive end, words; "0 4;8 12" is discontinuous
    R1	child-of Arg1:T1 Arg2:T2    a relation
    E1	war:T3 side:T1 side:T2      an event: its trigger, then its arguments

Places count characters of the text file, its line ends and a byte-order mark too. Notes, attributes and
equivalences are nothing to find in a text; they are counted and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tianwen.errors import InputError
from tianwen.extract.annotation import TRIGGER, Annotation, Argument, Event, Mention, Relation
from tianwen.extract.mentions import Policy
from tianwen.extract.reading import LabelledText, Reading, Unusable, sound
from tianwen.extract.reading_report import Report

_MENTION = re.compile(r"(\S+) (\d+) (\d+)")
_PARTS = re.compile(r"\S+ \d+ \d+(?:;\d+ \d+)+")
_NUMBER = re.compile(r"\d+$")  # Arg1, Theme2: the number only tells arguments of one role apart


def is_brat(path: Path) -> bool:
    """Whether a path is for this reader: a folder, an .ann file or the text beside one."""
    return path.is_dir() or path.suffix == ".ann" or (path.suffix == ".txt" and path.with_suffix(".ann").exists())


def read_brat(path: Path, policy: Policy, report: Report) -> Iterator[Annotation]:
    """One annotation for each pair of files, in the order of their names; source is the name of the text file.

    Raises InputError when there is no pair.
    """
    pairs = sorted(path.rglob("*.ann")) if path.is_dir() else [path.with_suffix(".ann")]
    if not pairs:
        raise InputError(f"{path} holds no .ann file. brat's folder has a NAME.ann beside each NAME.txt.")
    for labels in pairs:
        reading = Reading(str(labels), policy, report)
        try:
            text = sound(_decoded(labels.with_suffix(".txt")))
            annotation = _annotation(text, _decoded(labels), reading)
        except Unusable as problem:
            report.skipped += 1
            reading.note(problem.kind, problem.example)
            continue
        report.texts += 1
        yield annotation


def _annotation(text: str, content: str, reading: Reading) -> Annotation:
    labels = LabelledText(text, reading)
    lines = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(content.split("\n"), 1)]
    mentions: dict[str, Mention] = {}
    for number, fields in lines:
        reading.place = f"line {number:,}"
        if fields[0].startswith("T") and (mention := _mention(text, fields, reading)):
            mentions[fields[0]] = mention
    triggers = {fields[1].split()[0].partition(":")[2] for _, fields in lines if _is(fields, "E")}
    for name, mention in mentions.items():
        if name not in triggers:
            labels.entity(mention)
    for number, fields in lines:
        reading.place = f"line {number:,}"
        if _is(fields, "R"):
            _relation(fields, mentions, labels)
        elif _is(fields, "E"):
            _event(fields, mentions, labels)
        elif fields[0] and not fields[0].startswith("T"):
            reading.note("not-used" if fields[0][0] in "#AMN*" else "broken-label", " ".join(fields))
    reading.place = ""
    return labels.annotation(str(Path(reading.name).with_suffix(".txt")))


def _is(fields: list[str], letter: str) -> bool:
    return fields[0].startswith(letter) and len(fields) > 1 and bool(fields[1].split())


def _mention(text: str, fields: list[str], reading: Reading) -> Mention | None:
    body = fields[1] if len(fields) > 1 else ""
    if found := _MENTION.fullmatch(body):
        words = fields[2] if len(fields) > 2 else None
        span = reading.span(text, int(found[2]), int(found[3]), words)
        return Mention(*span, found[1]) if span else None
    reading.drop("discontinuous" if _PARTS.fullmatch(body) else "broken-label", " ".join(fields))
    return None


def _relation(fields: list[str], mentions: dict[str, Mention], labels: LabelledText) -> None:
    name, *arguments = fields[1].split()
    ends = [mentions.get(argument.partition(":")[2]) for argument in arguments]
    if len(ends) != 2:
        labels.reading.drop("broken-label", " ".join(fields))
    elif ends[0] is None or ends[1] is None:
        labels.reading.drop("unknown-mention", " ".join(fields))
    else:
        labels.relation(Relation(ends[0], name, ends[1]))


def _event(fields: list[str], mentions: dict[str, Mention], labels: LabelledText) -> None:
    parts = [part.partition(":")[::2] for part in fields[1].split()]
    kind, arguments = parts[0][0], []
    for role, name in [(TRIGGER, parts[0][1]), *((_NUMBER.sub("", role), name) for role, name in parts[1:])]:
        if mention := mentions.get(name):
            arguments.append(Argument(role, mention))
        elif name.startswith("E"):
            labels.reading.note("not-used", f"{role} is the event {name}")
        else:
            labels.reading.drop("unknown-mention", f"{role}:{name}")
    if arguments:
        labels.event(Event(kind, tuple(arguments)))


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; brat's .ann and .txt files come in pairs.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise Unusable("not-utf8", f"{path}, byte {error.start + 1:,}") from None
