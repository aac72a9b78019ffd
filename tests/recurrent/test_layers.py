"""The layers: streaming, padding, packing, both directions, initialisation, and how an optimiser should see them."""

from __future__ import annotations

import copy
import math
import resource

import pytest
import torch
from torch import nn

from tianwen.errors import InputError
from tianwen.recurrent import LRU, RWKV, SLRU, Bidirectional, ComplexRWKV, linear_scan, parameter_groups
from tianwen.recurrent.ring import ring

WIDTH = 14
MIXERS = [LRU, SLRU, RWKV, ComplexRWKV]
every_mixer = pytest.mark.parametrize("mixer", MIXERS)


@every_mixer
def test_every_mixer_has_four_squares_of_weights(mixer):
    for layer in (mixer(112), Bidirectional(mixer, 112)):
        weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
        assert weights == pytest.approx(4 * 112**2, rel=0.01)


@every_mixer
def test_steps_and_chunks_go_on_where_the_last_ended(mixer):
    layer, x = mixer(WIDTH), torch.randn(3, 12, WIDTH)
    whole, last = layer(x)
    assert last.shape == layer.init_state(3).shape
    assert last.dtype == layer.init_state(3).dtype == torch.float32
    state, steps = layer.init_state(3), []
    for t in range(12):
        y, state = layer.step(x[:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), whole)
    first, state = layer(x[:, :5])
    second, state = layer(x[:, 5:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state[:, 0], last[:, 0])


@every_mixer
def test_a_padded_row_is_the_row_alone(mixer):
    x = torch.randn(3, 9, WIDTH)
    lengths = torch.tensor([9, 4, 0])
    x[1, 4:], x[2] = float("nan"), float("inf")
    for layer in (mixer(WIDTH), Bidirectional(mixer, WIDTH)):
        y, state = layer(x, lengths=lengths)
        alone, alone_state = layer(x[1:2, :4])
        torch.testing.assert_close(y[1:2, :4], alone)
        assert (y[1, 4:] == 0).all()
        assert (y[2] == 0).all()
        if state is not None:
            torch.testing.assert_close(state[1:2], alone_state)
            torch.testing.assert_close(state[2:], layer.init_state(1))
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@every_mixer
def test_a_packed_row_is_its_sequences_alone(mixer):
    parts = [torch.randn(1, n, WIDTH) for n in (3, 1, 5)]
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, [0, 3, 4]] = True
    for layer in (mixer(WIDTH), Bidirectional(mixer, WIDTH)):
        packed, _ = layer(torch.cat(parts, 1), reset=reset)
        torch.testing.assert_close(packed, torch.cat([layer(part)[0] for part in parts], 1))


@every_mixer
def test_backward_reading_is_forward_reading_of_the_mirror(mixer):
    layer, x = mixer(WIDTH), torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(layer(x, reverse=True)[0], layer(x.flip(1))[0].flip(1))
    y = layer(x, lengths=torch.tensor([7, 3]), reverse=True)[0]
    torch.testing.assert_close(y[1:, :3], layer(x[1:, :3].flip(1))[0].flip(1))


def test_both_directions_see_the_whole_sequence_and_stream_none():
    layer = Bidirectional(LRU, WIDTH)
    x = torch.randn(1, 6, WIDTH, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x)[0][0, 3].sum(), x)
    assert (grad.abs().sum(-1) > 0).all()
    assert layer.init_state(1) is None
    with pytest.raises(InputError, match="whole sequences"):
        layer.step(x[:, 0], None)
    with pytest.raises(InputError, match="cannot go on"):
        layer(x, state=torch.zeros(1, WIDTH))


def test_the_complex_average_is_the_complex_recurrence():
    layer = ComplexRWKV(WIDTH).double()
    x = torch.randn(2, 20, WIDTH, dtype=torch.float64)
    size = layer.size
    r, k, v = layer.input(x).split([2 * size, size, 2 * size], -1)
    values = torch.complex(*v.chunk(2, -1))
    turn = torch.polar(torch.ones(size).double(), layer.theta_log.double().exp())
    decay, gamma = (-layer.nu_log.exp()).exp(), layer.gamma_log.exp()
    y, z, means = torch.zeros(2, size).cdouble(), torch.zeros(2, size).double(), []
    for t in range(20):
        weight = k[:, t].exp()
        means.append((turn * y + gamma * weight * values[:, t]) / (z + gamma * weight))
        y, z = decay * turn * y + weight * values[:, t], decay * z + weight
    mean = torch.stack(means, 1)
    expected = layer.output(r.sigmoid() * torch.cat([mean.real, mean.imag], -1))
    torch.testing.assert_close(layer(x)[0], expected)


def test_the_ring_is_where_the_post_puts_it():
    nu_log, theta_log, gamma_log = ring(20_000, r_min=0.9, r_max=0.999)
    radius, angle = (-nu_log.double().exp()).exp(), theta_log.double().exp()
    assert 0.9 <= radius.min() < 0.901
    assert 0.998 < radius.max() <= 0.999
    assert (radius**2).mean() == pytest.approx((0.9**2 + 0.999**2) / 2, rel=1e-2)  # uniform over the area
    assert 0 < angle.min() < 0.01
    assert 6.27 < angle.max() < 2 * math.pi
    torch.testing.assert_close(gamma_log.exp() ** 2, (1 - radius**2).float(), rtol=1e-3, atol=0)


def test_states_start_with_the_variance_of_the_inputs():
    """E|x|^2 = gamma^2 E|u|^2 / (1 - |lam|^2), and gamma is chosen so that both are equal."""
    layer = LRU(64, r_max=0.95)
    with torch.no_grad():
        x, _ = linear_scan(torch.randn(4, 4000, 128), layer.eigenvalues(), layer.gamma_log.exp())
    assert x[:, 500:].square().mean() == pytest.approx(1, rel=0.05)


def test_wrong_rings_and_sizes_are_refused():
    for r_min, r_max in ((0.9, 1.1), (-0.1, 0.5), (0.9, 0.9), (0.99, 0.9)):
        with pytest.raises(InputError, match="unit circle"):
            ring(4, r_min=r_min, r_max=r_max)
    for mixer in MIXERS:
        with pytest.raises(InputError, match="width must be at least 1"):
            mixer(0)
        with pytest.raises(InputError, match="size must be at least 1"):
            mixer(4, size=0)


def test_parameter_groups_spare_the_recurrence():
    model = nn.ModuleList([LRU(6, bias=True), SLRU(6), RWKV(6), nn.Linear(3, 3)])
    model[3].bias.requires_grad_(False)
    weights, vectors, recurrence = parameter_groups(model, lr=1e-3, weight_decay=0.1)
    assert [group["weight_decay"] for group in (weights, vectors, recurrence)] == [0.1, 0, 0]
    assert [group["lr"] for group in (weights, vectors, recurrence)] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert [len(group["params"]) for group in (weights, vectors, recurrence)] == [7, 2, 7]
    torch.optim.AdamW([weights, vectors, recurrence])
    assert len(parameter_groups(SLRU(6), lr=1.0)) == 2


@every_mixer
def test_bfloat16_autocast_keeps_the_state_in_float32(mixer):
    layer, x = mixer(WIDTH), torch.randn(2, 30, WIDTH)
    exact, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        y.float().sum().backward()
    assert state.dtype == torch.float32
    assert (y - exact).abs().max() < 0.05 * max(1, exact.abs().max())


@every_mixer
def test_a_layer_in_bfloat16_has_eigenvalues_in_float32(mixer):
    """In bfloat16 there is nothing between .996 and 1, so |lam| = .999 would be 1: a sum that never forgets."""
    layer = mixer(WIDTH, r_min=0.998, r_max=0.999).bfloat16()
    x = torch.randn(1, 2000, WIDTH).bfloat16()
    y, state = layer(x)
    exact, _ = copy.deepcopy(layer).double()(x.double())
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert (y - exact).norm() < 0.02 * exact.norm()


def test_a_layer_is_exported_and_compiled_whole():
    x, other = torch.randn(2, 5, 6), torch.randn(3, 130, 6)
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=4096)
    for layer in (LRU(6), RWKV(6)):
        exported = torch.export.export(layer, (x,), dynamic_shapes=({0: batch, 1: length},), strict=False)
        torch.testing.assert_close(exported.module()(other)[0], layer(other)[0])
    compiled = torch.compile(RWKV(6), fullgraph=True, backend="aot_eager")
    compiled(x)[0].sum().backward()


@every_mixer
def test_a_layer_is_copied_saved_and_loaded(mixer):
    layer = mixer(WIDTH)
    twin = copy.deepcopy(layer)
    other = mixer(WIDTH)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, WIDTH)
    assert torch.equal(layer(x)[0], twin(x)[0])
    assert torch.equal(layer(x)[0], other(x)[0])


def test_a_long_stream_holds_its_memory():
    layer, x = SLRU(8), torch.randn(1, 1000, 8)
    state = layer.init_state(1)
    with torch.no_grad():
        for _ in range(20):
            _, state = layer(x, state=state)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(200):
            _, state = layer(x, state=state)
        for t in range(1000):
            _, state = layer.step(x[:, t], state)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # kilobytes
