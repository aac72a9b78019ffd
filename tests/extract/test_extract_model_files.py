"""Extractors on disk: everything comes back, what is broken is refused with a sentence."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError, ModelError
from tianwen.extract.encoder import BackboneConfig
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.model_files import ExtractorSettings, load_extractor, replace_settings, save_extractor
from tianwen.extract.schema import EventType, RelationType, Schema
from tianwen.text import Tokenizer
from tianwen.training import model_folder
from tianwen.training.weights import save_weights

TOKENIZER = Tokenizer.train(["天问一号在文昌发射。"] * 3, size=500)
FACTS = Schema(("探测器", "地点"), (RelationType("发射地", "探测器", "地点"),))
EVENTS = Schema(events=(EventType("发射", ("trigger", "地点")),))
SETTINGS = ExtractorSettings(0.4, {"发射地": 0.7}, length=100, overlap=20, longest=(7, 3))


def saved(folder: Path, backbone: BackboneConfig | None = None, **options: str) -> GPLinker:
    torch.manual_seed(0)
    shape = backbone or RoFormerV2Config(vocabulary=TOKENIZER.size, layers=1, width=16, heads=2)
    model = GPLinker(GPLinkerConfig(shape, FACTS.entities, FACTS.predicates)).eval()
    save_extractor(model, TOKENIZER, FACTS, SETTINGS, folder, **options)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("shell", [True, False])
def test_everything_comes_back(tmp_path: Path, shell: bool) -> None:
    shape = ShellConfig(TOKENIZER.size, "slru", layers=1, width=16, bidirectional=True) if shell else None
    model = saved(tmp_path / "new" / "folder", shape)
    other, tokenizer, schema, settings = load_extractor(tmp_path / "new" / "folder")
    assert other.config == model.config
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert (schema, settings) == (FACTS, SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_events_come_back(tmp_path: Path) -> None:
    shape = RoFormerV2Config(vocabulary=TOKENIZER.size, layers=1, width=16, heads=2)
    model = GPLinker(GPLinkerConfig(shape, roles=(("发射", "trigger"), ("发射", "地点")), head="standard", reach=0))
    save_extractor(model, TOKENIZER, EVENTS, ExtractorSettings(), tmp_path)
    other, _, schema, _ = load_extractor(tmp_path)
    assert other.config == model.config
    assert schema == EVENTS


def test_small_storage_and_other_settings(tmp_path: Path) -> None:
    sizes = {}
    for storage in ("fp32", "fp16", "int8"):
        saved(tmp_path / storage, storage=storage)
        sizes[storage] = (tmp_path / storage / "model.safetensors").stat().st_size
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]
    before = load_extractor(tmp_path / "int8")[0].state_dict()
    replace_settings(tmp_path / "int8", ExtractorSettings(threshold=0.9))
    model, _, _, settings = load_extractor(tmp_path / "int8")
    assert settings == ExtractorSettings(threshold=0.9)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no extractor in"):
        load_extractor(tmp_path)
    saved(tmp_path)
    schema = (tmp_path / "schema.json").read_text()
    (tmp_path / "schema.json").unlink()
    with pytest.raises(ModelError, match="no readable schema"):
        load_extractor(tmp_path)
    (tmp_path / "schema.json").write_text(schema)
    Tokenizer.train(["another"] * 3, size=400).save(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="not the one that the model was trained"):
        load_extractor(tmp_path)
    save_weights(tmp_path / "model.safetensors", {"a": torch.zeros(1)}, {"architecture": "tianwen asker 1"})
    with pytest.raises(ModelError, match="asker 1"):
        load_extractor(tmp_path)


def test_schema_file_is_for_people_too(tmp_path: Path) -> None:
    saved(tmp_path)
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))["entities"] == ["探测器", "地点"]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(InputError, match="probability"):
        ExtractorSettings(threshold=1.0)
    with pytest.raises(InputError, match="probability"):
        ExtractorSettings(thresholds={"p": 0.0})
    with pytest.raises(InputError, match="half of a window"):
        ExtractorSettings(length=10, overlap=5)


def test_settings_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    saved(tmp_path)
    model_folder.replace_settings(tmp_path, {**asdict(SETTINGS), "what_comes_later": 3})
    assert load_extractor(tmp_path)[3] == SETTINGS
