"""Asking as a user does: options, odd questions, odd knowledge bases, threads, and what answers must not depend on."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.ask.small import FACTS, QUESTIONS, TOKENIZER, built, same_answers, shown, tiny_asker
from tianwen.ask.asker import AskOptions, Trace, _by_object
from tianwen.ask.facts import Fact
from tianwen.ask.model_files import AskerSettings
from tianwen.errors import InputError, ModelError, WrongTokenizer
from tianwen.text import Tokenizer


@pytest.fixture(scope="module")
def asker():
    return tiny_asker()


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return built(FACTS, tmp_path_factory.mktemp("small") / "kb")


EVERYTHING = {"scoring": "path", "search": "exact", "top": 1000}
"""Options that list every entry of a knowledge base."""


def test_one_question_or_many(asker, kb):
    one, many = asker.ask(QUESTIONS[0], kb), asker.ask(QUESTIONS, kb)
    assert isinstance(one[0].objects, list)
    assert len(many) == len(QUESTIONS)
    same_answers([one], many[:1])
    assert asker.ask([], kb) == []
    same_answers(asker.ask(tuple(QUESTIONS), kb.snapshot()), many)


@pytest.mark.parametrize("options", [{}, {"scoring": "path"}, {"search": "beam", "beams": 2}])
def test_a_batch_answers_like_its_questions_alone(asker, kb, options):
    together = asker.ask(QUESTIONS, kb, top=5, **options)
    same_answers(together, [asker.ask(question, kb, top=5, **options) for question in QUESTIONS])
    in_twos = list(asker.answers(QUESTIONS, kb, AskOptions(top=5, **options), batch=2))
    same_answers(together, in_twos)


def test_savings_change_nothing_but_the_calls(asker, kb):
    traces = {}
    for name in ("fast", "slow"):
        options = {"forced_chains": name == "fast", "speculate": name == "fast"}
        for scoring in ("prior", "path"):
            how = AskOptions(top=4, scoring=scoring, **options)
            traces[name, scoring] = trace = Trace()
            traces[name, scoring, "answers"] = list(asker.answers(QUESTIONS, kb, how, trace=trace))
            assert trace.questions == len(QUESTIONS)
    for scoring in ("prior", "path"):
        same_answers(traces["fast", scoring, "answers"], traces["slow", scoring, "answers"])
        assert traces["fast", scoring].model_calls < traces["slow", scoring].model_calls


def test_evidence_does_not_depend_on_how_tokens_were_fed(kb):
    """Forced chains and speculation skip calls; the probability that there is an answer must not notice."""
    doubting = tiny_asker(evidence=(3.0, 0.4, 0.1, 0.0))
    plain = doubting.ask(QUESTIONS, kb, top=3, forced_chains=False, speculate=False)
    same_answers(doubting.ask(QUESTIONS, kb, top=3), plain)


def test_probabilities_rank_answers_and_add_up(asker, kb):
    for answers in asker.ask(QUESTIONS, kb, top=1000):
        probability = [answer.probability for answer in answers]
        assert probability == sorted(probability, reverse=True)
        assert sum(probability) == pytest.approx(1.0)
        assert len({(a.subject, a.predicate, a.sense) for a in answers}) == len(answers)


def test_several_objects_come_with_their_sources_in_the_order_given(asker, kb):
    (answer,) = asker.ask("How many moons has Mars?", kb)
    assert (answer.predicate, answer.objects, answer.sources) == ("moons", ["Phobos", "Deimos"], ["IAU", "NASA"])


def test_top_beyond_the_number_of_entries_gives_them_all_once(asker, kb):
    answers = asker.ask("白蛇", kb, **EVERYTHING)
    assert {(a.subject, a.predicate, a.sense) for a in answers} == {(f.subject, f.predicate, f.sense) for f in FACTS}
    assert len(answers) == len({(f.subject, f.predicate, f.sense) for f in FACTS})
    assert {fact for answer in answers for fact in answer.objects} == {fact.object for fact in FACTS}


def test_threshold_marks_what_is_not_known(asker, kb):
    best, second, *_ = asker.ask(QUESTIONS[4], kb, top=3)
    between = (best.probability + second.probability) / 2
    assert [a.known for a in asker.ask(QUESTIONS[4], kb, top=2, threshold=between)] == [True, False]
    assert best.known, "the settings' own threshold is 0"
    assert not tiny_asker(threshold=1.0).ask(QUESTIONS[4], kb)[0].known
    assert tiny_asker(threshold=1.0).ask(QUESTIONS[4], kb, threshold=0.0)[0].known


def test_no_facts_no_answers(asker, tmp_path):
    with built([], tmp_path / "kb") as empty:
        assert asker.ask(QUESTIONS, empty) == [[]] * len(QUESTIONS)
        with pytest.raises(InputError):
            asker.ask(" ", empty)
        empty.add(FACTS[:1])
        assert shown(asker.ask("？", empty)) == [("白蛇", "导演", "电影", ("黄家康",), ("片尾",), True)]
        empty.remove("白蛇")
        assert asker.ask("白蛇", empty) == []


@pytest.mark.parametrize("options", [{}, {"scoring": "path"}, {"search": "beam"}, {"prior_weight": 0.0}, {"beams": 99}])
def test_one_fact_is_the_answer_to_everything(asker, tmp_path, options):
    fact = Fact("天问一号", "发射时间", "2020年7月23日", source="国家航天局")
    with built([fact], tmp_path / "kb") as one:
        for answers in asker.ask(QUESTIONS, one, top=10, **options):
            assert shown(answers) == [("天问一号", "发射时间", "", ("2020年7月23日",), ("国家航天局",), True)]
            assert answers[0].probability == 1.0


def test_one_fact_is_doubted_where_the_question_does_not_speak_of_it(tmp_path):
    """A tree of one entry forces everything; the evidence must come from what the model itself would have said."""
    doubting = tiny_asker(evidence=(2.0, 0.5, 0.0, 0.0))
    with built([Fact("天问一号", "发射时间", "2020年")], tmp_path / "kb") as one:
        (named,), (other,) = doubting.ask(["天问一号什么时候发射？", "How many moons has Mars?"], one)
        assert other.probability < named.probability < 1
        assert other.probability < 0.05


# Questions


@pytest.mark.parametrize("question", ["", " ", "\n\t\u3000\u00a0", "\u2028"])
def test_nothing_is_no_question(asker, kb, question):
    with pytest.raises(InputError, match="empty"):
        asker.ask(question, kb)


@pytest.mark.parametrize("question", ["🚀", "\x00", "\ud83d", "\udcff\ud800天", "\u202e\ufeff", "[SEP]", "\x1b[2J"])
def test_odd_characters_are_a_question_like_any_other(asker, kb, question):
    assert asker.ask(question, kb)


def test_questions_beyond_the_limit(kb):
    short = tiny_asker(max_question=8)
    assert short.ask("白" * 8, kb)
    with pytest.raises(InputError, match="9 tokens, at most 8"):
        short.ask("白" * 9, kb)
    with pytest.raises(InputError, match="at most 8"):
        short.ask("🦜" * 3, kb)  # four bytes each
    with pytest.raises(InputError, match="1,000,000 characters"):
        short.ask("天" * 1_000_000, kb)
    with pytest.raises(InputError, match="characters"):
        short.ask(" " * 1_000_000, kb)


@pytest.mark.parametrize("question", [None, 3, b"abc", ["x"]])
def test_only_a_text_is_a_question(asker, kb, question):
    with pytest.raises(InputError, match="is a text, not"):
        asker.ask([question], kb)


def test_specials_of_the_model_do_not_come_from_text(asker):
    ids = asker.question_ids("[SEP] a [CLS] [PAD]")
    special = {TOKENIZER.sep_id, TOKENIZER.cls_id, TOKENIZER.pad_id, TOKENIZER.unk_id, TOKENIZER.mask_id}
    assert not special & set(ids[1:-1].tolist())
    assert (ids[0], ids[-1]) == (TOKENIZER.cls_id, TOKENIZER.sep_id)


# Options and settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"top": 0},
        {"beams": 0},
        {"search": "greedy"},
        {"scoring": "lm"},
        {"threshold": 1.5},
        {"threshold": float("nan")},
    ],
)
def test_options_that_cannot_be_meant(asker, kb, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        asker.ask("白蛇", kb, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"threshold": -1.0}, {"most_candidates": 0}]
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(InputError):
        AskerSettings(**wrong)


def test_calibrated_probabilities():
    score, zeros = np.array([-1.0, -3.0, -2000.0]), np.zeros(3)
    plain = AskerSettings().calibrated(score, zeros, zeros)
    assert plain == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2)), 0.0])
    softer = AskerSettings(temperature=2.0).calibrated(score, zeros, zeros)
    assert softer[:2] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])
    doubting = AskerSettings(evidence=(1.0, 0.5, 0.25, 0.0))
    evidence = np.array([-4.0, 9.0, 9.0]), np.array([-8.0, 9.0, 9.0])  # only the best candidate's counts
    assert doubting.calibrated(score, *evidence) == pytest.approx(plain / (1 + np.exp(3.0)))
    unfit = AskerSettings(evidence=(1.0, 0.5, 0.25, 2.0)).calibrated(score, *evidence, -3.0)
    assert unfit == pytest.approx(plain / (1 + np.exp(9.0)))
    assert AskerSettings().calibrated(score - 1e9, zeros, zeros) == pytest.approx(plain)
    nowhere = doubting.calibrated(score, zeros - 1e9, zeros)
    assert nowhere == pytest.approx(doubting.calibrated(score, zeros - 1e3, zeros)), "not there is not there"
    assert 0 < nowhere.max() < 0.01
    assert AskerSettings().calibrated(np.array([-1e4]), zeros[:1], zeros[:1]) == [1.0]


def test_answers_too_unlikely_for_a_float_keep_their_order(kb):
    cold = tiny_asker(temperature=1e-3)
    for warm_answers, answers in zip(
        tiny_asker().ask(QUESTIONS, kb, top=9), cold.ask(QUESTIONS, kb, top=9), strict=True
    ):
        assert [row[:4] for row in shown(warm_answers)] == [row[:4] for row in shown(answers)]
        assert answers[-1].probability == 0.0


def test_a_model_that_gives_no_numbers_is_told(kb):
    broken = tiny_asker()
    with torch.no_grad():
        broken.model.copy_gate.bias.fill_(float("nan"))
    for scoring in ("prior", "path"):
        with pytest.raises(ModelError, match="damaged"):
            broken.ask("白蛇", kb, scoring=scoring)


def test_another_tokenizer_is_refused(kb):
    other = Tokenizer.train(["ab"], size=400, min_count=1)
    with pytest.raises(WrongTokenizer):
        tiny_asker(other).ask("白蛇", kb)


def test_bfloat16_answers_too(kb):
    answers = tiny_asker(bf16=True).ask(QUESTIONS, kb)
    assert [a[0].subject for a in answers[:3]] == [a[0].subject for a in tiny_asker().ask(QUESTIONS[:3], kb)]


# What answers must not depend on


@pytest.mark.parametrize("loud", [0.0, 8.0], ids=["all alike", "outspoken"])
@pytest.mark.parametrize("options", [{}, {"scoring": "path", "beams": 2}])
def test_the_order_of_the_facts_decides_no_tie(tmp_path, loud, options):
    """With a model to which all tokens are alike everything is a tie: a file sorted by luck would leak its answers."""
    model = tiny_asker(loud=loud)
    results = []
    for order in range(3):
        facts = FACTS[:]
        random.Random(order).shuffle(facts)
        facts.sort(key=lambda fact: (fact.subject, fact.predicate) == ("Mars", "moons"))  # keep these two in order
        facts.sort(key=lambda fact: FACTS.index(fact) if fact.predicate == "moons" else -1)
        with built(facts[: 4 * order + 1], tmp_path / str(order)) as kb:
            kb.add(facts[4 * order + 1 :])  # in other parts of the knowledge base, too
            results.append(model.ask(QUESTIONS, kb, top=4, **options))
    same_answers(results[0], results[1])
    same_answers(results[0], results[2])


def test_repeated_facts_change_nothing(asker, kb, tmp_path):
    with built(FACTS + FACTS[::-1], tmp_path / "kb") as twice:
        twice.add(FACTS)
        same_answers(asker.ask(QUESTIONS, twice, top=4), asker.ask(QUESTIONS, kb, top=4))


def test_two_threads_at_once(asker, kb):
    questions = QUESTIONS * 2
    alone = [asker.ask(question, kb, top=3) for question in questions]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda question: asker.ask(question, kb, top=3), questions))
    same_answers(together, alone)


def test_a_snapshot_answers_as_of_its_time(asker, tmp_path):
    with built(FACTS, tmp_path / "kb") as kb:
        before = kb.snapshot()
        answers = asker.ask(QUESTIONS, before, top=4)
        kb.remove("Mars")
        kb.add([Fact("Mars", "colour", "red")])
        same_answers(asker.ask(QUESTIONS, before, top=4), answers)
        assert {a.predicate for a in asker.ask("Mars", kb, **EVERYTHING) if a.subject == "Mars"} == {"colour"}


def test_spellings_that_the_tokenizer_reads_alike_are_kept_apart(asker, tmp_path):
    facts = [Fact("CO", "melting point", "68 K"), Fact("Co", "melting point", "1768 K")]
    with built(facts, tmp_path / "kb") as kb:
        for subject, melts in (("CO", ["68 K"]), ("Co", ["1768 K"])):
            (answer,) = asker.ask(f"What is the melting point of {subject}?", kb)
            assert (answer.subject, answer.objects) == (subject, melts)
        (answer,) = asker.ask("ＣＯ 的熔点", kb)
        assert answer.objects == ["68 K", "1768 K"], "not spelt like either: both"


def test_asking_leaves_the_model_fit_for_training(kb):
    from tianwen.ask.mixture import ask_loss, collate

    asker = tiny_asker()
    asker.ask(QUESTIONS, kb)
    example = np.array([2, 9, 9, 3]), np.array([9, 3, 8, 3, 3])
    loss, _ = ask_loss(asker.model.train(), collate([example]))
    loss.backward()
    assert all(p.grad is not None for p in asker.model.parameters())


def test_what_two_sources_say_alike_is_one_answer_with_both():
    facts = [
        Fact("火星", "卫星", name, source=source) for name, source in (("A", "x"), ("B", "x"), ("A", "y"), ("A", "x"))
    ]
    assert _by_object(facts) == (["A", "B"], ["x; y", "x"])
    assert _by_object([Fact("火星", "卫星", "A")]) == (["A"], [""])
