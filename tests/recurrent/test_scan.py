"""The operator against the recurrence as written, and the promises that the loops behind it must keep."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad

from tianwen.errors import InputError
from tianwen.recurrent import linear_scan, scan_cpu, threads, wkv
from tianwen.recurrent.scan_oracle import complex_of, planar_of, scan_oracle

D = 5


def eigenvalues(planes: int, *, channels: int = D, dtype: torch.dtype = torch.float64) -> Tensor:
    radius, angle = torch.rand(channels).double() * 0.5 + 0.49, torch.rand(channels).double() * 6
    return (torch.stack([radius * angle.cos(), radius * angle.sin()]) if planes == 2 else radius).to(dtype)


def problem(planes: int, *, batch: int, length: int, options: int, dtype: torch.dtype = torch.float64):
    """u, lam, gamma and a dict of options; the bits of `options` say which are given."""
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    u = torch.randn(batch, length, planes * D).to(dtype)
    gamma = torch.rand(D, dtype=state_dtype) + 0.5 if options & 1 else None
    given = {"reverse": bool(options & 2)}
    if options & 4:
        given["h0"] = torch.randn(batch, planes * D, dtype=state_dtype)
    if options & 8:
        given["reset"] = torch.rand(batch, length) < 0.3
    if options & 16:
        given["lengths"] = torch.randint(0, length + 1, (batch,))
    return u, eigenvalues(planes, dtype=state_dtype), gamma, given


def truth(u: Tensor, lam: Tensor, gamma: Tensor | None, given: dict) -> tuple[np.ndarray, np.ndarray]:
    numbers = {k: v.double().numpy() if k == "h0" else v.numpy() for k, v in given.items() if k != "reverse"}
    scale = None if gamma is None else gamma.double().numpy()
    if lam.dim() == 1:
        return scan_oracle(u.double().numpy(), lam.double().numpy(), scale, reverse=given["reverse"], **numbers)
    if "h0" in numbers:
        numbers["h0"] = complex_of(numbers["h0"])
    diagonal = lam[0].double().numpy() + 1j * lam[1].double().numpy()
    x, last = scan_oracle(complex_of(u.double().numpy()), diagonal, scale, reverse=given["reverse"], **numbers)
    return planar_of(x), planar_of(last)


@settings(max_examples=60)
@given(
    planes=st.sampled_from([1, 2]),
    batch=st.integers(0, 3),
    length=st.integers(0, 12),
    options=st.integers(0, 31),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_every_option_gives_what_the_recurrence_says(planes, batch, length, options, dtype):
    u, lam, gamma, given = problem(planes, batch=batch, length=length, options=options, dtype=dtype)
    x, last = linear_scan(u, lam, gamma, **given)
    assert x.dtype == dtype
    assert x.shape == u.shape
    assert last.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    true_x, true_last = truth(u, lam, gamma, given)
    rounding = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    np.testing.assert_allclose(x.double().numpy(), true_x, rtol=rounding, atol=rounding)
    np.testing.assert_allclose(last.double().numpy(), true_last, rtol=2e-6, atol=2e-6)


@settings(max_examples=40)
@given(planes=st.sampled_from([1, 2]), options=st.integers(0, 15), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_chunks_give_the_bits_of_the_whole(planes, options, cuts):
    for dtype in (torch.float32, torch.bfloat16):
        u, lam, gamma, given = problem(planes, batch=2, length=30, options=options, dtype=dtype)
        whole, last = linear_scan(u, lam, gamma, **given)
        bounds = [0, *sorted(cuts), 30]
        parts = list(pairwise(bounds))
        state, chunks = given.pop("h0", None), {}
        reset = given.pop("reset", None)
        for a, b in reversed(parts) if given["reverse"] else parts:
            cut = None if reset is None else reset[:, a:b]
            chunks[a, b], state = linear_scan(u[:, a:b], lam, gamma, h0=state, reset=cut, **given)
        assert torch.equal(torch.cat([chunks[part] for part in parts], 1), whole)
        assert torch.equal(state, last)


def test_one_step_at_a_time_gives_the_bits_of_the_whole_whatever_the_width():
    for channels in (1, 16, 37, 200):  # vectors, their rests, and both
        u = torch.randn(1, 9, 2 * channels)
        lam = eigenvalues(2, channels=channels, dtype=torch.float32)
        whole, _ = linear_scan(u, lam)
        state, steps = None, []
        for t in range(9):
            x, state = linear_scan(u[:, t : t + 1], lam, h0=state)
            steps.append(x)
        assert torch.equal(torch.cat(steps, 1), whole)


def test_rows_blocks_and_threads_change_no_bit(monkeypatch):
    u, lam = torch.randn(3, 40, 2 * 150), eigenvalues(2, channels=150, dtype=torch.float32)
    expected, _ = linear_scan(u, lam)
    monkeypatch.setattr(threads, "SMALL", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(scan_cpu, "NEAR", 0)  # rows fetched ahead
    assert torch.equal(linear_scan(u, lam)[0], expected)
    for row in range(3):  # one row among seven threads: blocks of channels
        assert torch.equal(linear_scan(u[row : row + 1], lam)[0], expected[row : row + 1])


def test_rows_written_past_the_cache_are_the_same(monkeypatch):
    u, lam = torch.randn(2, 20, 2 * 160), eigenvalues(2, channels=160, dtype=torch.float32)
    u.requires_grad_()
    near = linear_scan(u, lam)[0]
    (near_grad,) = torch.autograd.grad(near.square().sum(), u)
    monkeypatch.setattr(scan_cpu, "CACHED", 0)
    monkeypatch.setattr(scan_cpu, "NEAR", 0)
    far = linear_scan(u, lam)[0]
    (far_grad,) = torch.autograd.grad(far.square().sum(), u)
    assert torch.equal(near, far)
    assert torch.equal(near_grad, far_grad)


@pytest.mark.parametrize("planes", [1, 2])
def test_gradients_are_those_of_the_recurrence(planes):
    for options in (0, 1 + 4, 1 + 2 + 4 + 8, 1 + 4 + 8 + 16, 31):
        u, lam, gamma, given = problem(planes, batch=2, length=6, options=options)
        h0 = given.pop("h0", None)
        tensors = [t.requires_grad_() for t in (u, lam, gamma, h0) if t is not None]

        def scan(*tensors: Tensor, gamma=gamma, h0=h0, given=given):
            rest = list(tensors[2:])
            scale = rest.pop(0) if gamma is not None else None
            return linear_scan(tensors[0], tensors[1], scale, h0=rest[0] if h0 is not None else None, **given)

        assert torch.autograd.gradcheck(scan, tensors)


def test_gradients_of_bfloat16_come_close_to_those_of_float64():
    u, lam, gamma, given = problem(2, batch=2, length=40, options=1 + 8)
    grads = []
    for dtype in (torch.float64, torch.bfloat16):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        tensors = [u.to(dtype).requires_grad_(), lam.to(wide).requires_grad_(), gamma.to(wide).requires_grad_()]
        x, _ = linear_scan(*tensors, **given)
        grads.append(torch.autograd.grad((x.to(wide) * torch.cos(torch.arange(10.0))).sum(), tensors))
    for true, close in zip(*grads, strict=True):
        assert (true - close).abs().max() < 2e-2 * true.abs().max()


def test_sums_over_many_steps_lose_nothing():
    """The gradient of lam is a sum over all steps: in float32 alone it would be off by a thousandth here."""
    length = 1 << 16
    u = torch.ones(1, length, 1)
    lam = torch.tensor([0.5], requires_grad=True)
    x, _ = linear_scan(u, lam)
    x.sum().backward()
    true = 4 * (length - 2) + 4 * 2.0 ** (2 - length // 2)  # each x_{t-1} -> 2, each adjoint -> 2
    assert lam.grad.item() == pytest.approx(true, rel=1e-4)


def test_the_second_derivative_is_refused_in_words():
    u, lam = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True), torch.rand(2, dtype=torch.float64)
    x, _ = linear_scan(u, lam)
    (grad,) = torch.autograd.grad(x.square().sum(), u, create_graph=True)
    with pytest.raises(InputError, match="second"):
        grad.sum().backward()


def test_the_operator_is_what_torch_wants_of_one():
    u, lam, gamma, given = problem(2, batch=2, length=4, options=31, dtype=torch.float32)
    tensors = [tensor.requires_grad_() for tensor in (u, lam, gamma, given["h0"])]
    torch.library.opcheck(
        torch.ops.tianwen.linear_scan.default,
        (*tensors, given["reset"], given["lengths"], True),
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, for its forward derivatives
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.jacfwd])
def test_transforms_that_would_lose_a_derivative_are_refused(transform):
    """Forward derivatives through an operator of torch.library vanish without a word: as if they were zero."""
    u, lam = torch.randn(2, 4, 3), torch.rand(3)
    with pytest.raises(InputError, match="came through lam"):
        transform(lambda lam: linear_scan(u, lam)[0].sum())(lam)
    with pytest.raises(InputError, match="came through u"):
        torch.func.vmap(transform(lambda row: linear_scan(row[None], lam)[0].sum()))(u)
    with pytest.raises(InputError, match="came through k"):
        transform(lambda k: wkv(k[None], k[None], lam, lam)[0].sum())(u[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_dual_number_is_refused_and_vmap_is_not():
    u, lams = torch.randn(2, 4, 3), torch.rand(5, 3)
    with forward_ad.dual_level():
        assert linear_scan(u, lams[0])[0].isfinite().all()
        with pytest.raises(InputError, match="came through u"):
            linear_scan(forward_ad.make_dual(u, u), lams[0])
    each = torch.stack([linear_scan(u, lam)[0] for lam in lams])
    assert torch.equal(torch.func.vmap(lambda lam: linear_scan(u, lam)[0])(lams), each)


def test_compile_takes_the_whole_graph():
    u, lam = torch.randn(2, 6, 10, requires_grad=True), eigenvalues(2, dtype=torch.float32)

    def loss(u: Tensor, lam: Tensor) -> Tensor:
        return linear_scan(u * 2, lam, lengths=torch.tensor([6, 2]))[0].square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(u, lam), u)
    (found,) = torch.autograd.grad(compiled(u, lam), u)
    assert torch.equal(found, expected)


def test_errors_tell_shapes_dtypes_and_what_to_do():
    u, lam = torch.randn(2, 4, 6), torch.rand(2, 3)
    cases = [
        ((u[0], lam), {}, r"\[batch, length, 2D\]"),
        ((u, torch.rand(3, 3)), {}, r"\[2, D\]"),
        ((u[..., :5], lam), {}, r"last axis of u has size 5"),
        ((u, lam, torch.rand(6)), {}, r"gamma must be \[3\]"),
        ((torch.complex(u, u), lam), {}, r"\[Re \| Im\]"),
        ((u, torch.rand(3, dtype=torch.complex64)), {}, r"\[Re \| Im\]; given was torch.complex64"),
        ((u, 0.9), {}, r"lam must be a tensor"),
        ((u, lam), {"lengths": [4, 2]}, r"lengths must be a tensor, as torch.tensor"),
        ((u.int(), lam), {}, r"floating-point"),
        ((u, lam), {"h0": torch.rand(2, 3)}, r"h0 must be \[2, 6\]"),
        ((u, lam), {"reset": torch.zeros(2, 4)}, r"reset must be a bool"),
        ((u, lam), {"lengths": torch.tensor([1.0, 2.0])}, r"lengths must be an integer tensor \[2\]"),
        ((u, lam), {"lengths": torch.tensor([-1, 2])}, r"from 0 to 4.* -1 to 2"),
        ((u, lam), {"lengths": torch.tensor([1, 5])}, r"from 0 to 4"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(InputError, match=message):
            linear_scan(*arguments, **options)


def test_beyond_the_unit_circle_states_grow_as_the_formula_says():
    x, last = linear_scan(torch.ones(1, 200, 1), torch.tensor([2.0]))
    assert x[0, 9, 0] == 1023
    assert last.item() == float("inf")


def test_views_and_transposes_are_read_right():
    u, lam = torch.randn(2, 12, 20), eigenvalues(2, dtype=torch.float32)
    for view in (u[:, ::2, 5:15], u.transpose(0, 1)[:, :, :10], u[:1, :, :10].expand(3, 12, 10)):
        assert torch.equal(linear_scan(view, lam)[0], linear_scan(view.clone(), lam)[0])


def test_a_view_with_flipped_sign_is_read_right():
    imaginary = torch.randn(1, 4, 3, dtype=torch.complex64).conj().imag
    assert imaginary.is_neg()
    assert torch.equal(linear_scan(imaginary, torch.zeros(3))[0], imaginary.resolve_neg())


def test_nothing_passes_a_reset_not_even_a_nan():
    u = torch.randn(1, 6, 4)
    u[0, 1] = float("nan")
    u.requires_grad_()
    reset = torch.tensor([[False, False, False, True, False, False]])
    x, _ = linear_scan(u, torch.rand(4), reset=reset)
    assert x[0, 1:3].isnan().all()
    assert x[0, 3:].isfinite().all()
    x[0, 3:].sum().backward()
    assert u.grad.isfinite().all()


def test_no_channels_no_steps_and_no_rows_pass():
    for shape in ((2, 3, 0), (0, 3, 4), (2, 0, 4)):
        u = torch.zeros(shape, requires_grad=True)
        x, last = linear_scan(u, torch.rand(2, shape[2] // 2), lengths=torch.zeros(shape[0], dtype=torch.long))
        assert x.shape == shape
        assert last.shape == (shape[0], shape[2])
        (x.sum() + last.sum()).backward()
