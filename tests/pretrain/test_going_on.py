"""Askers and extractors go on from a pretrained encoder: the same weights, the same vocabulary, clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tianwen.ask.from_encoder import asker_from_encoder
from tianwen.ask.learning import train_ask
from tianwen.backbone.checkpoints import save_huggingface
from tianwen.backbone.encoder_folder import load_encoder, save_encoder
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.cli import app
from tianwen.errors import InputError, ModelError
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.start import read_start
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights, save_weights

TOKENIZER = Tokenizer.train(["长征五号火箭在文昌发射", "战神在哪里发射？"] * 3, size=400)
QUESTION = "战神在哪里发射？"


def encoder_in(folder: Path, **changes: int) -> RoFormerV2:
    torch.manual_seed(4)
    shape = {"vocabulary": TOKENIZER.size, "layers": 2, "width": 32, "heads": 2}
    backbone = RoFormerV2(RoFormerV2Config(**(shape | changes))).eval()
    save_encoder(folder, backbone, TOKENIZER, {"steps": 7})
    return backbone


def question_ids(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.tensor([[tokenizer.cls_id, *tokenizer.ids(QUESTION).tolist(), tokenizer.sep_id]])


def test_it_comes_back_as_it_was_saved(tmp_path):
    backbone = encoder_in(tmp_path)
    found = load_encoder(tmp_path)
    assert found.backbone.config == backbone.config
    assert found.facts == {"steps": 7}
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, found.backbone.state_dict()[name])


@torch.no_grad()
def test_a_new_asker_reads_a_question_as_the_encoder_does(tmp_path):
    backbone = encoder_in(tmp_path)
    asker = asker_from_encoder(tmp_path)
    assert asker.tokenizer.fingerprint == TOKENIZER.fingerprint
    ids = question_ids(TOKENIZER)
    length = ids.shape[1]
    before = torch.randint(0, TOKENIZER.size, (1, length, 2))  # weighs nothing at the beginning
    everyone = torch.ones(1, 1, length, length, dtype=torch.bool)
    positions = torch.arange(length)[None]
    for segment in (0, 1):
        hidden, _ = asker.model.hidden(
            ids, before=before, segments=torch.full_like(ids, segment), positions=positions, mask=everyone
        )
        assert (hidden - backbone(ids)[0]).abs().max() < 1e-5


@torch.no_grad()
def test_a_new_extractor_reads_a_text_as_the_encoder_does(tmp_path):
    backbone = encoder_in(tmp_path)
    start = read_start(tmp_path)
    model = GPLinker(GPLinkerConfig(start.backbone, entity_labels=("火箭",), reach=start.reach)).eval()
    start.into(model)
    ids = question_ids(start.tokenizer)
    hidden = model.encoder(ids, torch.tensor([ids.shape[1]]))
    assert (hidden - backbone(ids)[0]).abs().max() < 1e-5


def test_an_asker_with_a_recurrence_is_no_beginning_of_an_extractor(tmp_path):
    encoder_in(tmp_path / "encoder")
    asker_from_encoder(tmp_path / "encoder").save(tmp_path / "asker")
    assert read_start(tmp_path / "asker").reach
    held = load_weights(tmp_path / "asker" / "model.safetensors")
    held.metadata["config"]["backbone"]["mixer"] = "lru"
    save_weights(tmp_path / "asker" / "model.safetensors", held.tensors, held.metadata)
    with pytest.raises(ModelError, match="recurrence in the place of attention"):
        read_start(tmp_path / "asker")


def test_the_bundled_encoder_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, start = load_encoder("bundled"), read_start(Path("bundled"))
    assert found.facts["tokens_seen"] > 10_000_000
    assert torch.equal(start.encoder["backbone.tokens.weight"], found.backbone.tokens.weight)
    rows = torch.nn.functional.normalize(found.backbone.tokens.weight, dim=-1).detach()
    ids = dict(zip(found.tokenizer.pieces, range(found.tokenizer.size), strict=True))
    alike, unlike = (float(rows[ids[a]] @ rows[ids[b]]) for a, b in (("父", "母"), ("父", "税")))
    assert alike > unlike + 0.1  # it has learnt something
    encoder_in(tmp_path / "bundled")
    assert load_encoder("bundled").facts == {"steps": 7}, "a folder of that name is meant first"


@torch.no_grad()
def test_published_weights_with_their_vocabulary_are_an_encoder(tmp_path):
    torch.manual_seed(5)
    backbone = RoFormerV2(RoFormerV2Config(vocabulary=10, layers=1, width=16, heads=2)).eval()
    save_huggingface(backbone, tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n战\n神\n在\n发\n射\n", encoding="utf-8")
    asker, start = asker_from_encoder(tmp_path), read_start(tmp_path)
    assert asker.tokenizer.ids("战神").tolist() == start.tokenizer.ids("战神").tolist() == [5, 6]
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(asker.model.backbone.state_dict()[name], tensor)
        assert torch.equal(start.encoder[f"backbone.{name}"], tensor)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n战\n", encoding="utf-8")
    with pytest.raises(ModelError, match="6 pieces, the weights beside it 10 rows"):
        load_encoder(tmp_path)


def test_what_is_no_encoder_is_refused(tmp_path):
    from tianwen.ask.asker import BUNDLED

    with pytest.raises(ModelError, match="holds 'tianwen asker 1'; this version reads 'tianwen encoder 1'"):
        asker_from_encoder(BUNDLED)
    with pytest.raises(ModelError, match=r"There is no encoder in .*Train one: tianwen train encoder"):
        asker_from_encoder(tmp_path)
    encoder_in(tmp_path, segments=1)
    with pytest.raises(ModelError, match="has 1 segment, an asker needs 2"):
        asker_from_encoder(tmp_path)


def test_training_begins_from_one_thing(tmp_path):
    with pytest.raises(InputError, match="begins from one thing"):
        train_ask([], tmp_path, scratch=True, encoder=tmp_path)
    told = CliRunner().invoke(app, ["train", "ask", "--out", "x", "--kb", "y", "--encoder", "e", "--scratch"])
    assert told.exit_code == 2
    told = CliRunner().invoke(app, ["train", "extract", "--out", "x", "--data", "y", "--encoder", "e", "--model", "m"])
    assert told.exit_code == 2


def test_an_asker_is_trained_from_an_encoder(tmp_path):
    encoder_in(tmp_path / "encoder")
    rows = "战神在哪里发射？\t战神\t发射地点\t卡纳维拉尔角\n长征五号在哪里发射？\t长征五号\t发射地点\t文昌\n"
    (tmp_path / "questions.tsv").write_text(rows, encoding="utf-8")
    arguments = [
        "--out",
        tmp_path / "asker",
        "--questions",
        tmp_path / "questions.tsv",
        "--encoder",
        tmp_path / "encoder",
    ]
    told = CliRunner().invoke(app, ["train", "ask", *map(str, arguments), "--steps", "2", "--batch", "4", "-q"])
    assert told.exit_code == 0, told.output
    from tianwen.ask.asker import Asker

    assert Asker.load(tmp_path / "asker").tokenizer.fingerprint == TOKENIZER.fingerprint
