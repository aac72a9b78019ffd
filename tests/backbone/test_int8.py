"""int8 products: near the plain ones, only where nothing is learnt, and gone when a weight changes."""

from __future__ import annotations

import pytest
import torch

from tianwen.backbone import int8
from tianwen.backbone.int8 import int8_pack, quantise_for_inference, restore
from tianwen.backbone.linear import Linear, pack_for_inference, unpack
from tianwen.backbone.packing import pack
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config

needs_int8 = pytest.mark.skipif(not int8.int8_works(), reason="this build of PyTorch has no int8 products")


def model() -> RoFormerV2:
    return RoFormerV2(RoFormerV2Config(vocabulary=50, layers=2, width=64, heads=2)).eval()


@needs_int8
def test_hidden_states_are_nearly_those_of_float32():
    backbone = model()
    rows = [torch.randint(0, 50, (length,)) for length in (3, 17, 40)]
    plain = backbone.encode(rows)
    assert quantise_for_inference(backbone) == 8
    small = backbone.encode(rows)
    for a, b in zip(plain, small, strict=True):
        assert 0 < (a - b).norm() / a.norm() < 0.03
    restore(backbone)
    assert all(torch.equal(a, b) for a, b in zip(plain, backbone.encode(rows), strict=True))


@needs_int8
def test_relu_is_applied():
    layer = Linear(16, 8)
    quantise_for_inference(layer)
    with torch.no_grad():
        product = layer(torch.randn(5, 16), relu=True)
    assert bool((product >= 0).all())
    assert bool((product == 0).any())


@needs_int8
def test_learning_is_in_float32_and_changed_weights_are_not_used_in_int8():
    layer, x = Linear(16, 8), torch.randn(5, 16)
    quantise_for_inference(layer)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight))
    assert int8_pack(layer.weight) is not None
    with torch.no_grad():
        layer.weight.add_(1.0)
        assert int8_pack(layer.weight) is None
        assert (layer(x) - x @ layer.weight.T).abs().max() < 1e-5


@needs_int8
def test_it_wins_over_weights_laid_out_for_float32_and_goes_with_them():
    layer, x = Linear(16, 8), torch.randn(5, 16)
    pack_for_inference(layer)
    quantise_for_inference(layer)
    with torch.no_grad():
        assert not torch.equal(layer(x), x @ layer.weight.T)
        unpack(layer)
        assert (layer(x) - x @ layer.weight.T).abs().max() < 1e-5


@needs_int8
def test_a_row_of_zeros_stays_zero():
    layer = Linear(8, 3)
    with torch.no_grad():
        layer.weight[1] = 0
        quantise_for_inference(layer)
        assert bool((layer(torch.randn(4, 8))[:, 1] == 0).all())


def test_without_the_operators_everything_stays_float32(monkeypatch):
    monkeypatch.setattr(int8, "int8_works", lambda: False)
    layer = Linear(8, 3)
    assert quantise_for_inference(layer) == 0
    assert int8_pack(layer.weight) is None


def test_bfloat16_packs_attend_as_float32_ones_do():
    """Their attention is by plain products on a CPU, values and gradients."""
    backbone = model()
    rows = [torch.randint(0, 50, (length,)) for length in (5, 9, 9, 30)]
    (batch,) = pack(rows)
    outcomes = []
    for enabled in (False, True):
        backbone.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            hidden = backbone.forward_packed(batch)
        hidden.float().square().mul(torch.arange(64) / 64).sum().backward()
        assert backbone.tokens.weight.grad is not None
        outcomes.append((hidden.detach().float(), backbone.tokens.weight.grad.clone()))
    for a, b in zip(*outcomes, strict=True):
        assert 0 < (a - b).norm() / a.norm() < 0.05
