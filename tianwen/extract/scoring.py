"""Score what was found against gold by one of the published protocols.

Post: 8888 (facts), 8926 (events)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from itertools import zip_longest
from pathlib import Path

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation
from tianwen.extract.protocols import PROTOCOLS, Aliases, Protocol, count_duee, count_duie, count_equal, items_of
from tianwen.extract.reading_report import shortened
from tianwen.extract.scores import Counts, Scores, scores_of


def score(
    gold: Iterable[Annotation],
    found: Iterable[Annotation],
    protocol: str = "triples",
    *,
    aliases: Aliases | None = None,
    symmetric: Collection[str] = (),
) -> Scores:
    """Scores of `found` against `gold`, text by text in the same order; both may be streams.

    `protocol` is one of `protocols.PROTOCOLS`. `aliases` (for "duie") says which other names a name may have, in lower
    case; `symmetric` names predicates whose subject and object may be swapped (SciERC's Compare and Conjunction).
    Raises InputError: an unknown protocol, or texts that are not the same.
    """
    count = _counter(check_protocol(protocol), aliases or {}, symmetric)
    counts: dict[str, Counts] = defaultdict(Counts)
    for number, (right, own) in enumerate(zip_longest(gold, found), 1):
        if right is None or own is None:
            longer, shorter = ("found", "gold") if right is None else ("gold", "found")
            raise InputError(f"There are more {longer} texts than {shorter} ones ({number - 1:,}); they go in pairs.")
        if right.text != own.text:
            raise InputError(
                f"Text {number:,} is {shortened(right.text)!r} in gold but {shortened(own.text)!r} in what was found; "
                "give both in the same order."
            )
        for label, new in count(right, own).items():
            counts[label].add(new)
    return scores_of(counts)


def check_protocol(protocol: str) -> Protocol:
    """The protocol, if there is one of that name. Raises InputError."""
    for known in PROTOCOLS:
        if protocol == known:
            return known
    raise InputError(f"The protocol {protocol!r} is not known; allowed are {', '.join(PROTOCOLS)}.")


def read_aliases(path: str | Path) -> dict[str, set[str]]:
    """DuIE's table of aliases: a line has a name and then its other names, with tabs between. Raises InputError."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The aliases {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"The aliases {path} are not UTF-8 ({error}).") from None
    aliases: dict[str, set[str]] = {}
    for line in text.lower().split("\n"):
        name, *others = (word.strip() for word in line.split("\t"))
        if name:
            aliases.setdefault(name, set()).update(filter(None, others))
    return aliases


def _counter(
    protocol: Protocol, aliases: Aliases, symmetric: Collection[str]
) -> Callable[[Annotation, Annotation], dict[str, Counts]]:
    match protocol:
        case "duie":
            return lambda gold, found: count_duie(gold, found, aliases)
        case "duee":
            return count_duee
    items = items_of(protocol, symmetric)
    return lambda gold, found: count_equal(items(gold), items(found))
