"""Made-up sentences, and an extractor of random weights that finds as much in them as a trained one would.

Post: 8888

Sentences are words of syllables by a Zipf law, some in capitals, with commas and full stops; lengths in words follow a
lognormal law with median 30, cut at 4 and 80. Random weights say nothing true, but cost what trained ones do, if as
many mentions and facts come out: the biases are moved until that is so (`calibrate`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.extract.decode import find_mentions
from tianwen.extract.dense_decode import dense_map
from tianwen.extract.extractor import ExtractOptions, Extractor
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.maps import TextMaps, text_maps
from tianwen.extract.model_files import ExtractorSettings
from tianwen.extract.pointer import EfficientGlobalPointer, Pointer
from tianwen.text import Tokenizer

TYPES = ("person", "place", "organisation", "work")
ENTITIES, FACTS = 5.0, 3.0
"""What is to be found in a sentence, on average."""

SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "ai", "ou") for c in ("", "n", "r")]


def sentences(count: int, *, words: int | None = None, seed: int = 0) -> list[str]:
    """So many sentences; `words`: all of that length instead of mixed."""
    chance = random.Random("words")
    stock = sorted({"".join(chance.choices(SYLLABLES, k=chance.choice((1, 2, 2, 3)))) for _ in range(3000)})
    chance.shuffle(stock)
    chance = random.Random(seed)
    weights = [1 / (rank + 5) for rank in range(len(stock))]
    texts = []
    for _ in range(count):
        length = words or min(80, max(4, round(chance.lognormvariate(np.log(30), 0.6))))
        chosen = chance.choices(stock, weights, k=length)
        chosen = [word.capitalize() if chance.random() < 0.2 else word for word in chosen]
        chosen = [word + "," if chance.random() < 0.06 else word for word in chosen]
        texts.append(" ".join(chosen).rstrip(",").capitalize() + ".")
    return texts


def of_characters(count: int, characters: int) -> list[str]:
    """Texts of sentences, all of so many characters."""
    stock = sentences(count * (characters // 60 + 2), seed=1)
    chance = random.Random(2)
    texts = []
    for _ in range(count):
        text = ""
        while len(text) < characters:
            text += chance.choice(stock) + " "
        texts.append(text[:characters])
    return texts


def predicates(count: int) -> list[str]:
    """Names of one to three words, as relations have."""
    chance = random.Random(3)
    words = ["born", "country", "member", "of", "author", "capital", "owned", "by", "located", "in", "part", "head"]
    words += ["date", "founder", "work", "site", "award", "next", "to", "child", "language", "genre", "length", "area"]
    names: dict[str, None] = {}
    while len(names) < count:
        names[" ".join(chance.sample(words, k=chance.choice((1, 2, 2, 3))))] = None
    return list(names)


def corpus() -> list[str]:
    """What tokenizers are trained on: the names of labels are among it, for they are part of the peer's input."""
    return [*sentences(1500, seed=9), *3 * [*TYPES, *predicates(200)]]


def random_extractor(labels: Sequence[str], *, seed: int = 0) -> Extractor:
    """A RoFormerV2 of 6 layers of width 384 and an efficient head, nothing trained; it reads windows of 128 tokens."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(corpus(), size=6000)
    backbone = RoFormerV2Config(vocabulary=tokenizer.size, layers=6, width=384, heads=6)
    model = GPLinker(GPLinkerConfig(backbone, entity_labels=TYPES, predicates=tuple(labels)))
    return Extractor(model, tokenizer, None, ExtractorSettings(length=126))


def calibrate(extractor: Extractor, texts: Sequence[str]) -> None:
    """Move the biases of the maps until ENTITIES mentions and FACTS facts come out of a text on average."""
    model, rules = extractor.model, replace(extractor.rules(ExtractOptions()), most_mentions=None)
    every = list(maps_of(extractor, texts))
    shift = -_rank([dense_map(maps.entity, spans=True) for maps in every], ENTITIES)
    _add(model.entity, shift)
    scores = []
    for maps in every:
        assert maps.heads is not None
        assert maps.tails is not None
        mentions = find_mentions(maps.entity._replace(starts=maps.entity.starts + np.float32(shift)), rules)
        head = maps.heads.grid(mentions.first, mentions.first, slice(None))  # [P, m, m]
        scores.append(np.minimum(head, maps.tails.grid(mentions.last, mentions.last, slice(None))))
    for pointer in (model.head, model.tail):
        _add(pointer, -_rank(scores, FACTS))


def maps_of(extractor: Extractor, texts: Sequence[str]) -> Iterator[TextMaps]:
    """What the network says of each text."""
    tokenizer = extractor.tokenizer
    for text in texts:
        ids = torch.tensor([[tokenizer.cls_id, *tokenizer.ids(text).tolist(), tokenizer.sep_id]])
        lengths = torch.tensor([ids.shape[1]])
        with torch.inference_mode():
            yield text_maps(extractor.model.projections(extractor.model.hidden(ids, lengths), lengths))


def _rank(scores: Sequence[np.ndarray], wanted: float) -> float:
    """The score that `wanted` cells of an array exceed, on average over the arrays."""
    flat = np.concatenate([one.ravel() for one in scores])
    rank = len(flat) - round(wanted * len(scores))
    return float(np.partition(flat, rank - 1)[rank - 1])


def _add(pointer: Pointer | None, shift: float) -> None:
    """Add to all scores of a map: a score has two biases, each halved."""
    assert isinstance(pointer, EfficientGlobalPointer)
    with torch.no_grad():
        pointer.biases.bias.add_(shift)
