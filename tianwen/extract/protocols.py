"""Scoring protocols by name: what of an annotation is compared, and when two of them are equal.

Post: 8888 (facts), 8926 (events)

| name           | one item is                                           | used for                          |
|----------------|-------------------------------------------------------|-----------------------------------|
| triples        | (subject, predicate, object) as strings               | WebNLG, NYT, CMeIE; the post's F1 |
| last-word      | the same, of each string the last word                | NYT*, WebNLG*                     |
| strict         | predicate, both spans and both types                  | CoNLL04, SciERC ("strict", "RE+") |
| boundaries     | predicate and both spans                              | SciERC ("RE"), data without types |
| entities       | span and type                                         | CLUENER, CoNLL04, SciERC          |
| duie           | a triple in lower case, without 《》, aliases allowed | DuIE 1 and 2                      |
| triggers       | event type and span of the trigger                    | FewFC ("trigger classification")  |
| argument-spans | event type and span; no trigger                       | FewFC ("argument identification") |
| events-exact   | event type, role and span; no trigger                 | FewFC ("argument classification") |
| whole-events   | event type and all arguments, the trigger too         | the post's event level            |
| duee           | argument as characters: partly right counts so        | DuEE, DuEE-fin; no triggers       |

Items of a text are sets: what is found twice counts once. Micro: sums over all texts, then the division.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice, product
from typing import Any, Literal, get_args

from tianwen.extract.annotation import TRIGGER, Annotation, Event, Mention
from tianwen.extract.schema import VALUE
from tianwen.extract.scores import Counts

Protocol = Literal[
    "triples",
    "last-word",
    "strict",
    "boundaries",
    "entities",
    "duie",
    "triggers",
    "argument-spans",
    "events-exact",
    "whole-events",
    "duee",
]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
MOST_REJOINED = 64  # facts that one value and its further roles may give

Item = tuple[str, Any]  # label, then what else must be equal
Aliases = Mapping[str, Collection[str]]
Fact = tuple[str, str, frozenset[tuple[str, str]]]  # subject, predicate, the object's roles with their words


def items_of(protocol: Protocol, symmetric: Collection[str] = ()) -> Callable[[Annotation], set[Item]]:
    """What a protocol compares exactly, as a function of one annotation; of `symmetric` predicates order is free."""
    match protocol:
        case "triples":
            return lambda annotation: _triples(annotation, symmetric, str)
        case "last-word":
            return lambda annotation: _triples(annotation, symmetric, last_word)
        case "strict":
            return lambda annotation: _relations(annotation, symmetric, _span_and_type)
        case "boundaries":
            return lambda annotation: _relations(annotation, symmetric, _span)
        case "entities":
            return lambda annotation: {(m.label, _span(m)) for m in annotation.entities}
        case "triggers":
            return lambda annotation: {(e.type, span) for e, role, span in _arguments(annotation) if role == TRIGGER}
        case "argument-spans":
            return lambda annotation: {(e.type, span) for e, role, span in _arguments(annotation) if role != TRIGGER}
        case "events-exact":
            return lambda annotation: {
                (f"{e.type}/{role}", span) for e, role, span in _arguments(annotation) if role != TRIGGER
            }
        case "whole-events":
            return lambda annotation: {
                (e.type, frozenset((a.role, _span(a.mention)) for a in e.arguments)) for e in annotation.events
            }
    raise ValueError(f"{protocol} compares no exact items")


def count_equal(gold: set[Item], found: set[Item]) -> dict[str, Counts]:
    """Counts by label of items that are equal or not."""
    counts: dict[str, Counts] = defaultdict(Counts)
    for item in gold:
        counts[item[0]].gold += 1
        counts[item[0]].right_gold += item in found
    for item in found:
        counts[item[0]].found += 1
        counts[item[0]].right_found += item in gold
    return counts


def count_duie(gold: Annotation, found: Annotation, aliases: Aliases) -> dict[str, Counts]:
    """Counts by predicate as DuIE's organisers count: aliases may stand for a name, numerators are separate.

    A fact found is right if gold has it or an alias of it; a gold fact is right if it was found so. Of facts that are
    aliases of each other only the first counts.
    """
    counts: dict[str, Counts] = defaultdict(Counts)
    gold_facts, found_facts = _duie_facts(gold), _duie_facts(found)
    for fact in _without_aliases(gold_facts, aliases):
        counts[fact[1]].gold += 1
        counts[fact[1]].right_gold += _stated(fact, found_facts, aliases)
    kept = _without_aliases(gold_facts, aliases)
    for fact in _without_aliases(found_facts, aliases):
        counts[fact[1]].found += 1
        counts[fact[1]].right_found += _stated(fact, kept, aliases)
    return counts


def count_duee(gold: Annotation, found: Annotation) -> dict[str, Counts]:
    """Counts by event type and role as DuEE counts: an argument is as right as its characters are.

    The score of an argument found is the F1 of its characters against the gold argument of the same event type and
    role, case ignored. Each gold argument serves one found argument, the best pairs first: so recall stays below 1.
    """
    counts: dict[str, Counts] = defaultdict(Counts)
    gold_words, found_words = _words_by_role(gold), _words_by_role(found)
    for label in gold_words.keys() | found_words.keys():
        own, theirs = gold_words.get(label, []), found_words.get(label, [])
        right = _matched(own, theirs)
        counts[label].add(Counts(right, len(theirs), right, len(own)))
    return counts


def character_f1(found: str, gold: str) -> float:
    """F1 of the characters of two strings as multisets: 2 common / (lengths together)."""
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold)) if common else 0.0


def last_word(string: str) -> str:
    """The last word of a string, "" of none."""
    return string.split()[-1] if string.split() else ""


def duie_name(string: str) -> str:
    """A name as DuIE compares it: lower case, without one pair of 《》 around it."""
    string = string.lower()
    return string[1:-1] if len(string) > 1 and string.startswith("《") and string.endswith("》") else string


def _triples(annotation: Annotation, symmetric: Collection[str], part: Callable[[str], str]) -> set[Item]:
    items = ((p, (part(s), part(o))) for s, p, o in annotation.triples())
    return {_in_order(item, symmetric) for item in items}


def _relations(annotation: Annotation, symmetric: Collection[str], part: Callable[[Mention], Any]) -> set[Item]:
    items = ((r.predicate, (part(r.subject), part(r.object))) for r in annotation.relations)
    return {_in_order(item, symmetric) for item in items}


def _in_order(item: Item, symmetric: Collection[str]) -> Item:
    return (item[0], tuple(sorted(item[1]))) if item[0] in symmetric else item


def _span(mention: Mention) -> tuple[int, int]:
    return mention.start, mention.end


def _span_and_type(mention: Mention) -> tuple[int, int, str]:
    return mention.start, mention.end, mention.label


def _arguments(annotation: Annotation) -> Iterable[tuple[Event, str, tuple[int, int]]]:
    for event in annotation.events:
        for argument in event.arguments:
            yield event, argument.role, _span(argument.mention)


# DuIE


def _duie_facts(annotation: Annotation) -> list[Fact]:
    """The facts with the further roles of their objects joined to them again, as `fact_records` took them apart."""
    triples = [(duie_name(s), p, duie_name(o)) for s, p, o in annotation.triples()]
    values = {(p, o) for _, p, o in triples}
    slots: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    plain = []
    for subject, predicate, value in triples:
        base, _, slot = predicate.rpartition("/")
        if base and (base, subject) in values:
            slots[base, subject][slot].append(value)
        else:
            plain.append((subject, predicate, value))
    facts = []
    for subject, predicate, value in plain:
        roles = {VALUE: [value], **slots.get((predicate, value), {})}
        for words in islice(product(*roles.values()), MOST_REJOINED):
            facts.append((subject, predicate, frozenset(zip(roles, words, strict=True))))
    return list(dict.fromkeys(facts))


def _without_aliases(facts: list[Fact], aliases: Aliases) -> list[Fact]:
    if not aliases:
        return facts
    kept: list[Fact] = []
    for fact in facts:
        if not _stated(fact, kept, aliases):
            kept.append(fact)
    return kept


def _stated(fact: Fact, facts: list[Fact], aliases: Aliases) -> bool:
    if not aliases or fact in facts:
        return fact in facts
    subject, predicate, roles = fact
    names = {subject, *aliases.get(subject, ())}
    return any(p == predicate and s in names and _same_object(roles, other, aliases) for s, p, other in facts)


def _same_object(roles: frozenset[tuple[str, str]], others: frozenset[tuple[str, str]], aliases: Aliases) -> bool:
    mine, theirs = dict(roles), dict(others)
    return mine.keys() == theirs.keys() and all(
        theirs[role] in {words, *aliases.get(words, ())} and words in {theirs[role], *aliases.get(theirs[role], ())}
        for role, words in mine.items()
    )


# DuEE


def _words_by_role(annotation: Annotation) -> dict[str, list[str]]:
    words: dict[str, list[str]] = defaultdict(list)
    for event in annotation.events:
        own = {(a.role, annotation.words(a.mention).lower()) for a in event.arguments if a.role != TRIGGER}
        for role, argument in sorted(own):
            words[f"{event.type}/{role}"].append(argument)
    return words


def _matched(gold: list[str], found: list[str]) -> float:
    """The sum of character F1 over pairs, the best pair first, each argument in one pair at most."""
    pairs = [(character_f1(f, g), i, j) for i, f in enumerate(found) for j, g in enumerate(gold)]
    total, used, taken = 0.0, set(), set()
    for right, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if right and i not in used and j not in taken:
            total += right
            used.add(i)
            taken.add(j)
    return total
