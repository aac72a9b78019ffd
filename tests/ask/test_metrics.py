"""KgCLUE's scores and the calibration error against the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.ask.metrics import calibration_error, common_subsequence, f1, normalised

WORDS = st.text(alphabet="ab天🚀", max_size=90)  # longer than a machine word, inside and outside the BMP


def table(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        corner = 0
        for j, y in enumerate(b):
            corner, row[j + 1] = row[j + 1], corner + 1 if x == y else max(row[j], row[j + 1])
    return row[-1]


@given(WORDS, WORDS)
def test_common_subsequence_is_that_of_the_table(a, b):
    assert common_subsequence(a, b) == common_subsequence(b, a) == table(a, b)


def test_f1_by_hand():
    assert f1("", "") == 0.0, "0 when both are empty, as KgCLUE has it"
    assert f1("", "天") == f1("天", "") == f1("天", "地") == 0.0
    assert f1("明天会", "明天会") == 1.0
    assert f1("明天会更好", "明天下雨") == pytest.approx(2 * 2 / (5 + 4))


def test_answers_are_compared_without_case_width_and_white_space():
    assert normalised(" Ａres\u3000I-X\n") == normalised("ares i-x") == "aresi-x"
    assert normalised("①") == "1"


def test_calibration_error_by_hand():
    assert calibration_error([], []) == 0.0
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert calibration_error([0.9, 0.9], [False, False]) == pytest.approx(0.9)
    # two bins of two: |.1 - .5| and |.8 - 1|
    assert calibration_error([0.8, 0.2, 0.0, 0.8], [True, True, False, True], bins=2) == pytest.approx(0.3)
    # one bin sees only the means, and so finds nothing
    assert calibration_error([1.0, 0.0], [False, True], bins=1) == 0.0


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=60), st.randoms()
)
def test_calibration_error_does_not_depend_on_the_order_of_questions(pairs, chance):
    shuffled = pairs[:]
    chance.shuffle(shuffled)
    errors = [calibration_error([p for p, _ in order], [hit for _, hit in order]) for order in (pairs, shuffled)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-12)
    assert 0.0 <= errors[0] <= 1.0


def test_probabilities_that_are_true_have_no_error_however_the_bins_fall():
    probability = np.repeat([0.25, 0.75], 40)
    right = np.concatenate([np.arange(40) < 10, np.arange(40) < 30])
    assert calibration_error(probability.tolist(), right.tolist()) == pytest.approx(0.0, abs=1e-12)
