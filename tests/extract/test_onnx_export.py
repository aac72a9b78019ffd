"""Exported extractors: torch's scores in all kinds of models, the same facts without torch, and what is refused."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.extract.small import BACKBONE, TEXT, TOKENIZER, tiny_extractor
from tianwen import cli
from tianwen.backbone.encoder_folder import save_encoder
from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2
from tianwen.errors import ModelError
from tianwen.extract.decode import decode
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.maps import text_maps
from tianwen.extract.model_files import ExtractorSettings, save_extractor
from tianwen.extract.onnx_export import MAPS, PARTS, export_extractor, text_maps_of
from tianwen.extract.rules import Rules
from tianwen.extract.schema import RelationType, Schema
from tianwen.text import Tokenizer

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

from tianwen.backbone.onnx_file import runtime  # noqa: E402
from tianwen.extract.onnx_maps import extractor_graph  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = {"entity_labels": ("人物", "地点", "器物"), "predicates": ("在", "属于")}
MODELS = {
    "efficient": GPLinkerConfig(BACKBONE, **LABELS, head_size=8),
    "standard": GPLinkerConfig(BACKBONE, **LABELS, head="standard", head_size=8),
    "one class": GPLinkerConfig(BACKBONE, ("名",), ("在",), head="standard", head_size=8, reach=0),
    "events": GPLinkerConfig(BACKBONE, roles=(("发射", "trigger"), ("发射", "地点")), head_size=8, reach=1),
    "entities": GPLinkerConfig(BACKBONE, ("人物", "地点"), head_size=8, reach=3),
    "lru": GPLinkerConfig(
        ShellConfig(TOKENIZER.size, "lru", layers=1, width=16, bidirectional=True), **LABELS, head_size=8
    ),
    "attention": GPLinkerConfig(
        ShellConfig(TOKENIZER.size, "attention", layers=1, width=16, heads=2, bidirectional=True), **LABELS, head_size=8
    ),
}


def new(config: GPLinkerConfig) -> GPLinker:
    torch.manual_seed(3)
    model = GPLinker(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def framed(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows [CLS] text [SEP] [PAD].."""
    ids = torch.randint(
        300, TOKENIZER.size, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed)
    )
    sizes = torch.tensor(lengths)
    ids[:, 0] = TOKENIZER.cls_id
    ids[torch.arange(len(ids)), sizes - 1] = TOKENIZER.sep_id
    ids[torch.arange(ids.shape[1]) >= sizes[:, None]] = TOKENIZER.pad_id
    return ids, sizes


def outputs_of(model: GPLinker):
    run = runtime(extractor_graph(model).bytes({}))
    assert run is not None
    return lambda ids, sizes: run({"ids": ids.numpy(), "lengths": sizes.numpy()})


def scores_of(outputs: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The formula of the module: [B, C, T, T]."""
    queries, keys, starts, ends = (outputs[f"{name}_{part}"] for part in PARTS)
    return queries @ keys.swapaxes(-1, -2) + starts[..., None] + ends[..., None, :]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_torch(name):
    model = new(MODELS[name])
    run = outputs_of(model)
    for lengths in ([9], [3, 30, 17], [2], [1, 4], [150, 90]):
        ids, sizes = framed(lengths)
        with torch.no_grad():
            wanted = model.projections(model.hidden(ids, sizes), sizes)
        outputs = run(ids, sizes)
        assert {one.partition("_")[0] for one in outputs} == {m for m in MAPS if getattr(wanted, m) is not None}
        for one in {key.partition("_")[0] for key in outputs}:
            projection = getattr(wanted, one)
            dense = projection.dense_scores().numpy()
            counts = np.isfinite(dense)
            np.testing.assert_allclose(scores_of(outputs, one)[counts], dense[counts], atol=1e-4)


@pytest.mark.parametrize("name", ["efficient", "standard", "one class", "events", "entities"])
def test_the_numpy_decoder_reads_them(name):
    model = new(MODELS[name])
    ids, sizes = framed([12, 20], seed=5)
    with torch.no_grad():
        hidden = model.hidden(ids, sizes)
    outputs = outputs_of(model)(ids, sizes)
    config = model.config
    rules = Rules.of_events(config.roles) if config.roles else Rules.of(config.entity_labels, config.predicates)
    found = 0
    for row, length in enumerate(sizes.tolist()):
        with torch.no_grad():
            wanted = text_maps(model.projections(hidden[row : row + 1, :length], sizes[row : row + 1]))
        one, other = decode(wanted, rules), decode(text_maps_of(outputs, row, length), rules)
        assert one.mentions.label.tolist() == other.mentions.label.tolist()
        assert one.facts.predicate.tolist() == other.facts.predicate.tolist()
        np.testing.assert_allclose(one.fact_score, other.fact_score, atol=1e-4)
        found += len(one.mentions)
    assert found > 5


def saved(folder, **options):
    extractor = tiny_extractor(schema=Schema(relations=(RelationType("发射地点"), RelationType("发射台"))), **options)
    extractor.save(folder)
    return extractor


def test_a_folder_becomes_a_whole_export(tmp_path):
    extractor = saved(tmp_path / "model", threshold=0.6)
    done = export_extractor(tmp_path / "model", tmp_path / "out" / "model.onnx")
    assert done.difference is not None
    assert done.difference < 1e-5
    assert sorted(path.name for path in done.file.parent.iterdir()) == ["model.onnx", "schema.json", "tokenizer.json"]
    assert Schema.load(done.file.parent / "schema.json") == extractor.schema
    told = {entry.key: entry.value for entry in onnx.load(done.file).metadata_props}
    assert told["architecture"] == "tianwen extractor 1"
    assert told["tokenizer"] == Tokenizer.load(done.file.parent / "tokenizer.json").fingerprint
    labels = json.loads(told["labels"])
    assert labels == {"entities": ["subject", "object"], "predicates": ["发射地点", "发射台"], "roles": []}
    assert json.loads(told["settings"])["threshold"] == 0.6


def test_facts_without_torch(tmp_path):
    """Another process, in which nobody imports torch, finds what the extractor finds."""
    extractor = saved(tmp_path / "model")
    wanted = extractor.extract(TEXT[:30], verify=False).triples()
    export_extractor(tmp_path / "model", tmp_path / "out" / "model.onnx")
    script = """
import json, sys
import numpy as np, onnxruntime
from tianwen.extract.decode import decode
from tianwen.extract.onnx_export import text_maps_of
from tianwen.extract.rules import Rules
from tianwen.text import Tokenizer
folder, text = sys.argv[1:]
session = onnxruntime.InferenceSession(folder + "/model.onnx")
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
tokenizer = Tokenizer.load(folder + "/tokenizer.json")
pieces = tokenizer.encode(text)
ids = np.array([[tokenizer.cls_id, *pieces.ids, tokenizer.sep_id]])
inputs = {"ids": ids, "lengths": np.array([ids.shape[1]])}
outputs = dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs)))
found = decode(text_maps_of(outputs, 0, ids.shape[1]), Rules.of(labels["entities"], labels["predicates"]))
m, f = found.mentions, found.facts
words = [text[pieces.offsets[a, 0] : pieces.offsets[b, 1]] for a, b in zip(m.first, m.last)]
names = labels["predicates"]
facts = {(words[s], names[p], words[o]) for s, p, o in zip(f.subject, f.predicate, f.object)}
print(json.dumps(sorted(facts)))
raise SystemExit("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out"), TEXT[:30]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [tuple(fact) for fact in json.loads(done.stdout)] == sorted(set(wanted))
    assert wanted


def test_the_example_reads_what_the_extractor_finds(tmp_path):
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / "8888_onnx.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    typed = ("人物", "地点", "器物")
    schema = Schema(typed, (RelationType("发射地点", "人物", "地点"), RelationType("发射台", "", "器物")))
    settings = {"threshold": 0.4, "thresholds": {"发射台": 0.3, "人物": 0.35}, "longest": (4, 9, 12)}
    mixed = {"classes": ("人物", "器物", ""), "schema": replace(schema, relations=schema.relations[1:])}
    kinds = ({"longest": (3, 20)}, {"classes": typed, "schema": schema, **settings}, {**mixed, **settings})
    for number, options in enumerate(kinds):
        extractor = tiny_extractor(seed=number, shift=-4.0, **options)
        extractor.save(tmp_path / f"model{number}")
        done = export_extractor(tmp_path / f"model{number}", tmp_path / f"out{number}" / "model.onnx")
        reader, texts = example.Reader(done.file), [TEXT[:30], TEXT[9:20]]
        for text, maps in zip(texts, reader.maps(texts), strict=True):
            found = {fact[:3]: fact[3] for fact in sorted(reader.facts(text, maps), key=lambda fact: fact[3])}
            wanted = extractor.extract(text, verify=False)
            facts = sorted(wanted.relations, key=lambda fact: fact.score)
            best = {(wanted.words(one.subject), one.predicate, wanted.words(one.object)): one.score for one in facts}
            assert found == pytest.approx(best, abs=1e-4)
            assert best


def test_another_mixer_is_refused(tmp_path):
    shape = ShellConfig(TOKENIZER.size, "rwkv", layers=1, width=16, bidirectional=True)
    model = GPLinker(GPLinkerConfig(shape, **LABELS, head_size=8)).eval()
    save_extractor(model, TOKENIZER, Schema(), ExtractorSettings(), tmp_path / "model")
    with pytest.raises(ModelError, match=r"'rwkv' cannot be exported.*lru and slru"):
        export_extractor(tmp_path / "model", tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()


def test_damage_is_refused(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / "schema.json").write_text("[]")
    with pytest.raises(ModelError, match="no readable schema"):
        export_extractor(tmp_path / "model", tmp_path / "out" / "model.onnx")
    with pytest.raises(ModelError, match="no extractor in"):
        export_extractor(tmp_path, tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def run():
    """The command in a process of its own is slow; here it runs in this one."""

    def invoke(*words, exit_code=0):
        result = CliRunner().invoke(cli.app, ["export", "onnx", *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def test_the_command_tells_what_it_wrote(run, tmp_path):
    saved(tmp_path / "model")
    told = json.loads(run("--model", tmp_path / "model", "--out", tmp_path / "a" / "x.onnx", "--json").stdout)
    assert told["architecture"] == "tianwen extractor 1"
    assert told["file"] == str(tmp_path / "a" / "x.onnx")
    assert told["outputs"][:2] == ["entity_queries", "entity_keys"]
    assert told["bytes"] == (tmp_path / "a" / "x.onnx").stat().st_size
    assert told["difference"] < 1e-5
    save_encoder(tmp_path / "encoder", RoFormerV2(BACKBONE).eval(), TOKENIZER)
    text = run("--model", tmp_path / "encoder", "--out", tmp_path / "b" / "x.onnx").stdout
    assert "hidden" in text
    assert "of the largest number" in text


def test_the_command_refuses_with_a_sentence(run, tmp_path):
    bundled = cli.exporting.__file__.rpartition("cli")[0] + "models/drawer"
    result = run("--model", bundled, "--out", tmp_path / "x.onnx", exit_code=1)
    assert "exported to ONNX are encoders" in result.stderr
    assert "There are no weights" in run("--model", tmp_path, "--out", tmp_path / "x.onnx", exit_code=1).stderr
    saved(tmp_path / "model")
    assert ".onnx" in run("--model", tmp_path / "model", "--out", tmp_path / "x", exit_code=1).stderr
    assert not (tmp_path / "x.onnx").exists()
