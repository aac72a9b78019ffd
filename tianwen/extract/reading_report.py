"""What came of reading or checking labelled texts: every kind of problem with its count, its first place, an example.

Post: 8888

A kind is an error when a label or a text was left out or will be learned wrongly, a warning when it is only odd. The
kinds are few and have names, so that programs can rely on them; `KINDS` says what each means and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tianwen.counting import count
from tianwen.errors import InputError

Severity = Literal["error", "warning"]
EXAMPLE_LENGTH = 100  # characters kept of an example

KINDS: dict[str, tuple[Severity, str]] = {
    # Reading: records
    "broken-line": ("error", "not JSON, or of the wrong shape; the text is left out"),
    "cut-short": ("error", "the file breaks off here; what follows is not read"),
    "not-utf8": ("error", "not UTF-8; the text is left out"),
    "lone-surrogate": ("error", "an escape is half a surrogate pair, which is not text; the text is left out"),
    "nul": ("error", "the text holds a NUL character; it is left out"),
    "no-text": ("error", "no text, or only white space; it is left out"),
    # Reading: labels
    "broken-label": ("error", "a label of the wrong shape; it is left out"),
    "empty-label": ("error", "a label without a name, or of an empty span; it is left out"),
    "missing-string": ("error", "the labelled string does not stand in the text; the label is left out"),
    "outside-text": ("error", "the span ends outside the text; the label is left out"),
    "other-words": ("error", "the span holds other words than the label says; the label is left out"),
    "mixed-ends": ("error", "the end is counted otherwise than in this format (inclusive, exclusive); it is put right"),
    "utf16-offsets": ("error", "the offsets count UTF-16 units, not characters; they are put right"),
    "unknown-mention": ("error", "a relation or event points at a mention that is not there; it is left out"),
    "discontinuous": ("error", "a span in several parts, which no span head can find; it is left out"),
    "inside-word": ("warning", "the string stands in the text only inside longer words"),
    "other-case": ("warning", "the string stands in the text only in other case or width"),
    "too-many-pairs": ("warning", "so many mentions that only the nearest pairs are kept"),
    "trimmed": ("warning", "white space at the ends of the span, which is no part of it; it is put right"),
    "not-used": ("warning", "a label that is nothing to learn here (notes, attributes); it is left out"),
    # Checking
    "unknown-entity": ("error", "an entity type that the schema lacks"),
    "unknown-predicate": ("error", "a predicate that the schema lacks"),
    "wrong-types": ("error", "a fact between types that the schema does not allow for its predicate"),
    "unknown-event": ("error", "an event type or role that the schema lacks"),
    "white-space": ("error", "the span begins or ends with white space, or is nothing else"),
    "no-piece": ("error", "the span has no piece of its own: the tokenizer drops its characters"),
    "ends-in-word": ("warning", "the span begins or ends inside a word: is its end meant to be inclusive?"),
    "inside-piece": ("error", "the span begins or ends inside a piece: no span of pieces is equal to it"),
    "cut-off": ("warning", "the label lies beyond the model's length, in a later window or nowhere"),
    "truncated": ("error", "the model's length cuts the span in two"),
    "too-long": ("warning", "the text has more pieces than the model's length"),
    "duplicate": ("warning", "the same text with the same labels again"),
    "contradiction": ("error", "the same text with other labels"),
    "leak": ("error", "the text stands in both training and development data"),
    "twice": ("warning", "the same label twice in one text"),
    "no-label": ("warning", "a text without any label"),
    "not-in-training": ("warning", "a label of the development data that the training data lack"),
    "rare": ("warning", "a label with fewer than 5 examples"),
}


@dataclass(slots=True)
class Finding:
    """A kind of problem: how often, where first, and what it looked like there."""

    kind: str
    count: int
    where: str
    example: str

    @property
    def severity(self) -> Severity:
        """ "error" or "warning"."""
        return KINDS[self.kind][0]

    @property
    def meaning(self) -> str:
        """What the kind means, in words."""
        return KINDS[self.kind][1]

    def __str__(self) -> str:
        return f"{self.where}: {self.meaning} ({self.example})" if self.example else f"{self.where}: {self.meaning}"


@dataclass(slots=True)
class Report:
    """Counts of one reading, over all its files; with `strict` the first error raises InputError.

    `texts` were read, `skipped` were left out. `facts` counts facts before mentions were looked up, `ambiguous` those
    of them whose strings stand in the text more than once, so that a policy had to choose.
    """

    strict: bool = False
    texts: int = 0
    skipped: int = 0
    dropped: int = 0  # labels left out of texts that were read
    facts: int = 0
    ambiguous: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, where: str, example: object = "") -> None:
        """Count one problem of a kind of `KINDS`, seen at `where` ("FILE, line N")."""
        finding = self.findings.get(kind)
        if finding is None:
            finding = self.findings[kind] = Finding(kind, 0, where, shortened(example))
        finding.count += 1
        if self.strict and finding.severity == "error":
            raise InputError(
                f"{finding}. Repair it, or read without --strict (in Python: strict=True), which leaves such "
                "things out."
            )

    def summary(self) -> str:
        """One sentence for people: what was read and, most frequent first, what was wrong."""
        text = f"{count(self.texts, 'text')} read"
        if self.skipped or self.dropped:
            text += f"; {count(self.skipped, 'text')} and {count(self.dropped, 'label')} left out"
        worst = sorted(self.findings.values(), key=lambda finding: -finding.count)[:5]
        reasons = "; ".join(f"{finding.count:,} x {finding.meaning}" for finding in worst)
        return f"{text} ({reasons})." if reasons else f"{text}."


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of several reports as one list, errors first, the frequent before the rare."""
    together: dict[str, Finding] = {}
    for finding in findings:
        if finding.kind in together:
            together[finding.kind].count += finding.count
        else:
            together[finding.kind] = Finding(finding.kind, finding.count, finding.where, finding.example)
    return sorted(together.values(), key=lambda f: (f.severity != "error", -f.count, f.kind))


def shortened(example: object) -> str:
    """An example on one line, printable, of at most 100 characters."""
    text = " ".join(str(example).split())
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= EXAMPLE_LENGTH else text[: EXAMPLE_LENGTH - 1] + "…"
