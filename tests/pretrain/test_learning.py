"""A small encoder is pretrained: it learns, resumes to the same bits, and its folder is whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tianwen.backbone.encoder_folder import load_encoder, save_encoder
from tianwen.backbone.heads import MaskedLanguageModel
from tianwen.backbone.ragged import attend_padded
from tianwen.errors import InputError, ModelError, TrainingError
from tianwen.pretrain.corpus import Corpus
from tianwen.pretrain.learning import new_model, planned_steps, prepare, seconds_per_step, train_encoder
from tianwen.pretrain.objective import MaskedText, accuracy, masked_loss
from tianwen.pretrain.sequences import split_spans
from tianwen.pretrain.settings import PretrainSettings
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights, save_weights

SMALL = {"layers": 2, "width": 32, "heads": 2, "length": 32, "batch": 160, "held_out": 4, "dropout": 0.1}
RESUMED = PretrainSettings(**SMALL, steps=12, accumulate=2)


def sentences(count: int = 240) -> list[str]:
    chance = random.Random(3)
    rockets, places = ["长征五号", "战神", "猎鹰九号"], ["文昌", "酒泉", "卡纳维拉尔角"]
    return [f"{chance.choice(rockets)}火箭在{chance.choice(places)}发射" for _ in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("text")
    (folder / "rockets.txt").write_text("\n".join(sentences()), encoding="utf-8")
    (folder / "same.txt").write_text("\n".join(sentences(120)), encoding="utf-8")
    files = [folder / "rockets.txt", folder / "same.txt"]
    return prepare(files, folder / "corpus", vocabulary="400", words="characters")


def corpus_folder(corpus: Corpus) -> Path:
    """Where a corpus lies."""
    assert isinstance(corpus.ids, np.memmap)
    return Path(str(corpus.ids.filename)).parent


def text_of(corpus: Corpus, **changes: int) -> MaskedText:
    spans = split_spans(corpus, length=32, held_out=4)
    return MaskedText(corpus, spans, **({"budget": 160, "seed": 1} | changes))


def test_packed_loss_is_that_of_each_sequence_alone(corpus):
    batch = text_of(corpus).batch(0, 0, 1)
    assert batch is not None
    model = new_model(corpus.tokenizer.size, PretrainSettings(**SMALL, steps=1)).eval()
    loss, values = masked_loss(model, batch)
    wanted = torch.zeros(len(batch.pack.ids), dtype=torch.bool)
    real = batch.targets >= 0
    wanted[batch.places[real]] = True
    targets = torch.zeros(len(batch.pack.ids), dtype=torch.long)
    targets[batch.places[real]] = batch.targets[real]
    total = torch.zeros(())
    rows = zip(batch.pack.split(batch.pack.ids), batch.pack.split(wanted), batch.pack.split(targets), strict=True)
    for (_, ids), (_, asked), (_, truth) in rows:
        logits = model(ids[None])[0]
        total = total + F.cross_entropy(logits[asked], truth[asked], reduction="sum")
    assert len(set(batch.pack.lengths)) > 1
    assert values["weight"] == int(wanted.sum()) > 0
    assert values["tokens"] == batch.tokens <= len(batch.pack.ids)
    assert len(batch.pack.ids) % 128 == len(batch.places) % 128 == 0
    assert (loss - total / values["weight"]).abs() < 1e-5


@pytest.mark.parametrize("lengths", [(5,), (1, 2, 9, 9, 10), (3, 3, 40, 2), (7,) * 6])
def test_padded_groups_attend_as_runs_do(lengths):
    inputs = torch.randn(3, 1, 2, sum(lengths), 8, requires_grad=True)
    alone = [
        F.scaled_dot_product_attention(*part) for part in zip(*(x.split(lengths, dim=2) for x in inputs), strict=True)
    ]
    mixed = attend_padded(inputs[0], inputs[1], inputs[2], lengths)
    assert (mixed - torch.cat(alone, dim=2)).abs().max() < 1e-6
    (found,) = torch.autograd.grad(mixed.square().sum(), inputs)
    (truth,) = torch.autograd.grad(torch.cat(alone, dim=2).square().sum(), inputs)
    assert (found - truth).abs().max() < 1e-5


def test_batches_depend_on_their_index_alone_and_processes_share_them(corpus):
    text = text_of(corpus)
    first, again = text.batch(3, 0, 1), text_of(corpus).batch(3, 0, 1)
    assert first is not None
    assert again is not None
    assert torch.equal(first.pack.ids, again.pack.ids)
    assert not torch.equal(first.pack.ids, text_of(corpus, seed=2).batch(3, 0, 1).pack.ids)  # type: ignore[union-attr]
    parts = [text.batch(3, rank, 2) for rank in (0, 1)]
    assert sum(part.tokens for part in parts if part) == first.tokens <= 160
    assert all(part is not None and part.tokens <= len(part.pack.ids) == 128 for part in parts)


def test_masks_change_with_the_epoch_and_not_those_held_out(corpus):
    text = text_of(corpus, budget=4000)
    epochs = [text.batch(index, 0, 1) for index in (0, text.order.batches)]
    texts = [sorted(tuple(row.tolist()) for _, row in batch.pack.split(batch.pack.ids)) for batch in epochs if batch]
    assert texts[0] != texts[1]
    held = [[batch.pack.ids.tolist() for _, batch in text.held_out()] for _ in range(2)]
    assert held[0] == held[1]


def test_it_learns(corpus, tmp_path):
    settings = PretrainSettings(**SMALL | {"dropout": 0.0, "batch": 400}, steps=60, learning_rate=5e-3)
    text = text_of(corpus)
    before = accuracy(new_model(corpus.tokenizer.size, settings).eval(), text.held_out())
    numbers = train_encoder(corpus, tmp_path / "m", settings=settings, quiet=True, evaluate_every=20)
    assert numbers["accuracy"] > before["accuracy"]
    assert numbers["loss"] < before["loss"] - 1.5
    assert {"accuracy of rockets", "accuracy of same"} <= numbers.keys()
    assert numbers["tokens_seen"] > 10_000
    assert "<svg" in (tmp_path / "m" / "curves.svg").read_text()
    encoder = load_encoder(tmp_path / "m")
    assert encoder.tokenizer.fingerprint == corpus.tokenizer.fingerprint
    assert encoder.backbone.residual_weight == 1.0
    assert encoder.facts["steps"] == 60
    again = accuracy(MaskedLanguageModel(encoder.backbone).eval(), text.held_out())
    assert abs(again["accuracy"] - numbers["accuracy"]) < 1e-3


def test_killed_twice_it_ends_with_the_same_bits(corpus, tmp_path):
    """kill -9 in the middle of batches 9 and 17; two batches make a step, a checkpoint is due every third."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from tianwen.pretrain.corpus import open_corpus
from tianwen.pretrain.objective import MaskedText
from test_learning import RESUMED, train_encoder
import torch
torch.set_num_threads(1)
corpus = open_corpus(Path({str(corpus_folder(corpus))!r}))
codes = []
for fatal in (9, 17, None):
    child = os.fork()
    if child == 0:
        made = MaskedText.batch
        def batch(self, index, rank, world):
            if index == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return made(self, index, rank, world)
        MaskedText.batch = batch
        train_encoder(corpus, {str(tmp_path / "killed")!r}, settings=RESUMED, quiet=True, checkpoint_every=3)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(codes)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[-9, -9, 0]", run.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_encoder(corpus, tmp_path / "whole", settings=RESUMED, quiet=True, checkpoint_every=3)
    torch.set_num_threads(threads)
    whole, killed = ((tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    wanted, found = load_weights(whole).tensors, load_weights(killed).tensors
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    log = [json.loads(line) for line in (tmp_path / "killed" / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 13))


@pytest.mark.parametrize("optimiser", ["lamb"])
def test_every_optimiser_goes_on_exactly(corpus, tmp_path, optimiser, monkeypatch):
    settings = replace(RESUMED, optimiser=optimiser, precision="bf16")
    train_encoder(corpus, tmp_path / "whole", settings=settings, quiet=True, checkpoint_every=3)
    made = MaskedText.batch

    def broken(self: MaskedText, index: int, rank: int, world: int) -> object:
        if index == 15:
            raise OSError("the disk went away")
        return made(self, index, rank, world)

    with monkeypatch.context() as patched:
        patched.setattr(MaskedText, "batch", broken)
        with pytest.raises(OSError, match="went away"):
            train_encoder(corpus, tmp_path / "parts", settings=settings, quiet=True, checkpoint_every=3)
    train_encoder(corpus, tmp_path / "parts", settings=settings, quiet=True, checkpoint_every=3)
    whole, parts = (load_weights(tmp_path / name / "model.safetensors").tensors for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_other_settings_do_not_go_on(corpus, tmp_path):
    train_encoder(corpus, tmp_path, settings=RESUMED, quiet=True)
    with pytest.raises(TrainingError, match="other settings"):
        train_encoder(corpus, tmp_path, settings=replace(RESUMED, rate=0.2), quiet=True)


def test_how_long(corpus, tmp_path, monkeypatch):
    text, model = text_of(corpus), new_model(corpus.tokenizer.size, RESUMED)
    per_step = text.tokens_per_batch
    assert 80 < per_step <= 160
    by_tokens = replace(RESUMED, steps=None, tokens=per_step * 2 * 50, accumulate=2)
    assert planned_steps(model, text, by_tokens, tmp_path) == 50
    monkeypatch.setattr("tianwen.pretrain.learning.seconds_per_step", lambda *a, **b: 0.5)
    by_clock = replace(RESUMED, steps=None, minutes=10.0)
    assert planned_steps(model, text, by_clock, tmp_path) == 1140
    monkeypatch.setattr("tianwen.pretrain.learning.seconds_per_step", lambda *a, **b: 9.0)
    assert planned_steps(model, text, by_clock, tmp_path) == 1140  # a resumed run keeps its plan


def test_a_step_is_timed_without_learning_anything(corpus):
    text, model = text_of(corpus), new_model(corpus.tokenizer.size, RESUMED)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert 0 < seconds_per_step(model, text, RESUMED, least=0.0) < 60
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"steps": None}, "give one of them"),
        ({"steps": 1, "tokens": 5.0}, "give one of them"),
        ({"steps": None, "minutes": float("nan")}, "give one of them"),
        ({"steps": 1, "batch": 0}, "at least 1"),
        ({"steps": 1, "dropout": 1.0}, "shares"),
        ({"steps": 1, "learning_rate": -1.0}, "above 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(odd, told):
    with pytest.raises(InputError, match=told):
        PretrainSettings(**odd)


def test_a_batch_must_hold_a_sequence(corpus):
    with pytest.raises(InputError, match="raise --batch or lower --length"):
        text_of(corpus, budget=20)


def test_another_model_is_not_overwritten(corpus, tmp_path):
    save_weights(tmp_path / "model.safetensors", {"x": torch.ones(1)}, {"architecture": "tianwen asker 1"})
    with pytest.raises(ModelError, match="'tianwen asker 1', no encoder"):
        train_encoder(corpus, tmp_path, settings=RESUMED, quiet=True)


def test_an_encoder_of_another_vocabulary_is_refused(corpus, tmp_path):
    model = new_model(corpus.tokenizer.size, RESUMED)
    other = Tokenizer.train(["别的"] * 3, size=400)
    with pytest.raises(ModelError, match="belong to different models"):
        save_encoder(tmp_path, model.backbone, other)
    save_encoder(tmp_path, model.backbone, corpus.tokenizer)
    other.save(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="not the one that the model was trained with"):
        load_encoder(tmp_path)
