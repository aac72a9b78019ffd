"""wkv against RWKV-4's formula and against a slow recurrence, for keys of any size."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.recurrent import wkv, wkv_torch
from tianwen.recurrent.wkv import empty_state

D = 3


def rwkv4(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """RWKV-4's wkv as its paper writes it, with decay e^-w and bonus u: every weight of every pair of steps."""
    length = k.shape[1]
    t, i = torch.arange(length)[:, None, None], torch.arange(length)[None, :, None]
    exponent = torch.where(i < t, -(t - 1 - i) * w + k[:, None], torch.where(i == t, u + k[:, None], -torch.inf))
    weight = exponent.softmax(2)  # [batch, t, i, channels]
    return (weight * v[:, None]).sum(2)


def numbers(length: int, *, scale: float = 1.0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    k, v = torch.randn(2, batch, length, D, dtype=torch.float64)
    return scale * k, v, torch.rand(D, dtype=torch.float64) * 0.5 + 0.49, torch.randn(D, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1, 30, 500])
def test_it_is_the_wkv_of_rwkv_4(scale):
    k, v, lam, bonus = numbers(90, scale=scale)
    expected = rwkv4(k, v, -lam.log(), bonus)
    torch.testing.assert_close(wkv(k, v, lam, bonus)[0], expected)
    single, _ = wkv(k.float(), v.float(), lam.float(), bonus.float())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=2e-6 * max(1, scale))


@pytest.mark.parametrize("options", range(16))
def test_kernels_agree_with_the_slow_steps(options):
    k, v, lam, bonus = (tensor.requires_grad_() for tensor in numbers(140, scale=20))
    reset = torch.rand(2, 140) < 0.05 if options & 1 else None
    lengths = torch.tensor([140, 70]) if options & 2 else None
    given = {"reset": reset, "lengths": lengths, "reverse": bool(options & 4)}
    state = empty_state(2, D, like=v)
    if options & 8:
        state = wkv(*(tensor.detach() for tensor in numbers(5)))[1].requires_grad_()
    tensors = [k, v, lam, bonus, *([state] if options & 8 else [])]
    results = []
    for way in (wkv, wkv_torch.forward):
        out, last = way(k, v, lam, bonus, state=state, **given)
        seen = out, last[:, 0] / last[:, 1], last[:, 1].log() + last[:, 2]
        loss = sum((part * torch.cos(torch.arange(part.numel()).view_as(part))).sum() for part in seen[:2])
        grads = torch.autograd.grad(loss, tensors)
        results.append((*seen, *grads[:4], *(grad[:, :2] for grad in grads[4:])))
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-8, atol=1e-9)


def test_gradients_pass_the_numerical_check():
    k, v, lam, bonus = (tensor.requires_grad_() for tensor in numbers(7))
    assert torch.autograd.gradcheck(lambda *tensors: wkv(*tensors)[0], (k, v, lam, bonus))


def test_chunks_give_the_bits_of_the_whole():
    k, v, lam, bonus = (tensor.float() for tensor in numbers(100, scale=10))
    whole, last = wkv(k, v, lam, bonus)
    for size in (1, 7, 64, 99):
        state, parts = None, []
        for a in range(0, 100, size):
            part, state = wkv(k[:, a : a + size], v[:, a : a + size], lam, bonus, state=state)
            parts.append(part)
        assert torch.equal(torch.cat(parts, 1), whole)
        assert torch.equal(state, last)


def test_gradients_flow_through_a_state_handed_on():
    k, v, lam, bonus = (tensor.requires_grad_() for tensor in numbers(80, scale=5))
    whole = torch.autograd.grad(wkv(k, v, lam, bonus)[0].square().sum(), (k, v, lam, bonus))
    first, state = wkv(k[:, :33], v[:, :33], lam, bonus)
    second, _ = wkv(k[:, 33:], v[:, 33:], lam, bonus, state=state)
    parts = torch.autograd.grad(first.square().sum() + second.square().sum(), (k, v, lam, bonus))
    for part, true in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, true)


def test_a_long_quiet_stretch_after_a_loud_key_loses_nothing():
    """The loudest key decays for 3,000 steps; then steps count again, though e^k is 10^-130 of it."""
    length = 3000
    k = torch.full((1, length, 1), -300.0)
    k[0, 0] = 0
    v = torch.linspace(-1, 1, length).view(1, -1, 1)
    lam, bonus = torch.tensor([0.9]), torch.zeros(1)
    k.requires_grad_(), v.requires_grad_()
    out, _ = wkv(k, v, lam, bonus)
    dk, dv = torch.autograd.grad(out[0, -1, 0], (k, v))
    exact_k, exact_v = k.detach().double().requires_grad_(), v.detach().double().requires_grad_()
    exact = rwkv4(exact_k[:, -400:], exact_v[:, -400:], -lam.log(), bonus)[0, -1, 0]  # the loud key is gone by then
    true_k, true_v = torch.autograd.grad(exact, (exact_k, exact_v))
    assert out[0, -1, 0].item() == pytest.approx(exact.item(), abs=1e-5)
    torch.testing.assert_close(dk.double(), true_k, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(dv.double(), true_v, atol=1e-6, rtol=1e-4)


def test_slow_decay_is_as_exact_as_fast():
    """A difference of exponents would round 12 - 0.0001 anew at each step, always to the same side."""
    length = 4000
    k = torch.full((1, length, 1), 4.0)
    k[0, 0] = 12
    v = torch.zeros(1, length, 1)
    v[0, 0] = 1
    lam = torch.tensor([0.9999])
    single, _ = wkv(k, v, lam, torch.zeros(1))
    double, _ = wkv(k.double(), v.double(), lam.double(), torch.zeros(1).double())
    assert 0.2 < double[0, -1] < 0.8
    assert (single - double).abs().max() < 2e-5


def test_slices_of_one_tensor_are_read_where_they_lie():
    both = torch.randn(2, 20, 2 * D)
    k, v = both.chunk(2, -1)
    lam, bonus = torch.rand(D), torch.randn(D)
    expected, _ = wkv(k.contiguous(), v.contiguous(), lam, bonus)
    assert torch.equal(wkv(k, v, lam, bonus)[0], expected)
    for k_view, v_view in itertools.product((k, k.contiguous()), (v, v.transpose(1, 2).contiguous().transpose(1, 2))):
        assert torch.equal(wkv(k_view, v_view, lam, bonus)[0], expected)


def test_padding_is_never_read_and_the_first_step_gives_its_value():
    k, v, lam, bonus = (tensor.float() for tensor in numbers(9))
    k[0, 4:], v[0, 4:] = float("nan"), float("inf")
    out, state = wkv(k, v, lam, bonus, lengths=torch.tensor([4, 9]), reverse=True)
    assert out.isfinite().all()
    assert state.isfinite().all()
    assert (out[0, 4:] == 0).all()
    assert torch.equal(out[0, 3], v[0, 3])


def test_a_key_that_is_not_a_number_shows():
    k, v, lam, bonus = (tensor.float() for tensor in numbers(9))
    k[0, 4] = float("nan")
    out, _ = wkv(k, v, lam, bonus)
    assert out[0, 4:].isnan().all()
    assert out[0, :4].isfinite().all()
    assert out[1].isfinite().all()


def test_empty_batches_and_sequences_pass():
    lam = torch.rand(D)
    for batch, length in ((0, 4), (2, 0)):
        k = torch.randn(batch, length, D, requires_grad=True)
        out, state = wkv(k, k, lam, lam)
        assert out.shape == (batch, length, D)
        assert torch.equal(state, empty_state(batch, D, like=k))
        out.sum().backward()


def test_the_operator_is_what_torch_wants_of_one():
    k, v, lam, bonus = (tensor.float().requires_grad_() for tensor in numbers(66))
    state = empty_state(2, D, like=v)
    torch.library.opcheck(torch.ops.tianwen.wkv.default, (k, v, lam, bonus, state, None, torch.tensor([66, 3]), True))


def test_errors_tell_what_fits():
    k, lam = torch.randn(2, 4, 3), torch.rand(3)
    with pytest.raises(InputError, match=r"\[batch, length, channels\]"):
        wkv(k, k[:, :3], lam, lam)
    with pytest.raises(InputError, match=r"\[2, 3, 3\]"):
        wkv(k, k, lam, lam, state=torch.zeros(2, 3))
    with pytest.raises(InputError, match="floating-point"):
        wkv(k.long(), k.long(), lam, lam)
    with pytest.raises(InputError, match="from 0 to 4"):
        wkv(k, k, lam, lam, lengths=torch.tensor([9, 1]))
