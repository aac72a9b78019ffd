"""What Tiger and Lion share: windows of micro-steps, kinds of parameters, gradients that are not finite, exact resume.

Post: 9512, 9473, 8634, 9736

State of a parameter (what a checkpoint holds)
    step       micro-steps done so far, the same number in every parameter's state
    open       1 while a window has put a gradient into the momentum and not stepped yet
    nonfinite  micro-steps whose gradient was not finite
    exp_avg    the momentum m, of the parameter's shape; float32 for 16-bit parameters
    master     float32 copy of a 16-bit parameter, with rounding="master" only
    age, exp_avg_sq, grad_sum, updates     see `row_updates` (embeddings with a rule of their own)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tianwen.errors import InputError, TrainingError
from tianwen.optim.option_checks import check_group, check_parameter
from tianwen.optim.param_groups import NEUTRAL, param_groups_for
from tianwen.optim.row_updates import absorb_rows, adam_absorb, adam_direction, row_factors
from tianwen.optim.sign_update import row_rms, shrunk
from tianwen.optim.work import Work, works_of


class SignOptimizer(torch.optim.Optimizer):
    """Base of Tiger and Lion; not for use by itself."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, nn.Module):
            params = param_groups_for(params)
        super().__init__(params, defaults)

    # What the two differ in

    def _blends(self, group: Mapping[str, Any]) -> tuple[float, float]:
        """(beta of the blend whose sign is taken, beta of the momentum)."""
        raise NotImplementedError

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, now or later. Raises InputError for options or parameters that cannot be used."""
        kind = param_group.get("kind", "auto")
        if kind in ("bias", "gain"):
            param_group.setdefault("weight_decay", 0.0)
        param_group.setdefault("centre", NEUTRAL.get(kind, 0.0))
        check_group({**self.defaults, **param_group}, self.param_groups)
        super().add_param_group(param_group)
        try:
            for index, parameter in enumerate(self.param_groups[-1]["params"]):
                check_parameter(parameter, self.param_groups[-1], index)
        except InputError:
            self.param_groups.pop()
            raise

    def nonfinite_counts(self) -> dict[str, int]:
        """Micro-steps with a gradient that was not finite, by parameter (its name, or its number without names)."""
        counts, number = {}, 0
        for group in self.param_groups:
            names = group.get("param_names") or [str(number + i) for i in range(len(group["params"]))]
            for name, parameter in zip(names, group["params"], strict=True):
                if count := self.state.get(parameter, {}).get("nonfinite", 0):
                    counts[name] = count
            number += len(group["params"])
        return counts

    # State

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, every tensor in the type it was saved in."""
        super().load_state_dict(state_dict)
        # torch casts state to the type of its parameter: float32 momentum of a bfloat16 weight would lose its bits.
        ids = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in zip(ids, parameters, strict=True):
            for key, saved in state_dict["state"].get(number, {}).items():
                loaded = self.state[parameter][key]
                if isinstance(saved, Tensor) and loaded.dtype != saved.dtype:
                    self.state[parameter][key] = saved.to(loaded.device, copy=True)

    # The step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One micro-step; after the last of a window the weights move. Gives what `closure` gave.

        Raises TrainingError, before anything is changed, if nonfinite="raise" and a gradient is not finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        done = max((state.get("step", 0) for state in self.state.values()), default=0)
        accumulate = self.param_groups[0]["accumulate"]
        last = (done + 1) % accumulate == 0
        works = works_of(self, done)
        finite = _finite(works)
        self._refuse(works, finite)
        for work, good in zip(works, finite, strict=True):
            self._micro_step(work, good, last)
        for state in self.state.values():
            state["step"] = done + 1
        return loss

    def _refuse(self, works: Iterable[Work], finite: Iterable[bool]) -> None:
        bad = [w.name for w, good in zip(works, finite, strict=True) if not good and w.group["nonfinite"] == "raise"]
        if bad:
            raise TrainingError(
                f"The gradient of {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''} is not finite. Nothing was "
                'changed. nonfinite="shrink" or "skip" goes on without such gradients and counts them.'
            )

    def _micro_step(self, work: Work, good: bool, last: bool) -> None:
        state, group = work.state, work.group
        if not good:
            state["nonfinite"] += 1
            if group["nonfinite"] == "shrink":
                wide = work.read()
                work.write(shrunk(wide, group["shrink"], group["centre"]))
        direction = self._absorb(work) if good and work.grad is not None else None
        if last and state["open"]:
            self._move(work, direction)
            state["open"] = 0

    def _absorb(self, work: Work) -> Tensor | None:
        """Put the gradient into the momentum. Gives Lion's blend, None where the momentum itself is the direction."""
        group, state, m = work.group, work.state, work.momentum
        share = (-1.0 if group["maximize"] else 1.0) / group["accumulate"]
        look, beta = self._blends(group)
        assert work.grad is not None
        if work.update == "adam":
            adam_absorb(work, share)
            state["open"] = 1
            return None
        if work.update in ("lazy", "stale"):
            direction = absorb_rows(work, share=share, look=look, beta=beta)
            state["open"] = 1
            return direction
        g = work.dense_grad().to(m.dtype)
        direction = look * m + (1 - look) * share * g if look != beta else None
        m.mul_(1.0 if state["open"] else beta).add_(g, alpha=(1 - beta) * share)
        state["open"] = 1
        return direction

    def _move(self, work: Work, direction: Tensor | None) -> None:
        """theta <- theta - eta (sign(u) + lam theta), by the rule of the parameter's kind."""
        group = work.group
        wide = work.read()
        rate = self._rate(work, wide)
        match work.update:
            case "adam":
                u = adam_direction(work)
            case _:
                u = torch.sign(work.momentum if direction is None else direction)
        if work.update in ("lazy", "stale"):
            rate = rate * row_factors(work, self._blends(group)[1])  # [rows, 1, ...]
        work.write(wide - rate * (u + work.weight_decay * wide))

    def _rate(self, work: Work, wide: Tensor) -> Any:
        """eta: a number, or a tensor [rows, 1, ...] for embeddings."""
        rate = float(work.group["lr"])
        if not work.group["relative"]:
            return rate
        if work.kind in ("bias", "gain"):
            return rate * 0.5
        floor = work.group["rms_floor"]
        if work.kind == "embedding":
            return rate * row_rms(wide).clamp(min=floor)
        rms = math.sqrt(float(wide.square().mean())) if wide.numel() else 0.0
        return rate * max(rms, floor)


def _finite(works: list[Work]) -> list[bool]:
    """Whether each gradient is finite; a missing one is."""
    return [work.grad is None or bool(work.grad_values().isfinite().all()) for work in works]
