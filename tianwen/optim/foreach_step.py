"""Steps of many tensors by PyTorch's list operations: few kernels on a GPU, few messages between processes.

Post: 9512, 9736

One look at all gradients and weights is brought to the CPU at once (finite? how large?), so a step waits for the GPU
once and the lists then take plain numbers. Notation as in `sign_update`.
"""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tianwen.optim.shards import Shards
from tianwen.optim.work import Work


def can_step(work: Work) -> bool:
    """Whether the lists can do this: a dense gradient, and no rule for rows without one."""
    return work.grad is not None and work.grad.layout == torch.strided and work.update == "plain"


def all_finite(works: Sequence[Work]) -> list[bool]:
    """Whether each gradient is finite in every process that holds a part of it; a missing one is."""
    found = [True] * len(works)
    for numbers in _alike(works).values():
        odd = torch.stack([_not_finite(works[number]) for number in numbers])  # [tensors]
        for number, bad in zip(numbers, _summed(odd, works[numbers[0]].shards), strict=True):
            found[number] = bad == 0
    return found


def step_together(works: Sequence[Work], blends: Sequence[tuple[float, float]], *, move: bool) -> list[bool]:
    """One micro-step of each; gives whether its gradient was finite. Those where it was not are unchanged."""
    good = [True] * len(works)
    for numbers in _alike(works).values():
        wides = [works[number].read() for number in numbers] if move else []
        squares, odd = _look([works[number] for number in numbers], wides)
        fine = [i for i, bad in enumerate(odd) if bad == 0]
        for i, number in enumerate(numbers):
            good[number] = odd[i] == 0
        chosen = [works[numbers[i]] for i in fine]
        directions = _absorb(chosen, [blends[numbers[i]] for i in fine], move=move)
        if move and chosen:
            _move(chosen, [wides[i] for i in fine], directions, [squares[i] for i in fine])
        for work in chosen:
            work.state["open"] = 0 if move else 1
    return good


def sums_of_squares(works: Sequence[Work], wides: Sequence[Tensor]) -> list[float]:
    """The sum of squares of each parameter, over all processes that hold a part of it."""
    found = [0.0] * len(works)
    for numbers in _alike(works).values():
        mine, shards = [wides[number] for number in numbers], works[numbers[0]].shards
        totals = _summed(torch.stack([_squares(wide) for wide in mine]), shards)
        for number, total in zip(numbers, _again_where_infinite(totals, mine, shards), strict=True):
            found[number] = total
    return found


def _alike(works: Sequence[Work]) -> dict[object, list[int]]:
    """Numbers of the works by device, type and spread: what may stand in one list."""
    found: dict[object, list[int]] = {}
    for number, work in enumerate(works):
        shards = None if work.shards is None else (id(work.shards.mesh), work.shards.placements)
        found.setdefault((work.theta.device, work.theta.dtype, shards), []).append(number)
    return found


def _not_finite(work: Work) -> Tensor:
    """1 or 0, as float64."""
    values = work.grad_values() if work.grad is not None else work.theta[:0]
    if values.numel() == 0:
        return torch.zeros((), dtype=torch.float64, device=work.theta.device)
    low, high = torch.aminmax(values)  # a NaN makes both NaN
    return (~(low.isfinite() & high.isfinite())).double()


def _squares(wide: Tensor) -> Tensor:
    return torch.linalg.vector_norm(wide).double().square()


def _again_where_infinite(totals: list[float], wides: list[Tensor], shards: Shards | None) -> list[float]:
    """Sums of squares, taken again in float64 where float32 was too small for them; the same in every process."""
    odd = [i for i, total in enumerate(totals) if not math.isfinite(total)]
    if odd:
        better = _summed(torch.stack([_squares(wides[i].double()) for i in odd]), shards)
        for i, total in zip(odd, better, strict=True):
            totals[i] = total
    return totals


def _summed(values: Tensor, shards: Shards | None) -> list[float]:
    return (values if shards is None else shards.sum(values)).tolist()


def _look(works: list[Work], wides: list[Tensor]) -> tuple[list[float], list[float]]:
    """(sums of squares of the weights, which gradients are not finite: above 0), read in one go."""
    both = [_squares(wide) for wide in wides] + [_not_finite(work) for work in works]
    found = _summed(torch.stack(both), works[0].shards)
    return _again_where_infinite(found[: len(wides)], wides, works[0].shards), found[len(wides) :]


def _absorb(works: list[Work], blends: list[tuple[float, float]], *, move: bool) -> list[Tensor]:
    """m <- keep m + take g; gives u, the tensors whose sign is the direction (the momenta themselves for Tiger)."""
    if not works:
        return []
    momenta = [work.momentum for work in works]
    grads = [work.dense_grad() for work in works]
    directions = momenta
    if move and any(look != beta for look, beta in blends):
        directions = torch._foreach_mul(momenta, [look for look, _ in blends])
        fresh = torch._foreach_mul(grads, [(1 - look) * w.share for w, (look, _) in zip(works, blends, strict=True)])
        torch._foreach_add_(directions, fresh)
    keep = [1.0 if work.state["open"] else beta for work, (_, beta) in zip(works, blends, strict=True)]
    take = [(1 - beta) * work.share for work, (_, beta) in zip(works, blends, strict=True)]
    torch._foreach_mul_(momenta, keep)
    torch._foreach_add_(momenta, torch._foreach_mul(grads, take))
    return list(directions)


def _move(works: list[Work], wides: list[Tensor], directions: list[Tensor], squares: list[float]) -> None:
    """theta <- theta - eta (sign(u) + lam theta)."""
    steps = torch._foreach_mul(wides, [work.weight_decay for work in works])
    torch._foreach_add_(steps, torch._foreach_sign(directions))
    rows = [work.kind == "embedding" and work.group["relative"] for work in works]
    rates = [1.0 if by_row else w.rate_of(total) for w, total, by_row in zip(works, squares, rows, strict=True)]
    torch._foreach_mul_(steps, rates)
    for work, wide, step, by_row in zip(works, wides, steps, rows, strict=True):
        if by_row:
            step.mul_(work.rates_of_rows(wide))
    torch._foreach_sub_(wides, steps)
    for work, wide in zip(works, wides, strict=True):
        work.write(wide)
