"""Questions about the facts of a knowledge base that has none, in Chinese and English, and words that mean the same.

Post: 8802

A model that learns from questions learns two things here: how people ask, and which predicates mean the same. Both are
written down in `patterns.zh.json` and `patterns.en.json`, beside this file and easily edited:

    wrappers   what is put around a question {q}, with its weight: 你知道{q}吗？
    sentences  whole sentences that stand as they are: 介绍一下{s}的{p}
    patterns   questions that name the predicate, by its kind: {s}的{p}在哪里
    cues       the kind of a predicate, by regular expressions: 地点$ is a place
    families   predicates that mean the same, and questions that need not name them: {s}出生在哪里
    rules      the same for predicates made of a verb or noun {v} and an ending or a beginning {e}: 竣工+时间, 所属+车队
    heads      words before a known predicate that change nothing: 产品颜色 is asked for as 颜色
    verbs      the words that may be the {v} of a rule with "stems": "verbs", or begin or end it with "stems": "phrases"

Everything is a pure function of its arguments; `rng` is anything with a method `random() -> float in [0, 1)`, such as
`random.Random(seed)` or `numpy.random.default_rng(seed)`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Literal, Protocol, TypeVar

from tianwen.errors import InputError

__all__ = ["Language", "Patterns", "Randomness", "kind_of", "load_patterns", "paraphrases", "synonyms", "synthesise"]

Language = Literal["zh", "en"]
Item = TypeVar("Item")

# How often a question paraphrases the predicate, names a synonym (where either is known), or is a whole sentence that
# names it; all others are questions that name it.
PARAPHRASE, SYNONYM, SENTENCE = 0.5, 0.15, 0.06
# How often the subject of a work is decorated: 《天问》, 天问这首诗.
DECORATED = 0.15

_HAN = re.compile(r"[㐀-鿿豈-﫿\U00020000-\U0003134f]")
_DRESSING = re.compile(r"^[\s•·*-]+|(\(\d{4}年?\)|\[\d+\]|[\s*:])+$")
# Predicates that cannot stand behind 的: 又称, 始建于; also known as, founded in.
_BOUND = re.compile(r"于$|^[又也亦]| (by|as|in|on|at|for|from|of|to)$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OPENINGS = re.compile(r"(After|At|By|Did|Do|Does|For|From|How|I[ns]|O[fn]|Under|Wh(at|en|ere|ich|om?|ose|y)) ")


class Randomness(Protocol):
    """What is asked of `rng`."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """Predicates that mean the same, questions that ask for them, and what their subjects may be called (这本书)."""

    names: tuple[str, ...]
    questions: tuple[str, ...]
    about: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Questions for predicates with one of the `affixes`, which stand at the end or at the beginning."""

    affixes: tuple[str, ...]
    at_end: bool
    stems: Literal["any", "verbs", "phrases"]
    swaps: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)  # compared, and so cached, by identity
class Patterns:
    """The tables of one language, as read from its file."""

    wrappers: tuple[tuple[str, float], ...]  # each with the sum of the weights so far
    sentences: tuple[str, ...]
    patterns: dict[str, tuple[str, ...]]
    cues: tuple[tuple[str, re.Pattern[str]], ...]
    families: tuple[Family, ...]
    rules: tuple[Rule, ...]
    heads: tuple[str, ...]
    verbs: frozenset[str]
    families_of: dict[str, tuple[Family, ...]]


def synthesise(subject: str, predicate: str, rng: Randomness, *, language: Language | None = None) -> str:
    """A natural question that asks for `predicate` of `subject`.

    Half of the questions paraphrase the predicate where the tables know how (出生地 -> 出生在哪里), the others name it
    or a synonym. Without `language` it is Chinese when the predicate or, for predicates such as `isbn`, the subject is.

    Raises InputError when subject or predicate is empty.
    """
    if not subject.strip() or not predicate.strip():
        raise InputError(
            f"A question needs a subject and a predicate, but got {subject!r} and {predicate!r}. Leave such facts out."
        )
    chosen = language or guess_language(subject, predicate)
    tables = load_patterns(chosen)
    families = _families(normalise(predicate), tables)
    name = _decorated(subject, families, rng)
    if rng.random() < SENTENCE:
        return _fill(_pick(tables.sentences, rng), {"s": name, "p": _as_said(predicate)})
    question = _question(name, predicate, rng, tables=tables, families=families)
    return _wrapped(question, chosen, rng)


def synonyms(predicate: str, *, language: Language | None = None) -> tuple[str, ...]:
    """Other names of the predicate, without itself: 出生地 -> 出生地点, 籍贯…; empty when none is known."""
    tables = load_patterns(language or guess_language("", predicate))
    key = normalise(predicate)
    names = [name for family in _families(key, tables) for name in family.names]
    names += [name for rule, stem, _ in _matching_rules(key, tables) for name in _swapped(rule, stem)]
    return tuple(name for name in dict.fromkeys(names) if name != key)


def paraphrases(predicate: str, *, language: Language | None = None) -> tuple[str, ...]:
    """Questions with `{s}` for the subject that ask for the predicate in other words; empty when none is known."""
    tables = load_patterns(language or guess_language("", predicate))
    key = normalise(predicate)
    questions = [question for family in _families(key, tables) for question in family.questions]
    questions += [
        _fill(question, {"v": stem, "e": affix, "b": affix, "p": key})
        for rule, stem, affix in _matching_rules(key, tables)
        for question in rule.questions
    ]
    return tuple(dict.fromkeys(questions))


def kind_of(predicate: str, *, language: Language | None = None) -> str:
    """What a predicate asks for, by simple cues in its name: time, place, person, number, …, or any."""
    return _kind(normalise(predicate), load_patterns(language or guess_language("", predicate)))


def guess_language(subject: str, predicate: str) -> Language:
    """Chinese when the predicate is, or when the subject is and English tables do not know the predicate."""
    if _HAN.search(predicate):
        return "zh"
    if _HAN.search(subject) and normalise(predicate) not in load_patterns("en").families_of:
        return "zh"
    if normalise(predicate) in load_patterns("zh").families_of and (not subject or _HAN.search(subject)):
        return "zh"
    return "en"


@lru_cache(maxsize=1 << 16)  # predicates come in runs
def normalise(predicate: str) -> str:
    """The name under which a predicate is looked up: NFKC, small letters; birthDate and birth_date are birth date."""
    text = unicodedata.normalize("NFKC", predicate).strip()
    # Tables of the web write "• 密度", "- 密度" and "人口(2010)[1]"; what is asked for is the same.
    text = _DRESSING.sub("", text) or text
    if _HAN.search(text):
        return re.sub(r"\s+", "", text).lower()
    return re.sub(r"[\s_]+", " ", _CAMEL.sub(" ", text)).strip().lower()


@cache
def load_patterns(language: Language) -> Patterns:
    """The tables of a language, read once."""
    if language not in ("zh", "en"):
        raise InputError(f"Questions can be made in 'zh' and 'en', not in {language!r}.")
    file = resources.files("tianwen.ask").joinpath(f"patterns.{language}.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    families = tuple(
        Family(tuple(item["names"]), tuple(item["questions"]), tuple(item.get("about", ())))
        for item in data["families"]
    )
    families_of: dict[str, tuple[Family, ...]] = {}
    for family in families:
        for name in family.names:
            families_of[name] = (*families_of.get(name, ()), family)
    return Patterns(
        wrappers=tuple(_running_sums(data["wrappers"].items())),
        sentences=tuple(data["sentences"]),
        patterns={kind: tuple(items) for kind, items in data["patterns"].items()},
        cues=tuple((kind, re.compile(cue)) for kind, cues in data["cues"].items() for cue in cues),
        families=families,
        rules=tuple(_read_rule(item) for item in data["rules"]),
        heads=tuple(data["heads"]),
        verbs=frozenset(verb for line in data["verbs"].values() for verb in line.split()),
        families_of=families_of,
    )


def _read_rule(item: dict) -> Rule:
    at_end = "endings" in item
    affixes = item["endings" if at_end else "beginnings"]
    return Rule(
        affixes=tuple(sorted(affixes, key=len, reverse=True)),  # the longest first: 人员 is not taken for 人
        at_end=at_end,
        stems=item["stems"],
        swaps=tuple(item["swaps"]),
        questions=tuple(item["questions"]),
    )


def _question(name: str, predicate: str, rng: Randomness, *, tables: Patterns, families: Sequence[Family]) -> str:
    """A question without anything around it, about a subject that is called `name`."""
    shown, key = _as_said(predicate), normalise(predicate)
    matches = _matching_rules(key, tables)
    draw = rng.random() * (1 - SENTENCE)
    if (families or matches) and (draw < PARAPHRASE or _BOUND.search(key)):
        return _paraphrase(name, shown, rng, families=families, matches=matches)
    if draw < PARAPHRASE + SYNONYM:
        shown = _synonym(families, rng) or shown
    kind = _kind(key, tables)
    # A predicate whose kind is known still hears the plain patterns a quarter of the time.
    fitting = tables.patterns["plain" if rng.random() < 0.25 else kind]
    return _fill(_pick(fitting, rng), {"s": name, "p": shown})


def _paraphrase(
    name: str,
    shown: str,
    rng: Randomness,
    *,
    families: Sequence[Family],
    matches: Sequence[tuple[Rule, str, str]],
) -> str:
    # The families' questions were written for their predicates, so they come first: a rule has a quarter of the turns.
    if families and (not matches or rng.random() < 0.75):
        return _fill(_pick(_pick(families, rng).questions, rng), {"s": name, "p": shown})
    rule, stem, affix = _pick(matches, rng)
    return _fill(_pick(rule.questions, rng), {"s": name, "p": shown, "v": stem, "e": affix, "b": affix})


def _synonym(families: Sequence[Family], rng: Randomness) -> str | None:
    if not families:
        return None
    name = _pick(_pick(families, rng).names, rng)
    return None if _BOUND.search(name) else name


def _families(key: str, tables: Patterns) -> tuple[Family, ...]:
    """The families of a predicate, or else of what is left of it without a word before it that changes nothing."""
    if key in tables.families_of:
        return tables.families_of[key]
    rests = (key[len(head) :] for head in tables.heads if key.startswith(head))
    return next((tables.families_of[rest] for rest in rests if len(rest) >= 2 and rest in tables.families_of), ())


@lru_cache(maxsize=1 << 16)
def _matching_rules(key: str, tables: Patterns) -> tuple[tuple[Rule, str, str], ...]:
    """Rules that fit, each with the stem and the affix found: 竣工时间 -> 竣工, 时间."""
    found = []
    for rule in tables.rules:
        affix = next((affix for affix in rule.affixes if _has_affix(key, affix, rule.at_end)), None)
        # A bare verb (发行) has the rule without an affix, unless its family knows better.
        if affix is None or (not affix and key in tables.families_of):
            continue
        stem = key[: len(key) - len(affix)] if rule.at_end else key[len(affix) :]
        if _may_be_stem(stem, rule, tables.verbs):
            found.append((rule, stem, affix))
    return tuple(found)


def _has_affix(key: str, affix: str, at_end: bool) -> bool:
    return len(key) > len(affix) and (key.endswith(affix) if at_end else key.startswith(affix))


def _may_be_stem(stem: str, rule: Rule, verbs: frozenset[str]) -> bool:
    match rule.stems:
        case "verbs":
            return stem in verbs
        case "phrases":  # 飞越木星, 任务结束; a bare verb has the rules of verbs
            return len(stem) >= 3 and (stem[:2] in verbs or stem[-2:] in verbs)
        case "any":
            return len(stem) >= 2


def _swapped(rule: Rule, stem: str) -> Iterable[str]:
    return (stem + affix if rule.at_end else affix + stem for affix in rule.swaps)


def _decorated(subject: str, families: Sequence[Family], rng: Randomness) -> str:
    """Now and then 《subject》 or `subject这本书`, for predicates that only works have."""
    nouns = [noun for family in families for noun in family.about]
    if not nouns or rng.random() >= DECORATED:
        return subject
    if "《" not in subject and rng.random() < 0.6:
        return f"《{subject}》"
    return subject + _pick(nouns, rng)


def _as_said(predicate: str) -> str:
    """The predicate as a person would write it: birthDate is said birth date; anything else stays."""
    text = predicate.strip()
    if _HAN.search(text) or not ("_" in text or _CAMEL.search(text)):
        return text
    return re.sub(r"[\s_]+", " ", _CAMEL.sub(" ", text)).strip().lower()


def _kind(key: str, tables: Patterns) -> str:
    return next((kind for kind, cue in tables.cues if cue.search(key)), "any")


def _wrapped(question: str, language: Language, rng: Randomness) -> str:
    """Put politeness and punctuation around a question; English often loses its capital, as people type."""
    wrapper = _weighted(load_patterns(language).wrappers, rng)
    if language == "en":
        # What follows a comma or a colon goes on in small letters; names are not touched: only the first word is ours.
        inside = not wrapper.startswith("{q}")
        if _OPENINGS.match(question) and (inside or rng.random() < 0.125):
            question = question[0].lower() + question[1:]
    return wrapper.replace("{q}", question)


def _fill(template: str, values: dict[str, str]) -> str:
    """Put the values in their places in one pass: braces inside a value are data."""
    return re.sub(r"\{(\w)\}", lambda match: values.get(match[1], match[0]), template)


def _pick(items: Sequence[Item], rng: Randomness) -> Item:
    return items[int(rng.random() * len(items))]


def _weighted(sums: Sequence[tuple[str, float]], rng: Randomness) -> str:
    draw = rng.random() * sums[-1][1]
    return next(text for text, total in sums if draw < total)


def _running_sums(weights: Iterable[tuple[str, float]]) -> Iterable[tuple[str, float]]:
    total = 0.0
    for text, weight in weights:
        total += weight
        yield text, total
