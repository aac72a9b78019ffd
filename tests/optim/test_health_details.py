"""Parts of the doctor: names of tokens, which tensors are tables, silent rows, pictures, the command."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tests.optim.planted import healthy, plant, save_folder
from tianwen.cli import app
from tianwen.errors import InputError
from tianwen.optim.embedding_health import EmbeddingHealth
from tianwen.optim.embedding_tables import find_tables
from tianwen.optim.figure import Curve, Panel, draw
from tianwen.optim.lion import Lion
from tianwen.optim.stored_tensors import StoredTensor
from tianwen.optim.tiger import Tiger
from tianwen.optim.token_names import read_token_names

# Names of tokens


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", "[PAD]\n天\n##ing\n"),
        ("vocab.json", json.dumps({"[PAD]": 0, "å¤©": 1, "##ing": 2})),
        ("tokenizer.json", json.dumps({"model": {"vocab": {"天": 1, "[PAD]": 0, "##ing": 2}}})),
        ("tokenizer.json", json.dumps({"model": {"vocab": [["[PAD]", 0.0], ["天", -1.5], ["##ing", -2]]}})),
        ("tokenizer.json", json.dumps({"format": "tianwen-tokenizer", "vocabulary": ["[PAD]", "天", "##ing"]})),
        (
            "tokenizer.json",
            json.dumps(
                {
                    "model": {"vocab": {"å¤©": 1, "##ing": 2}},
                    "decoder": {"type": "ByteLevel"},
                    "added_tokens": [{"id": 0, "content": "[PAD]"}],
                }
            ),
        ),
    ],
)
def test_token_names_of_every_kind(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_token_names(tmp_path / name) == {0: "[PAD]", 1: "天", 2: "##ing"}
    assert read_token_names(tmp_path) == {0: "[PAD]", 1: "天", 2: "##ing"}


def test_byte_level_pieces_are_readable(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"Ġthe": 0, "å¤": 1, "Ċ": 2}), encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": 3}))
    assert read_token_names(tmp_path) == {0: " the", 1: "å¤", 2: "\n", 3: "<|end|>"}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": {}}', '{"model": {"vocab": 3}}', '{"a": "b"}'])
def test_rubbish_is_no_tokenizer(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="Known"):
        read_token_names(tmp_path / "tokenizer.json")
    EmbeddingHealth.of(save_folder(tmp_path, {"emb.weight": healthy(9, 4)}))  # beside weights it is passed over


# Which tensors are tables

TABLES = """\
model.embed_tokens.weight lm_head.weight transformer.wte.weight wpe.weight shared.weight embedding E.embedding
bert.embeddings.word_embeddings.weight roberta.embeddings.position_embeddings.weight tok_embeddings.weight emb.weight
model.decoder.embed_positions.weight gpt_neox.embed_in.weight embed_out.weight backbone.tokens.weight label_emb.weight
text_model.embeddings.token_embedding.weight _orig_mod.module.embed.weight"""
LAYERS = """
model.layers.0.mlp.up_proj.weight embeddings_project.weight time_embedding.linear_1.weight time_embed.0.weight
encoder.embedding_hidden_mapping_in.weight h.0.attn.c_attn.weight embed.proj.weight embeddings.dense.weight
head.0.weight"""


def test_tables_are_told_from_layers_by_name():
    tensors = {name: StoredTensor.in_memory(name, torch.zeros(48, 32)) for name in (TABLES + LAYERS).split()}
    assert [table.name for table in find_tables(tensors)] == TABLES.split()


def test_a_table_is_known_by_its_rows():
    tensors = {name: StoredTensor.in_memory(name, torch.zeros(size, 32)) for name, size in (("a", 48), ("b", 77))}
    assert [table.name for table in find_tables(tensors, vocabulary=77)] == ["b"]


# Momentum


def trained(optimizer_class, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(400, 32), nn.Linear(32, 4))
    optimizer = optimizer_class(model, **options)
    for step in range(28):
        optimizer.zero_grad()
        rows = torch.arange(400) if step == 0 else torch.arange(50)
        model(rows).square().sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    ("optimizer_class", "rule", "severity"),
    [(Tiger, "plain", "warning"), (Tiger, "stale", None), (Tiger, "adam", "note"), (Lion, "plain", "warning")],
)
def test_silent_rows_are_counted_from_the_momentum(optimizer_class, rule, severity):
    options = {"betas": (0.9, 0.6)} if optimizer_class is Lion else {"beta": 0.6, "adam_betas": (0.6, 0.9)}
    model, optimizer = trained(optimizer_class, lr=1e-4, embedding_update=rule, **options)
    health = EmbeddingHealth.of(model, optimizer=optimizer.state_dict())
    assert health.tables[0].momentum is not None
    silent = [finding for finding in health.tables[0].findings if finding.kind == "silent rows"]
    if severity is None:  # its rows keep the momentum of their last gradient
        assert not silent
        return
    assert [finding.severity for finding in silent] == [severity]
    assert set(health.tables[0].momentum.silent.nonzero()[0]) <= set(range(50, 400))
    assert int(health.tables[0].momentum.silent.sum()) > 300


def test_momentum_is_matched_by_name_where_shapes_are_equal():
    model = nn.ModuleDict({"b": nn.Embedding(30, 4), "a": nn.Embedding(30, 4)})
    optimizer = Tiger(model)
    (model["a"](torch.tensor([3])).sum() + 2 * model["b"](torch.tensor([5])).sum()).backward()
    optimizer.step()
    health = EmbeddingHealth.of(model, optimizer=optimizer.state_dict())
    rows = {t.name: t.momentum.largest.nonzero()[0].tolist() for t in health.tables if t.momentum is not None}
    assert rows == {"a.weight": [3], "b.weight": [5]}


def _unnamed(*momenta: torch.Tensor) -> dict:
    """A state as torch saves it without names: parameters by number, in the order of the model."""
    state = {number: {"exp_avg": m} for number, m in enumerate(momenta)}
    return {"state": state, "param_groups": [{"params": list(state), "lr": 1e-3, "betas": (0.9, 0.99)}]}


def _largest(health: EmbeddingHealth) -> dict[str, float]:
    return {t.name: float(t.momentum.largest.max()) for t in health.tables if t.momentum is not None}


def test_without_names_a_tied_head_shares_the_one_momentum_of_its_shape():
    tables = {"wte.weight": healthy(30, 4), "lm_head.weight": healthy(30, 4)}
    health = EmbeddingHealth.of(tables, optimizer=_unnamed(torch.full((30, 4), 0.5), torch.ones(4, 4)))
    assert _largest(health) == {"wte.weight": 0.5, "lm_head.weight": 0.5}


def test_without_names_the_first_momentum_is_the_tables_and_the_second_the_heads():
    tables = {"lm_head.weight": healthy(30, 4), "wte.weight": healthy(30, 4)}  # safetensors sorts by name
    health = EmbeddingHealth.of(tables, optimizer=_unnamed(torch.full((30, 4), 0.5), torch.full((30, 4), 0.25)))
    assert _largest(health) == {"wte.weight": 0.5, "lm_head.weight": 0.25}


def test_without_names_momenta_that_could_be_anybodys_are_nobodys():
    three = [torch.full((30, 4), size) for size in (0.5, 0.25, 0.125)]
    tables = {"wte.weight": healthy(30, 4), "lm_head.weight": healthy(30, 4)}
    assert not _largest(EmbeddingHealth.of(tables, optimizer=_unnamed(*three)))


@pytest.mark.parametrize("state", [{}, {"state": {}}, [1], {"optimizer": 3}])
def test_what_is_no_state_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "o.pt")
    with pytest.raises(InputError, match="holds no state"):
        EmbeddingHealth.of({"emb.weight": healthy(9, 4)}, optimizer=tmp_path / "o.pt")
    with pytest.raises(InputError, match="no optimiser state at"):
        EmbeddingHealth.of({"emb.weight": healthy(9, 4)}, optimizer=tmp_path / "gone.pt")


def test_a_state_of_another_model_is_remarked_upon():
    other = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    health = EmbeddingHealth.of({"emb.weight": healthy(9, 4)}, optimizer=other.state_dict())
    assert "no momentum that fits" in health.text()


# Pictures


def test_a_picture_is_well_formed_and_shows_every_curve(tmp_path):
    curves = [
        Curve([1, 10, 100], [1e-3, 1, 100], "a < b & c"),
        Curve([1, 2], [0, float("nan")], "nothing"),
        Curve([5], [5.0], "one", "dots"),
        Curve([1, 100], [7, 7], "", "dashed"),
    ]
    panels = [Panel("left", "x", "y", curves, log_x=True, log_y=True), Panel("right", "x", "y", curves)]
    draw(tmp_path / "p.svg", [*panels, Panel("empty", "x", "y", [])], title="T")
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    text = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"T", "left", "right", "a < b & c", "one"} <= set(text)
    assert "nan" not in (tmp_path / "p.svg").read_text()
    with pytest.raises(InputError, match=r"\.svg"):
        draw(tmp_path / "p.png", panels)


# The command


def test_the_command_reports_repairs_and_says_so_by_its_exit_code(tmp_path):
    table = healthy(2000, 32)
    plant(table, torch.tensor([42]), torch.tensor([60.0]))
    folder = save_folder(tmp_path / "sick", {"emb.weight": table}, tokens=2000)
    (tmp_path / "counts.txt").write_text("".join(f"{2000 - i}\n" for i in range(2000)))
    run = CliRunner().invoke
    done = run(app, ["health", str(folder), "--plot", str(tmp_path / "p.svg"), "--repair", str(tmp_path / "well")])
    assert (done.exit_code, '"tok42"' in done.output) == (1, True)
    ElementTree.parse(tmp_path / "p.svg")
    done = run(app, ["health", str(folder), "--json", "--counts", str(tmp_path / "counts.txt"), "--lr", "1e-3"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["tables"][0]["worst"][0]["token"] == "tok42"
    done = run(app, ["health", str(tmp_path / "well"), "--counts", str(tmp_path / "counts.txt")])
    assert (done.exit_code, "healthy" in done.output) == (0, True)
    done = run(app, ["health", str(tmp_path / "nowhere")])
    assert (done.exit_code, "There is no checkpoint" in done.output) == (1, True)
    assert run(app, ["health"]).exit_code == 2


def test_the_command_names_tokens_that_no_terminal_should_see(tmp_path):
    names = {"\ud800x": 17, "\x9b31m\u202egnp": 1999, "\x1b[31mred\n": 1000}
    table = healthy(2000, 32)
    plant(table, torch.tensor([17, 1000, 1999]), torch.tensor([40.0, 40.0, 40.0]))
    save_folder(tmp_path, {"embed_tokens.weight": table})
    vocabulary = {f"tok{number}": number for number in range(2000) if number not in names.values()} | names
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    health = EmbeddingHealth.of(tmp_path)
    text, told = health.text(), health.json().encode()  # half a pair has no bytes in UTF-8
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert all(line in text for line in (r'"\ud800x"', r'"\u009b31m\u202egnp"', r'"\u001b[31mred\n"'))
    assert {row["token"] for row in json.loads(told)["tables"][0]["worst"]} == set(names)


def _sentencepiece(pieces: list[str]) -> bytes:
    """A model file as SentencePiece writes it: pieces (text, score, sometimes a type), then its settings."""
    message = b""
    for number, piece in enumerate(pieces):
        text = piece.encode()
        inner = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x80\xbf" + (b"\x18\x02" if number == 0 else b"")
        message += b"\x0a" + bytes([len(inner)]) + inner
    settings = b"\x0a\x04data" + b"\x20\x80\xfa\x01"  # field 1 of the settings is no piece
    return message + b"\x12" + bytes([len(settings)]) + settings


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_names_from_a_sentencepiece_model(name, tmp_path):
    (tmp_path / name).write_bytes(_sentencepiece(["<unk>", "天", "▁the"]))
    assert read_token_names(tmp_path) == {0: "<unk>", 1: "天", 2: "▁the"}


@pytest.mark.parametrize("cut", [0, 1, 3, 10, 20])
def test_a_sentencepiece_model_cut_short_is_refused(cut, tmp_path):
    (tmp_path / "spiece.model").write_bytes(_sentencepiece(["<unk>", "天", "▁the"])[:cut])
    with pytest.raises(InputError, match=r"tokens|no tokenizer file"):
        read_token_names(tmp_path / "spiece.model")
