"""A tiny asker (two layers, width 16) with random but outspoken weights, small knowledge bases, and the slow truth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tianwen.ask.asker import Asker
from tianwen.ask.candidates import OF_MASS
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.mixture import collate
from tianwen.ask.model_files import AskerSettings
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.text import Tokenizer

FACTS = [
    Fact("白蛇", "导演", "黄家康", sense="电影", source="片尾"),
    Fact("白蛇", "导演", "谢霆锋", sense="电视剧"),
    Fact("白蛇", "作者", "冯梦龙", sense="小说"),
    Fact("白蛇传", "作者", "冯梦龙"),
    Fact("天问一号", "发射时间", "2020年7月23日", source="国家航天局"),
    Fact("天问一号", "发射", "成功"),
    Fact("天问", "作者", "屈原"),
    Fact("Mars", "moons", "Phobos", source="IAU"),
    Fact("Mars", "moons", "Deimos", source="NASA"),
    Fact("Mars", "moon count", "2"),
    Fact("Mars Express", "operator", "ESA"),
]
QUESTIONS = ["白蛇的导演是谁？", "天问一号什么时候发射？", "How many moons has Mars?", "作者", "🚀"]
TOKENIZER = Tokenizer.train([*(f"{f.subject}{f.predicate}{f.sense}" for f in FACTS), *QUESTIONS], size=400, min_count=1)


def tiny_model(tokenizer: Tokenizer = TOKENIZER, *, seed: int = 1, loud: float = 8.0) -> AskModel:
    """Random weights; `loud` embeddings make some tokens much likelier than others, 0 makes all alike."""
    torch.manual_seed(seed)
    shape = RoFormerV2Config(vocabulary=tokenizer.size, layers=2, width=16, heads=2, max_length=64)
    model = AskModel(AskConfig(shape, copy_width=8)).eval()
    with torch.no_grad():
        model.backbone.tokens.weight *= loud
    return model


def tiny_asker(tokenizer: Tokenizer = TOKENIZER, *, seed: int = 1, loud: float = 8.0, **settings) -> Asker:
    return Asker(tiny_model(tokenizer, seed=seed, loud=loud), tokenizer, AskerSettings(**settings))


def built(facts, folder, tokenizer: Tokenizer = TOKENIZER) -> KnowledgeBase:
    return KnowledgeBase.build(facts, folder, tokenizer=tokenizer)


def shown(answers):
    """Answers without their probabilities, for comparison by ==."""
    return [(a.subject, a.predicate, a.sense, tuple(a.objects), tuple(a.sources), a.known) for a in answers]


def same_answers(some, others, *, atol: float = 1e-4) -> None:
    """Equal answers in equal order, with equal probabilities but for rounding."""
    assert [shown(answers) for answers in some] == [shown(answers) for answers in others]
    for a, b in zip(some, others, strict=True):
        np.testing.assert_allclose([x.probability for x in a], [x.probability for x in b], atol=atol)


class SlowTruth:
    """The prior-corrected scores of `candidates`, by one plain pass for each token and no tree."""

    def __init__(self, asker: Asker, keys) -> None:
        """`keys` are (subject, predicate, sense) texts."""
        self.asker, self.end = asker, asker.tokenizer.sep_id
        ids = asker.tokenizer.ids
        self.keys = [tuple((*map(int, ids(field)), self.end) for field in key) for key in dict.fromkeys(keys)]
        self.next_token = lru_cache(maxsize=None)(self._next_token)

    @torch.no_grad()
    def _next_token(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> np.ndarray:
        """log p of every token after source and prefix: [vocabulary]."""
        model = self.asker.model
        batch = collate([(np.array(source), np.array([*prefix, self.end]))])
        positions = torch.arange(batch["ids"].shape[1])[None]
        options = {"before": batch["before"], "segments": batch["segments"], "mask": batch["mask"][:, None]}
        hidden, _ = model.hidden(batch["ids"], positions=positions, **options)
        last, everything = hidden[0, -1:], torch.arange(self.asker.tokenizer.size)
        row = torch.zeros(len(everything), dtype=torch.int64)
        keys, owner = model.copy_key(hidden[:, : len(source)]), torch.zeros(1, dtype=torch.int64)
        log_p = model.log_probabilities(last, keys, batch["source"], owner, everything, row)
        return log_p.double().numpy()

    def framed(self, tokens) -> tuple[int, ...]:
        return (self.asker.tokenizer.cls_id, *map(int, tokens), self.end)

    def chain(self, source, prefix, tokens) -> float:
        """log p(tokens | source, prefix) of the model alone."""
        return sum(float(self.next_token(source, (*prefix, *tokens[:i]))[token]) for i, token in enumerate(tokens))

    def corrected(self, source, given, tokens, subject, weight) -> float:
        return self.chain(source, given, tokens) - weight * self.chain(self.framed(subject[:-1]), given, tokens)

    def scores(self, question: str, weight: float) -> dict[tuple, float]:
        """Score of every key under the question, by the formula of `candidates`."""
        source = self.framed(self.asker.tokenizer.ids(question))
        out = {}
        for s, p, m in self.keys:
            predicates = sorted({key[1] for key in self.keys if key[0] == s})
            senses = sorted({key[2] for key in self.keys if key[:2] == (s, p)})
            of_p = {other: self.corrected(source, s, other, s, weight) for other in predicates}
            of_m = {other: self.corrected(source, s + p, other, s, weight) for other in senses}
            share_p = of_p[p] - _log_sum(np.array(list(of_p.values())))
            share_m = of_m[m] - _log_sum(np.array(list(of_m.values())))
            held = OF_MASS * _log_sum(np.array([self.chain(source, s, other) for other in predicates]))
            out[s, p, m] = self.chain(source, (), s) + held + share_p + share_m
        return out


def _log_sum(values: np.ndarray) -> float:
    return float(np.log(np.exp(values - values.max()).sum()) + values.max())
