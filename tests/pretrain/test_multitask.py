"""Many tasks on one encoder: gradients of equal length, every head on the same weights, resume to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tianwen.backbone.encoder_folder import load_encoder, save_encoder
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.cli import app
from tianwen.errors import InputError, ModelError
from tianwen.pretrain.gathering import Reading, TaskFiles, gather_tasks
from tianwen.pretrain.gradients import with_unit_gradient
from tianwen.pretrain.multitask import MultitaskSettings, Named, Tasks, shares, train_multitask
from tianwen.pretrain.pairs import PairCollate, PairModel, read_pairs
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights

TEXTS = ["长征五号在文昌发射", "战神在卡纳维拉尔角发射", "猎鹰九号在哪里发射？"]
TOKENIZER = Tokenizer.train(TEXTS * 3, size=400)


def encoder_in(folder: Path) -> Path:
    torch.manual_seed(4)
    shape = RoFormerV2Config(vocabulary=TOKENIZER.size, layers=1, width=32, heads=2, attention_dropout=0.0)
    save_encoder(folder, RoFormerV2(shape), TOKENIZER)
    return folder


def files_in(folder: Path) -> TaskFiles:
    """A small set of each kind."""
    folder.mkdir(exist_ok=True)
    facts = [
        {"text": f"{a}在{b}发射", "relations": [{"subject": a, "predicate": "发射地点", "object": b}]}
        for a in ("长征五号", "战神", "猎鹰九号")
        for b in ("文昌", "酒泉", "卡纳维拉尔角", "太原")
    ] * 2
    (folder / "facts.jsonl").write_text("\n".join(json.dumps(row) for row in facts), encoding="utf-8")
    questions = [f"{a}在哪里发射？\t{a}\t发射地点\t文昌" for a in ("长征五号", "战神", "猎鹰九号") for _ in range(8)]
    (folder / "asked.tsv").write_text("\n".join(questions), encoding="utf-8")
    pairs = [f"{a}\t{b}\t{int(a == b)}" for a in TEXTS for b in TEXTS] * 3
    (folder / "same.tsv").write_text("\n".join(pairs), encoding="utf-8")
    (folder / "plain.txt").write_text("\n".join(TEXTS * 30), encoding="utf-8")
    kinds = [(folder / name,) for name in ("facts.jsonl", "asked.tsv", "same.tsv", "plain.txt")]
    return TaskFiles(*kinds)


def slow_unit_gradients(losses: list, shared: list[nn.Parameter], own: list[nn.Parameter]) -> list[np.ndarray]:
    """sum over tasks of g_i / |g_i| for the shared weights, heads scaled alike: each loss by itself, in numpy."""
    total = [np.zeros(tuple(p.shape)) for p in [*shared, *own]]
    for loss in losses:
        for p in [*shared, *own]:
            p.grad = None
        loss().backward()
        found = [np.zeros(tuple(p.shape)) if p.grad is None else p.grad.numpy().copy() for p in [*shared, *own]]
        length = np.sqrt(sum((g**2).sum() for g in found[: len(shared)]))
        total = [sum_ + g / length for sum_, g in zip(total, found, strict=True)]
    return total


def test_the_update_is_the_sum_of_unit_gradients():
    torch.manual_seed(2)
    shared = [nn.Parameter(torch.randn(3, 4, dtype=torch.double)), nn.Parameter(torch.randn(4, dtype=torch.double))]
    own = [nn.Parameter(torch.randn(2, dtype=torch.double)), nn.Parameter(torch.randn(2, dtype=torch.double))]
    x = torch.randn(5, 3, dtype=torch.double)
    losses = [
        lambda: 1000 * ((x @ shared[0] + shared[1]).tanh()[:, :2] @ own[0]).square().mean(),
        lambda: 0.001 * ((x @ shared[0]).sin()[:, :2] @ own[1]).sum(),  # does not use shared[1] or own[0]
    ]
    wanted = slow_unit_gradients(losses, shared, own)
    for p in [*shared, *own]:
        p.grad = None
    for loss, head in zip(losses, own, strict=True):
        value = loss()
        handed = with_unit_gradient(value, shared, [head])
        assert float(handed.detach()) == float(value.detach())
        handed.backward()
    for p, truth in zip([*shared, *own], wanted, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), truth, rtol=1e-9, atol=1e-12)
    first = np.sqrt(sum((g**2).sum() for g in slow_unit_gradients(losses[:1], shared, own)[:2]))
    assert abs(first - 1) < 1e-12


def test_a_gradient_of_zero_or_none_is_handed_on():
    weight = nn.Parameter(torch.ones(3))
    handed = with_unit_gradient((weight * 0).sum(), [weight])
    handed.backward()
    assert torch.equal(weight.grad, torch.zeros(3))  # type: ignore[arg-type]
    weight.grad = None
    with_unit_gradient((weight * float("nan")).sum(), [weight]).backward()
    assert not bool(torch.isfinite(weight.grad).any())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskFiles, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return encoder_in(folder / "encoder"), files_in(folder / "data"), folder / "corpus"


HOW = Reading(batch=96, length=32, words="characters")
SETTINGS = MultitaskSettings(steps=8, accumulate=3, learning_rate=1e-3)


def test_every_kind_of_task_moves_the_shared_encoder(made):
    encoder, tasks = gather_tasks(made[0], made[1], made[2], how=HOW)
    assert [task.name for task in tasks] == ["labelled facts", "questions asked", "pairs same", "text"]
    shared = list(encoder.backbone.parameters())
    model = Tasks(encoder.backbone, tasks)
    for task in tasks:
        assert {id(p) for p in task.head.parameters()} >= {id(p) for p in shared}
        encoder.backbone.zero_grad()
        name, batch = Named(task.name, task.source).batch(0, 0, 1) or ("", None)
        loss, _ = task.loss(task.head, batch)
        with_unit_gradient(loss, shared, model.own[name]).backward()
        length = torch.stack([p.grad.square().sum() for p in shared if p.grad is not None]).sum().sqrt()
        assert abs(float(length) - 1) < 1e-4, task.name
        assert list(task.held_out())


def test_it_learns_resumes_exactly_and_its_folder_is_an_encoder(made, tmp_path, monkeypatch):
    encoder, tasks = gather_tasks(made[0], made[1], made[2], how=HOW)
    numbers = train_multitask(encoder, tasks, tmp_path / "whole", settings=SETTINGS, quiet=True, checkpoint_every=3)
    assert {f"loss of {task.name}" for task in tasks} <= numbers.keys()
    before = load_encoder(made[0]).backbone.state_dict()
    after = load_encoder(tmp_path / "whole")
    assert after.facts["multitask"]["steps"] == 8
    assert all(not torch.equal(t, before[n]) for n, t in after.backbone.state_dict().items() if n != "segments.weight")

    encoder, tasks = gather_tasks(made[0], made[1], made[2], how=HOW)
    given = Named.batch

    def broken(self: Named, index: int, rank: int, world: int) -> object:
        if broken.left == 0:  # type: ignore[attr-defined]
            raise OSError("the disk went away")
        broken.left -= 1  # type: ignore[attr-defined]
        return given(self, index, rank, world)

    broken.left = 16  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(Named, "batch", broken)
        with pytest.raises(OSError, match="went away"):
            train_multitask(encoder, tasks, tmp_path / "parts", settings=SETTINGS, quiet=True, checkpoint_every=3)
    encoder, tasks = gather_tasks(made[0], made[1], made[2], how=HOW)
    train_multitask(encoder, tasks, tmp_path / "parts", settings=SETTINGS, quiet=True, checkpoint_every=3)
    whole, parts = (load_weights(tmp_path / name / "model.safetensors").tensors for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_shares_follow_the_number_of_examples(made):
    _, tasks = gather_tasks(made[0], made[1], made[2], how=HOW)
    sizes = {task.name: task.examples for task in tasks}
    told = shares(tasks, 0.4)
    assert told["text"] == 40
    labelled = [name for name in sizes if name != "text"]
    total = sum(sizes[name] for name in labelled)
    assert all(abs(told[name] - 60 * sizes[name] / total) <= 0.5 for name in labelled)
    huge = [replace(tasks[0], examples=10**9), *tasks[1:3]]
    assert shares(huge, 0.4) == {"labelled facts": 100, "questions asked": 1, "pairs same": 1}


def test_pairs_are_read_and_scored_in_the_order_of_the_pack(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"sentence1": "战神", "sentence2": "长征五号", "label": 0}\n\n'
        '{"text": "文昌", "other": "文昌", "label": "1"}\n',
        encoding="utf-8",
    )
    pairs = read_pairs(tmp_path / "p.jsonl")
    assert [(p.first, p.second, p.label) for p in pairs] == [("战神", "长征五号", "0"), ("文昌", "文昌", "1")]
    collate = PairCollate(TOKENIZER, ["0", "1"], length=32)
    together = collate(pairs, np.random.default_rng(0))
    model = PairModel(load_encoder(encoder_in(tmp_path / "e")).backbone, 2).eval()
    with torch.no_grad():
        alone = [model(collate([pair], np.random.default_rng(0)).pack)[0] for pair in pairs]
        scores = model(together.pack)
    for place, index in enumerate(together.pack.order):
        assert (scores[place] - alone[index]).abs().max() < 1e-5
        assert together.labels[place] == int(pairs[index].label)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.tsv", "one\ttwo\t1\nthree\tfour\n", "a.tsv, line 2: .* is no pair"),
        ("a.jsonl", '{"sentence1": "x"}\n', "a.jsonl, line 1: .* is no pair"),
        ("a.tsv", "one\ttwo\t1\n", "fewer than two labels"),
    ],
)
def test_files_that_hold_no_pairs_are_refused(tmp_path, name, content, told):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        read_pairs(tmp_path / name)
    (tmp_path / "gb.tsv").write_bytes("战\t神\t1\n".encode("gb18030"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_pairs(tmp_path / "gb.tsv")


def test_what_cannot_be_trained_is_refused(made, tmp_path):
    with pytest.raises(InputError, match="too small for texts"):
        Reading(batch=64, length=64)
    with pytest.raises(InputError, match="text_share=1"):
        MultitaskSettings(text_share=1.0)
    with pytest.raises(ModelError, match="There is no encoder"):
        gather_tasks(tmp_path, made[1], tmp_path / "c", how=HOW)
    with pytest.raises(InputError, match="give at least one"):
        train_multitask(load_encoder(made[0]), [], tmp_path / "m", settings=SETTINGS)
    assert CliRunner().invoke(app, ["train", "multitask", str(made[0]), "--out", str(tmp_path / "m")]).exit_code == 2


def test_the_command_makes_an_encoder(made, tmp_path):
    pairs = str(made[1].pairs[0])
    arguments = [str(made[0]), "--out", str(tmp_path / "m"), "--pairs", pairs, "--steps", "2", "--length", "32"]
    told = CliRunner().invoke(app, ["train", "multitask", *arguments, "--batch", "64", "--json", "-q"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["tasks"] == {"pairs same": 100}
    assert load_encoder(tmp_path / "m").tokenizer.fingerprint == TOKENIZER.fingerprint
