"""Questions with known answers, read from the formats people have.

Post: 8802 (KgCLUE). Formats: KgCLUE JSON lines (`question`, `answer` = "S ||| P ||| O"), NLPCC-ICCPOL 2016 text
(`<question id=1>`, `<triple id=1>`), TSV (question, subject, predicate[, object]; a header line is optional), and JSON
lines of our own (`question`, `subject`, `predicate`, `answer` as a string or a list).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tianwen.ask.facts import split_sense
from tianwen.errors import InputError
from tianwen.not_text import refuse_what_is_no_text

_NLPCC_LINE = re.compile(r"<(question|triple|answer) id=\d+>\s*(.*)", re.DOTALL)
_JSON = re.compile(r"\[?\s*\{")  # JSON lines, or an array, which is refused with a sentence about JSON
_HALF_WIDTH_SENSE = re.compile(r"(.+?)\((.+)\)\Z", re.DOTALL)
_HAN = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the path that answers it; `objects` are the right answers, any of which counts."""

    text: str
    subject: str
    predicate: str
    sense: str = ""
    objects: tuple[str, ...] = ()


def read_questions(paths: Iterable[str | Path]) -> list[Question]:
    """All questions of the files. Raises InputError that names file and line of what cannot be read."""
    return [question for path in paths for question in _read(Path(path))]


def _read(path: Path) -> Iterator[Question]:
    try:
        content = path.read_bytes()
        refuse_what_is_no_text(content, str(path))
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise InputError(f"There is no question file {str(path)!r}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The question file {str(path)!r} cannot be read as UTF-8 text: {error}.") from error
    except OSError as error:
        raise InputError(f"The question file {str(path)!r} cannot be read: {error.strerror or error}.") from error
    start = text.lstrip()
    if _NLPCC_LINE.match(start):  # a question may itself begin with "<"
        return _nlpcc(text)
    return _json_lines(path, text) if _JSON.match(start) else _tab_separated(path, text)


def _of_triple(question: str, triple: list[str]) -> Question:
    subject, sense = split_sense(triple[0])
    objects = tuple(part for part in triple[2:3] if part)
    return Question(question, subject, triple[1], sense, objects)


def _json_lines(path: Path, text: str) -> Iterator[Question]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "subject" in record:
                answer = record.get("answer", ())
                subject, sense = split_sense(record["subject"])
                objects = (answer,) if isinstance(answer, str) else tuple(answer)
                read = Question(record["question"], subject, record["predicate"], record.get("sense", sense), objects)
            else:
                read = _of_triple(record["question"], [part.strip() for part in record["answer"].split("|||", 2)])
            _require_texts(read)
            yield read
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            wrong = f"it has no {error}" if isinstance(error, KeyError) else repr(error)
            raise InputError(
                f"{path}, line {number}: a question is a JSON object with `question` and either `answer` "
                f'("subject ||| predicate ||| object") or `subject`, `predicate`, `answer`; this one is not: {wrong}.'
            ) from error


def _require_texts(read: Question) -> None:
    texts = (read.text, read.subject, read.predicate, read.sense, *read.objects)
    odd = [text for text in texts if not isinstance(text, str)]
    if odd:
        raise TypeError(f"{odd[0]!r} is no text")


def _nlpcc(text: str) -> Iterator[Question]:
    question = ""
    for line in text.split("\n"):
        found = _NLPCC_LINE.match(line.strip())
        if found is None:
            continue
        kind, value = found.group(1), found.group(2).strip()
        if kind == "question":
            question = value
        parts = [part.strip() for part in value.split("|||")]
        if kind != "triple" or len(parts) != 3:
            continue
        subject, predicate = parts[0], parts[1]
        if _HAN.search(predicate):
            predicate = re.sub(r"\s+", "", predicate)  # the set pads names of two characters: 中 文 名
        sense = _HALF_WIDTH_SENSE.match(subject)
        if sense is not None:
            yield Question(question, sense.group(1).strip(), predicate, sense.group(2), (parts[2],))
        else:
            yield Question(question, subject, predicate, "", (parts[2],))


def _tab_separated(path: Path, text: str) -> Iterator[Question]:
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and fields[0].strip().lower() in {"question", "问题"}):
            continue
        if len(fields) < 3 or not all(part.strip() for part in fields[:3]):
            raise InputError(
                f"{path}, line {number}: a question line has 3 or 4 columns separated by tabs "
                f"(question, subject, predicate[, object]); this one has {len(fields)}."
            )
        yield _of_triple(fields[0].strip(), [part.strip() for part in fields[1:]])
