"""The scan without kernels gives what the kernels give, gradients too, over several blocks of steps."""

from __future__ import annotations

import pytest
import torch

from tianwen.recurrent import scan_cpu, scan_torch


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 150])
def test_blocks_agree_with_the_kernels(planes, reverse, length):
    u = torch.randn(3, length, planes * 4, dtype=torch.float64)
    lam = torch.rand(2, 4, dtype=torch.float64) * 0.6 if planes == 2 else torch.rand(4, dtype=torch.float64)
    gamma, h0 = torch.rand(4, dtype=torch.float64), torch.randn(3, planes * 4, dtype=torch.float64)
    lengths = torch.tensor([length, 0, length // 2])
    for options in (
        {},
        {"h0": h0, "reset": torch.rand(3, length) < 0.1, "lengths": lengths, "reverse": reverse},
    ):
        (x, last), (kernel_x, kernel_last) = (
            module.forward(u, lam, gamma, **options) for module in (scan_torch, scan_cpu)
        )
        torch.testing.assert_close(x, kernel_x)
        torch.testing.assert_close(last, kernel_last)
        grads = torch.randn_like(x), torch.randn_like(last)
        ours, kernels = (module.backward(grads, (u, x, lam), gamma, **options) for module in (scan_torch, scan_cpu))
        for mine, kernel in zip(ours, kernels, strict=True):
            torch.testing.assert_close(mine, kernel)


def test_blocks_read_no_padding():
    u = torch.randn(2, 10, 3)
    u[0, 4:] = float("nan")
    x, last = scan_torch.forward(u, torch.rand(3), None, lengths=torch.tensor([4, 10]))
    assert x.isfinite().all()
    assert last.isfinite().all()
    assert (x[0, 4:] == 0).all()
