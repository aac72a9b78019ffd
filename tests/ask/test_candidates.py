"""Prior-corrected scores against their formula, computed token by token with plain passes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ask.small import FACTS, QUESTIONS, SlowTruth, built, tiny_asker
from tianwen.ask.asker import AskOptions
from tianwen.ask.candidates import OF_FIT, OF_MASS
from tianwen.ask.facts import Fact

# One predicate is the beginning of another, senses are the beginning of others or missing, a subject of another's.
NASTY = [
    Fact("白", "作", "1"),
    Fact("白", "作者", "2"),
    Fact("白", "作者", "3", sense="小"),
    Fact("白", "作者", "4", sense="小说"),
    Fact("白", "作者", "5", sense="电影"),
    Fact("白", "者", "6", sense="电影"),
    Fact("白蛇", "作", "7", sense="小说"),
    Fact("白蛇", "导演", "8"),
]


@pytest.fixture(scope="module")
def asker():
    return tiny_asker()


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    return built(NASTY, tmp_path_factory.mktemp("nasty") / "kb")


def keys(facts):
    return [(fact.subject, fact.predicate, fact.sense) for fact in facts]


def scored(asker, kb, questions, **options):
    """For each question: path of tokens -> (score, evidence of subject and predicate)."""
    ids = [asker.question_ids(question) for question in questions]
    snapshot = kb.snapshot()
    _, found = asker.candidates(ids, snapshot, AskOptions(**options))
    out = [{} for _ in questions]
    for row in range(len(found)):
        fact = snapshot.facts(found.state[row])[0]
        key = tuple((*map(int, asker.tokenizer.ids(t)), asker.tokenizer.sep_id) for t in keys([fact])[0])
        assert key not in out[found.owner[row]], "a key is a candidate once"
        out[found.owner[row]][key] = (found.score[row], found.subject[row], found.predicate[row])
    return out


@pytest.mark.parametrize("weight", [0.8, 0.0])
def test_scores_are_those_of_the_formula(asker, nasty, weight):
    truth = SlowTruth(asker, keys(NASTY))
    questions = ["白的作者是谁", "电影"]
    for question, found in zip(questions, scored(asker, nasty, questions, prior_weight=weight), strict=True):
        expected = truth.scores(question, weight)
        assert found.keys() <= expected.keys()
        assert len(found) >= 6, "all entries of the plausible subjects"
        source = truth.framed(asker.tokenizer.ids(question))
        for key, (score, subject, predicate) in found.items():
            assert score == pytest.approx(expected[key], abs=1e-3)
            assert subject == pytest.approx(truth.chain(source, (), key[0]), abs=1e-3)
            assert predicate == pytest.approx(truth.chain(source, key[0], key[1]), abs=1e-3)


def test_entries_of_a_subject_share_what_the_model_gives_it_and_its_predicates(asker, nasty):
    (found,) = scored(asker, nasty, ["白蛇的导演"], beams=8)
    of_subject = {}
    for (subject, predicate, _), (score, named, asked) in found.items():
        scores, predicates = of_subject.setdefault((subject, named), ([], {}))
        scores.append(score)
        predicates[predicate] = asked
    assert len(of_subject) == 2, "one log p(S | Q) a subject"
    for (_, named), (scores, predicates) in of_subject.items():
        held = OF_MASS * np.logaddexp.reduce(list(predicates.values()))
        assert np.logaddexp.reduce(scores) == pytest.approx(named + held, abs=1e-6)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_subject_with_too_many_entries_is_scored_as_if_all_were_listed(asker, nasty, most):
    """The wide beam below such a subject finds everything here, so nothing may change: groups, senses, order."""
    questions = ["白的作者是谁", "白蛇", "小说"]
    cut = scored(tiny_asker(most_candidates=most), nasty, questions)
    for few, all_of in zip(cut, scored(asker, nasty, questions), strict=True):
        assert few.keys() == all_of.keys()
        for key in few:
            np.testing.assert_allclose(few[key], all_of[key], atol=1e-3)


def test_a_batch_scores_like_its_questions_alone(asker, tmp_path):
    with built(FACTS, tmp_path / "kb") as kb:
        together = scored(asker, kb, QUESTIONS)
        for question, batched in zip(QUESTIONS, together, strict=True):
            (alone,) = scored(asker, kb, [question])
            assert alone.keys() == batched.keys()
            for key in alone:
                np.testing.assert_allclose(alone[key], batched[key], atol=1e-3)


def test_the_prior_takes_away_what_a_predicate_has_without_the_question(asker, nasty):
    """With weight 1 the question's own part remains: log p(P | S, Q) - log p(P | S)."""
    (found,) = scored(asker, nasty, ["白"], prior_weight=1.0)
    mine = {key: score for key, (score, *_) in found.items() if len(key[0]) == 2}
    shares = {key: score - np.logaddexp.reduce(list(mine.values())) for key, score in mine.items()}
    # the question IS the empty question: prior and posterior cancel, predicates are left equal, senses too
    by_predicate = {}
    for (_, predicate, _), share in shares.items():
        by_predicate.setdefault(predicate, []).append(share)
    assert len(by_predicate) == 3
    for of_predicate in by_predicate.values():
        np.testing.assert_allclose(of_predicate, -np.log(3) - np.log(len(of_predicate)), atol=1e-3)


def _with_opinions(nasty, monkeypatch, fit):
    """Scores of a question with two subjects, for a matcher that thinks nothing but `fit`; and what it was asked."""
    asker, wanted = tiny_asker(), []

    def answer(owner, subject, predicate):
        name = asker.tokenizer.decode(subject), asker.tokenizer.decode(predicate)
        wanted.append(name)
        return fit[name[0]]

    monkeypatch.setattr(type(asker), "_opinions", lambda self, ids, how: (None, answer))
    (found,) = scored(asker, nasty, ["白蛇的导演"], beams=8)
    return found, wanted


def test_a_subject_that_lacks_what_is_asked_is_taken_for_less_likely(nasty, monkeypatch):
    """One predicate has the whole share of its subject, whatever was asked: that alone must not make it the answer."""
    equal, wanted = _with_opinions(nasty, monkeypatch, {"白": 0.0, "白蛇": 0.0})
    assert sorted(name for name, _ in wanted) == ["白", "白蛇"], "asked once for each subject"
    decode = tiny_asker().tokenizer.decode
    for subject, predicate in wanted:  # and for the predicate that has most of its subject's share
        shares = {}
        for key, (score, *_) in equal.items():
            if decode(np.array(key[0][:-1])) == subject:
                name = decode(np.array(key[1][:-1]))
                shares[name] = np.logaddexp(shares.get(name, -np.inf), score)
        assert predicate == max(shares, key=lambda name: shares[name])
    less, _ = _with_opinions(nasty, monkeypatch, {"白": -10.0, "白蛇": 0.0})
    for key, (score, *_) in less.items():
        assert score == pytest.approx(equal[key][0] - (10 * OF_FIT if len(key[0]) == 2 else 0), abs=1e-6)


def test_where_one_subject_was_found_the_matcher_is_not_asked(nasty, monkeypatch):
    asker = tiny_asker()

    def never(*_):
        raise AssertionError("the only subject has no rival")

    monkeypatch.setattr(type(asker), "_opinions", lambda self, ids, how: (None, never))
    (found,) = scored(asker, nasty, ["白蛇的导演"], beams=1)
    assert len({key[0] for key in found}) == 1
