"""Fitting probabilities: an unfit asker becomes honest, its folder keeps its weights, and nothing to fit is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ask.small import FACTS, QUESTIONS, built, tiny_asker
from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.calibration import Scored, calibrate, calibrated_in_place, fitted, scored_views
from tianwen.ask.metrics import normalised
from tianwen.ask.model_files import FAINTEST, AskerSettings
from tianwen.ask.questions import Question
from tianwen.errors import InputError

ASKED = [
    Question(QUESTIONS[0], "白蛇", "导演", "电影", ("黄家康",)),
    Question(QUESTIONS[2], "Mars", "moons", "", ("Phobos",)),
    Question("白蛇", "天问", "作者", "", ("屈原",)),
    Question("Mars Express", "Mars", "moon count", "", ("2",)),
]


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return built(FACTS, tmp_path_factory.mktemp("small") / "kb")


def test_a_boastful_asker_is_taught_modesty(kb):
    asker = tiny_asker()
    settings, errors = calibrate(
        asker, kb, [*ASKED, Question("", "白蛇", "导演"), Question("长" * 999, "白蛇", "导演")]
    )
    assert errors["calibration_error_after"] < errors["calibration_error_before"]
    assert settings.temperature > 0
    assert settings.evidence is not None
    assert min(settings.evidence[1:]) >= 0
    modest = Asker(asker.model, asker.tokenizer, settings)
    for before, after in zip(asker.ask(QUESTIONS, kb), modest.ask(QUESTIONS, kb), strict=True):
        assert after[0].objects == before[0].objects, "the answers are the same"


class Knowing:
    """A matcher that has no opinion, and knows which predicate was asked for."""

    known = (0,)

    def scores(self, question, subject, predicates):
        return np.zeros(len(predicates), np.float32)

    def fit(self, question, subject, predicate):
        asked = next(one for one in ASKED if normalised(one.text) == normalised(question))
        return 0.0 if normalised(predicate) == normalised(asked.predicate) else -6.0


def test_what_the_matcher_knows_becomes_evidence(kb):
    plain = tiny_asker()
    told = Asker(plain.model, plain.tokenizer, plain.settings, matcher=Knowing())  # type: ignore[arg-type]
    settings, _ = calibrate(told, kb, ASKED)
    without, _ = calibrate(plain, kb, ASKED)
    assert settings.evidence is not None
    assert without.evidence is not None
    assert settings.evidence[3] > 0.1
    assert without.evidence[3] == 0


class Noting(Knowing):
    """Notes which pairs of subject and predicate it was asked to judge."""

    def __init__(self):
        self.judged = []

    def fit(self, question, subject, predicate):
        self.judged.append((normalised(subject), normalised(predicate)))
        return -float(len(self.judged))


def test_the_views_lack_what_they_say(kb):
    plain, noting = tiny_asker(), Noting()
    asker = Asker(plain.model, plain.tokenizer, plain.settings, matcher=noting)  # type: ignore[arg-type]
    nobody = Question(
        QUESTIONS[0], "白蛇", "导演", "电影", ("nobody",)
    )  # no fact is right: the predicate goes all the same
    ((whole, no_predicate, no_subject),) = scored_views(asker, kb.snapshot(), [nobody], AskOptions())
    gone_with_predicate, gone_with_subject = (len(whole.score) - len(v.score) for v in (no_predicate, no_subject))
    assert 0 < gone_with_predicate < gone_with_subject
    assert whole.weight > 5 * no_predicate.weight == 5 * no_subject.weight
    views = [view for view in (whole, no_predicate, no_subject) if len(view.score)]
    assert [view.fit for view in views] == [-1.0 - i for i in range(len(views))]
    assert ("白蛇", "导演") not in noting.judged[1:]


def test_the_best_of_what_is_left_is_judged(kb):
    plain, noting, snapshot = tiny_asker(), Noting(), kb.snapshot()
    asker = Asker(plain.model, plain.tokenizer, plain.settings, matcher=noting)  # type: ignore[arg-type]
    _, found = asker.candidates([asker.question_ids(QUESTIONS[0])], snapshot, AskOptions())
    facts = [snapshot.facts(state)[0] for state in found.state]
    for subject, predicate in {(fact.subject, fact.predicate) for fact in facts}:  # each is taken out in turn
        noting.judged.clear()
        list(scored_views(asker, snapshot, [Question(QUESTIONS[0], subject, predicate, "", ("-",))], AskOptions()))
        left = [i for i, fact in enumerate(facts) if (fact.subject, fact.predicate) != (subject, predicate)]
        best = facts[max(left, key=lambda i: found.score[i])]
        assert noting.judged[1] == (normalised(best.subject), normalised(best.predicate))


def row(right, *, subject=-1.0):
    return Scored(np.zeros(1), np.array([subject]), np.full(1, -1.0), np.array([right]), 0.0, 1.0)


def test_what_looks_alike_and_is_right_half_of_the_time_gets_one_half():
    settings = fitted([row(True), row(False)] * 20, AskerSettings())
    assert settings.calibrated(np.zeros(1), np.full(1, -1.0), np.full(1, -1.0))[0] == pytest.approx(0.5, abs=0.03)


def test_evidence_of_nothing_is_bounded():
    faint = [[*[row(True)] * 9, *[row(False, subject=s)] * 9] for s in (FAINTEST, -1e6)]
    assert fitted(faint[0], AskerSettings()) == fitted(faint[1], AskerSettings())


def test_in_place_changes_the_settings_alone(kb, tmp_path):
    tiny_asker().save(tmp_path, storage="int8")
    before = Asker.load(tmp_path)
    fitted = calibrated_in_place(before, tmp_path, kb, ASKED)
    after = Asker.load(tmp_path)
    assert after.settings == fitted.settings != before.settings
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])


def test_nothing_to_fit_to(kb, tmp_path):
    for questions in ([], [Question(" ", "白蛇", "导演")]):
        with pytest.raises(InputError, match="fitted to answers"):
            calibrate(tiny_asker(), kb, questions)
    with built([], tmp_path / "kb") as empty, pytest.raises(InputError, match="fitted to answers"):
        calibrate(tiny_asker(), empty, ASKED)
