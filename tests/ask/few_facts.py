"""A few facts for the tests of the knowledge base, and what it means that one holds exactly some facts."""

from __future__ import annotations

import numpy as np

from tianwen.ask.facts import Fact
from tianwen.ask.snapshot import Snapshot
from tianwen.text import Tokenizer

TOKENIZER = Tokenizer.train(["火星木星白蛇电影导演卫星 NASA Ares"], min_count=1)
FACTS = [
    Fact("火星", "卫星", "火卫一", source="https://example.org/mars"),
    Fact("火星", "卫星", "火卫二"),
    Fact("火星", "质量", "6.4e23 kg", "行星"),
    Fact("白蛇", "导演", "黄家康", "电影"),
    Fact("白蛇", "导演", "吴家骀", "电视剧"),
    Fact("NASA", "founded", "1958"),
    Fact("nasa", "founded", "29 July 1958"),
]


def answers(snapshot: Snapshot, subject: str, predicate: str, sense: str = "") -> list[Fact]:
    """What the tree and the values say for one key; [] when the key is not there."""
    end = [TOKENIZER.sep_id]
    ids = np.concatenate([part for text in (subject, predicate, sense) for part in (TOKENIZER.ids(text), end)])
    state = snapshot.trie.walk(ids.astype(np.int32)[None], np.array([len(ids)]))
    return snapshot.facts(state[0]) if snapshot.trie.is_terminal(state)[0] else []


def key(fact: Fact) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(TOKENIZER.ids(text)) for text in (fact.subject, fact.predicate, fact.sense))


def agree(snapshot: Snapshot, truth: list[Fact]) -> None:
    """The snapshot holds exactly these facts, and each key gives its own in the order of their coming."""
    assert len(snapshot) == len(truth)
    assert sorted(snapshot.iter_facts(), key=repr) == sorted(truth, key=repr)
    for fact in truth:
        expected = [other for other in truth if key(other) == key(fact)]
        assert answers(snapshot, fact.subject, fact.predicate, fact.sense) == expected
    entries = snapshot.trie.completions(snapshot.trie.root(1), limit=10_000)
    assert len(entries.terminal) == len({key(fact) for fact in truth})
