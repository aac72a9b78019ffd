"""Every format in and out, and a sentence for everything that is not one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tianwen.backbone.checkpoints import load, save, save_huggingface, to_huggingface
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.backbone.tensorflow_checkpoint import read_tensorflow_checkpoint
from tianwen.errors import ModelError

FIXTURE = Path(__file__).parent / "fixture" / "single"
TINY = RoFormerV2Config(vocabulary=30, layers=2, width=16, heads=2, dropout=0.25, eps=1e-6, max_length=64)


@pytest.fixture
def model() -> RoFormerV2:
    return RoFormerV2(TINY).eval()


def same(one: RoFormerV2, other: RoFormerV2) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return list(weights) == list(others) and all(torch.equal(weights[name], others[name]) for name in weights)


# Our own file


def test_own_file_keeps_weights_configuration_and_residual_weight(model: RoFormerV2, tmp_path: Path) -> None:
    model.residual_weight = 0.375
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    assert same(loaded, model)
    assert loaded.config == TINY
    assert loaded.residual_weight == 0.375
    assert not loaded.training
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    ids = torch.randint(0, 30, (2, 9))
    assert torch.equal(loaded(ids)[0], model(ids)[0])
    loaded(ids)[0].sum().backward()  # the loaded weights can be trained
    assert load(tmp_path / "m.safetensors", eps=1e-3).config == replace(TINY, eps=1e-3)


def test_a_flipped_or_missing_byte_of_our_file_is_noticed(model: RoFormerV2, tmp_path: Path) -> None:
    save(model, tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    places = [0, 9, content.index(b"0.25"), *range(20, 1000, 97), *range(1000, len(content), 1501), len(content) - 1]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 4
        (tmp_path / "m.safetensors").write_bytes(flipped)
        with pytest.raises(ModelError):
            load(tmp_path / "m.safetensors")
    for length in (0, 7, 100, len(content) - 1):
        (tmp_path / "m.safetensors").write_bytes(content[:length])
        with pytest.raises(ModelError):
            load(tmp_path / "m.safetensors")


# Hugging Face


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_huggingface_folder_round_trip(model: RoFormerV2, tmp_path: Path, weights: Any) -> None:
    save_huggingface(model, tmp_path / "hf", weights=weights)
    loaded = load(tmp_path / "hf")
    assert same(loaded, model)
    assert replace(loaded.config, feed_forward=None) == TINY


def test_huggingface_names_and_shapes_are_the_ports() -> None:
    state = to_huggingface(load(FIXTURE).state_dict())
    assert sorted(name for name in state if "layer.1" in name or "layer" not in name) == [
        "roformer.embeddings.token_type_embeddings.weight",
        "roformer.embeddings.word_embeddings.weight",
        "roformer.encoder.layer.1.attention.output.dense.weight",
        "roformer.encoder.layer.1.attention.self.key.weight",
        "roformer.encoder.layer.1.attention.self.query.weight",
        "roformer.encoder.layer.1.attention.self.value.weight",
        "roformer.encoder.layer.1.intermediate.dense.weight",
        "roformer.encoder.layer.1.output.dense.weight",
    ]
    published = read_tensorflow_checkpoint(FIXTURE / "bert_model.ckpt")
    for part in ("query", "key", "value"):
        ours = state[f"roformer.encoder.layer.0.attention.self.{part}.weight"]
        assert np.array_equal(ours.numpy(), published[f"bert/encoder/layer_0/attention/self/{part}/kernel"].T)
    assert state["roformer.encoder.layer.0.intermediate.dense.weight"].shape == (64, 16)


def test_a_folder_that_the_port_saved_holds_the_same_model() -> None:
    ours, ports = load(FIXTURE), load(FIXTURE.parent / "port")
    assert same(ours, ports)
    assert ours.config == ports.config


def published(model: RoFormerV2, folder: Path, change: Callable[[dict], None], **config: Any) -> Path:
    """A Hugging Face folder with `change` made to its tensors and `config` to its configuration."""
    save_huggingface(model, folder, weights="bin")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, folder / "pytorch_model.bin")
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def test_companions_of_published_weights_are_left_aside(model: RoFormerV2, tmp_path: Path) -> None:
    def companions(state: dict) -> None:
        state["cls.predictions.decoder.weight"] = state["roformer.embeddings.word_embeddings.weight"]
        state["roformer.encoder.embed_positions.weight"] = torch.zeros(64, 8)
        state["roformer.pooler.dense.weight"] = torch.zeros(16, 16)
        state["classifier.bias"] = torch.zeros(2)

    assert same(load(published(model, tmp_path, companions)), model)


def test_half_precision_and_a_bare_encoder_load(model: RoFormerV2, tmp_path: Path) -> None:
    def bare(state: dict) -> None:
        for name in list(state):
            state[name.removeprefix("roformer.")] = state.pop(name).half()

    loaded = load(published(model, tmp_path, bare))
    assert loaded.tokens.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.tokens.weight, model.tokens.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        (lambda s: s.pop("roformer.encoder.layer.1.output.dense.weight"), {}, r"lacks roformer\.encoder\.layer\.1"),
        (lambda s: s.update({"roformer.encoder.layer.0.output.dense.bias": torch.zeros(16)}), {}, "no biases"),
        (lambda s: s.update({"roformer.embeddings.LayerNorm.weight": torch.zeros(16)}), {}, "norm gains"),
        (lambda s: s.update({"cls.predictions.decoder.weight": torch.ones(30, 16)}), {}, "not tied"),
        (lambda s: None, {"num_hidden_layers": 1}, "deeper model than configured"),
        (lambda s: None, {"num_hidden_layers": 3}, "lacks"),
        (lambda s: None, {"vocab_size": 31}, "tokens.weight the shape"),
        (lambda s: None, {"norm_type": "layer_norm"}, "another model"),
        (lambda s: None, {"hidden_act": "gelu"}, "another model"),
        (lambda s: None, {"embedding_size": 8}, "another model"),
        (lambda s: None, {"num_attention_heads": 3}, "heads"),
        (lambda s: None, {"hidden_size": "wide", "embedding_size": "wide"}, "no configuration"),
        (lambda s: None, {"vocab_size": None}, "no configuration"),
    ],
)
def test_another_architecture_is_refused(
    model: RoFormerV2, tmp_path: Path, change: Callable[[dict], None], config: dict, says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        load(published(model, tmp_path, change, **config))


def test_files_that_are_no_checkpoint_are_explained(model: RoFormerV2, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="it has nothing"):
        load(tmp_path)
    save_huggingface(model, tmp_path)
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(ModelError, match=r"config\.json is no configuration"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match="number of heads"):
        load(tmp_path)
    with pytest.raises(ModelError, match="not written by `save`"):
        load(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    for content in (b"", b"PK\x03\x04 no archive", b"\x80\x02cos\nsystem\n(S'true'\ntR."):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ModelError, match="never executed"):
            load(tmp_path)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no state dict"):
        load(tmp_path)


# TensorFlow


@pytest.mark.parametrize("path", ["", "bert_model.ckpt", "bert_model.ckpt.index"])
def test_tensorflow_checkpoint_is_found_by_folder_prefix_or_index(path: str) -> None:
    model = load(FIXTURE / path)
    assert model.config.eps == 1e-7
    kernel = read_tensorflow_checkpoint(FIXTURE / "bert_model.ckpt")["bert/encoder/layer_1/output/dense/kernel"]
    assert np.array_equal(model.layers[1].outer.weight.detach().numpy(), kernel.T)


def test_tensorflow_checkpoint_without_its_configuration_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "bert_config.json").unlink()
    with pytest.raises(ModelError, match="number of heads"):
        load(tmp_path)
