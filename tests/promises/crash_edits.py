"""Random changes of a knowledge base, and what each means for a plain set of facts."""

from __future__ import annotations

import contextlib
import random
from typing import Any

from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

TOKENIZER = Tokenizer([*SPECIAL_PIECES, *BYTE_PIECES])
WATCHED = (
    "watched"  # this subject always has two facts of one number: a reader that sees anything else saw half a change
)

Edit = list[Any]  # JSON: what, and its details
Truth = frozenset[Fact]


def fresh(number: int) -> list[Fact]:
    """The facts of one build."""
    return [Fact(f"s{i}", f"p{i % 3}", f"build {number}") for i in range(25)] + watched(number)


def watched(number: int) -> list[Fact]:
    return [Fact(WATCHED, "p", f"{side} {number}") for side in ("left", "right")]


def choose(rng: random.Random, number: int) -> Edit:
    """One change; `number` is unlike that of any other."""

    def facts(count: int) -> list[list[str]]:
        return [
            [f"s{rng.randrange(15)}", f"p{rng.randrange(3)}", str(rng.randrange(6)), rng.choice(["", "m"])]
            for _ in range(count)
        ]

    kind = rng.random()
    if kind < 0.40:
        return ["add", facts(rng.choice([1, 2, 3, 8]))]
    if kind < 0.55:
        return ["remove", f"s{rng.randrange(15)}", rng.choice([None, "p0", "p1"])]
    if kind < 0.70:
        return ["replace", facts(rng.choice([1, 2, 3])), None]
    if kind < 0.80:
        return ["replace", facts(2), f"s{rng.randrange(15)}"]
    if kind < 0.87:
        return ["watched", number]
    if kind < 0.93:
        return ["compact", False]
    if kind < 0.98:
        return ["compact", True]
    return ["build", number]


def carried_out(edit: Edit, kb: KnowledgeBase) -> KnowledgeBase:
    """Do it; the knowledge base to go on with."""
    match edit:
        case ["add", facts]:
            kb.add([Fact(*fact) for fact in facts])
        case ["remove", subject, predicate]:
            kb.remove(subject, predicate)
        case ["replace", facts, subject]:
            with contextlib.suppress(InputError):  # nobody of that name
                kb.replace([Fact(*fact) for fact in facts], subject=subject)
        case ["watched", number]:
            kb.replace(watched(number))
        case ["compact", background]:
            kb.compact(background=background)
        case ["build", number]:
            folder = kb.folder
            kb.close()
            return KnowledgeBase.build(fresh(number), folder, tokenizer=TOKENIZER, overwrite=True)
    return kb


def after(edit: Edit, truth: Truth) -> Truth:
    """The facts that there are after a change."""
    match edit:
        case ["add", facts]:
            return truth | {Fact(*fact) for fact in facts}
        case ["remove", subject, predicate]:
            return frozenset(f for f in truth if f.subject != subject or predicate not in (None, f.predicate))
        case ["replace", facts, None]:
            new = {Fact(*fact) for fact in facts}
            keys = {(fact.subject, fact.predicate, fact.sense) for fact in new}
            return frozenset(f for f in truth if (f.subject, f.predicate, f.sense) not in keys) | new
        case ["replace", facts, subject]:
            kept = frozenset(fact for fact in truth if fact.subject != subject)
            return truth if kept == truth else kept | {Fact(*fact) for fact in facts}
        case ["watched", number]:
            return frozenset(fact for fact in truth if fact.subject != WATCHED) | set(watched(number))
        case ["build", number]:
            return frozenset(fresh(number))
    return truth


def torn(kb: KnowledgeBase) -> list[str]:
    """The watched objects, where they are not two of one number."""
    found = sorted(fact.object for fact in kb.snapshot().find(WATCHED))
    whole = len(found) == 2 and found[0].split() == ["left", found[1].split()[1]]
    return [] if whole else found or ["nothing"]
