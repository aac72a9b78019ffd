from __future__ import annotations

import numpy as np
import pytest

from tests.extract.small import TOKENIZER, tiny_extractor
from tianwen.extract import thresholds as module
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.evaluation import evaluate_extract
from tianwen.extract.found import Labels
from tianwen.extract.model_files import ExtractorSettings
from tianwen.extract.thresholds import Choice, Items, better_thresholds, count, count_choice, fitted, found_items


def items_of_labels(rows: list[tuple[int, float, bool]], *, labels: int = 2, gold: int = 1) -> Items:
    """A text for each found item (label, score, right), with `gold` items of its label in it."""
    label, score, right = (np.array(column) for column in zip(*rows, strict=True))
    wanted = np.zeros((len(rows), labels + 1), np.int64)
    wanted[np.arange(len(rows)), label] = gold
    names = (*(f"p{i}" for i in range(labels)), "")
    return Items(names, np.arange(len(rows)), label, score, np.ones(len(rows)), right, wanted)


def frequent_and_rare(rare: int) -> Items:
    """Of p0 what scores above .5 is right; of p1 only what scores above .7."""
    rng = np.random.default_rng(0)
    rows = [(0, score, score > 0.5) for score in rng.uniform(0.15, 0.95, 600)]
    return items_of_labels(rows + [(1, score, score > 0.7) for score in rng.uniform(0.15, 0.95, rare)], gold=1)


def test_a_label_with_examples_gets_its_threshold_and_a_rare_one_stays_near_the_common_one():
    everything = np.ones(1200, bool)
    common, own = fitted(frequent_and_rare(600), everything)
    assert common.own == {}
    assert own.threshold == common.threshold
    assert own.own["p1"] == pytest.approx(0.7)
    items = frequent_and_rare(6)
    alone = items.score[items.label == 1]
    assert ((alone > 0.5) & (alone < 0.7)).any()  # those would raise it
    assert fitted(items, everything[:606])[1].own.get("p1", 0.5) < 0.7


def test_counts_are_those_of_the_texts_and_thresholds_asked_for():
    items = items_of_labels([(0, 0.9, True), (0, 0.4, False), (1, 0.6, True)])
    items.floor[2] = 0.55  # a mention that a common threshold of .6 does not let pass
    half = np.array([True, True, False])
    assert count_choice(items, Choice(0.5), np.ones(3, bool)) == (2, 2 + 3)
    assert count_choice(items, Choice(0.3), half) == (1, 2 + 2)
    assert count_choice(items, Choice(0.6, {"p1": 0.3}), np.ones(3, bool)) == (1, 1 + 3)
    assert count_choice(items, Choice(0.5, {"p1": 0.7}), np.ones(3, bool)) == (1, 1 + 3)
    counts = count(items, np.ones(3, bool), 0.5)
    at = list(module.GRID).index(0.5)
    assert counts.found[:, at].tolist() == [1, 1, 0]
    assert counts.right[:, at].tolist() == [1, 1, 0]
    assert counts.found[:, 0].tolist() == [2, 1, 0]


class Told:
    """Stands in for an extractor: what it finds above a threshold is told."""

    def __init__(self, found: list[Annotation], settings: ExtractorSettings | None = None) -> None:
        self.found, self.settings = found, settings or ExtractorSettings()
        self.model, self.tokenizer, self.schema = found, TOKENIZER, None
        self.labels = Labels(("person",), ("p0", "p1"), (("e", "who"),))

    def __new__(cls, *args):
        return super().__new__(cls)

    def stream(self, texts, *, threshold=None, verify=True, report=None, **_):
        own = {} if threshold is not None else self.settings.thresholds
        least = self.settings.threshold if threshold is None else threshold
        for text, one in zip(texts, self.found, strict=True):
            facts = [f for f in one.relations if f.score > own.get(f.predicate, least)]
            yield Annotation(text, one.entities, tuple(facts), one.events)


def told(found: list[Annotation]):
    class Here(Told):
        def __init__(self, model, tokenizer=None, schema=None, settings=None):
            super().__init__(found, settings)

    return Here(found)


def fact(predicate: str, score: float, at: int = 0) -> Relation:
    return Relation(Mention(at, at + 1, "", 0.99), predicate, Mention(at + 2, at + 3, "", 0.99), score)


def sets(rows: list[tuple[str, float, bool]]) -> tuple[list[Annotation], list[Annotation]]:
    """A text for each fact found: gold has it, or another one."""
    found = [Annotation("a b c", relations=(fact(p, score),)) for p, score, _ in rows]
    gold = [Annotation("a b c", relations=(fact(p, 1.0, 0 if right else 2),)) for p, _, right in rows]
    return gold, found


def test_mentions_without_a_type_have_the_common_threshold():
    found = Annotation("a b", entities=(Mention(0, 1, "", 0.9), Mention(2, 3, "person", 0.9)))
    extractor = told([found])
    extractor.labels = Labels(("person", ""))
    items = found_items(extractor, [found], "entities")  # type: ignore[arg-type]
    assert items.names == ("person", "")  # the last row is of what has no threshold of its own
    assert sorted(items.label.tolist()) == [0, 1]


def test_what_helps_is_kept_and_reported():
    rng = np.random.default_rng(1)
    gold, found = sets([("p0", s, s > 0.3) for s in rng.uniform(0.15, 1, 300)])
    extractor = told(found)
    before = evaluate_extract(extractor, gold, "triples")  # type: ignore[arg-type]
    changed, after, report = better_thresholds(extractor, gold, "triples", before)  # type: ignore[arg-type]
    assert report["kept"]
    assert report["threshold"] == changed.settings.threshold == pytest.approx(0.3)
    assert report["f1_fixed"] == before["f1"] < after["f1"] == report["f1_learned"]
    held = report["cross_validated_f1"]
    assert held["fixed"] == pytest.approx(before["f1"])
    assert held["common"] > held["fixed"]


def test_what_does_not_hold_on_other_texts_is_not_kept():
    rng = np.random.default_rng(2)
    gold, found = sets([("p0", s, s > 0.5) for s in rng.uniform(0.15, 1, 300)])
    extractor = told(found)
    before = evaluate_extract(extractor, gold, "triples")  # type: ignore[arg-type]
    same, scores, report = better_thresholds(extractor, gold, "triples", before)  # type: ignore[arg-type]
    assert same is extractor
    assert scores is before
    assert not report["kept"]
    assert report["threshold"] == 0.5


def test_nothing_found_and_texts_without_labels_change_nothing():
    gold = [Annotation("a b c")] * 3
    learned = module.learn_thresholds(told(gold), gold, "triples")  # type: ignore[arg-type]
    assert learned.choice == Choice(0.5)
    assert learned.own == 0.0


@pytest.mark.parametrize(
    ("protocol", "names"),
    [("triples", ["p0", "p1"]), ("duie", ["p0", "p1"]), ("entities", ["person"]), ("duee", ["e"]), ("triggers", [])],
)
def test_every_protocol_says_what_its_thresholds_are_of(protocol, names):
    who = Mention(4, 5, "person", 0.7)
    event = Event("e", (Argument("who", who),), 0.6)
    one = Annotation("a b c", (who,), (fact("p0", 0.6), fact("p1", 0.4)), (event,))
    items = found_items(told([one]), [one], protocol)  # type: ignore[arg-type]
    assert sorted(items.names[label] for label in items.label) == names
    assert items.right.all()
    assert items.gold.sum() == len(names)


def test_the_best_place_of_an_item_counts_once():
    found = Annotation("a b a b", relations=(fact("p0", 0.4), fact("p0", 0.8, 4)))
    items = found_items(told([found]), [Annotation("a b a b", relations=(fact("p0", 1.0),))], "boundaries")  # type: ignore[arg-type]
    assert sorted(items.score) == [0.4, 0.8]
    again = Annotation("a b a b", relations=(fact("p0", 0.8), fact("p0", 0.4)))
    assert found_items(told([again]), [again], "boundaries").score.tolist() == [0.8]  # type: ignore[arg-type]


def test_a_real_extractor_goes_through():
    extractor = tiny_extractor()
    gold = extractor.extract(["战神I-X从肯尼迪航天中心升空。"] * 6, threshold=0.6)
    scores = evaluate_extract(extractor, gold, "triples")
    changed, after, report = better_thresholds(extractor, gold, "triples", scores)
    assert after["f1"] >= scores["f1"]
    assert report["kept"] == (changed is not extractor)
