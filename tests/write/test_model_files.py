"""A language model on disk: whatever is missing or damaged is refused with a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tianwen.backbone.mixers import ShellConfig
from tianwen.errors import ModelError
from tianwen.training.weights import load_weights, save_weights
from tianwen.write.characters import Characters
from tianwen.write.language_model import LanguageModel
from tianwen.write.model_files import load_language_model, save_language_model

ABC = Characters.count(["abc"])


@pytest.fixture
def folder(tmp_path):
    model = LanguageModel(ShellConfig(vocabulary=ABC.size, layers=1, width=8))
    save_language_model(tmp_path / "m", model, ABC)
    return tmp_path / "m"


def changed(folder, **metadata):
    saved = load_weights(folder / "model.safetensors")
    save_weights(folder / "model.safetensors", saved.tensors, saved.metadata | metadata)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="tianwen train lm"):
        load_language_model(tmp_path)
    with pytest.raises(ModelError, match="tianwen train lm"):
        load_language_model(tmp_path / "none")


def test_any_flipped_byte_and_any_cut_is_refused(folder):
    for name in ("model.safetensors", "characters.json"):
        good = (folder / name).read_bytes()
        places = torch.randint(0, len(good), (12,)).tolist()
        for broken in [good[:-7], b"", *(good[:p] + bytes([good[p] ^ 1]) + good[p + 1 :] for p in places)]:
            (folder / name).write_bytes(broken)
            with pytest.raises(ModelError):
                load_language_model(folder)
        (folder / name).write_bytes(good)
    load_language_model(folder)


def test_another_architecture_is_named(folder):
    changed(folder, architecture="tianwen asker 1")
    with pytest.raises(ModelError, match="asker"):
        load_language_model(folder)


def test_characters_of_another_model_are_refused(folder, tmp_path):
    Characters.count(["xyz"]).save(folder / "characters.json")
    with pytest.raises(ModelError, match=r"list of characters .* Copy all files"):
        load_language_model(folder)
    (folder / "characters.json").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_language_model(folder)


def test_weights_that_do_not_fit_or_are_not_numbers_are_refused(folder, tmp_path):
    config = load_weights(folder / "model.safetensors").metadata["config"]
    shutil.copytree(folder, tmp_path / "other")
    for wrong in ({"width": 16}, {"layers": 2}, {"depth": 3}):
        changed(tmp_path / "other", config=config | wrong)
        with pytest.raises(ModelError, match="do not fit"):
            load_language_model(tmp_path / "other")
    saved = load_weights(folder / "model.safetensors")
    saved.tensors["shell.tokens.weight"][3, 3] = float("nan")
    save_weights(folder / "model.safetensors", saved.tensors, saved.metadata)
    with pytest.raises(ModelError, match="not numbers"):
        load_language_model(folder)
    assert json.loads((folder / "characters.json").read_text())["version"] == 1
