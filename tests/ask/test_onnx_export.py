"""Exported askers: what is fed token by token, or as a tree of beams, has the log-probabilities of the model."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tianwen import cli
from tianwen.ask.model_files import AskerSettings, save_asker
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import ModelError
from tianwen.text import Tokenizer

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

from tianwen.ask.onnx_export import (
    asker_graph,
    by_torch,
    export_asker,
    first_call,
    next_call,
    whole_inputs,
)
from tianwen.backbone.onnx_file import runtime

TOKENIZER = Tokenizer.train(["火星的卫星是什么？火卫一"] * 3, size=400)
BACKBONE = RoFormerV2Config(vocabulary=TOKENIZER.size, layers=2, width=24, heads=2, dropout=0.0)


def new(*, copying: bool = True, seed: int = 0) -> AskModel:
    torch.manual_seed(seed)
    model = AskModel(AskConfig(BACKBONE, copy_width=8, copying=copying)).eval()
    torch.nn.init.normal_(model.copy_gate.weight, std=0.5)
    return model


def runner(model: AskModel):
    run = runtime(asker_graph(model).bytes({}))
    assert run is not None
    return run


def ids_of(*shape: int) -> torch.Tensor:
    return torch.randint(TOKENIZER.size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("copying", [True, False])
def test_one_call_two_calls_and_token_by_token(copying):
    model = new(copying=copying)
    run, inputs = runner(model), whole_inputs(ids_of(3, 12), 7)
    with torch.no_grad():
        wanted = by_torch(model, inputs, 7).numpy()
    whole = run(first_call(model, inputs, 12))["log_p"]
    np.testing.assert_allclose(whole, wanted, atol=1e-4)
    np.testing.assert_allclose(np.exp(whole).sum(-1), 1, atol=1e-4)
    first = run(first_call(model, inputs, 7))
    np.testing.assert_allclose(first["log_p"], wanted[:, :7], atol=1e-4)
    np.testing.assert_allclose(run(next_call(inputs, first, 7))["log_p"], wanted[:, 7:], atol=1e-4)
    told = first
    for at in range(7, 12):
        upto = {name: x[:, : at + 1] for name, x in inputs.items()}
        upto["visible"] = upto["visible"][:, :, : at + 1]
        feed = next_call(upto, told, at) | {"source": first["source_after"], "copy_keys": first["copy_keys_after"]}
        told = run(feed)
        np.testing.assert_allclose(told["log_p"][:, 0], wanted[:, at], atol=1e-4)


def test_copying_counts():
    one = runner(new())(first_call(new(), whole_inputs(ids_of(1, 6), 6), 6))["log_p"]
    other = runner(new(copying=False))(first_call(new(), whole_inputs(ids_of(1, 6), 6), 6))["log_p"]
    assert np.abs(one - other).max() > 0.1


def test_two_beams_share_one_cache():
    """Two continuations of one question, fed in one call: each sees the question and its own past alone."""
    model = new()
    run, question = runner(model), ids_of(1, 6)
    ways = [torch.cat([question, ids_of(2, 3)[i : i + 1]], dim=1) for i in range(2)]
    wanted = []
    for way in ways:
        with torch.no_grad():
            wanted.append(by_torch(model, whole_inputs(way, 6), 6).numpy()[0, 6:])
    inputs = [whole_inputs(way, 6) for way in ways]
    first = run(first_call(model, inputs[0], 6))
    both = {name: torch.cat([one[name][:, 6:] for one in inputs], dim=1) for name in inputs[0] if name != "visible"}
    visible = torch.zeros(1, 6, 12, dtype=torch.bool)
    visible[:, :, :6] = True
    for beam in (slice(0, 3), slice(3, 6)):
        visible[0, beam, 6:][:, beam] = torch.ones(3, 3).tril().bool()
    feed = next_call({**both, "visible": visible}, first, 0)
    found = run(feed)["log_p"][0]
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=1e-4)


def test_questions_of_unlike_lengths_are_padded_in_front_of_the_answer():
    """Padding of the question is -1 in `source` and invisible, and nothing else is needed."""
    model = new()
    run, row = runner(model), ids_of(1, 9)
    with torch.no_grad():
        wanted = by_torch(model, whole_inputs(row, 5), 5).numpy()[0, 5:]
    inputs = whole_inputs(row, 5)
    asked = {name: torch.cat([x[:, :5], x[:, :2]], dim=1) for name, x in inputs.items() if name != "visible"}
    seen = torch.zeros(1, 7, 7, dtype=torch.bool)
    seen[:, :, :5] = True
    first = run(first_call(model, {**asked, "visible": seen}, 7))
    first["source_after"][:, 5:] = -1
    behind = {name: x[:, 5:] for name, x in inputs.items() if name != "visible"}
    sees = torch.cat([seen[:, :4], torch.ones(4, 4).tril().bool()[None]], dim=2)
    found = run(next_call({**behind, "visible": sees}, first, 0))["log_p"][0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_folder_becomes_a_whole_export(tmp_path):
    save_asker(tmp_path / "asker", new(), TOKENIZER, AskerSettings())
    done = export_asker(tmp_path / "asker", tmp_path / "out" / "asker.onnx")
    assert done.difference is not None
    assert done.difference < 1e-5
    assert sorted(path.name for path in done.file.parent.iterdir()) == ["asker.onnx", "tokenizer.json"]
    words = ["export", "onnx", "--model", str(tmp_path / "asker"), "--out", str(tmp_path / "again" / "asker.onnx")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0
    assert "log_p" in result.stdout


def test_a_recurrent_asker_is_refused(tmp_path):
    shape = ShellConfig(TOKENIZER.size, "lru", layers=1, width=16)
    save_asker(tmp_path / "asker", AskModel(AskConfig(shape, copy_width=8)), TOKENIZER, AskerSettings())
    with pytest.raises(ModelError, match="'lru' cannot be exported"):
        export_asker(tmp_path / "asker", tmp_path / "out" / "asker.onnx")
    assert not (tmp_path / "out").exists()
