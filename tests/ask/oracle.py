"""The catalogue as a plain set of tuples: every method of the batched interface for one prefix, slowly."""

from __future__ import annotations


class Oracle:
    """Keys are tuples of tokens that END closes (and, for facts, divides into fields)."""

    def __init__(self, keys, end_id):
        self.keys, self.end_id = sorted(set(keys)), end_id

    def below(self, prefix):
        return [key for key in self.keys if key[: len(prefix)] == prefix]

    def allowed(self, prefix):
        return sorted({key[len(prefix)] for key in self.below(prefix) if len(key) > len(prefix)})

    def field(self, prefix):
        return prefix.count(self.end_id) if not prefix or self.below(prefix) else -1

    def rows(self, prefix):
        below = self.below(prefix)
        return (self.keys.index(below[0]), self.keys.index(below[-1]) + 1) if below else (0, 0)

    def completions(self, prefix, limit):
        below = self.below(prefix)
        return [key[len(prefix) :] for key in below[:limit]], len(below) > limit

    def prefixes(self):
        return sorted({key[:length] for key in self.keys for length in range(len(key) + 1)} | {()})
