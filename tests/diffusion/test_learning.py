"""Training learns, keeps its settings, goes on exactly, and says in a sentence what cannot be trained."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.diffusion.small import SIDE, small_pictures, small_settings
from tianwen.diffusion import learning
from tianwen.diffusion.drawer import Drawer
from tianwen.diffusion.learning import DiffusionLoss, PictureBatches, TrainDrawSettings, net_config, train_drawer
from tianwen.diffusion.picture_cache import pictures_of
from tianwen.diffusion.schedule import Schedule
from tianwen.errors import InputError, TrainingError


@pytest.fixture(autouse=True)
def few_shown(monkeypatch):
    """A page of two pictures at every evaluation: the tests are about the training."""
    monkeypatch.setattr(learning, "SHOWN", 2)


def weights(drawer: Drawer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in drawer.net.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_two_kinds_of_pictures_and_their_labels(tmp_path):
    settings = small_settings(steps=120, batch=8, learning_rate=0.02, ema_decay=0.95, samples_every=60)
    drawer = train_drawer(small_pictures(), tmp_path / "g", settings=settings, precision="fp32", quiet=True)
    x = drawer.draw(8, labels=["light above", "dark above"])  # [8, 1, side, side]
    above, below = x[:, 0, : SIDE // 2].mean((1, 2)), x[:, 0, SIDE // 2 :].mean((1, 2))
    assert (above - below)[0::2].min() > 1
    assert (above - below)[1::2].max() < -1
    lines = [json.loads(line) for line in (tmp_path / "g/run/log.jsonl").read_text().splitlines()]
    looks = [line["evaluation"]["fixed_loss"] for line in lines if "evaluation" in line]
    assert len(looks) == 2
    assert looks[1] < looks[0]


def test_what_a_run_leaves(tmp_path):
    settings = small_settings(samples_every=3, storage="fp16")
    drawer = train_drawer(small_pictures(), tmp_path / "g", settings=settings, quiet=True)
    assert sorted(path.name for path in (tmp_path / "g/samples").iterdir()) == [
        "step-00000003.png",
        "step-00000006.png",
    ]
    loaded = Drawer.load(tmp_path / "g")
    assert loaded.settings == drawer.settings
    assert loaded.settings.about == {"steps": 6, "pictures": 24}
    assert loaded.settings.labels == ("light above", "dark above")


def test_a_run_cut_in_two_ends_with_the_same_weights(tmp_path):
    pictures = small_pictures()
    once = train_drawer(pictures, tmp_path / "a", settings=small_settings(), quiet=True)
    train_drawer(pictures, tmp_path / "b", settings=small_settings(steps=2), quiet=True)
    twice = train_drawer(pictures, tmp_path / "b", settings=small_settings(), quiet=True)
    assert same(weights(once), weights(twice))
    other = train_drawer(pictures, tmp_path / "c", settings=small_settings(seed=1), quiet=True)
    assert not same(weights(once), weights(other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "eps"}, "data.target was 'v', is 'eps'"),
        ({"flip": True}, "data.flip"),
        ({"loss": "sum"}, "data.loss"),
        ({"learning_rate": 0.5}, "lr"),
        ({"width": 16}, "model"),
    ],
)
def test_a_run_is_not_resumed_as_another(tmp_path, changes, said):
    train_drawer(small_pictures(), tmp_path, settings=small_settings(steps=1), quiet=True)
    with pytest.raises(TrainingError, match=said):
        train_drawer(small_pictures(), tmp_path, settings=small_settings(steps=2, **changes), quiet=True)


def test_nor_with_other_pictures(tmp_path):
    train_drawer(small_pictures(), tmp_path, settings=small_settings(steps=1), quiet=True)
    with pytest.raises(TrainingError, match=r"data\.pictures was"):
        train_drawer(small_pictures(20), tmp_path, settings=small_settings(steps=2), quiet=True)


def test_not_a_number_is_rolled_back_and_then_given_up_with_a_sentence(tmp_path, monkeypatch):
    mean = DiffusionLoss.mean
    calls = []

    def sick(self, net, *given):
        calls.append(1)
        return mean(self, net, *given) * (math.nan if 9 <= len(calls) < 12 else 1.0)

    monkeypatch.setattr(DiffusionLoss, "mean", sick)
    options = {"checkpoint_every": 2, "skip_limit": 2, "quiet": True, "evaluate_every": 100}
    train_drawer(small_pictures(), tmp_path / "a", settings=small_settings(steps=12), **options)
    events = [json.loads(line).get("event") for line in (tmp_path / "a/run/log.jsonl").read_text().splitlines()]
    assert events.count("rollback") == 1
    monkeypatch.setattr(DiffusionLoss, "mean", lambda self, net, *given: mean(self, net, *given) * math.nan)
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        train_drawer(small_pictures(), tmp_path / "b", settings=small_settings(steps=12), **options)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_the_loss_is_that_of_the_notation(target):
    schedule = Schedule.cosine(20)
    x0, eps = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    t = torch.tensor([0, 7, 19])

    class Net(torch.nn.Module):
        labels = None

        def forward(self, x, t):
            A, B = schedule.A[t].float().view(-1, 1, 1, 1), schedule.B[t].float().view(-1, 1, 1, 1)
            assert torch.allclose(x, A * x0 + B * eps, atol=1e-6)
            return {"eps": eps, "x0": x0, "v": A * eps - B * x0}[target] + 0.5

    labels = torch.full((3,), -1)
    assert float(DiffusionLoss(schedule, target).mean(Net(), x0, eps, t, labels)) == pytest.approx(0.25, rel=1e-4)
    summed = DiffusionLoss(schedule, target, summed=True)
    assert float(summed.mean(Net(), x0, eps, t, labels)) == pytest.approx(0.25 * 16, rel=1e-4)


def test_batches_hide_labels_and_mirror_pictures():
    pictures = small_pictures()
    ramp = np.tile(np.arange(SIDE, dtype=np.uint8), (24, 1, SIDE, 1))
    batches = PictureBatches(pictures_of(ramp), small_settings(batch=400, flip=True))
    pixels, labels = batches.batch(0, 0, 1)
    mirrored = (pixels[:, 0, 0, 0] > 0).float().mean()
    assert 0.4 < float(mirrored) < 0.6
    assert pixels.dtype == torch.uint8
    assert set(labels.tolist()) == {-1}
    pixels, labels = PictureBatches(pictures, small_settings(batch=800)).batch(0, 0, 1)
    assert 0.06 < float((labels < 0).float().mean()) < 0.14
    light = pixels[:, 0, 0, 0] > 127
    assert torch.equal(labels[labels >= 0] == 0, light[labels >= 0]), "the label is the picture's"


@pytest.mark.parametrize("halved", [(32, 4), (28, 7), (24, 6), (64, 4), (128, 4), (8, 4), (20, 5), (12, 6)])
def test_levels_for_every_side(halved):
    side, least = halved
    config = net_config(small_settings(side=side), colours=3, classes=0)
    assert config.smallest_side == least
    assert side == least * 2 ** (len(config.multipliers) - 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side": 30}, "take a multiple of 4, as 32"),
        ({"side": 4}, "take a multiple of 4, as 8"),
        ({"width": 12}, "a multiple of 8"),
        ({"width": 0}, "a multiple of 8"),
        ({"target": "eps", "zero_terminal_snr": True}, r"zero terminal SNR\).*Train and sample with target='v'"),
        ({"schedule": "linear"}, "no schedule 'linear'"),
        ({"net": "big"}, "no network 'big'"),
        ({"times": 0}, "at least 1"),
        ({"attention": (3,)}, "have the sides 8, 4 inside"),
    ],
)
def test_what_cannot_be_trained(tmp_path, changes, said):
    pictures = pictures_of(np.zeros((2, 1, changes.get("side", SIDE), changes.get("side", SIDE)), np.uint8))
    with pytest.raises(InputError, match=said):
        train_drawer(pictures, tmp_path, settings=small_settings(**changes), quiet=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"seed": 2**63},
        {"hidden_labels": 1.0},
        {"loss": "max"},
        {"samples_every": 0},
    ],
)
def test_settings_that_cannot_be(changes):
    with pytest.raises(InputError):
        TrainDrawSettings(**changes)


def test_pictures_that_are_no_squares(tmp_path):
    with pytest.raises(InputError, match="a drawer learns squares"):
        train_drawer(pictures_of(np.zeros((2, 1, 8, 12), np.uint8)), tmp_path, settings=small_settings(), quiet=True)


def test_variances_are_measured_once_and_kept(tmp_path):
    settings = small_settings(steps=1, analytic=True)
    train_drawer(small_pictures(), tmp_path, settings=settings, quiet=True)
    unexplained = Drawer.load(tmp_path).settings.unexplained
    assert unexplained is not None
    assert len(unexplained) == 20
    assert all(0 < one <= 1 for one in unexplained)


def test_the_paper_like_net_and_attention_train_too(tmp_path):
    settings = small_settings(steps=2, net="paper", attention=(4,))
    drawer = train_drawer(small_pictures(), tmp_path, settings=settings, quiet=True)
    assert type(Drawer.load(tmp_path).net).__name__ == type(drawer.net).__name__ == "PaperUNet"


def test_without_labels_none_are_learnt(tmp_path):
    settings = small_settings(steps=1, use_labels=False)
    assert train_drawer(small_pictures(), tmp_path, settings=settings, quiet=True).settings.labels == ()


def test_a_folder_of_one_picture_trains_with_a_word(tmp_path: Path):
    Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")
    (tmp_path / "p").mkdir()
    Image.new("L", (9, 9), 40).save(tmp_path / "p" / "1.png")
    known = learning.read_folder(tmp_path / "p", tmp_path / "g", small_settings())
    assert "With 1 picture a model learns little more" in known.report.sentences()[-1]
    train_drawer(tmp_path / "p", tmp_path / "g", settings=small_settings(steps=1), quiet=True)
    with pytest.raises(InputError, match="take a multiple of 4"):
        train_drawer(tmp_path / "none", tmp_path / "g", settings=small_settings(side=30), quiet=True)


def test_the_drawer_may_lie_among_its_pictures(tmp_path: Path):
    """Its pages of samples are no pictures: the run goes on, and learns what it learnt before."""
    Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")
    for k in range(3):
        Image.new("L", (9, 9), 40 * k).save(tmp_path / f"{k}.png")
    for steps in (1, 2):
        train_drawer(tmp_path, tmp_path / "drawer", settings=small_settings(steps=steps, samples_every=1), quiet=True)
    assert Drawer.load(tmp_path / "drawer").settings.about == {"steps": 2, "pictures": 3}
    with pytest.raises(InputError, match="is the folder of the pictures itself"):
        train_drawer(tmp_path, tmp_path, settings=small_settings(), quiet=True)
    # fewer steps than were done: the drawer says how many it has
    train_drawer(tmp_path, tmp_path / "drawer", settings=small_settings(steps=1), quiet=True)
    assert Drawer.load(tmp_path / "drawer").settings.about["steps"] == 2


def test_what_a_killed_run_was_writing_is_cleared_away(tmp_path: Path):
    parts = [tmp_path / "samples" / ".writing-7-step-00000001.png", tmp_path / ".writing-7-model.safetensors"]
    (tmp_path / "samples").mkdir()
    for part in parts:
        part.touch()
    train_drawer(small_pictures(), tmp_path, settings=small_settings(steps=1), quiet=True)
    assert not any(part.exists() for part in parts)


def test_labels_that_are_no_text_can_be_saved(tmp_path: Path):
    Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")
    for name in (b"caf\xe9", b"tea"):
        place = os.path.join(os.fsencode(tmp_path), b"p", name)
        try:
            os.makedirs(place)
        except OSError:
            pytest.skip("this file system takes names of UTF-8 only")
        Image.new("L", (9, 9), 40).save(tmp_path / "1.png")
        os.rename(tmp_path / "1.png", place + b"/1.png")
    drawer = train_drawer(tmp_path / "p", tmp_path / "g", settings=small_settings(steps=1), quiet=True)
    assert Drawer.load(tmp_path / "g").settings.labels == drawer.settings.labels == ("caf\\udce9", "tea")
