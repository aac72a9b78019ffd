"""Exported encoders: the numbers of torch for every batch and length, metadata, and what is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tianwen import __version__, cli
from tianwen.backbone import onnx_file, onnx_graph
from tianwen.backbone.encoder_folder import save_encoder
from tianwen.backbone.masks import encoder_mask, valid_tokens
from tianwen.backbone.mixers import Shell, ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.errors import InputError, MissingExtra, ModelError
from tianwen.text import Tokenizer

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

from tianwen.backbone.onnx_export import encoder_graph, export_encoder  # noqa: E402
from tianwen.backbone.onnx_file import Reader, runtime, write_export  # noqa: E402
from tianwen.backbone.onnx_graph import Graph  # noqa: E402
from tianwen.backbone.onnx_layers import hidden_states, read_rows  # noqa: E402

TOKENIZER = Tokenizer.train(["天问一号在文昌发射。"] * 3, size=500)
SHAPE = RoFormerV2Config(vocabulary=TOKENIZER.size, layers=2, width=24, heads=2, max_length=16)
SHELLS = [
    ShellConfig(TOKENIZER.size, mixer, layers=2, width=16, heads=2, window=5, bidirectional=both)
    for mixer in ("lru", "slru", "attention")
    for both in (True, False)
]


def runner(backbone):
    """The backbone on ONNX Runtime: ids, lengths -> hidden states."""
    graph = Graph("test")
    graph.output("hidden", hidden_states(graph, backbone, read_rows(graph)), ["batch", "length", backbone.config.width])
    run = runtime(graph.bytes({}))
    assert run is not None
    return lambda ids, lengths: torch.from_numpy(run({"ids": ids.numpy(), "lengths": lengths.numpy()})["hidden"])


def by_torch(backbone, ids, lengths):
    with torch.no_grad():
        if isinstance(backbone, RoFormerV2):
            return backbone(ids, mask=encoder_mask(valid_tokens(lengths, ids.shape[1])))[0]
        return backbone(ids, lengths=lengths)[0]


def rows(lengths, vocabulary, seed=0):
    ids = torch.randint(vocabulary, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids, torch.tensor(lengths)


torch.manual_seed(0)
SMALL = RoFormerV2(SHAPE).eval()
RUN = runner(SMALL)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=40)
def test_every_batch_and_length_gives_what_torch_gives(lengths, seed):
    ids, sizes = rows(lengths, SHAPE.vocabulary, seed)
    valid = valid_tokens(sizes, ids.shape[1])
    torch.testing.assert_close(RUN(ids, sizes)[valid], by_torch(SMALL, ids, sizes)[valid], atol=2e-5, rtol=0)


def test_far_beyond_the_length_it_was_trained_for():
    ids, sizes = rows([1500, 3], SHAPE.vocabulary)
    assert ids.shape[1] > 90 * SHAPE.max_length
    valid = valid_tokens(sizes, ids.shape[1])
    torch.testing.assert_close(RUN(ids, sizes)[valid], by_torch(SMALL, ids, sizes)[valid], atol=5e-5, rtol=0)


@pytest.mark.parametrize("shape", SHELLS, ids=lambda shape: f"{shape.mixer}-{shape.bidirectional}")
def test_other_mixers(shape):
    torch.manual_seed(1)
    shell = Shell(shape).eval()
    run = runner(shell)
    for lengths in ([1], [2, 1], [16, 17, 9], [130, 5, 64]):
        ids, sizes = rows(lengths, shape.vocabulary)
        valid = valid_tokens(sizes, ids.shape[1])
        torch.testing.assert_close(run(ids, sizes)[valid], by_torch(shell, ids, sizes)[valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [SHAPE, SHELLS[0], SHELLS[4]], ids=lambda shape: type(shape).__name__)
def test_padding_reaches_nothing(shape):
    backbone = (RoFormerV2(shape) if isinstance(shape, RoFormerV2Config) else Shell(shape)).eval()
    run = runner(backbone)
    ids, sizes = rows([7, 12], shape.vocabulary)
    other = ids.clone()
    other[0, 7:] = (other[0, 7:] + 1) % shape.vocabulary
    assert torch.equal(run(ids, sizes)[0, :7], run(other, sizes)[0, :7])
    torch.testing.assert_close(run(ids, sizes)[0, :7], run(ids[:1, :7], sizes[:1])[0], atol=1e-5, rtol=0)
    other[0, 6] += 1 - 2 * (other[0, 6] > 9)
    assert not torch.equal(run(ids, sizes)[0, :6], run(other, sizes)[0, :6])


def test_a_row_of_nothing_but_padding_stays_a_number():
    ids, _ = rows([4, 4], SHAPE.vocabulary)
    assert bool(torch.isfinite(RUN(ids, torch.tensor([4, 0]))).all())


@pytest.mark.parametrize("mixer", ["rwkv", "complex_rwkv"])
def test_what_has_no_form_is_refused(mixer):
    shell = Shell(ShellConfig(50, mixer, layers=1, width=16, heads=2))
    with pytest.raises(ModelError, match=rf"{mixer}.*Exported are RoFormerV2"):
        runner(shell)


def test_a_folder_becomes_a_whole_export(tmp_path):
    save_encoder(tmp_path / "encoder", SMALL, TOKENIZER)
    done = export_encoder(tmp_path / "encoder", tmp_path / "out" / "encoder.onnx")
    assert done.inputs == ("ids", "lengths")
    assert done.outputs == ("hidden",)
    assert done.difference is not None
    assert done.difference < 1e-5
    assert done.bytes == done.file.stat().st_size
    assert sorted(path.name for path in done.file.parent.iterdir()) == ["encoder.onnx", "tokenizer.json"]
    assert Tokenizer.load(done.file.parent / "tokenizer.json").fingerprint == TOKENIZER.fingerprint
    model = onnx.load(done.file)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert (told["architecture"], told["tianwen"]) == ("tianwen encoder 1", __version__)
    assert told["tokenizer"] == TOKENIZER.fingerprint
    assert RoFormerV2Config(**json.loads(told["config"])) == SHAPE
    assert [entry.version for entry in model.opset_import] == [17]
    assert {node.domain for node in model.graph.node} == {""}  # standard operators only
    again = export_encoder(tmp_path / "encoder", tmp_path / "again" / "encoder.onnx")
    assert again.file.read_bytes() == done.file.read_bytes()


def test_what_is_missing_or_damaged_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no encoder in"):
        export_encoder(tmp_path, tmp_path / "x.onnx")
    save_encoder(tmp_path / "encoder", SMALL, TOKENIZER)
    weights = tmp_path / "encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        export_encoder(tmp_path / "encoder", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_files_of_another_model_are_not_replaced(tmp_path):
    save_encoder(tmp_path / "encoder", SMALL, TOKENIZER)
    export_encoder(tmp_path / "encoder", tmp_path / "encoder" / "encoder.onnx")  # its own tokenizer: that is fine
    Tokenizer.train(["another"] * 3, size=400).save(tmp_path / "tokenizer.json")
    before = (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(InputError, match="belongs to another model"):
        export_encoder(tmp_path / "encoder", tmp_path / "encoder.onnx")
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert not (tmp_path / "encoder.onnx").exists()
    with pytest.raises(InputError, match=r"\.onnx"):
        export_encoder(tmp_path / "encoder", tmp_path / "out" / "encoder")


def test_a_graph_with_other_numbers_is_not_written(tmp_path):
    graph = encoder_graph(SMALL)
    for apart in (0.1, float("nan")):
        with pytest.raises(ModelError, match="other numbers than torch"):
            write_export(tmp_path / "x.onnx", graph, Reader("a", {}, {"tokenizer.json": b"{}"}), lambda run, a=apart: a)
    assert not list(tmp_path.iterdir())


def test_the_comparison_sees_a_wrong_weight(tmp_path, monkeypatch):
    wrong = RoFormerV2(SHAPE).eval()
    wrong.load_state_dict(SMALL.state_dict())
    with torch.no_grad():
        wrong.layers[1].inner.weight[3] += 0.05
    monkeypatch.setattr("tianwen.backbone.onnx_export.encoder_graph", lambda backbone: encoder_graph(wrong))
    save_encoder(tmp_path / "encoder", SMALL, TOKENIZER)
    with pytest.raises(ModelError, match="other numbers than torch"):
        export_encoder(tmp_path / "encoder", tmp_path / "x.onnx")


def test_a_missing_extra_is_told(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx_graph, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"'onnx'.*pip install 'tianwen\[export\]'"):
        encoder_graph(SMALL)


def test_a_file_in_one_piece_holds_two_gigabytes(monkeypatch):
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 1000)
    with pytest.raises(ModelError, match="an ONNX file in one piece holds 2"):
        encoder_graph(SMALL).bytes({})


def test_turns_are_computed_in_double_precision():
    graph = encoder_graph(SMALL)
    model = onnx.load_from_string(graph.bytes({}))
    angles = next(entry for entry in model.graph.initializer if entry.name == f"rope_{SHAPE.width // SHAPE.heads}")
    assert onnx.numpy_helper.to_array(angles).dtype == np.float64
    assert "Cos" not in {node.op_type for node in model.graph.node}  # ONNX Runtime 1.20 has none of doubles


def test_without_onnxruntime_nothing_is_compared(tmp_path, monkeypatch):
    def missing(name="onnx"):
        if name == "onnxruntime":
            raise MissingExtra("onnxruntime", "export")
        return onnx_graph.import_module(name)

    monkeypatch.setattr(onnx_file, "onnx_package", missing)
    save_encoder(tmp_path / "encoder", SMALL, TOKENIZER)
    done = export_encoder(tmp_path / "encoder", tmp_path / "out" / "encoder.onnx")
    assert done.difference is None
    assert done.file.exists()
    words = ["export", "onnx", "--model", str(tmp_path / "encoder"), "--out", str(tmp_path / "again" / "encoder.onnx")]
    assert "not measured: onnxruntime is not installed" in CliRunner().invoke(cli.app, words).stdout
