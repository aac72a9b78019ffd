"""Training a language model: it learns, resumes to the same bits, is saved as it is, and refuses what cannot be."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tianwen.errors import InputError, ModelError, TrainingError
from tianwen.training.weights import load_weights, save_weights
from tianwen.write.learning import TrainLmSettings, train_lm
from tianwen.write.sampling import SamplingSettings
from tianwen.write.writer import Writer

LINE = "天地玄黄，宇宙洪荒。\n"
TINY = TrainLmSettings(steps=8, batch=4, length=16, layers=2, width=16, heads=2)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(LINE * 40, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    """(folder, writer, numbers)"""
    out = tmp_path_factory.mktemp("trained") / "model"
    return out, *train_lm([file], out, settings=TINY, checkpoint_every=3, keep_last=9, log_every=1)


def weights(folder):
    return load_weights(folder / "model.safetensors").tensors


def test_what_was_trained_is_what_is_saved(trained):
    out, writer, numbers = trained
    again = Writer.load(out)
    assert not writer.model.training
    assert not again.model.training
    how = SamplingSettings(seed=3)
    assert "".join(again.write("天", length=30, how=how)) == "".join(writer.write("天", length=30, how=how))
    assert again.model.config == writer.model.config
    assert numbers["parameters"] == writer.model.shell.parameter_count()
    assert (numbers["vocabulary"], numbers["ids"], numbers["broken_bytes"]) == (258 + 11, 40 * 11 + 1, 0)


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(trained, file, tmp_path):
    out, _, numbers = trained
    shutil.copytree(out / "run", tmp_path / "model" / "run")
    checkpoints = sorted((tmp_path / "model" / "run" / "checkpoints").iterdir())
    assert [path.name[-1] for path in checkpoints] == ["3", "6", "8"]
    for path in checkpoints[1:]:
        shutil.rmtree(path)
    _, resumed = train_lm([file], tmp_path / "model", settings=TINY, checkpoint_every=3, keep_last=9, log_every=1)
    told = [json.loads(line) for line in (tmp_path / "model" / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told if "loss" in line] == [*range(1, 9)]
    assert resumed["loss"] == numbers["loss"]
    assert resumed["held_out_bits"] == numbers["held_out_bits"]
    for name, tensor in weights(out).items():
        assert torch.equal(tensor, weights(tmp_path / "model")[name]), name


def test_another_text_or_another_shape_does_not_go_on(trained, file, tmp_path):
    out, _, _ = trained
    other = tmp_path / "other.txt"
    other.write_text(LINE * 39 + LINE[::-1], encoding="utf-8")
    with pytest.raises(TrainingError, match="text"):
        train_lm([other], out, settings=TINY)
    with pytest.raises(TrainingError):
        train_lm([file], out, settings=TrainLmSettings(**{**vars(TINY), "mixer": "slru"}))


@pytest.mark.parametrize("mixer", ["lru", "attention"])
def test_it_learns_a_text_by_heart(file, tmp_path, mixer):
    how = {**vars(TINY), "steps": 90, "width": 32, "dropout": 0.0, "learning_rate": 0.01, "mixer": mixer}
    writer, numbers = train_lm([file], tmp_path / mixer, settings=TrainLmSettings(**how))
    assert numbers["loss"] < 0.5
    assert "".join(writer.write("天地玄黄", length=29, how=SamplingSettings(temperature=0))) == (LINE * 3)[4:]
    assert writer.surprise(LINE) < 1.5 < 4 < writer.surprise(LINE[::-1])
    assert numbers["held_out_bits"] < 0.7


def test_a_text_too_short_to_hold_out_is_trained_on_whole(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("天问", encoding="utf-8")
    _, numbers = train_lm([file], tmp_path / "m", settings=TINY)
    assert (numbers["ids"], numbers["held_out_bits"]) == (4, None)


def test_another_kind_of_model_is_not_overwritten(file, tmp_path):
    save_weights(tmp_path / "model.safetensors", {"w": torch.zeros(2)}, {"architecture": "tianwen asker 1"})
    with pytest.raises(ModelError, match="already holds another model"):
        train_lm([file], tmp_path, settings=TINY)


@pytest.mark.parametrize("options", [{"steps": 0}, {"length": 0}, {"learning_rate": float("nan")}])
def test_meaningless_settings_are_refused(options):
    with pytest.raises(InputError):
        TrainLmSettings(**options)
