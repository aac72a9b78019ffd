"""Other ways to compute x_t = lam x_{t-1} + gamma u_t, each from its formula, and other layers over the same input.

Post: 9554

    notation   meaning
    doubling   the reference's form: halves of blocks of 2, 4, 8 ... steps, log2 L passes
    fft        a convolution with lam^t
    jax        jax.lax.associative_scan, compiled
    torch      torch's own associative_scan (a prototype)
    lstm       nn.LSTM(D);    attention   4 heads of D / 4, causal

Each maker returns (forward, both): functions without arguments that do the work once on the input it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Run = Callable[[], Any]
Pair = tuple[Run, Run]


def _with_torch(function: Callable[..., Tensor], *inputs: Tensor) -> Pair:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    with torch.no_grad():
        weight = torch.ones_like(function(*leaves))

    def forward() -> None:
        with torch.no_grad():
            function(*leaves)

    def both() -> None:
        torch.autograd.grad(function(*leaves), leaves, weight)

    return forward, both


def doubling(u: Tensor, lam: Tensor, gamma: Tensor) -> Pair:
    """u [batch, length, D] complex, lam [D] complex, gamma [D]."""

    def scan(u: Tensor, lam: Tensor, gamma: Tensor) -> Tensor:
        batch, length, size = u.shape
        levels = max(0, (length - 1).bit_length())
        x = F.pad(torch.view_as_real(gamma * u), (0, 0, 0, 0, 0, (1 << levels) - length))
        x = torch.view_as_complex(x.contiguous())  # [batch, 2^levels, D]
        for level in range(levels):
            half = 1 << level
            x = x.view(-1, 2, half, size)
            upper, lower = x[:, 0], x[:, 1]
            powers = torch.exp(torch.log(lam) * torch.arange(1, half + 1)[:, None])  # [half, D]
            x = torch.stack([upper, lower + powers * upper[:, -1:]], 1)
        return x.view(batch, -1, size)[:, :length]

    return _with_torch(scan, u, lam, gamma)


def fft(u: Tensor, lam: Tensor, gamma: Tensor) -> Pair:
    """u [batch, length, D] complex, lam [D] complex, gamma [D]."""

    def scan(u: Tensor, lam: Tensor, gamma: Tensor) -> Tensor:
        length = u.shape[1]
        kernel = torch.exp(torch.log(lam) * torch.arange(length)[:, None])  # [length, D]
        product = torch.fft.fft(gamma * u, 2 * length, dim=1) * torch.fft.fft(kernel, 2 * length, dim=0)
        return torch.fft.ifft(product, dim=1)[:, :length]

    return _with_torch(scan, u, lam, gamma)


def torchs_own(u: Tensor, lam: Tensor, gamma: Tensor) -> Pair:
    """u [batch, length, D] complex; its factors and values run as planes, for it refuses complex numbers."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ar, ai, xr, xi = a
        br, bi, yr, yi = b
        return ar * br - ai * bi, ar * bi + ai * br, br * xr - bi * xi + yr, br * xi + bi * xr + yi

    def scan(u_re: Tensor, u_im: Tensor) -> Tensor:
        factors = lam.real.expand_as(u_re).clone(), lam.imag.expand_as(u_re).clone()
        found = associative_scan(combine, (*factors, gamma * u_re, gamma * u_im), 1, combine_mode="generic")
        return found[2] + found[3]

    return _with_torch(scan, u.real.contiguous(), u.imag.contiguous())


def jaxs(u: Tensor, lam: Tensor, gamma: Tensor) -> Pair:
    """The same in JAX, compiled."""
    import jax
    import jax.numpy as jnp

    def scan(u: Any, lam: Any, gamma: Any) -> Any:
        def combine(a: Any, b: Any) -> Any:
            return a[0] * b[0], b[0] * a[1] + b[1]

        return jax.lax.associative_scan(combine, (jnp.broadcast_to(lam, u.shape), gamma * u), axis=1)[1]

    arrays = [jnp.asarray(tensor.numpy()) for tensor in (u, lam, gamma)]
    weight = jnp.ones_like(arrays[0])

    def pulled(u: Any, lam: Any, gamma: Any) -> Any:
        _, pull = jax.vjp(scan, u, lam, gamma)
        return pull(weight)

    forward, both = jax.jit(scan), jax.jit(pulled)
    return lambda: forward(*arrays).block_until_ready(), lambda: jax.block_until_ready(both(*arrays))


def lstm(u: Tensor, lam: Tensor, gamma: Tensor) -> Pair:
    """An LSTM of D units over real inputs [batch, length, D]."""
    layer = nn.LSTM(u.shape[2], u.shape[2], batch_first=True)
    return _with_torch(lambda x: layer(x)[0], u.real.contiguous())


def attention(u: Tensor, lam: Tensor, gamma: Tensor) -> Pair:
    """Causal attention of 4 heads over real inputs, without its dense layers."""

    def attend(x: Tensor) -> Tensor:
        heads = x.unflatten(2, (4, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)

    return _with_torch(attend, u.real.contiguous())


PEERS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Pair], int, bool]] = {
    "doubling": (doubling, 1 << 30, True),
    "fft": (fft, 1 << 30, True),
    "jax": (jaxs, 1 << 30, True),
    "torch_scan": (torchs_own, 1 << 30, True),
    "lstm": (lstm, 16384, False),
    "attention": (attention, 16384, True),
}
"""Name -> (maker, longest sequence that it is asked for, whether a part of the batch takes a part of the time)."""
