"""An asker saved and loaded is the same asker; a damaged, foreign or mixed-up folder is refused with a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.ask.small import FACTS, QUESTIONS, TOKENIZER, built, same_answers, shown, tiny_asker, tiny_model
from tianwen.ask.asker import Asker
from tianwen.ask.model_files import ARCHITECTURE, AskerSettings, load_asker, replace_settings, save_asker
from tianwen.errors import InputError, ModelError
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights, save_weights


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return built(FACTS, tmp_path_factory.mktemp("kb") / "kb")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_asker().save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to break."""
    shutil.copytree(saved, tmp_path / "asker")
    return tmp_path / "asker"


def test_saved_and_loaded_answers_are_equal(kb, tmp_path):
    settings = {"prior_weight": 0.5, "temperature": 2.0, "threshold": 0.25, "evidence": (2.0, 0.3, 0.1, 0.7)}
    asker = tiny_asker(**settings, max_question=77, most_candidates=5, bf16=False)
    asker.save(tmp_path / "new" / "folder")
    again = Asker.load(str(tmp_path / "new" / "folder"))
    assert again.settings == asker.settings
    assert again.tokenizer.fingerprint == asker.tokenizer.fingerprint
    assert again.model.config == asker.model.config
    assert not again.model.training
    same_answers(again.ask(QUESTIONS, kb, top=5), asker.ask(QUESTIONS, kb, top=5), atol=0.0)


@pytest.mark.parametrize(("storage", "share"), [("fp16", 0.6), ("int8", 0.45)])
def test_smaller_storage_is_smaller_and_answers_alike(saved, kb, tmp_path, storage, share):
    asker = tiny_asker()
    asker.save(tmp_path, storage=storage)
    size = {folder: (folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path)}
    assert size[tmp_path] < share * size[saved]
    again = Asker.load(tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in again.model.parameters())
    best = [row[0] for row in map(shown, asker.ask(QUESTIONS[:4], kb))]
    assert [row[0] for row in map(shown, again.ask(QUESTIONS[:4], kb))] == best


def test_without_copying_comes_back_without_copying(tmp_path):
    from dataclasses import replace

    from tianwen.ask.seq2seq import AskModel

    model = AskModel(replace(tiny_model().config, copying=False))
    save_asker(tmp_path, model, TOKENIZER, AskerSettings())
    assert not load_asker(tmp_path)[0].config.copying


def test_saving_again_replaces(folder, kb):
    other = tiny_asker(seed=5)
    other.save(folder)
    same_answers(Asker.load(folder).ask(QUESTIONS, kb), other.ask(QUESTIONS, kb), atol=0.0)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
def test_other_settings_leave_the_weights_as_they_are_stored(tmp_path, storage):
    tiny_asker().save(tmp_path, storage=storage)
    before = Asker.load(tmp_path)
    wanted = AskerSettings(temperature=3.0, evidence=(1.0, 0.5, 0.25, 0.0))
    replace_settings(tmp_path, wanted)
    after = Asker.load(tmp_path)
    assert after.settings == wanted
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])


def test_no_asker_there(folder, tmp_path):
    for empty in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match="no asker in"):
            Asker.load(empty)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Asker.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_every_kind_of_damage_is_refused(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"", flipped(whole, 40), flipped(whole, len(whole) * 3 // 4)):
        path.write_bytes(damaged)
        with pytest.raises(ModelError):
            Asker.load(folder)
    path.write_bytes(whole)
    Asker.load(folder)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_files_of_two_models_do_not_mix(folder):
    Tokenizer.train(["abc"], size=400, min_count=1).save(folder / "tokenizer.json")
    with pytest.raises(ModelError, match="not the one that the model was trained with"):
        Asker.load(folder)


def test_weights_of_another_kind_are_named(folder):
    weights = load_weights(folder / "model.safetensors")
    save_weights(folder / "model.safetensors", weights.tensors, {"architecture": "tianwen extractor 3"})
    with pytest.raises(ModelError, match=f"'tianwen extractor 3'.*'{ARCHITECTURE}'"):
        Asker.load(folder)
    save_weights(folder / "model.safetensors", weights.tensors)
    with pytest.raises(ModelError, match="no asker"):
        Asker.load(folder)
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ModelError):
        Asker.load(folder)


def test_weights_that_do_not_fit_their_shape_are_refused(folder):
    weights = load_weights(folder / "model.safetensors")
    tensors = {name: tensor[..., :4] for name, tensor in weights.tensors.items()}
    save_weights(folder / "model.safetensors", tensors, weights.metadata)
    with pytest.raises(ModelError, match="do not fit"):
        Asker.load(folder)


def test_settings_that_this_version_does_not_know_are_left_out(folder):
    weights = load_weights(folder / "model.safetensors")
    metadata = json.loads(json.dumps(weights.metadata))
    metadata["settings"] = {"threshold": 0.5, "from the future": 1}
    save_weights(folder / "model.safetensors", weights.tensors, metadata)
    assert Asker.load(folder).settings == AskerSettings(threshold=0.5)


def test_a_model_of_before_the_matchers_evidence_is_read(tmp_path):
    tiny_asker(evidence=(2.0, 0.3, 0.1, 0.7)).save(tmp_path)
    weights = load_weights(tmp_path / "model.safetensors")
    older = weights.metadata | {"settings": weights.metadata["settings"] | {"evidence": [2.0, 0.3, 0.1]}}
    save_weights(tmp_path / "model.safetensors", weights.tensors, older)
    assert Asker.load(tmp_path).settings.evidence == (2.0, 0.3, 0.1, 0.0)


@pytest.mark.parametrize("odd", [(1.0, 0.5, 0.25), (1.0,) * 5, (1.0, 0.5, float("nan"), 0.0)])
def test_evidence_is_four_numbers(odd):
    with pytest.raises(InputError, match="four numbers"):
        AskerSettings(evidence=odd)
