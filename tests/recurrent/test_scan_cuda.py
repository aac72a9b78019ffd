"""On a GPU the scan gives what it gives on a CPU, gradients too."""

from __future__ import annotations

import pytest
import torch

from tianwen.recurrent import linear_scan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gpu_agrees_with_the_cpu(planes, reverse, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    radius, angle = torch.rand(70, dtype=wide), torch.rand(70, dtype=wide) * 6
    lam = torch.stack([radius * angle.cos(), radius * angle.sin()]) if planes == 2 else radius
    tensors = [torch.randn(3, 50, planes * 70).to(dtype), lam, torch.rand(70, dtype=wide), torch.randn(3, planes * 70)]
    tensors[3] = tensors[3].to(wide)
    given = {"reset": torch.rand(3, 50) < 0.1, "lengths": torch.tensor([50, 0, 20])}
    results = []
    for device in ("cpu", "cuda"):
        here = [tensor.detach().to(device).requires_grad_() for tensor in tensors]
        options = {name: tensor.to(device) for name, tensor in given.items()}
        x, last = linear_scan(*here[:3], h0=here[3], reverse=reverse, **options)
        grads = torch.autograd.grad((x.to(wide).square().sum() + last.sum()), here)
        results.append([part.detach().cpu().double() for part in (x, last, *grads)])
    rounding = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2}[dtype]
    for cpu, gpu in zip(*results, strict=True):
        assert (cpu - gpu).abs().max() <= rounding * max(1.0, cpu.abs().max())
