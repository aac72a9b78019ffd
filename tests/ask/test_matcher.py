"""The matcher: its formula by the slow truth, what it learns, how it is kept, and that the asker listens to it."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.ask.small import FACTS, TOKENIZER, built, shown, tiny_asker
from tianwen.ask import candidates, matcher_learning
from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.facts import Fact
from tianwen.ask.matcher import (
    FILE,
    GAP,
    Matcher,
    WordMatcher,
    known_predicates,
    padded,
    predicate_words,
    scripts_of,
    with_asked,
    without_subject,
)
from tianwen.ask.matcher_learning import Comparisons, MatcherSettings, _asked, matcher_loss, train_matcher
from tianwen.ask.questions import Question
from tianwen.cli import app
from tianwen.errors import InputError, ModelError, TrainingError
from tianwen.training.weights import save_weights
from tianwen.words.lists import Words, units_of
from tianwen.words.table import WordTable

COMMON = ["味道", "口感", "谁", "导演", "写", "作者", "小说", "时间", "发射", "日期", "when", "operator", "runs"]
ASKED = ["怎么样"]


def vectors(seed=0):
    table = np.random.default_rng(seed).normal(size=(len(COMMON), 8)).astype(np.float32)
    table[1] = table[0] + 0.1 * table[1]  # 口感 is nearly 味道
    table[5] = table[4] + 0.1 * table[5]  # 作者 nearly 写
    return table / np.linalg.norm(table, axis=1, keepdims=True)


TABLE = WordTable.of(COMMON, vectors())


def matcher(seed=0):
    torch.manual_seed(seed)
    model = WordMatcher(with_asked(TABLE, ASKED), scripts_of([*COMMON, *ASKED]), [len(COMMON), 2])  # in any order
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
        model.own.weight[0] = model.own_weight.weight[0] = 0
    return Matcher(model, TABLE, ASKED)


def slow(matcher, question, subject, predicate):
    """The formula, word by word."""
    m = {name: value.detach().double().numpy() for name, value in matcher.model.state_dict().items()}
    table, rarity = matcher.model.vectors.double().numpy(), matcher.model.rarity.double().numpy()
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    text = without_subject(question, subject)
    asked, (told, unknown) = matcher.words.inside(text), predicate_words(matcher.words, matcher.common, predicate)

    def part(linear, number):
        """The columns for the script of a word."""
        width, western = table.shape[1], "a" <= matcher.words.words[number][0] <= "z"
        return linear[:, width : 2 * width] if western else linear[:, :width]

    def word(number, side):
        slot = int(matcher.model.slot[number]) if side == "question" else 0
        v = table[number] + m["own.weight"][slot]
        of_weight = m[f"{side}_weight.weight"]
        *_, han, western, of_rarity = of_weight[0]
        linear = part(of_weight, number)[0] @ v + of_rarity * rarity[number] + m[f"{side}_weight.bias"][0]
        linear += western if part(np.arange(2 * len(v))[None], number)[0, 0] else han
        weight = softplus(linear + m["own_weight.weight"][slot, 0])
        return part(m[f"{side}_whole.weight"], number) @ v, weight, unit(v + part(m[f"of_{side}.weight"], number) @ v)

    def whole(words, side):
        mean = sum((w * v for v, w, _ in words), np.zeros(table.shape[1])) / (sum(w for _, w, _ in words) + 1e-6)
        return unit(mean + m[f"{side}_whole.bias"])

    q, p = [word(n, "question") for n in asked], [word(n, "predicate") for n in told]
    u = softplus(m["unknown_weight"])
    literal = sum(unit_ in units_of(text) for unit_ in unknown)
    total = sum(w for _, w, _ in p) + u * len(unknown) + 1e-6
    near = sum(w * max([float(z @ y) for _, _, y in q] + [float(m["none"])]) for _, w, z in p)
    near += u * (m["literal"] * literal + m["none"] * (len(unknown) - literal))
    gone = u * len(unknown) / total
    both = (1 - gone) * whole(q, "question") @ whole(p, "predicate") + gone * literal / max(1, len(unknown))
    return np.exp(m["log_scale"]) * (near / total + m["share_of_whole"] * both)


@pytest.mark.parametrize(
    ("question", "subject"),
    [("红酒的味道怎么样", "红酒"), ("who runs ESA", "esa"), ("ÿ?", ""), ("x号是谁写的小说", "x号")],
)
def test_scores_are_those_of_the_formula(question, subject):
    predicates = ["口感", "导演", "作者姓名", "发射时间", "operator", "怎么样", "runs ESA", "号", "？", "？ÿz口感"]
    found = matcher().scores(question, subject, predicates)
    np.testing.assert_allclose(found, [slow(matcher(), question, subject, p) for p in predicates], rtol=2e-3, atol=1e-3)
    one_by_one = [matcher().scores(question, subject, [p])[0] for p in predicates]
    np.testing.assert_allclose(found, one_by_one, rtol=1e-4, atol=1e-4)
    assert len(matcher().scores(question, subject, [])) == 0


def test_the_subject_leaves_a_gap_that_no_word_spans():
    assert without_subject("口红感", "红") == f"口{GAP}感"
    assert without_subject("Who runs NASA?", "nasa") == f"Who runs {GAP}?"
    assert without_subject("谁", "") == "谁"
    assert without_subject("İX的作者", "x") == "İX的作者"  # lower case of İ is longer: nothing is cut at a wrong place
    assert matcher().words.inside(without_subject("口红感", "红")) == []


def test_a_word_that_only_questions_have_covers_no_part_of_a_predicate():
    words = Words(["口感", "怎", "怎么", "怎么样"])
    assert predicate_words(words, 2, "口感怎么样") == ([0, 1], ["么", "样"])
    assert predicate_words(words, 4, "口感怎么样") == ([0, 3, 2], [])


def test_rows_are_cut_and_filled():
    assert padded([[1, 2, 3], [], [4]], 2).tolist() == [[1, 2], [-1, -1], [4, -1]]
    assert padded([[]], 5).tolist() == [[-1]]


def test_it_is_kept_and_read_back(tmp_path):
    one = matcher()
    one.save(tmp_path)
    two = Matcher.load(tmp_path)
    assert two is not None
    assert (two.words.words, two.common) == (one.words.words, one.common) == (COMMON + ASKED, len(COMMON))
    given = ("红酒的味道怎么样", "红酒", ["口感", "导演", "作者"])
    np.testing.assert_allclose(two.scores(*given), one.scores(*given), atol=0.2)  # int8
    (tmp_path / "again").mkdir()
    two.save(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()
    assert Matcher.load(tmp_path / "none") is None


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    matcher().save(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[-20] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        Matcher.load(tmp_path)
    tiny_asker().save(tmp_path / "asker")
    (tmp_path / FILE).write_bytes((tmp_path / "asker" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="no matcher"):
        Matcher.load(tmp_path)


def test_the_asker_adds_its_opinion_and_keeps_it(tmp_path):
    base = tiny_asker(prior_weight=0.5, match_weight=3.0)
    listening = Asker(base.model, TOKENIZER, base.settings, matcher=matcher())
    question = "白蛇传是谁写的小说"
    with built(
        [*FACTS, *(type(FACTS[0])("白蛇传", p, "?") for p in ("导演", "口感", "发射时间"))], tmp_path / "kb"
    ) as kb:
        plain, heard = base.ask(question, kb, top=9), listening.ask(question, kb, top=9)
        assert shown(listening.ask(question, kb, top=9, match_weight=0.0)) == shown(plain)
        mine = [a for a in plain if a.subject == "白蛇传"]
        opinion = listening.matcher.scores(question, "白蛇传", [a.predicate for a in mine])  # type: ignore[union-attr]
        want = np.log([a.probability for a in mine]) + 3.0 * opinion
        want = dict(zip([a.predicate for a in mine], want - np.log(np.exp(want).sum()), strict=True))
        found = [a for a in heard if a.subject == "白蛇传"]
        total = np.log(sum(a.probability for a in found))
        for answer in found:
            assert np.log(answer.probability) - total == pytest.approx(want[answer.predicate], abs=0.02)
        listening.save(tmp_path / "model")
        again = Asker.load(tmp_path / "model")
        assert again.matcher is not None
        assert [a.predicate for a in again.ask(question, kb, top=9)] == [a.predicate for a in heard]


QUESTIONS = "\n".join(
    f"{subject}的{asked}\t{subject}\t{predicate}\tx"
    for subject in ("红酒", "白蛇", "天问")
    for asked, predicate in (("味道怎么样", "口感"), ("谁写的", "作者"), ("谁拍的", "导演"), ("when", "发射时间"))
)
SMALL = MatcherSettings(steps=60, batch=8, synthetic=0.0, asked=3, others=2, learning_rate=1e-2)


def files(folder):
    (folder / "q.tsv").write_text(QUESTIONS, encoding="utf-8")
    TABLE.save(folder / "words.safetensors")
    return [folder / "q.tsv"], folder / "words.safetensors"


def test_subjects_are_compared_by_how_far_they_have_what_is_asked(tmp_path, monkeypatch):
    facts = [Fact("红酒", "口感", "1"), Fact("红酒", "导演", "2"), Fact("红", "作者", "3"), Fact("红", "日期", "4")]
    one = matcher()
    known = known_predicates(one.words, one.common, ["味道", "时间", "日期", "导演", "作者"])
    question, plain = "红酒的味道怎么样", tiny_asker()
    with built(facts, tmp_path / "kb") as kb:

        def best(known, power):
            monkeypatch.setattr(candidates, "OF_FIT", power)
            asker = Asker(plain.model, plain.tokenizer, plain.settings, matcher=Matcher(one.model, TABLE, ASKED, known))
            snapshot = kb.snapshot()
            with torch.inference_mode():
                _, found = asker.candidates([asker.question_ids(question)], snapshot, AskOptions(beams=8))
            of = {}
            for row in range(len(found)):
                fact = snapshot.facts(found.state[row])[0]
                of[fact.subject] = max(of.get(fact.subject, (-np.inf, "")), (found.score[row], fact.predicate))
            return asker.matcher, of

        (_, without), (listening, with_fit) = best(known, 0.0), best(known, 2.0)
        assert without.keys() == {"红", "红酒"}
        assert listening is not None
        fits = {s: listening.fit(question, s, predicate) for s, (_, predicate) in without.items()}
        assert fits["红"] != pytest.approx(fits["红酒"], abs=0.1)
        for subject, (score, _) in with_fit.items():
            assert score == pytest.approx(without[subject][0] + 2.0 * fits[subject], abs=1e-4)
        by_mass = best(None, 2.0)[1]
        assert by_mass == best(None, 0.0)[1], "one that knows nothing is not asked"
        monkeypatch.setattr(candidates, "OF_MASS", 0.0)
        assert by_mass != best(None, 0.0)[1], "then what the model itself gives to a subject's predicates counts"


def test_scripts_are_told_apart():
    words = ["art", "é", "нет", "3d", "'s", "白", "の", "", ":how", "nba"]
    assert scripts_of(words).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]


def test_training_learns_which_words_ask_for_what(tmp_path):
    questions, _ = files(tmp_path)
    learnt = train_matcher(questions, TABLE, tmp_path / "out", settings=SMALL, quiet=True)
    predicates = ["口感", "作者", "导演", "发射时间"]
    for asked, right in (("味道怎么样", "口感"), ("谁写的", "作者"), ("谁拍的", "导演"), ("when", "发射时间")):
        assert predicates[int(learnt.scores(f"魔戒的{asked}", "魔戒", predicates).argmax())] == right
    assert "拍的" in learnt.words.words[learnt.common :]
    again = Matcher.load(tmp_path / "out")
    assert again is not None
    assert again.scores("红酒的味道", "红酒", ["口感", "导演"]).argmax() == 0


def stopping_at(step, monkeypatch):
    """Let that call of the loss fail, once; gives the list whose only entry counts the calls."""
    calls = [0]

    def stopping(model, batch):
        calls[0] += 1
        if calls[0] == step:
            raise RuntimeError("stop")
        return matcher_loss(model, batch)

    monkeypatch.setattr("tianwen.ask.matcher_learning.matcher_loss", stopping)
    return calls


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    questions, _ = files(tmp_path)
    whole = train_matcher(questions, TABLE, tmp_path / "whole", settings=SMALL, quiet=True)
    calls = stopping_at(31, monkeypatch)
    with pytest.raises(RuntimeError, match="stop"):
        train_matcher(questions, TABLE, tmp_path / "cut", settings=SMALL, quiet=True, checkpoint_every=10)
    parts = train_matcher(questions, TABLE, tmp_path / "cut", settings=SMALL, quiet=True, checkpoint_every=10)
    assert calls[0] < 31 + 60  # it did go on, not begin anew
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_words_that_are_learnt_stand_in_one_order_in_every_process():
    questions = [Question(text, "天问", "导演") for text in ("天问谁拍的呀", "天问是哪家拍的")]
    added, asked = _asked(TABLE, questions, 1)
    assert added[:4] == ["谁拍", "谁拍的", "拍", "拍的"]  # by first place: a set's order is another in each process
    assert asked == sorted([COMMON.index("谁"), *range(len(COMMON), len(COMMON) + len(added))])


def test_what_a_predicate_is_among_those_that_are_known():
    one = matcher()
    known = known_predicates(one.words, one.common, ["口感", "导演", "作者小说", "口感", "龘口感", "小说作者"])
    assert known.shape == (4, 6)  # each once, and none with a part that has no word
    one = Matcher(one.model, TABLE, ASKED, known)
    question, subject = "红酒的味道怎么样", "红酒"
    scores = {p: slow(one, question, subject, p) for p in ("口感", "导演", "作者小说", "小说作者", "发射日期", "龘")}
    others = [scores[p] for p in ("口感", "导演", "作者小说", "小说作者")]
    for predicate in ("口感", "作者小说"):
        want = scores[predicate] - np.log(np.exp(others).sum())
        assert one.fit(question, subject, predicate) == pytest.approx(want, abs=0.02)
    for predicate in ("发射日期", "龘"):  # not known: counted beside the others
        want = scores[predicate] - np.log(np.exp([*others, scores[predicate]]).sum())
        assert one.fit(question, subject, predicate) == pytest.approx(want, abs=0.02)
    assert matcher().fit(question, subject, "口感") == 0


def test_known_predicates_are_kept_and_only_the_nearest_are_compared(tmp_path, monkeypatch):
    one = matcher()
    known = known_predicates(one.words, one.common, COMMON)
    one = Matcher(one.model, TABLE, ASKED, known)
    one.save(tmp_path)
    again = Matcher.load(tmp_path)
    assert again is not None
    assert torch.equal(again.known, one.known)
    given = ("红酒的味道怎么样", "红酒", "口感")
    assert again.fit(*given) == pytest.approx(one.fit(*given), abs=0.1)
    whole = one.fit(*given)
    monkeypatch.setattr("tianwen.ask.matcher.NEAREST", 2)
    assert 0 >= one.fit(*given) > whole


def test_nothing_to_learn_from_is_told(tmp_path):
    (tmp_path / "empty.tsv").write_text("question\tsubject\tpredicate\n", encoding="utf-8")
    with pytest.raises(InputError):
        train_matcher([tmp_path / "empty.tsv"], TABLE, tmp_path / "out", settings=SMALL)


def test_the_command_trains_one_for_an_asker(tmp_path):
    questions, words = files(tmp_path)
    tiny_asker().save(tmp_path / "model")
    begin = ["train", "matcher", "--words", str(words), "--questions", str(questions[0]), "--steps", "3", "-q"]
    assert CliRunner().invoke(app, [*begin, "--model", str(tmp_path / "none")]).exit_code == 2
    done = CliRunner().invoke(app, [*begin, "--model", str(tmp_path / "model"), "--json"])
    assert done.exit_code == 0, done.output
    assert Asker.load(tmp_path / "model").matcher is not None
    before = (tmp_path / "model" / FILE).read_bytes()
    refused = CliRunner().invoke(app, [*begin, "--model", str(tmp_path / "model")])
    assert refused.exit_code == 2
    assert "--replace" in refused.output
    assert (tmp_path / "model" / FILE).read_bytes() == before
    assert CliRunner().invoke(app, [*begin, "--model", str(tmp_path / "model"), "--replace"]).exit_code == 0


def test_a_predicate_asked_for_often_counts_like_its_square_root():
    questions = [Question(f"天问的作者{n}", "天问", "作者") for n in range(100)] + [
        Question("天问的导演", "天问", "导演")
    ]
    source = Comparisons(questions, Words(COMMON), len(COMMON), MatcherSettings(batch=64, near=0, others=0))
    drawn = [source._draw(random.Random(n)).predicate for n in range(2000)]
    assert 0.06 < drawn.count("导演") / 2000 < 0.13  # 1 / (1 + sqrt(100)) = .09


def test_wrong_predicates_are_of_both_languages_and_near_ones_share_a_word():
    """A question in English compared with Chinese predicates alone would teach nothing."""
    questions = [Question("天问的作者", "天问", "作者"), Question("天问的导演", "天问", "导演")]
    english = ["launch date", "launch site", "cost"]
    invented = [Question("when was X launched", "X", "launch date")]
    settings = MatcherSettings(batch=4, near=0, others=60, synthetic=0.5)
    words = Words(["作者", "导演", *sorted({word for name in english for word in name.split()})])
    told = {"invent": lambda chance: chance.choice(invented), "invented_predicates": english}
    source = Comparisons(questions, words, len(words), settings, **told)
    for index in range(5):
        batch = source.batch(index, 0, 1)
        assert batch is not None
        compared = {tuple(row[row >= 0].tolist()) for row in batch["predicate"]}
        assert compared == {(0,), (1,), *(tuple(words.cover(name)[0]) for name in english)}
    assert {source._near("launch date", random.Random(n)) for n in range(30)} == {"launch date", "launch site"}
    assert {source._near("作品", random.Random(n)) for n in range(30)} >= {"作者"}


def test_question_words_of_invented_questions_learn_a_vector_of_their_own(tmp_path):
    """Where all real questions are Chinese, "when" and "how" still must learn what they ask for."""
    questions, _ = files(tmp_path)
    new = ["how", "birth", "birthday", "date"]
    table = WordTable.of([*COMMON, *new], np.concatenate([vectors(3), vectors(4)[: len(new)]]))
    settings = MatcherSettings(steps=1, batch=4, near=0, others=4, synthetic=0.5, english=1.0)
    matcher = train_matcher(questions, table, tmp_path / "out", settings=settings, quiet=True)
    slot = matcher.model.slot
    assert slot[table.words.index("when")] > 0
    assert slot[table.words.index("how")] > 0
    birth, birthday, date = (matcher.words.number(word) for word in new[1:])
    known = [set(row) - {-1} for row in matcher.known.tolist()]
    assert {birth, date} in known
    assert {birthday} not in known, "of names of one thing only one is known"
    silent = train_matcher(questions, table, tmp_path / "none", settings=replace(settings, synthetic=0.0), quiet=True)
    assert silent.model.slot[table.words.index("when")] == 0


@pytest.mark.parametrize("english", [0.0, 0.5])
def test_a_matcher_that_meets_no_english_is_not_taught_english_predicates(tmp_path, monkeypatch, english):
    sources = []
    monkeypatch.setattr(matcher_learning, "fit", lambda model, loss, source, **how: sources.append(source))
    settings = replace(SMALL, synthetic=0.5, english=english)
    train_matcher(files(tmp_path)[0], TABLE, tmp_path / "out", settings=settings, quiet=True)
    assert bool(sources[0].invented) == bool(english)


def stopped(tmp_path, monkeypatch, table):
    """A training that was stopped after its first checkpoint."""
    questions, _ = files(tmp_path)
    stopping_at(5, monkeypatch)
    with pytest.raises(RuntimeError, match="stop"):
        train_matcher(questions, table, tmp_path / "out", settings=SMALL, quiet=True, checkpoint_every=2)
    return questions


def test_a_stopped_training_does_not_go_on_with_another_table(tmp_path, monkeypatch):
    questions = stopped(tmp_path, monkeypatch, TABLE)
    with pytest.raises(TrainingError, match=f"data.table was '{TABLE.fingerprint}'"):
        train_matcher(questions, WordTable.of(COMMON, vectors(5)), tmp_path / "out", settings=SMALL, quiet=True)
    train_matcher(questions, TABLE, tmp_path / "out", settings=SMALL, quiet=True)


def test_a_finished_matcher_is_replaced_from_the_start_whatever_the_settings(tmp_path):
    questions, words = files(tmp_path)
    tiny_asker().save(tmp_path / "model")
    begin = ["train", "matcher", "--words", str(words), "--questions", str(questions[0]), "-q"]
    model = ["--model", str(tmp_path / "model")]
    assert CliRunner().invoke(app, [*begin, *model, "--steps", "2"]).exit_code == 0
    first = Matcher.load(tmp_path / "model")
    done = CliRunner().invoke(app, [*begin, *model, "--steps", "4", "--seed", "1", "--replace"])
    assert done.exit_code == 0, done.output
    second = Matcher.load(tmp_path / "model")
    assert first is not None
    assert second is not None
    assert not torch.equal(first.model.question_whole.weight, second.model.question_whole.weight)


def test_a_matcher_without_words_of_questions_comes_back_without(tmp_path):
    model = WordMatcher(TABLE.vectors, scripts_of(COMMON), [])
    Matcher(model, TABLE).save(tmp_path)
    again = Matcher.load(tmp_path)
    assert again is not None
    assert again.asked_words == []
    assert torch.equal(again.model.rarity, model.rarity)


def test_a_matcher_of_an_older_form_says_what_to_do(tmp_path):
    save_weights(tmp_path / FILE, {"a": torch.zeros(2)}, {"architecture": "tianwen matcher 1"})
    with pytest.raises(ModelError, match=f"train matcher --model {tmp_path} --questions FILE --replace; or remove"):
        Matcher.load(tmp_path)


@pytest.mark.parametrize("known", [[], ["口感"], ["口感", "导演"], ["龘"]])
def test_nothing_and_odd_characters_have_a_fit_too(known):
    one = matcher()
    one = Matcher(one.model, TABLE, ASKED, known_predicates(one.words, one.common, known))
    for question, subject, predicate in [
        ("", "", ""),
        ("红酒", "红酒", "口感"),
        ("", "", "口感"),
        ("红酒的味道", "红酒", ""),
        ("x" * 999, "x", "口感" * 99),
        ("\ud800\0", "\ud800", "\ud800龘"),
    ]:
        found = one.fit(question, subject, predicate)
        assert found <= 1e-6
        assert np.isfinite(found)
        if known in ([], ["龘"]) or (known == ["口感"] and predicate == "口感"):
            assert found == pytest.approx(0, abs=1e-6)


def test_a_byte_that_is_no_text_is_no_word_that_questions_have():
    questions = [Question("天问\ud800\ud801谁拍的", "天问", "导演")] * 3
    added, _ = _asked(TABLE, questions, 3)
    "".join(added).encode()
    assert "谁拍" in added


def test_what_is_kept_changes_no_score():
    """Questions and predicates that were read are kept; a copy, or more of them than are kept, score alike."""
    one, predicates = matcher(), ["口感", "导演", "runs ESA"]
    first = [one.scores(f"{n}号红酒的味道", f"{n}号", predicates) for n in range(3)]
    for n in range(200):
        one.scores(f"第{n}次是谁写的小说", "", [f"作者{n}"])
    assert len(one._sides) <= 128
    for other in (one, copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        for n in range(3):
            np.testing.assert_array_equal(other.scores(f"{n}号红酒的味道", f"{n}号", predicates), first[n])
    changed = copy.deepcopy(one)
    changed._sides.clear()
    with torch.no_grad():
        changed.model.log_scale += 1
    assert not np.allclose(changed.scores("0号红酒的味道", "0号", predicates), first[0])
    np.testing.assert_array_equal(one.scores("0号红酒的味道", "0号", predicates), first[0])
