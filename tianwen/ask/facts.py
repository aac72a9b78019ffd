"""A fact is (subject, predicate, object) with an optional sense and source; this file says which facts are allowed.

Post: 8802

| name      | post | meaning                                                                                   |
|-----------|------|-------------------------------------------------------------------------------------------|
| subject   | S    | the name as people write it: 白蛇                                                         |
| predicate | P    | what is said about it: 导演                                                               |
| object    | O    | the answer: 黄家康                                                                        |
| sense     | M    | which of several things of that name, from a trailing full-width bracket: 白蛇（电影） -> 电影 |
| source    | -    | where the fact comes from: a page, a file, a person                                       |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tianwen.errors import InputError

# Subject, predicate and sense are walked token by token by a model that reads about 128 tokens: a longer name could
# be stored but never be asked for. An object is only shown, so it may be a chapter; beyond that a line end is missing.
NAME_LIMIT = 4_096
OBJECT_LIMIT = 2**20
_SHOWN = 60  # characters of a text in a message

FIELDS: tuple[str, ...] = ("subject", "predicate", "object", "sense", "source")


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact; equality compares all five fields.

    The sense is taken as given. `Fact.of` takes it from the subject's trailing full-width bracket, as files do.
    """

    subject: str
    predicate: str
    object: str
    sense: str = ""
    source: str = ""

    @classmethod
    def of(cls, subject: str, predicate: str, object: str, source: str = "") -> Fact:
        """`Fact.of("白蛇（电影）", "导演", "黄家康")` is `Fact("白蛇", "导演", "黄家康", sense="电影")`."""
        subject, sense = split_sense(subject)
        return cls(subject, predicate, object, sense, source)


def split_sense(subject: str) -> tuple[str, str]:
    """Split the trailing full-width bracket off a subject: `"白蛇（电影）"` -> `("白蛇", "电影")`.

    The bracket is the one that closes at the very end, with everything nested in it. What does not split is data and
    comes back whole with sense "": no bracket, an unmatched one, half-width ones, an empty one, or a bracket that
    leaves no subject before it.

    Post: 8802
    """
    subject = subject.strip()
    if not subject.endswith("）"):
        return subject, ""
    depth = 0
    for place in range(len(subject) - 1, -1, -1):
        if subject[place] == "）":
            depth += 1
        elif subject[place] == "（":
            depth -= 1
            if depth == 0:
                name, sense = subject[:place].rstrip(), subject[place + 1 : -1].strip()
                return (name, sense) if name and sense else (subject, "")
    return subject, ""


def problem_of(fact: Fact) -> str | None:
    """Why a fact cannot be kept, as a short phrase; None when it can."""
    for field in FIELDS:
        text = getattr(fact, field)
        if not isinstance(text, str):
            return f"the {field} is {type(text).__name__}, not text"
        if field in FIELDS[:3] and not text.strip():
            return f"the {field} is empty"
        if "\0" in text:
            return f"the {field} holds a NUL character"
        if field != "object" and len(text) > NAME_LIMIT:
            return f"the {field} has {len(text):,} characters, {NAME_LIMIT:,} are allowed"
        if len(text) > OBJECT_LIMIT:
            return f"the {field} has {len(text):,} characters, {OBJECT_LIMIT:,} are allowed"
        if not encodes(text):
            return f"the {field} holds half a surrogate pair, which is not text"
    return None


def as_facts(facts: Iterable[Fact | tuple[str, ...]], *, start: int = 0) -> list[Fact]:
    """Check facts that come from a program; a tuple `(subject, predicate, object[, source])` is read as a file's line.

    Raises InputError at the first that cannot be kept, with its number, counted from 1 after `start` facts before it.
    """
    if isinstance(facts, (Fact, str)):
        raise InputError(f"facts must be a list of Fact, not one {type(facts).__name__}. Put it in a list: [fact].")
    everything, checked = list(facts), []
    for number, given in enumerate(everything, start + 1):
        fact = given
        if isinstance(given, tuple) and len(given) in (3, 4) and all(isinstance(text, str) for text in given):
            fact = Fact.of(*given)
        which = "The fact" if start + len(everything) == 1 else f"Fact number {number:,}"
        if not isinstance(fact, Fact):
            raise InputError(
                f"{which} is {given!r:.200}; allowed are Fact(subject, predicate, object, ...) and "
                "tuples (subject, predicate, object[, source])."
            )
        if problem := problem_of(fact):
            raise InputError(f"{which} ({_shown(fact)}) cannot be kept: {problem}.")
        checked.append(fact)
    return checked


def _shown(fact: Fact) -> str:
    """Subject, predicate and object on one line that can be printed, "" where one is empty."""
    texts = (" ".join(str(text).split()) for text in (fact.subject, fact.predicate, fact.object))
    short = (text[:_SHOWN] + "…" * (len(text) > _SHOWN) for text in texts)
    printable = ("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) for text in short)
    return " → ".join(text or '""' for text in printable)


def encodes(text: str) -> bool:
    """Whether a text can be written down: half a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
