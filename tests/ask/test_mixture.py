"""Training examples: batches that are a pure function of their number, shares as asked, and the mask of the post."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from tests.ask.small import QUESTIONS, TOKENIZER, tiny_model
from tianwen.ask.mixture import Mixture, MixtureSettings, ask_loss, collate
from tianwen.ask.questions import Question
from tianwen.errors import InputError

REAL = [
    Question("白蛇的导演是谁", "白蛇", "导演", "电影"),
    Question("天问一号什么时候发射", "天问一号", "发射时间"),
    Question("Mars has how many moons?", "Mars", "moon count"),
    Question("谁写的", "天问", "作者"),  # does not name its subject
]
INVENTED = Question("编的", "名", "谓")


def mixture(questions=REAL, *, invent=None, **settings):
    return Mixture(questions, TOKENIZER, MixtureSettings(**{"batch": 8, "pool": 3} | settings), invent=invent)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_is_a_function_of_its_number_alone():
    some, other = mixture(invent=lambda chance: INVENTED), mixture(invent=lambda chance: INVENTED)
    batches = [some.batch(index, 0, 1) for index in range(7)]
    for index in (6, 0, 3, 5):  # any order, as at a resume
        assert equal(other.batch(index, 0, 1), batches[index])
    assert not equal(batches[0], batches[3])
    assert not equal(mixture(seed=1).batch(0, 0, 1), mixture(seed=0).batch(0, 0, 1))


def test_processes_share_a_batch_without_loss_or_overlap():
    def examples(batch):
        return Counter(tuple(row[row >= 0].tolist()) for row in batch["source"])

    whole = mixture().batch(2, 0, 1)
    parts = [mixture().batch(2, rank, 3) for rank in range(3)]
    assert sum((examples(part) for part in parts), Counter()) == examples(whole)
    assert mixture(batch=2).batch(0, 2, 3) is None, "more processes than examples"


def test_shares_of_the_kinds():
    drawn = mixture(prior=0.2, synthetic=0.5, swap=0.0, invent=lambda chance: INVENTED)
    chance = random.Random(0)
    seen = [drawn.draw(chance) for _ in range(2000)]
    bare = [q for q in seen if q.text == q.subject]
    assert len(bare) / 2000 == pytest.approx(0.2, abs=0.03)
    assert sum(q == INVENTED for q in seen) / 2000 == pytest.approx(0.4, abs=0.03)
    assert {q.predicate for q in bare} == {q.predicate for q in (*REAL, INVENTED)}
    only = mixture(prior=0.0, synthetic=0.0, swap=0.0, invent=lambda chance: INVENTED)
    assert {only.draw(chance) for _ in range(100)} == set(REAL)


def test_a_swapped_name_is_swapped_in_question_and_path():
    drawn, chance = mixture(prior=0.0, swap=1.0), random.Random(0)
    seen = {drawn.draw(chance) for _ in range(300)}
    assert Question("天问一号的导演是谁", "天问一号", "导演") in seen
    assert Question("白蛇什么时候发射", "白蛇", "发射时间", "电影") in seen, "name and sense go together"
    assert all(q.subject in q.text for q in seen if q.predicate != "作者")
    assert Question("谁写的", "天问", "作者") in seen, "what does not name its subject stays as it is"


def test_only_invented_questions_where_there_are_no_others():
    alone = mixture([], invent=lambda chance: INVENTED, prior=0.0, synthetic=0.0)
    assert alone.draw(random.Random(0)) == INVENTED
    with pytest.raises(InputError, match="nothing to learn from"):
        mixture([])


def test_source_and_target_as_token_ids():
    ids, cls, sep = TOKENIZER.ids, TOKENIZER.cls_id, TOKENIZER.sep_id
    source, target = mixture().encoded(REAL[0])
    assert source.tolist() == [cls, *ids(REAL[0].text), sep]
    assert target.tolist() == [*ids("白蛇"), sep, *ids("导演"), sep, *ids("电影"), sep]
    _, other = mixture(order="smp").encoded(REAL[0])
    assert other.tolist() == [*ids("白蛇"), sep, *ids("电影"), sep, *ids("导演"), sep]
    _, no_sense = mixture().encoded(REAL[1])
    assert no_sense[-2:].tolist() == [sep, sep], "a missing sense is an empty field"
    cut_source, cut_target = mixture(longest_source=6, longest_field=2).encoded(REAL[2])
    assert len(cut_source) == 6
    assert (cut_source[0], cut_source[-1]) == (cls, sep)
    assert np.diff(np.flatnonzero(cut_target == sep)).max() <= 3


def test_the_mask_is_that_of_the_prefix_language_model():
    pairs = [mixture().encoded(question) for question in REAL]
    batch = collate(pairs)
    for row, (source, target) in enumerate(pairs):
        s, length = len(source), len(source) + len(target) - 1
        mask = batch["mask"][row]
        assert mask[:s, :s].all(), "the question sees itself"
        assert not mask[:s, s:].any(), "and nothing else"
        assert mask[s:length, :s].all()
        assert torch.equal(mask[s:length, s:length], torch.ones(length - s, length - s).tril().bool())
        assert not mask[:length, length:].any(), "nobody sees padding"
        assert mask.any(-1).all(), "no empty row of the softmax"
        assert batch["source"][row].tolist() == source.tolist() + [-1] * (batch["source"].shape[1] - s)
        assert batch["before"][row, 0].tolist() == [-1, -1]
        assert batch["before"][row, 2].tolist() == [source[1], source[0]]
    assert batch["target"].tolist() == [int(t) for _, target in pairs for t in target]


def test_the_loss_of_a_batch_is_the_mean_over_its_target_tokens():
    model, pairs = tiny_model(), [mixture().encoded(question) for question in REAL]
    with torch.no_grad():
        together, facts = ask_loss(model, collate(pairs))
        alone = [ask_loss(model, collate([pair])) for pair in pairs]
    tokens = [len(target) for _, target in pairs]
    assert facts["weight"] == sum(tokens)
    expected = sum(float(loss) * n for (loss, _), n in zip(alone, tokens, strict=True)) / sum(tokens)
    assert float(together) == pytest.approx(expected, abs=1e-5)


def test_padding_and_neighbours_in_the_batch_change_no_gradient():
    pair, long = mixture().encoded(REAL[1]), mixture().encoded(Question("长" * 20 + QUESTIONS[0], "白", "导", "影"))
    gradients = []
    for batch, keep in (([pair], None), ([pair, long], len(pair[1]))):
        model = tiny_model()
        made = collate(batch)
        if keep is not None:  # learn from the first alone
            for name in ("place", "owner", "target"):
                made[name] = made[name][:keep]
        ask_loss(model, made)[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_description_tells_runs_apart():
    same = mixture().describe()
    assert same == mixture().describe()
    for other in (mixture(seed=1), mixture(batch=4), mixture(REAL[:2]), mixture(swap=0.9)):
        assert other.describe() != same
