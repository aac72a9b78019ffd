"""Both networks: the post's shapes and starting values, what goes in, and equal bits in any batch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tianwen.diffusion import GaussianOracle, Schedule, sample
from tianwen.diffusion import convolution as convolutions
from tianwen.diffusion.convolution import Convolution
from tianwen.diffusion.guidance import guided
from tianwen.diffusion.same_bits import GroupNorm
from tianwen.diffusion.unet_light import LightUNet
from tianwen.diffusion.unet_paper import PaperUNet, sinusoids
from tianwen.diffusion.unet_parts import UNetConfig
from tianwen.errors import InputError

TINY = UNetConfig(side=16, colours=1, width=16, multipliers=(1, 2), blocks=1, groups=8, times=50)
BOTH = pytest.mark.parametrize("kind", [LightUNet, PaperUNet])


def settled(net: nn.Module) -> nn.Module:
    """The network with no layer at zero, as after some training."""
    for weight in net.parameters():
        if not bool(weight.detach().any()):
            nn.init.normal_(weight, std=0.1)
    return net


def on_no_device(kind, config: UNetConfig) -> nn.Module:
    with torch.device("meta"):
        return kind(config)


def test_the_light_network_of_the_post_shape_for_shape():
    net = on_no_device(LightUNet, UNetConfig())
    shapes = {name: tuple(weight.shape) for name, weight in net.named_parameters()}
    widths = [128] * 4 + [256] * 4 + [512] * 4  # of the blocks on the way down
    for index, (inputs, outputs) in enumerate(zip([128, *widths[:-1]], widths, strict=True)):
        block = f"down.{index}.0."
        assert shapes[block + "first.weight"] == (outputs, inputs, 3, 3)
        assert shapes[block + "second.weight"] == (outputs, outputs, 3, 3)
        assert shapes[block + "time.weight"] == (inputs, 128)
        assert shapes[block + "norm.weight"] == shapes[block + "norm.bias"] == (outputs,)
        assert shapes.get(block + "residual.weight") == ((outputs, inputs, 1, 1) if inputs != outputs else None)
    up = [shapes[f"up.{index}.0.second.weight"][0] for index in range(12)]
    # each block has the width of the skip that is added to it: block, pooling before; then the level above
    assert up == [512, 512, 512, 256, 256, 256, 256, 128, 128, 128, 128, 128]
    assert shapes["times.weight"] == (1000, 128)
    assert shapes["first.weight"] == (128, 3, 3, 3)
    assert shapes["last.weight"] == (3, 128, 3, 3)
    assert not [name for name in shapes if name.endswith("bias") and "norm" not in name]
    assert net.halvings == 5  # 128 -> 4, and never below
    assert sum(math.prod(shape) for shape in shapes.values()) == 50_514_176


def test_the_paper_like_network_shape_for_shape():
    net = on_no_device(PaperUNet, UNetConfig())
    shapes = {name: tuple(weight.shape) for name, weight in net.named_parameters()}
    assert shapes["time_first.weight"] == (512, 128)
    assert shapes["time_second.weight"] == (512, 512)
    inputs = [shapes[f"up.{index}.0.first.weight"][1] for index in range(18)]
    outputs = [shapes[f"up.{index}.0.first.weight"][0] for index in range(18)]
    assert outputs == [512] * 6 + [256] * 6 + [128] * 6
    assert inputs[:4] == [1024, 1024, 1024, 1024]  # its own 512 and a skip of 512
    assert inputs[5] == 512 + 256
    assert shapes["down.0.0.time.weight"] == (128, 512)
    assert not [name for name in shapes if name.endswith("bias") and "norm" not in name]
    assert "sinusoid" not in net.state_dict()
    assert sum(math.prod(shape) for shape in shapes.values()) == 92_460_800


def test_sizes_at_the_width_of_the_benchmark():
    config = UNetConfig(side=32, width=64, multipliers=(1, 2, 2, 2))
    assert sum(p.numel() for p in on_no_device(LightUNet, config).parameters()) == 4_077_184
    assert sum(p.numel() for p in on_no_device(PaperUNet, config).parameters()) == 7_441_664


def test_a_smallest_side_that_every_level_reaches():
    config = UNetConfig(side=16, colours=1, width=16, multipliers=(1, 2), blocks=2, groups=8, smallest_side=2, times=50)
    net = LightUNet(config)
    assert net.halvings == 2  # the last level pools too; its pooling leaves the stack
    assert net(torch.randn(2, 1, 16, 16), torch.tensor([0, 49])).shape == (2, 1, 16, 16)


def test_starting_values():
    config = UNetConfig(side=16, colours=3, width=64, multipliers=(1, 2), blocks=1, groups=32, classes=3)
    light, paper = LightUNet(config), PaperUNet(config)

    def limit(weight: torch.Tensor, scale: float) -> float:
        fan = 9 * (weight.shape[0] + weight.shape[1]) if weight.dim() == 4 else sum(weight.shape)
        return math.sqrt(6 * scale / fan)

    block = light.down[1][0]
    for weight, scale in (
        (block.first.weight, 1 / math.sqrt(5)),
        (block.second.weight, 1 / math.sqrt(5)),
        (light.first.weight, 1.0),
        (light.last.weight, 1.0),
        (block.time.weight, 1.0),
        (paper.down[1][0].first.weight, 1.0),
    ):
        largest = float(weight.detach().abs().max())
        assert 0.98 * limit(weight, scale) < largest <= limit(weight, scale)
    assert not paper.down[1][0].second.weight.any()
    assert float(light.times.weight.detach().abs().max()) <= 0.05
    assert block.norm.eps == 1e-6


def test_the_fixed_embedding_of_times():
    table = sinusoids(1000, 128)
    assert table[0, :4].tolist() == [0, 1, 0, 1]
    assert float(table[700, 6]) == pytest.approx(math.sin(700 / 10000 ** (6 / 128)), abs=1e-6)
    assert float(table[700, 7]) == pytest.approx(math.cos(700 / 10000 ** (6 / 128)), abs=1e-6)


@BOTH
def test_time_and_class_reach_every_picture_by_itself(kind):
    net = settled(kind(UNetConfig(**TINY.to_dict() | {"classes": 3})))
    x = torch.randn(1, 1, 16, 16).expand(4, -1, -1, -1)
    y = net(x, torch.tensor([0, 0, 30, 0]), torch.tensor([1, 1, 1, 2]))
    torch.testing.assert_close(y[0], y[1])
    assert float((y[0] - y[2]).detach().abs().max()) > 1e-4
    assert float((y[0] - y[3]).detach().abs().max()) > 1e-4
    nothing = net(x, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(nothing, net(x, torch.zeros(4, dtype=torch.long), torch.full((4,), -1)))
    assert not torch.allclose(nothing[0], y[0])


@BOTH
@pytest.mark.parametrize("size", [(16, 16), (32, 16), (8, 24)])
def test_any_sides_that_can_be_halved(kind, size):
    net = kind(TINY)
    assert net(torch.randn(1, 1, *size), torch.tensor([3])).shape == (1, 1, *size)


@BOTH
@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 1, 15, 16), "multiples of [24].*16 x 16"),
        ((1, 1, 16, 0), "multiples of [24]"),
        ((1, 3, 16, 16), r"wants \[batch, 1"),
    ],
)
def test_pictures_that_cannot_go_through(kind, shape, reason):
    with pytest.raises(InputError, match=reason):
        kind(TINY)(torch.randn(shape), torch.tensor([3]))


def test_labels_where_there_are_no_classes():
    with pytest.raises(InputError, match="classes=N"):
        LightUNet(TINY)(torch.randn(1, 1, 16, 16), torch.tensor([3]), torch.tensor([0]))


@BOTH
@pytest.mark.parametrize(
    ("t", "labels", "reason"),
    [
        ([0], None, "2 pictures need 2 times"),
        ([0, 1], [0], "2 pictures need 2 times"),
        ([0, 50], None, "times 0 to 49.*T of the schedule"),
        ([-1, 0], None, "times 0 to 49"),
        ([0.0, 0.5], None, "whole numbers"),
        ([0, 1], [0, 3], "labels 0 to 2.*given was 3"),
    ],
)
@pytest.mark.parametrize("gradients", [True, False])
def test_times_and_labels_that_the_network_does_not_know(kind, t, labels, reason, gradients):
    net = kind(UNetConfig(**TINY.to_dict() | {"classes": 3}))
    labels = None if labels is None else torch.tensor(labels)
    with torch.set_grad_enabled(gradients), pytest.raises(InputError, match=reason):
        net(torch.randn(2, 1, 8, 8), torch.tensor(t), labels)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"groups": 32}, "such as 16"),
        ({"multipliers": ()}, "at least one level"),
        ({"width": 0}, "at least 1"),
        ({"blocks": 1.5}, "at least 1"),
        ({"classes": -1}, "number of labels"),
        ({"multipliers": (1, 1.5)}, "at least 1"),
    ],
)
def test_settings_that_cannot_be(setting, reason):
    with pytest.raises(InputError, match=reason):
        UNetConfig(**TINY.to_dict() | setting)


@BOTH
def test_a_side_that_cannot_be_halved_is_refused_before_training(kind):
    with pytest.raises(InputError, match=r"28 can be halved 2 times.*such as 32.*smallest_side=7"):
        kind(UNetConfig(**TINY.to_dict() | {"side": 28, "multipliers": (1, 1, 1, 1)}))
    light = LightUNet(UNetConfig(**TINY.to_dict() | {"side": 28, "multipliers": (1, 1, 1, 1), "smallest_side": 7}))
    assert light(torch.randn(1, 1, 28, 28), torch.tensor([3])).shape == (1, 1, 28, 28)


def test_settings_survive_a_file():
    assert UNetConfig.from_dict(TINY.to_dict()) == TINY
    assert copy.deepcopy(TINY) == TINY
    with pytest.raises(InputError, match="depth"):
        UNetConfig.from_dict({"depth": 3})


@BOTH
@pytest.mark.parametrize("threads", [1, 2])
def test_picture_k_of_a_batch_is_picture_k_alone(kind, threads):
    config = UNetConfig(
        side=16, colours=3, width=32, multipliers=(1, 2), blocks=1, groups=8, times=50, classes=4, attention_sides=(8,)
    )
    net, schedule = settled(kind(config)).eval(), Schedule.post(50)
    labels = torch.tensor([3, -1, 0, 2, 2])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        options = {"schedule": schedule, "steps": 2, "eta": 0.5}
        model = guided(net, labels, weight=2.0)
        together = sample(model, (3, 16, 16), seeds=range(5), **options)
        for k in (0, 4):
            alone = sample(guided(net, labels[k : k + 1], weight=2.0), (3, 16, 16), seeds=[k], **options)
            assert torch.equal(alone[0], together[k])
    finally:
        torch.set_num_threads(before)


@BOTH
def test_inference_and_training_compute_the_same(kind):
    net = settled(kind(TINY))
    x, t = torch.randn(3, 1, 16, 16), torch.tensor([0, 20, 49])
    with torch.no_grad():
        first, second = net(x, t), net(x, t)  # alone and compared; then as a batch
    assert torch.equal(first, second)
    torch.testing.assert_close(first, net(x, t).detach(), rtol=1e-4, atol=1e-5)


def test_a_batch_that_changes_bits_is_taken_apart_from_then_on():
    net = LightUNet(TINY)
    sizes = []
    run = net._run

    def batch_dependent(x, t, labels):
        sizes.append(x.shape[0])
        return run(x, t, labels) * (1 + 1e-3 * (x.shape[0] > 1))

    net._run = batch_dependent
    x, t = torch.randn(3, 1, 16, 16), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        first, second = net(x, t), net(x, t)
    assert torch.equal(first, second)
    assert sizes == [1, 1, 1, 3, 1, 1, 1]


def test_weights_that_change_are_laid_out_anew():
    layer, x = Convolution(3, 5), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-5)
        narrow = x[..., :6]
        plain = nn.functional.silu(nn.functional.conv2d(narrow, layer.weight, padding=1))
        torch.testing.assert_close(layer(narrow, swish=True), plain, rtol=1e-4, atol=1e-5)


def test_without_the_fast_operator_nothing_changes(monkeypatch):
    net = settled(LightUNet(TINY))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0, 20])
    with torch.no_grad():
        fast = net(x, t)
        monkeypatch.setattr(convolutions, "_onednn_works", lambda: False)
        net.same_bits._equal.clear()
        torch.testing.assert_close(net(x, t), fast, rtol=1e-4, atol=1e-5)


@BOTH
def test_bfloat16_and_channels_last(kind):
    net = settled(kind(TINY))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0, 20])
    plain = net(x, t).detach()
    last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), t)
    torch.testing.assert_close(last.detach(), plain, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x, t)
    mixed.float().square().mean().backward()
    torch.testing.assert_close(mixed.detach().float(), plain, rtol=0.1, atol=0.1)
    half = net.to(torch.bfloat16)
    with torch.no_grad():
        y = half(x.bfloat16(), t)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), plain, rtol=0.1, atol=0.15)
    schedule = Schedule.post(50)
    drawn = sample(half, (1, 16, 16), schedule=schedule, steps=3, seeds=[0, 1], dtype=torch.bfloat16)
    assert bool(drawn.isfinite().all())


def test_group_norm_groups_neighbours():
    norm, x = GroupNorm(4, 8), torch.randn(2, 8, 3, 3)
    y = norm(x).detach()
    torch.testing.assert_close(y[:, :2].mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), y)


def test_a_network_learns_the_oracle():
    """Sixteen steps of training bring the loss far below that of the start: gradients reach what they should."""
    torch.manual_seed(1)
    schedule = Schedule.post(50)
    net, oracle = LightUNet(TINY), GaussianOracle(schedule)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(16):
        t = torch.randint(0, 50, (8,))
        x0 = 0.5 + 0.2 * torch.randn(8, 1, 8, 8)
        x = schedule.add_noise(x0, torch.randn_like(x0), t)
        loss = ((net(x, t) - oracle(x, t)) ** 2).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < losses[0] / 3
    assert all(weight.grad is None for weight in net.parameters())
