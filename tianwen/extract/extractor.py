"""Entities, facts and events out of texts, with places, scores and types.

Post: 8888 (facts), 8373 (entities), 8926 (events)

The way of a text: windows of tokens; many windows, of many texts, through the network in batches without padding;
candidate mentions and their pairs scored; facts that only cross others left out; everything back in characters of the
text as given, things seen in two windows once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, overload

import numpy as np

from tianwen.backbone.int8 import quantise_for_inference
from tianwen.backbone.linear import pack_for_inference
from tianwen.errors import InputError, ModelError
from tianwen.extract.annotation import Annotation
from tianwen.extract.decode import Decoded
from tianwen.extract.encoding import decode_windows
from tianwen.extract.found import CapReport, Labels, annotation_of
from tianwen.extract.gplinker import GPLinker
from tianwen.extract.model_files import ExtractorSettings, load_extractor, save_extractor
from tianwen.extract.reading_report import shortened
from tianwen.extract.rules import Rules
from tianwen.extract.schema import Schema
from tianwen.extract.verifier import without_crossings
from tianwen.extract.windows import Window, merged, windows
from tianwen.text import Tokenizer

_MODELS = Path(__file__).parent.parent / "models"
BUNDLED = _MODELS / "extractor"
NAMED = {"facts": BUNDLED, "entities": _MODELS / "entities"}
"""The bundled models by name; a folder of that name comes first."""

WINDOWS_AT_ONCE = 256
"""Windows that are read before any goes through the network: enough to find many of a length, little to hold."""


@dataclass(frozen=True)
class ExtractOptions:
    """What to extract.

    `threshold` is a probability: .5 is the post's, lower finds more, higher is surer (None: the model's own);
    `thresholds` are for single predicates, entity types or event types. `schema` restricts facts to its predicates and
    types. `entities_only` leaves facts out. `verify` leaves out facts that only cross others (`verifier.py`).
    `needs_trigger` drops events without a trigger. `length` and `overlap` of windows, in tokens (None: the model's).
    """

    threshold: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    schema: Schema | None = None
    entities_only: bool = False
    verify: bool = True
    needs_trigger: bool = False
    length: int | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise InputError(f"A window has at least 1 token, not {self.length}.")
        if not isinstance(self.schema, Schema | None):
            raise InputError(f"schema is a Schema, not {type(self.schema).__name__}; of a file: Schema.load(path).")


@dataclass
class _Pending:
    """A text whose windows are under way."""

    text: str
    source: str
    whole: bool = False  # all its windows have been read
    waiting: int = 0
    parts: list[Annotation] = field(default_factory=list)


class Extractor:
    """A model and its tokenizer, ready to extract from any text."""

    def __new__(cls, *given: Any, **named: Any) -> Extractor:
        if len(given) == 1 and not named:
            raise InputError(
                f"Extractor({shortened(repr(given[0]))}): it is made of a model and a tokenizer. "
                "Extractor.load() gives the bundled one, Extractor.load(path) one of your own."
            )
        return super().__new__(cls)

    def __init__(
        self,
        model: GPLinker,
        tokenizer: Tokenizer,
        schema: Schema | None = None,
        settings: ExtractorSettings | None = None,
    ) -> None:
        self.model = model.eval()
        pack_for_inference(self.model)
        self.tokenizer = tokenizer
        self.schema = schema or Schema()
        self.settings = settings or ExtractorSettings()
        config = model.config
        self.labels = Labels(tuple(config.entity_labels), tuple(config.predicates), tuple(config.roles))

    @classmethod
    def load(cls, path: str | Path | None = None, *, int8: bool = False) -> Extractor:
        """The bundled model for facts, the bundled one for "entities", or one saved by training.

        `int8`: products in int8, where PyTorch has them for this processor; faster, but what is found in a text may
        then depend a little on the texts beside it. Raises ModelError when the files are missing or damaged.
        """
        if path is None and not BUNDLED.exists():
            raise ModelError(
                "This installation brings no extractor of its own. Train one: tianwen train extract --data FILE "
                "--out MODEL, and name it: --model MODEL, or Extractor.load(MODEL)."
            )
        folder = Path(path) if path is not None else BUNDLED
        extractor = cls(*load_extractor(folder if folder.exists() else NAMED.get(str(folder), folder)))
        if int8:
            quantise_for_inference(extractor.model)
        return extractor

    def save(self, path: str | Path) -> None:
        """Write model, tokenizer, schema and settings into the folder `path`."""
        save_extractor(self.model, self.tokenizer, self.schema, self.settings, Path(path))

    @overload
    def extract(  # pyright: ignore[reportOverlappingOverload]  (a str is an Iterable[str])
        self, texts: str, *, report: CapReport | None = None, **options: Any
    ) -> Annotation: ...
    @overload
    def extract(self, texts: Iterable[str], *, report: CapReport | None = None, **options: Any) -> list[Annotation]: ...
    def extract(
        self, texts: str | Iterable[str], *, report: CapReport | None = None, **options: Any
    ) -> Annotation | list[Annotation]:
        """What one text says, or a list for several, in order; options as in `ExtractOptions`.

        Offsets are characters of the text as given, ends exclusive. Scores are probabilities against the threshold .5:
        of a fact the least of its four (subject, object, link of heads, link of tails). `report` counts what caps left
        out. Raises InputError for what is no text, and options that this model cannot follow.
        """
        if isinstance(texts, str):
            return next(self.stream([texts], report=report, **options))
        return list(self.stream(texts, report=report, **options))

    def stream(
        self,
        texts: Iterable[str],
        *,
        sources: Iterable[str] | None = None,
        report: CapReport | None = None,
        **options: Any,
    ) -> Iterator[Annotation]:
        """The same for any number of texts, one after the other, in order, in bounded memory.

        `sources` name where each text comes from. A text of any length is read in windows.
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise InputError(
                f"Texts are a list of str or another iterable of them, not {type(texts).__name__}; "
                "of a file: Path(file).read_text(encoding='utf-8')."
            )
        how = ExtractOptions(**options)
        rules = self.rules(how)
        own = CapReport() if report is None else report
        pairs = zip(texts, chain(sources or (), repeat("")), strict=False)
        return self._annotations(pairs, how, rules, own)

    def rules(self, how: ExtractOptions) -> Rules:
        """The rules that these options make for this model. Raises InputError for names that it does not know."""
        threshold = self.settings.threshold if how.threshold is None else how.threshold
        own = {} if how.threshold is not None else dict(self.settings.thresholds)
        own |= how.thresholds
        common: dict[str, Any] = {"threshold": threshold, "thresholds": own}
        if self.labels.roles:
            rules = Rules.of_events(self.labels.roles, **common)
        else:
            schema = how.schema or (self.schema if self.schema.relations else None)
            rules = Rules.of(self.labels.classes, self.labels.predicates, schema=schema, **common)
        longest = self.settings.longest
        return replace(rules, longest=np.array(longest, np.int64)) if longest else rules

    def _annotations(
        self, pairs: Iterable[tuple[str, str]], how: ExtractOptions, rules: Rules, report: CapReport
    ) -> Iterator[Annotation]:
        texts: deque[_Pending] = deque()
        waiting: list[tuple[_Pending, Window]] = []
        for text, source in pairs:
            if not isinstance(text, str):
                raise InputError(f"A text is a str, not {type(text).__name__}; give a list of texts.")
            pending = _Pending(text, source)
            texts.append(pending)
            for window in self._windows(text, how):
                waiting.append((pending, window))
                pending.waiting += 1
                if len(waiting) >= WINDOWS_AT_ONCE:
                    self._read(waiting, how, rules, report)
                    waiting = []
            pending.whole = True
            report.texts += 1
            yield from _finished(texts)
        self._read(waiting, how, rules, report)
        yield from _finished(texts)

    def _windows(self, text: str, how: ExtractOptions) -> Iterator[Window]:
        length = how.length or self.settings.length
        overlap = min(self.settings.overlap, (length - 1) // 2) if how.overlap is None else how.overlap
        return windows(text, self.tokenizer, length=length, overlap=overlap)

    def _read(
        self, waiting: Sequence[tuple[_Pending, Window]], how: ExtractOptions, rules: Rules, report: CapReport
    ) -> None:
        """Give each pending text what its windows say."""
        only = [window for _, window in waiting]
        decoded = decode_windows(self.model, self.tokenizer, only, rules, entities_only=how.entities_only)
        report.windows += len(waiting)
        for (pending, window), found in zip(waiting, decoded, strict=True):
            checked = found
            if how.verify and not self.labels.roles:
                checked = Decoded(found.mentions, without_crossings(found.mentions, found.facts))
            part = annotation_of(
                pending.text, window, checked, self.labels, report=report, needs_trigger=how.needs_trigger
            )
            pending.waiting -= 1
            if part.entities or part.relations or part.events:
                pending.parts.append(part)


def _finished(texts: deque[_Pending]) -> Iterator[Annotation]:
    """The texts at the front that are done."""
    while texts and texts[0].whole and not texts[0].waiting:
        done = texts.popleft()
        yield merged(done.text, done.parts, source=done.source)
