"""A session without a model: log-probabilities are a fixed random function of the tokens read so far."""

from __future__ import annotations

import numpy as np
import torch


class MockSession:
    """What the search asks of a session, in 20 lines. `floor` makes unlikely tokens as unlikely as floats allow."""

    def __init__(self, questions: int, *, vocabulary: int = 64, seed: int = 0, scale: float = 2.0) -> None:
        self.source_length = np.full(questions, 3)
        self.roots = self.source_length - 1
        self.paths: list[dict[int, tuple[int, ...]]] = [{2: ()} for _ in range(questions)]
        self.vocabulary, self.seed, self.scale = vocabulary, seed, scale
        self.rounds = 0

    def child(self, owner: int, node: int, token: int) -> int | None:
        wanted = (*self.paths[owner][node], token)
        return next((place for place, path in self.paths[owner].items() if path == wanted), None)

    def feed(self, chunks, *, keep=True, width=None):
        self.rounds += 1
        nodes = []
        for chain in range(len(chunks.owner)):
            tree = self.paths[chunks.owner[chain]]
            path = tree[int(chunks.parent[chain])]
            for token in chunks.tokens[chunks.row_ptr[chain] : chunks.row_ptr[chain + 1]]:
                path = (*path, int(token))
                tree[len(tree) + 2] = path
                nodes.append(len(tree) + 1)
        return np.array(nodes, np.int64), torch.zeros(len(nodes), 1)

    def states_at(self, owner, node):
        return [(int(a), self.paths[a][int(b)]) for a, b in zip(owner, node, strict=True)]

    def log_probabilities(self, owner, states, wanted_ptr, wanted):
        rows = [self.scores(*state) for state in states]
        row = np.repeat(np.arange(len(rows)), np.diff(wanted_ptr))
        return np.array([rows[r][t] for r, t in zip(row, wanted, strict=True)], np.float64)

    def scores(self, owner: int, path: tuple[int, ...]) -> np.ndarray:
        """log-softmax of random logits that depend on question and path only: [vocabulary]."""
        noise = np.random.default_rng(abs(hash((self.seed, owner, path))) % 2**32)
        logits = noise.normal(size=self.vocabulary) * self.scale
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
