"""Labelled texts about spaceflight, made from templates: what the bundled extractor learns of launches and planets.

Post: 0229 (the page of news that the whole system is to read), 8888

    python -m tianwen.extract.space_texts --texts 3000 --out space.jsonl

A text is one to four sentences about one subject; the facts are those of the demonstration tables where the subject has
them, and made up elsewhere, as half of all subjects are: an extractor should read, not know. Later sentences may say
"it" in place of the name; their facts belong to the mention before. The templates are ours. Of the page that
`examples/0229_ares.py` reads neither a sentence nor the rocket is in them.

Grammar of `space_texts.zh.tsv`, a rule and one of its expansions a line: {rule} another rule (in a sentence: {s} the
subject, {predicate} an object of it), [a|b] one of several, <2-90> a number, <0.3-40.0> one with so many decimals.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from random import Random

from tianwen.extract.annotation import Annotation, Mention, Relation
from tianwen.extract.writing import to_json

KINDS = {"craft": "航天器", "body": "天体", "person": "人物", "place": "机构"}
"""Kind of subject -> its type."""

WEIGHTS = {"craft": 10, "body": 3, "person": 2, "place": 1}
NAMES = {"craft": "航天器名", "body": "天体名", "person": "人名", "place": "地方"}
PRONOUNS = {
    "craft": ["它", "该航天器", "这枚火箭", "这次发射的主角", "全箭"],
    "body": ["它", "这颗星"],
    "person": ["他", "她"],
    "place": ["它", "那里"],
}
MARKS = {"craft": "发射时间 首飞时间 发射地点", "body": "直径 发现者", "person": "出生日期", "place": "所在地 总部"}
"""Predicates by which subjects of the demonstration tables are told to be of a kind."""

TYPES = {
    "Date": "发射时间 原定发射时间 首飞时间 着陆时间 返回时间 发现时间 出生日期 逝世日期 成立时间 当地发射时刻 "
    "北京时间",
    "Number": "高度 质量 最大速度 费用 飞行时间 远地点高度 分离高度 溅落距离 传感器数量 主镜口径 直径 公转周期 "
    "自转周期 卫星数量 表面重力 平均温度 逃逸速度",
    "地点": "发射地点 发射台 所在州 着陆地点 所在地 出生地 总部",
    "机构": "研制机构 运营机构",
    "学校": "毕业院校",
    "国家": "国籍",
    "人物": "航天员 发现者",
    "航天器": "运载火箭",
    "天体": "探测目标 最大的卫星 所属行星",
}
TYPE_OF = {predicate: kind for kind, predicates in TYPES.items() for predicate in predicates.split()}
"""Predicate -> type of its objects; "Text" for all others."""

UNSEEN = ("战神I-X", "战神1-X")
"""What the page of the example tells of: nothing of it is in the texts."""

KNOWN, AGAIN = 0.5, 0.35
"""Shares of subjects from the tables, and of pronouns where a later sentence names the subject."""


@cache
def grammar() -> dict[str, list[str]]:
    """Rule -> its expansions; the rules "craft", "body", "person" and "place" are the sentences."""
    rules: dict[str, list[str]] = {}
    text = files("tianwen.extract").joinpath("space_texts.zh.tsv").read_text(encoding="utf-8")
    for line in text.splitlines()[1:]:
        rule, expansion = line.split("\t")
        rules.setdefault(rule, []).append(expansion)
    return rules


@cache
def known_facts() -> dict[str, dict[str, list[str]]]:
    """Subject -> predicate -> objects of the demonstration table, senses left out of the names."""
    text = files("tianwen.demo").joinpath("spaceflight.zh.tsv").read_text(encoding="utf-8")
    facts: dict[str, dict[str, list[str]]] = {}
    for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["subject"] in UNSEEN:
            continue
        facts.setdefault(row["subject"].split("（")[0], {}).setdefault(row["predicate"], []).append(row["object"])
    return facts


def texts(count: int, *, seed: int = 0) -> Iterator[Annotation]:
    """`count` labelled texts; the same seed gives the same ones."""
    for number in range(count):
        yield space_text(Random(f"space {seed} {number}"))


def space_text(chance: Random) -> Annotation:
    """One text about one subject."""
    kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    subject, facts = _subject(kind, chance)
    told = [text for text in grammar()[kind] if any(predicate in facts for predicate in places(text))]
    text = _Text(chance, kind, subject, facts)
    for number in range(chance.choice([1, 1, 2, 2, 3, 4])):
        source = told if told and chance.random() < 0.6 else grammar()[kind]
        text.add(chance.choice(source), first=number == 0)
    return text.annotation()


class _Text:
    """A text in the making."""

    def __init__(self, chance: Random, kind: str, subject: str, facts: dict[str, list[str]]) -> None:
        self.chance, self.kind, self.subject, self.facts = chance, kind, subject, facts
        self.text = ""
        self.names: list[Mention] = []
        self.relations: list[Relation] = []
        self.told: set[tuple[str, str]] = set()

    def add(self, template: str, *, first: bool) -> None:
        """Append a sentence and its facts."""
        again = not first and self.chance.random() < AGAIN
        objects: list[tuple[str, Mention]] = []
        own: list[Mention] = []
        for part in re.split(r"(\{[^}]*\})", chosen(template, self.chance)):
            if part == "{s}" and again:
                self.text += self.chance.choice(PRONOUNS[self.kind])
            elif part == "{s}":
                own.append(self._append(self.subject, KINDS[self.kind]))
            elif part.startswith("{"):
                predicate = part[1:-1]
                objects.append((predicate, self._append(self._object(predicate), TYPE_OF.get(predicate, "Text"))))
            else:
                self.text += part
        self.names += own
        near = own[0] if own else self.names[-1]
        self.relations += [Relation(near, predicate, mention) for predicate, mention in objects]

    def _append(self, words: str, label: str) -> Mention:
        start = len(self.text)
        self.text += words
        return Mention(start, len(self.text), label)

    def _object(self, predicate: str) -> str:
        """What the facts say, or something made up; a second one of the same predicate is another."""
        known = [one for one in self.facts.get(predicate, ()) if (predicate, one) not in self.told]
        words = self.chance.choice(known) if known else made_up(predicate, self.chance)
        self.told.add((predicate, words))
        return words

    def annotation(self) -> Annotation:
        """The text with its facts; their subjects and objects are the entities."""
        mentions = {*self.names, *(relation.object for relation in self.relations)}
        return Annotation(self.text, tuple(sorted(mentions)), tuple(self.relations), source="space_texts")


def places(template: str) -> list[str]:
    """The predicates that a sentence has a place for."""
    return [name for name in re.findall(r"\{([^}]*)\}", template) if name != "s"]


def _subject(kind: str, chance: Random) -> tuple[str, dict[str, list[str]]]:
    """A name and what is known of it; nothing of one that is made up."""
    if chance.random() >= KNOWN:
        return made_up(NAMES[kind], chance), {}
    marks = set(MARKS[kind].split())
    return chance.choice([(name, facts) for name, facts in known_facts().items() if marks & facts.keys()])


def made_up(rule: str, chance: Random) -> str:
    """What a rule expands to: its own expansions, or for a predicate without any the objects that subjects have."""
    others = [one for facts in known_facts().values() for one in facts.get(rule, ())]
    own = grammar().get(rule) or (grammar()["日期"] if TYPE_OF.get(rule) == "Date" else [])
    if others and (not own or chance.random() < 0.3):
        return chance.choice(others)
    expansion = chosen(chance.choice(own), chance)
    return re.sub(r"\{([^}]*)\}", lambda match: made_up(match[1], chance), expansion)


def chosen(expansion: str, chance: Random) -> str:
    """An expansion with its choices made and its numbers drawn."""
    expansion = re.sub(r"\[([^\]]*)\]", lambda match: chance.choice(match[1].split("|")), expansion)
    return re.sub(r"<([\d.]+)-([\d.]+)>", lambda match: _number(match[1], match[2], chance), expansion)


def _number(low: str, high: str, chance: Random) -> str:
    decimals = len(low.partition(".")[2])
    return f"{chance.uniform(float(low), float(high)):.{decimals}f}"


def main() -> None:
    """Write texts as JSON lines."""
    parser = argparse.ArgumentParser(description="Labelled texts about spaceflight, as JSON lines.")
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    with open(options.out, "w", encoding="utf-8") as file:
        for annotation in texts(options.texts, seed=options.seed):
            file.write(json.dumps(to_json(annotation), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
