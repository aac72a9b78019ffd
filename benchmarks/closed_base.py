"""Make a hard knowledge base for questions that have none: their own facts among many that look right.

Post: 8802 (KgCLUE's own base has 23 million facts; a small one is only a test if it tempts).

    python benchmarks/closed_base.py --questions FILE [--others FILE ...] [--seed 0] --out base.tsv

For every question: its own fact; up to ten more predicates of the same subject, half of them with a character of the
asked one; for a third, a twin of the same name with another sense and other predicates; and as false subjects up to 13
pieces of the question of one to six characters, each with four or five facts, half of them with the asked predicate.
Then one fact each of other subjects. Predicates and objects are those of the questions read. Rows are shuffled.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tianwen.ask.questions import Question, read_questions

MORE, ALIKE, PIECES, LONGEST_PIECE = 10, 5, 13, 6
Row = tuple[str, str, str, str]
"""Subject, predicate, object, sense."""


class Facts:
    """What false facts are made of: the predicates and objects of many questions."""

    def __init__(self, questions: Sequence[Question], chance: random.Random) -> None:
        self.chance = chance
        self.objects: dict[str, list[str]] = defaultdict(list)
        for question in questions:
            self.objects[question.predicate] += question.objects
        self.predicates = sorted(self.objects)
        self.false_subjects: set[str] = set()
        self.with_character: dict[str, list[str]] = defaultdict(list)
        for predicate in self.predicates:
            for character in set(predicate):
                self.with_character[character].append(predicate)

    def object(self, predicate: str) -> str:
        """An object that this predicate has somewhere."""
        return self.chance.choice(self.objects[predicate])

    def predicates_beside(self, asked: str, count: int, alike: int) -> list[str]:
        """`count` other predicates, up to `alike` of them with a character of `asked`."""
        near = sorted({one for character in set(asked) for one in self.with_character[character]} - {asked})
        chosen = self.chance.sample(near, min(alike, len(near)))
        while len(chosen) < min(count, len(self.predicates) - 1):
            one = self.chance.choice(self.predicates)
            if one != asked and one not in chosen:
                chosen.append(one)
        return chosen


def rows_about(question: Question, facts: Facts) -> list[Row]:
    """The question's own facts and those that tempt away from them."""
    subject, asked = question.subject, question.predicate
    rows = [(subject, asked, text, question.sense) for text in question.objects]
    more = facts.predicates_beside(asked, MORE, ALIKE)
    rows += [(subject, one, facts.object(one), question.sense) for one in more]
    chance = facts.chance
    if chance.random() < 1 / 3:
        sense = facts.object(chance.choice(facts.predicates))
        rows += [(subject, one, facts.object(one), sense) for one in facts.predicates_beside(asked, MORE // 2, 0)]
    text = question.text
    pieces = {text[i : i + n].strip() for i in range(len(text)) for n in range(1, LONGEST_PIECE + 1)}
    wrong = sorted(piece for piece in pieces if piece and piece not in subject and subject not in piece)
    new = [piece for piece in chance.sample(wrong, min(PIECES, len(wrong))) if piece not in facts.false_subjects]
    facts.false_subjects.update(new)
    for piece in new:
        rows += [(piece, one, facts.object(one), "") for one in facts.predicates_beside(asked, 4, 0)]
        if chance.random() < 0.5:
            rows.append((piece, asked, facts.object(asked), ""))
    return rows


def closed_base(asked: Sequence[Question], read: Sequence[Question], chance: random.Random) -> list[Row]:
    """Shuffled rows for the questions `asked`, false ones made of all questions `read`."""
    facts = Facts(read, chance)
    rows = [row for question in asked for row in rows_about(question, facts)]
    about = {question.subject for question in asked}
    others = [one for one in read if one.subject not in about]
    for one in chance.sample(others, min(len(others), sum(len(question.text) for question in asked))):
        predicate = chance.choice(facts.predicates)
        rows.append((one.subject, predicate, facts.object(predicate), one.sense))
    chance.shuffle(rows)
    return list(dict.fromkeys(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="A hard knowledge base for questions that have none.")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="questions that give more false facts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    asked, others = (
        [one for one in read_questions(files) if one.subject and one.predicate and one.objects]
        for files in ([given.questions], given.others)
    )
    rows = closed_base(asked, [*asked, *others], random.Random(given.seed))
    written = ["\t".join(" ".join(cell.split()) for cell in row) for row in rows]
    given.out.write_text("subject\tpredicate\tobject\tsense\n" + "\n".join(written) + "\n", encoding="utf-8")
    print(f"{len(asked)} questions, {len(rows)} facts, {len({row[0] for row in rows})} subjects")


if __name__ == "__main__":
    main()
