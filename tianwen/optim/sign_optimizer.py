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

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tianwen.errors import InputError, TrainingError
from tianwen.optim import foreach_step
from tianwen.optim.foreach_step import all_finite, sums_of_squares
from tianwen.optim.option_checks import check_group, check_parameter
from tianwen.optim.param_groups import NEUTRAL, param_groups_for
from tianwen.optim.row_updates import absorb_rows, adam_absorb, adam_direction, row_factors
from tianwen.optim.sign_update import shrunk
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
        param_group = dict(param_group)  # the caller may give the same groups to another optimiser
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
        """Restore what `state_dict` gave, every tensor in the type it was saved in.

        The state of another Lion that has `exp_avg` can be loaded too; options it does not know stay as they are.
        """
        own = [{**self.defaults, **group} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, before in zip(self.param_groups, own, strict=True):
            group.update({name: value for name, value in before.items() if name not in group})
            check_group(group, self.param_groups)
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
        self._refuse(works)
        left = self._step_together(works, last)
        for work, good in zip(left, all_finite(left), strict=True):
            self._micro_step(work, good, last)
        if not self.state:  # a micro-step in which nothing has a gradient counts too, even the very first
            self.state[self.param_groups[0]["params"][0]] = {"open": 0, "nonfinite": 0}
        for state in self.state.values():
            state["step"] = done + 1
        return loss

    def _step_together(self, works: list[Work], last: bool) -> list[Work]:
        """Let the fast ways do what they can; gives what is left, gradients that are not finite among it."""
        left = works
        for way, wanted in ((compiled_loops(), _loops_wanted), (foreach_step, _lists_wanted)):
            able = [work for work in left if way is not None and wanted(work) and way.can_step(work)]
            if way is not None and able:
                done = way.step_together(able, [self._blends(work.group) for work in able], move=last)
                stepped = {work.number for work, good in zip(able, done, strict=True) if good}
                left = [work for work in left if work.number not in stepped]
        return left

    def _refuse(self, works: Iterable[Work]) -> None:
        strict = [work for work in works if work.group["nonfinite"] == "raise"]
        bad = [work.name for work, good in zip(strict, all_finite(strict), strict=True) if not good]
        if bad:
            raise TrainingError(
                f"The gradient of {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''} is not finite. Nothing was "
                'changed. nonfinite="shrink" or "skip" goes on without such gradients and counts them.'
            )

    # One parameter at a time: the rules at their plainest, and the only way for what is rare

    def _micro_step(self, work: Work, good: bool, last: bool) -> None:
        state, group = work.state, work.group
        if not good:
            state["nonfinite"] += 1
            if group["nonfinite"] == "shrink":
                work.write(shrunk(work.read(), group["shrink"], group["centre"]))
        direction = None
        if good and work.grad is not None:
            direction = self._absorb(work)
            state["open"] = 1
        if last and state["open"]:
            self._move(work, direction)
            state["open"] = 0

    def _absorb(self, work: Work) -> Tensor | None:
        """Put the gradient into the momentum. Gives Lion's blend, None where the momentum itself is the direction."""
        look, beta = self._blends(work.group)
        match work.update:
            case "adam":
                return adam_absorb(work)
            case "lazy" | "stale":
                return absorb_rows(work, look=look, beta=beta)
        g, m = work.dense_grad(), work.momentum
        direction = look * m + (1 - look) * work.share * g if look != beta else None
        # Not add_(g, alpha=...): that is fused on some devices, and then +g and -g do not cancel exactly.
        m.mul_(1.0 if work.state["open"] else beta).add_(g * ((1 - beta) * work.share))
        return direction

    def _move(self, work: Work, direction: Tensor | None) -> None:
        """theta <- theta - eta (sign(u) + lam theta), by the rule of the parameter's kind."""
        wide = work.read()
        if work.kind == "embedding" and work.group["relative"]:
            rate: Any = work.rates_of_rows(wide)  # [rows, 1, ...]
        else:
            rate = work.rate_of(sums_of_squares([work], [wide])[0])
        if work.update in ("lazy", "stale"):
            rate = rate * row_factors(work, self._blends(work.group)[1])  # [rows, 1, ...]
        u = (
            adam_direction(work)
            if work.update == "adam"
            else (work.momentum if direction is None else direction).sign()
        )
        work.write(wide - rate * (u + work.weight_decay * wide))


def _loops_wanted(work: Work) -> bool:
    return work.group["fused"] is not False


def _lists_wanted(work: Work) -> bool:
    """On a GPU and for tensors that are spread over processes; on a CPU a plain loop is faster."""
    wanted = work.group["foreach"]
    return wanted if wanted is not None else work.theta.device.type != "cpu" or work.shards is not None


@cache
def compiled_loops() -> Any:
    """The module of the compiled loops, None where numba is not installed or switched off."""
    try:
        from numba import config

        from tianwen.optim import fused_tasks
    except ImportError:
        return None
    return None if getattr(config, "DISABLE_JIT", 0) else fused_tasks
