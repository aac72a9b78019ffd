"""CasRel's and TPLinker's labels say what they are meant to: decoding them gives the stated facts back."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.extract.labels import Example

FILE = Path(__file__).parents[2] / "benchmarks" / "extract_rivals.py"


def _module() -> ModuleType:
    if "extract_rivals" not in sys.modules:
        spec = importlib.util.spec_from_file_location("extract_rivals", FILE)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["extract_rivals"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["extract_rivals"]


rivals = _module()


def example(facts: set[tuple[int, int, int, int, int]], length: int = 14) -> Example:
    rows: dict[tuple[int, int, int], int] = {}
    links = []
    for a, b, p, c, d in sorted(facts):
        subject, object = ((0, a, b), (1, c, d))
        links.append((rows.setdefault(subject, len(rows)), p, rows.setdefault(object, len(rows))))
    tables = [np.array(table, np.int64).reshape(-1, 3) for table in (list(rows), links)]
    return Example(np.arange(length), *tables)


SPANS = st.tuples(st.integers(1, 12), st.integers(0, 3)).map(lambda one: (one[0], min(12, one[0] + one[1])))
ANY = st.sets(st.tuples(SPANS, st.integers(0, 2), SPANS).map(lambda f: (*f[0], f[1], *f[2])), max_size=6)
APART = [(1, 1), (2, 4), (5, 5), (6, 8), (9, 10), (11, 12)]
SHARED = st.sets(
    st.tuples(st.sampled_from(APART), st.integers(0, 2), st.sampled_from(APART)).map(lambda f: (*f[0], f[1], *f[2])),
    max_size=8,
)


def through_casrel(facts: set) -> set:
    subjects = rivals.nearest_spans(*rivals.subject_tags(facts))
    return set().union(*(rivals.casrel_facts(s, *rivals.object_tags(facts, s)) for s in subjects), set())


@settings(deadline=None, max_examples=80)
@given(SHARED)
def test_facts_that_share_mentions_survive_casrel(facts: set) -> None:
    assert through_casrel(facts) == facts


def test_casrel_loses_a_subject_around_another() -> None:
    nested = {(1, 4, 0, 7, 7), (1, 2, 0, 9, 9)}
    assert through_casrel(nested) == {(1, 2, 0, 9, 9)}, "from a beginning to the NEAREST end"


@settings(deadline=None, max_examples=80)
@given(ANY)
def test_overlapping_and_nested_facts_survive_tplinker(facts: set) -> None:
    """All but those whose ends are linked both ways: a cell has one class."""
    entities, heads, tails = rivals.tplinker_labels(example(facts))
    found = rivals.tplinker_facts(entities, heads, tails)

    def clash(one: tuple, other: tuple, s: int, o: int) -> bool:
        return one[2] == other[2] and one[s] == other[o] and one[o] == other[s] and one[s] != one[o]

    lost = {one for one in facts if any(clash(one, other, *at) for other in facts for at in ((0, 3), (1, 4)))}
    assert facts - lost <= found
    for a, b, p, c, d in found - facts:  # made of the links of facts that are stated
        assert {(a, b), (c, d)} <= entities
        assert (p, min(a, c), max(a, c)) in heads
        assert (p, min(b, d), max(b, d)) in tails


@settings(deadline=None, max_examples=50)
@given(SHARED)
def test_tplinker_adds_nothing_where_mentions_are_apart(facts: set) -> None:
    both_ways = {f for f in facts if (f[3], f[4], f[2], f[0], f[1]) in facts and f[:2] != f[3:]}
    found = rivals.tplinker_facts(*rivals.tplinker_labels(example(facts)))
    assert found <= facts
    assert facts - both_ways <= found


FACTS = {"tplinker": {(1, 2, 0, 7, 7), (9, 10, 1, 1, 2), (1, 2, 1, 4, 5), (4, 5, 0, 4, 5)}}
# Its tag of an object is w.h + w.v: two subjects of one predicate cannot each have an object of their own.
FACTS["casrel"] = {(1, 2, 0, 7, 7), (9, 10, 1, 1, 2), (1, 2, 0, 4, 5)}


@pytest.mark.parametrize("head", ["casrel", "tplinker"])
def test_heads_learn_a_text_by_heart(head: str) -> None:
    torch.manual_seed(0)
    texts = [example(FACTS[head]), example(set(), length=9)]
    hidden = torch.nn.Parameter(torch.randn(2, 14, 24))
    lengths = torch.tensor([14, 9])
    model = rivals.CasRel(24, 2) if head == "casrel" else rivals.TPLinker(24, 2, steps=80)
    optimiser = torch.optim.Adam([hidden, *model.parameters()], lr=0.15)
    for _ in range(80):
        optimiser.zero_grad()
        model.loss(hidden, lengths, texts).backward()
        optimiser.step()
    with torch.inference_mode():
        assert model.decode(hidden, lengths) == [FACTS[head], set()]


def test_pairs_stand_where_torch_puts_them() -> None:
    i, j = torch.triu_indices(9, 9)
    assert [rivals._place(a, b, 9) for a, b in zip(i.tolist(), j.tolist(), strict=True)] == list(range(45))
