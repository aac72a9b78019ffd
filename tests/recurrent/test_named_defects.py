"""What the reference and the peers get wrong, each by name."""

from __future__ import annotations

import torch

from tianwen.recurrent import LRU, RWKV, linear_scan, ring, wkv


def reference_average(k, v, lam, gamma, *, bonus):
    """The post's formula step by step, without stabilisation; `bonus` is what gamma is multiplied by."""
    g, y, z, outs = gamma * bonus, torch.zeros_like(v[:, 0]), torch.zeros_like(v[:, 0]), []
    for t in range(k.shape[1]):
        weight = k[:, t].exp()
        y, z = lam * y + weight * v[:, t], lam * z + weight
        outs.append((y + (g - 1) * weight * v[:, t]) / (z + (g - 1) * weight))
    return torch.stack(outs, 1)


def test_gamma_nu_where_gamma_lam_is_meant():
    k, v = torch.randn(2, 1, 20, 4, dtype=torch.float64)
    lam, gamma = torch.rand(4).double() * 0.09 + 0.9, torch.rand(4).double() + 0.5
    nu = -lam.log()
    ours, _ = wkv(k, v, lam, gamma.log())
    torch.testing.assert_close(ours, reference_average(k, v, lam, gamma, bonus=lam))
    assert (ours - reference_average(k, v, lam, gamma, bonus=nu)).abs().max() > 0.01  # what was released
    layer = RWKV(4).double()
    with torch.no_grad():
        x = torch.randn(1, 20, 4).double()
        r, k, v = layer.input(x).chunk(3, -1)
        mean = reference_average(k, v, layer.decay(), layer.gamma_log.exp(), bonus=layer.decay())
        torch.testing.assert_close(layer(x)[0], layer.output(r.sigmoid() * mean))


def test_exponent_of_a_key_beyond_88():
    k = torch.tensor([[[0.0], [89.0], [500.0], [-500.0]]])
    v = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    assert reference_average(k, v, torch.tensor([0.9]), torch.ones(1), bonus=0.9).isnan().any()
    out, state = wkv(k, v, torch.tensor([0.9]), torch.zeros(1))
    torch.testing.assert_close(out, torch.tensor([[[1.0], [2.0], [3.0], [3.0]]]))
    assert state.isfinite().all()


def test_the_mask_is_ignored_and_padding_leaks_into_the_state():
    u = torch.randn(2, 6, 4)
    u[0, 3:] = 100
    _, last = linear_scan(u, torch.rand(4), lengths=torch.tensor([3, 6]))
    _, alone = linear_scan(u[:1, :3], torch.tensor([0.0, 0, 0, 0]), lengths=torch.tensor([3]))
    assert torch.equal(alone[0], u[0, 2])
    assert last[0].abs().max() < 50


def test_no_streaming_step_no_initial_state_no_reverse():
    layer, x = LRU(4), torch.randn(1, 3, 4)
    _, state = layer.step(x[:, 0], layer.init_state(1))
    torch.testing.assert_close(layer(x[:, 1:], state=state)[0], layer(x)[0][:, 1:])
    torch.testing.assert_close(layer(x, reverse=True)[0], layer(x.flip(1))[0].flip(1))


def test_a_uniform_draw_of_exactly_zero_gives_log_zero(monkeypatch):
    for draw in (0, (1 << 24) - 1):
        monkeypatch.setattr(torch, "randint", lambda low, high, size, draw=draw, **_: torch.full(size, draw))
        for r_min, r_max in ((0.0, 1.0), (0.9, 0.999)):
            assert all(numbers.isfinite().all() for numbers in ring.ring(3, r_min=r_min, r_max=r_max))


def test_powers_of_lam_overflow_in_the_cumulative_sum():
    """lam^t cumsum(lam^-k u): infinite in float32 from k = 841 on with lam = .9."""
    u, lam = torch.ones(1, 1200, 1), torch.tensor([0.9])
    powers = lam ** torch.arange(1200).view(1, -1, 1)
    assert not (powers * (u / powers).cumsum(1)).isfinite().all()
    x, _ = linear_scan(u, lam)
    torch.testing.assert_close(x[0, -1, 0], torch.tensor(10.0))


def test_only_powers_of_two_or_no_state_or_no_lengths():
    """Peers take lengths that are powers of two, or no state to begin with, or no lengths of rows."""
    for length in (1, 3, 1000, 1023):
        x, last = linear_scan(
            torch.ones(2, length, 2), torch.ones(2), h0=torch.ones(2, 2), lengths=torch.tensor([1, length])
        )
        assert last[:, 0].tolist() == [2, length + 1]
        assert x[1, -1, 0] == length + 1


def test_a_state_in_bfloat16_forgets():
    """1,000 steps with |lam| near 1: a state rounded to bfloat16 is off by a third, bfloat16 in and out by little."""
    u = torch.rand(1, 1000, 8).bfloat16()
    lam = torch.full((8,), 0.999)
    exact, _ = linear_scan(u.double(), lam.double())
    x, _ = linear_scan(u, lam)
    assert ((x.double() - exact) / exact).abs().max() < 5e-3
    state = torch.zeros(1, 8).bfloat16()
    for t in range(1000):
        state = lam.bfloat16() * state + u[:, t]
    assert ((state.double() - exact[:, -1]) / exact[:, -1]).abs().max() > 0.1


def test_error_of_a_quarter_of_a_million_steps():
    """Against float64 at length 262,144 with r_max .999: at most 5e-5 of inputs of size 1."""
    _, theta_log, gamma_log = ring.ring(4)
    radius = torch.full((4,), 0.999).double()
    lam = torch.stack([radius * theta_log.exp().cos(), radius * theta_log.exp().sin()]).float()
    u = torch.randn(1, 1 << 18, 8)
    exact, _ = linear_scan(u.double(), lam.double(), gamma_log.exp().double())
    x, _ = linear_scan(u, lam, gamma_log.exp())
    assert (x - exact).abs().max() < 5e-5
