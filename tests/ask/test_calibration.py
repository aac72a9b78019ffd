"""Fitting probabilities: an unfit asker becomes honest, its folder keeps its weights, and nothing to fit is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ask.small import FACTS, QUESTIONS, built, tiny_asker
from tianwen.ask.asker import Asker
from tianwen.ask.calibration import calibrate, calibrated_in_place
from tianwen.ask.metrics import normalised
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
