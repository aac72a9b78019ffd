"""What a model's folder is refused for, whatever part keeps the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tianwen.errors import ModelError
from tianwen.training.model_folder import WEIGHTS, fill, open_weights, replace_settings, require_reader
from tianwen.training.weights import load_weights, save_weights

KIND = {"architecture": "a seer 1", "kind": "seer", "train": "tianwen train seer"}


@pytest.fixture
def folder(tmp_path):
    save_weights(tmp_path / WEIGHTS, nn.Linear(2, 3).state_dict(), {"architecture": "a seer 1", "settings": {"a": 1}})
    return tmp_path


def test_a_folder_without_weights_or_with_others_says_how_to_train(folder):
    assert open_weights(folder, **KIND).metadata["settings"] == {"a": 1}
    with pytest.raises(ModelError, match=r"holds 'a seer 1'; this version reads 'a seer 2'.*tianwen train seer"):
        open_weights(folder, **(KIND | {"architecture": "a seer 2"}))
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"There is no seer .*tianwen train seer"):
        open_weights(folder, **KIND)


def test_weights_must_fit_and_be_numbers(folder):
    model = nn.Linear(2, 3)
    fill(model, open_weights(folder, **KIND), folder)
    assert torch.equal(model.weight, load_weights(folder / WEIGHTS).tensors["weight"])
    with pytest.raises(ModelError, match="do not fit"):
        fill(nn.Linear(3, 2), open_weights(folder, **KIND), folder)
    with torch.no_grad():
        model.bias[1] = torch.nan
    save_weights(folder / WEIGHTS, model.state_dict(), {"architecture": "a seer 1"})
    with pytest.raises(ModelError, match="are not numbers"):
        fill(nn.Linear(2, 3), open_weights(folder, **KIND), folder)


def test_another_reader_is_refused(folder):
    require_reader(folder, "tokenizer", "1", "1")
    with pytest.raises(ModelError, match=r"tokenizer .* Copy all files"):
        require_reader(folder, "tokenizer", "1", "2")


def test_other_settings_leave_the_weights_as_they_are(folder):
    before = load_weights(folder / WEIGHTS)
    replace_settings(folder, {"a": 2})
    after = load_weights(folder / WEIGHTS)
    assert after.metadata["settings"] == {"a": 2}
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
