"""Training an asker: it saves, loads, resumes bit for bit, learns, and needs no questions where there are facts."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.ask.small import built, same_answers
from tianwen.ask.asker import Asker
from tianwen.ask.facts import Fact
from tianwen.ask.learning import TrainAskSettings, train_ask
from tianwen.ask.seq2seq import AskConfig
from tianwen.backbone.mixers import ShellConfig
from tianwen.errors import InputError, ModelError
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights

FACTS = [Fact("白蛇", "导演", "黄家康"), Fact("白蛇", "作者", "冯梦龙"), Fact("天问一号", "发射时间", "2020年")]
QUESTIONS = """白蛇的导演是谁	白蛇	导演	黄家康
白蛇是谁写的	白蛇	作者	冯梦龙
天问一号何时发射	天问一号	发射时间	2020年
"""
TINY = {"batch": 6, "layers": 2, "width": 16, "vocabulary": 700, "precision": "fp32"}
PLAIN = TrainAskSettings(steps=8, synthetic=0.0, **TINY)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "q.tsv"
    path.write_text(QUESTIONS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(questions, tmp_path_factory):
    """(folder, the asker that was returned)"""
    out = tmp_path_factory.mktemp("trained") / "model"
    options = {"checkpoint_every": 3, "keep_last": 9, "log_every": 1}
    return out, train_ask([questions], out, scratch=True, settings=PLAIN, **options)


def weights(folder):
    return load_weights(folder / "model.safetensors").tensors


def test_what_was_trained_is_what_is_saved(trained, tmp_path):
    out, asker = trained
    assert not asker.model.training
    again = Asker.load(out)
    with built(FACTS, tmp_path / "kb", asker.tokenizer) as kb:
        asked = ["白蛇的导演是谁", "天问一号？"]
        same_answers(again.ask(asked, kb, top=5), asker.ask(asked, kb, top=5), atol=0.0)
    assert (again.model.config.backbone.layers, again.model.config.backbone.width) == (2, 16)


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(trained, questions, tmp_path):
    out, _ = trained
    shutil.copytree(out / "run", tmp_path / "model" / "run")
    steps = sorted((tmp_path / "model" / "run" / "checkpoints").iterdir())
    assert len(steps) >= 3
    for late in steps[1:]:
        shutil.rmtree(late) if late.is_dir() else late.unlink()
    options = {"checkpoint_every": 3, "keep_last": 9, "log_every": 1}
    train_ask([questions], tmp_path / "model", scratch=True, settings=PLAIN, **options)
    resumed, whole = weights(tmp_path / "model"), weights(out)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_started_again_after_its_end_it_only_saves_again(trained, questions, tmp_path):
    out, _ = trained
    shutil.copytree(out, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    options = {"checkpoint_every": 3, "keep_last": 9, "log_every": 1}
    train_ask([questions], tmp_path / "model", scratch=True, settings=PLAIN, **options)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_it_learns(questions, tmp_path):
    settings = TrainAskSettings(steps=30, synthetic=0.0, prior=0.0, swap=0.0, learning_rate=0.03, **TINY)
    train_ask([questions], tmp_path, scratch=True, settings=settings, log_every=20)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] / 2


def test_on_from_a_trained_model(trained, questions, tmp_path):
    out, first = trained
    second = train_ask([questions], tmp_path, start=out, settings=PLAIN)
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert second.model.config == first.model.config
    before, after = weights(out), weights(tmp_path)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_knowledge_base_alone(trained, tmp_path):
    """Cold start: no question file, patterns and paraphrases ask for the facts."""
    out, first = trained
    with built(FACTS, tmp_path / "kb", first.tokenizer) as kb:
        asker = train_ask([], tmp_path / "model", kb=kb, start=out, settings=TrainAskSettings(steps=2, **TINY))
        assert asker.ask("白蛇的导演是谁", kb)


def test_a_knowledge_base_alone_and_no_model_to_go_on_from(tmp_path):
    strange = [Fact("ⴰⴱⵛ", "ⵣⵉ" * 3, "o")] * 2 + FACTS
    bytes_only = Tokenizer.train(["a"], size=400, min_count=1)
    with built(strange, tmp_path / "kb", bytes_only) as kb:
        settings = TrainAskSettings(steps=2, synthetic=0.0, **TINY)  # still synthetic: there is nothing else
        asker = train_ask([], tmp_path / "model", kb=kb, scratch=True, settings=settings)
        rebuilt = built(list(kb.snapshot().iter_facts()), tmp_path / "again", asker.tokenizer)
    assert asker.ask("白蛇的导演是谁", rebuilt)


def test_nothing_to_learn_from(trained, tmp_path):
    out, first = trained
    with pytest.raises(InputError, match="Give question files"):
        train_ask([], tmp_path / "model", start=out, settings=PLAIN)
    (tmp_path / "blank.jsonl").write_text('{"question": " ", "subject": "S", "predicate": "P"}\n', encoding="utf-8")
    with pytest.raises(InputError):
        train_ask([tmp_path / "blank.jsonl"], tmp_path / "model", start=out, settings=PLAIN)
    with built([], tmp_path / "kb", first.tokenizer) as kb, pytest.raises(InputError, match="empty"):
        train_ask([], tmp_path / "model", kb=kb, start=out, settings=PLAIN)
    (tmp_path / "header.tsv").write_text("question\tsubject\tpredicate\n", encoding="utf-8")
    with (
        built([Fact("白蛇", "导演", "黄家康")], tmp_path / "kb2", first.tokenizer) as kb,
        pytest.raises(InputError, match=r"no question .*header\.tsv"),
    ):  # not ten minutes on questions made up instead
        train_ask([tmp_path / "header.tsv"], tmp_path / "model", kb=kb, start=out, settings=PLAIN)
    with pytest.raises(InputError, match="no question file"):
        train_ask([tmp_path / "none"], tmp_path / "model", start=out, settings=PLAIN)
    (tmp_path / "q.tsv").write_text(QUESTIONS, encoding="utf-8")
    with pytest.raises(ModelError, match="no asker"):
        train_ask([tmp_path / "q.tsv"], tmp_path / "model", start=tmp_path / "none", settings=PLAIN)
    assert not (tmp_path / "model").exists(), "nothing is left behind"


@pytest.mark.parametrize("mixer", ["lru", "slru", "rwkv"])
def test_a_recurrent_asker_learns_saves_and_asks(mixer, questions, tmp_path):
    settings = TrainAskSettings(
        steps=30, synthetic=0.0, prior=0.0, swap=0.0, learning_rate=0.03, mixer=mixer, storage="int8", **TINY
    )
    asker = train_ask([questions], tmp_path / "model", scratch=True, settings=settings, log_every=20)
    lines = [json.loads(line) for line in (tmp_path / "model" / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.75 * losses[0]
    again = Asker.load(tmp_path / "model")
    assert again.model.config.backbone == asker.model.config.backbone
    with built(FACTS, tmp_path / "kb", asker.tokenizer) as kb:
        asked = ["白蛇的导演是谁", "天问一号何时发射"]
        for how in ({}, {"scoring": "path"}, {"search": "beam"}):
            one_by_one = [again.ask(question, kb, **how) for question in asked]
            same_answers(again.ask(asked, kb, **how), one_by_one, atol=1e-4)
        assert all(answers for answers in again.ask(asked, kb))


def test_a_mixer_is_for_a_model_from_scratch(trained, questions, tmp_path):
    out, _ = trained
    with pytest.raises(InputError, match="shapes a model from scratch"):
        train_ask([questions], tmp_path, start=out, settings=TrainAskSettings(steps=2, mixer="lru", **TINY))
    with pytest.raises(InputError, match="left to right"):
        AskConfig(ShellConfig(50, "attention"))
