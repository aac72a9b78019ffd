"""`fit`: one training loop for every model of the house.

Post: 9736 (schedule and moving average), 8998 (the settings of the pretraining)

    settings = FitSettings(steps=10_000, ema_decay=0.999, evaluate_every=500, keep_best="f1")
    fit(model, loss_fn, in_batches(examples, collate, size=32, seed=1), optimiser=AdamW(model.parameters(), lr=1e-3),
        schedule=cosine(10_000, warmup=500), settings=settings, folder="runs/first", evaluate=score)

    loss_fn(model, batch)  a mean loss, or (mean loss, {"weight": things in the mean, "tokens": ..., anything to log})
    evaluate(model)        a dict of numbers; called in eval mode without gradients, the moving average in the model,
                           in rank 0 only
    before_step(t)         called with the number of the update (first = 1), for what grows with the steps

The same script resumes: a folder with checkpoints goes on from the newest whole one, on CPU bit for bit as if it had
never stopped (optimiser, schedule, random numbers, data order, moving average), after SIGTERM, Ctrl-C or kill -9. The
same script under torchrun shares each batch between the processes and does the same updates. Move the model to its
device (`local_device()`) before the optimiser is made; batches are moved here. The loss function must not keep random
generators of its own: random, numpy and torch are seeded anew for each step from (seed, step, rank).

A loss or gradient that is not finite is not applied; after `skip_limit` such steps in a row the run goes back to the
last checkpoint with half the learning rate, and gives up with a sentence after `rollback_limit` of these.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tianwen.errors import InputError, TrainingError
from tianwen.optim.ema import Ema
from tianwen.optim.schedule import Schedule, constant
from tianwen.training.ahead import Take, made_ahead
from tianwen.training.checkpoint import Checkpoints
from tianwen.training.counters import Counters, Window
from tianwen.training.data_order import BatchSource
from tianwen.training.description import describe, differences, sample, schedule_difference
from tianwen.training.distributed import World, joined_world
from tianwen.training.interrupts import StopRequest, TrainingInterrupted
from tianwen.training.lock import only_run_in
from tianwen.training.progress import Bar, Board, JsonLog, Scribes, at_terminal
from tianwen.training.randomness import preserved, reseed
from tianwen.training.restore import load_optimiser
from tianwen.training.settings import FitResult, FitSettings
from tianwen.training.step import LossFunction, Sums, accumulate, combine, scale_and_clip, to_device
from tianwen.training.weights import load_weights, save_weights

Evaluate = Callable[[Any], Mapping[str, float]]


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: BatchSource,
    *,
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
    folder: str | Path,
    schedule: Schedule | None = None,
    evaluate: Evaluate | None = None,
    before_step: Callable[[int], None] | None = None,
    resume: bool | Literal["anyway"] = True,
) -> FitResult:
    """Train `model` in place for `settings.steps` updates; see the module for the arguments and what is promised.

    resume: True goes on from the newest checkpoint in `folder` and refuses other settings; "anyway" goes on even so;
    False refuses a folder that has checkpoints.
    Raises TrainingError (settings differ, loss not finite for good, damaged checkpoints, disk full), InputError
    (options that do not fit together), TrainingInterrupted after a signal, once everything is saved (see interrupts).
    """
    if settings.keep_best is not None and evaluate is None:
        raise InputError(f"keep_best={settings.keep_best!r} needs an `evaluate` function that gives this value.")
    device = next(model.parameters()).device
    with preserved(), joined_world(device) as world, Scribes() as scribes, ExitStack() as locked:
        if world.writes:
            locked.enter_context(only_run_in(Path(folder)))
        run = _Run(model, loss_fn, batches, optimiser, settings, Path(folder), schedule or constant())
        run.world, run.scribes, run.evaluate, run.before_step = world, scribes, evaluate, before_step
        try:
            run.begin(resume)
            ahead = made_ahead(batches, rank=world.rank, world=world.size, depth=settings.prefetch)
            with StopRequest() as stop, ahead as take:
                run.go(take, stop)
            return run.finish()
        finally:
            run.set_rate(1.0)


class _Run:
    """The state of one call of `fit`."""

    world: World
    scribes: Scribes
    evaluate: Evaluate | None
    before_step: Callable[[int], None] | None

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: BatchSource,
        optimiser: torch.optim.Optimizer,
        settings: FitSettings,
        folder: Path,
        schedule: Schedule,
    ) -> None:
        self.model, self.loss_fn, self.batches = model, loss_fn, batches
        self.optimiser, self.settings, self.schedule = optimiser, settings, schedule
        self.folder, self.checkpoints = folder, Checkpoints(folder)
        self.device = next(model.parameters()).device
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.base_rates = [float(group["lr"]) for group in optimiser.param_groups]
        self.ema: Ema | None = None
        self.counters, self.window = Counters(), Window()

    # Beginning and end

    def begin(self, resume: bool | Literal["anyway"]) -> None:
        """Join the other processes, load the newest checkpoint if there is one, open the log."""
        self.world.same_start(self.model)
        if self.settings.ema_decay is not None:
            self.ema = Ema(self.model, self.settings.ema_decay)
        self.description = describe(
            self.model,
            self.optimiser,
            settings=self.settings,
            data=self.batches.describe(),
            world=self.world.size,
        )
        if self.world.writes:
            self.checkpoints.clean()
        found = self.world.from_first(self._find(resume) if self.world.writes else None)
        if isinstance(found, str):
            raise TrainingError(found)
        if found is not None:
            self._restore(found, anyway=resume == "anyway")
        if self.world.writes:
            self.checkpoints.remove([step for step in self.checkpoints.steps() if step > self.counters.step])
            self._open_scribes()

    def _find(self, resume: bool | str) -> int | str | None:
        """The step to go on from, None to start anew, or the sentence that refuses."""
        steps = self.checkpoints.steps()
        if not steps:
            return None
        if resume is False:
            return (
                f"{self.folder} holds a run that has come to step {steps[-1]}. Go on with resume=True, "
                "choose another folder, or delete this one."
            )
        newest = self.checkpoints.newest()
        if newest is None:
            return (
                f"{self.folder} has {len(steps)} checkpoints and all are damaged. "
                "Delete its folder 'checkpoints' to start anew, or bring back a copy."
            )
        return newest

    def _restore(self, step: int, *, anyway: bool) -> None:
        states, facts = self.checkpoints.load(step)
        odd = differences(facts["description"], self.description) + schedule_difference(
            facts["schedule"], self.schedule
        )
        if odd and not anyway:
            raise TrainingError(
                f"The run in {self.folder} (step {step}) was made with other settings: {'; '.join(odd)}. "
                'Use the settings of then, or another folder; resume="anyway" goes on with the new ones.'
            )
        self._take(states, facts)

    def _take(self, states: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(states["model"])
        except RuntimeError as error:
            raise TrainingError(f"The checkpoint belongs to another model: {error}") from error
        load_optimiser(self.optimiser, states["optimiser"])
        if self.settings.ema_decay is not None:
            self.ema = Ema(self.model, self.settings.ema_decay)
            if "ema" in states:  # not so if it is added at a resume "anyway"
                self.ema.load_state_dict(states["ema"])
        self.counters.take(facts["counters"])
        parts = {name: (value, weight) for name, (value, weight) in facts["window"]["parts"].items()}
        # The parts saved are those of all processes: rank 0 goes on with them.
        self.window = Window(**(facts["window"] | {"parts": parts if self.world.writes else {}}))

    def _open_scribes(self) -> None:
        self.scribes.add(JsonLog(self.folder / "log.jsonl", step=self.counters.step))
        if self.settings.tensorboard:
            self.scribes.add(Board(self.folder / "tensorboard"))
        if not self.settings.quiet and at_terminal():
            self.scribes.add(Bar(steps=self.settings.steps, done=self.counters.step))

    def finish(self) -> FitResult:
        """Put the weights asked for into the model."""
        c = self.counters
        self.world.wait()  # best.safetensors is whole now
        match self.settings.left:
            case "average" if self.ema is not None:
                self.ema.copy_to_model()
            case "best" if c.best is not None:
                self.model.load_state_dict(load_weights(self.folder / "best.safetensors").tensors)
        self.model.eval()
        return FitResult(
            step=c.step,
            loss=c.loss,
            seconds=c.seconds,
            folder=self.folder,
            evaluation=c.evaluation,
            best=c.best,
            best_step=c.best_step,
            skipped=c.skipped,
            rollbacks=c.rollbacks,
        )

    # The loop

    def go(self, take: Take, stop: StopRequest) -> None:
        """Step until the last step, a signal, or too many evaluations without a new best."""
        c, s = self.counters, self.settings
        self.model.train()
        while c.step < s.steps and not self._out_of_patience():
            stopped = self._step(take, stop)
            if c.skipped_in_row >= s.skip_limit:
                self._roll_back()
                continue
            last = c.step >= s.steps
            if self.window.steps and (last or self._due(s.log_every)):
                self._log()
            if self.evaluate and (last or self._due(s.evaluate_every)):
                self._evaluate()
            over = last or self._out_of_patience()
            # A new best is saved with its checkpoint, so that the two never tell different stories.
            due = self._due(s.checkpoint_every) or c.best_step == c.step
            if stopped or over or (due and not c.skipped_in_row):
                self._save()
            if stopped and not over:
                raise self._interruption(stop.requested)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.counters.step % every == 0

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.counters.stale >= self.settings.patience

    def _step(self, take: Take, stop: StopRequest) -> bool:
        """One update, or a skipped one; true if some process was asked to stop."""
        c, s, started = self.counters, self.settings, time.perf_counter()
        if self.before_step:
            self.before_step(c.step + 1)
        reseed(s.seed, c.step, self.world.rank, c.rollbacks)
        self.optimiser.zero_grad(set_to_none=True)
        indices = range(c.step * s.accumulate, (c.step + 1) * s.accumulate)
        parts = (to_device(take(i), self.device) for i in indices)
        alone = self.world.size == 1 and s.accumulate == 1
        sums = accumulate(self.model, self.loss_fn, parts, autocast=self._autocast, alone=alone)
        sums.stop = float(bool(stop.requested))
        combine(sums, self.parameters, self.world)
        if sums.weight:  # else no batch had anything to learn from
            norm = scale_and_clip(self.parameters, divisor=1.0 if alone else sums.weight, clip_norm=s.clip_norm)
            self._apply(sums, norm)
        c.step += 1
        elapsed = time.perf_counter() - started
        c.seconds += elapsed
        self.window.seconds += elapsed
        self.window.tokens += sums.tokens
        self.scribes.step(c.step)
        return sums.stop > 0

    def _apply(self, sums: Sums, norm: float) -> None:
        """Let the optimiser step, unless the loss or the gradient is not finite."""
        c = self.counters
        finite = math.isfinite(sums.mean_loss) and math.isfinite(norm)
        if not finite and self.settings.nonfinite == "skip":
            c.skipped += 1
            c.skipped_in_row += 1
            self.scribes.line({"step": c.step + 1, "event": "skipped", "loss": sums.mean_loss, "grad_norm": norm})
            return
        c.skipped_in_row = 0
        self.set_rate(self.schedule(c.step + 1) * c.rate)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update()
        self.window.add(sums, norm)

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of each group to its base rate times `factor`."""
        for group, base in zip(self.optimiser.param_groups, self.base_rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(base * factor)
            else:
                group["lr"] = base * factor

    def _autocast(self) -> Any:
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    # What happens between steps

    def _log(self) -> None:
        self.window.gather(self.world)
        c, told = self.counters, self.window.line()
        c.loss = told["loss"]
        rate = float(self.optimiser.param_groups[0]["lr"])
        loss, rest = {"loss": told.pop("loss")}, {"seconds": round(c.seconds, 3)}
        self.scribes.line({"step": c.step, **loss, "lr": rate, **told, **rest})
        self.window = Window()

    def _evaluate(self) -> None:
        c, started = self.counters, time.perf_counter()
        assert self.evaluate is not None
        told: dict[str, float] = {}
        if self.world.writes:
            self.model.eval()
            with preserved(), self.ema.swapped() if self.ema else nullcontext(), torch.no_grad():
                reseed(self.settings.seed, c.step, "evaluate")
                told = {name: float(value) for name, value in self.evaluate(self.model).items()}
                self._keep_best(told)
            self.model.train()
        c.evaluation, c.best, c.best_step, c.stale = self.world.from_first((told, c.best, c.best_step, c.stale))
        c.seconds += time.perf_counter() - started
        self.scribes.line({"step": c.step, "evaluation": c.evaluation, "seconds": round(c.seconds, 3)})

    def _keep_best(self, told: Mapping[str, float]) -> None:
        """Write best.safetensors if this evaluation is the best so far; the weights evaluated stand in the model."""
        if self.settings.keep_best is None:
            return
        c, name = self.counters, self.settings.keep_best.removeprefix("-")
        if name not in told:
            known = ", ".join(sorted(told)) or "nothing"
            raise InputError(f"keep_best={self.settings.keep_best!r}, but `evaluate` gave {known}.")
        sign = -1 if self.settings.keep_best.startswith("-") else 1
        c.stale += 1
        if c.best is None or sign * told[name] > sign * c.best:  # nan is never better
            c.best, c.best_step, c.stale = told[name], c.step, 0
            found = {"step": c.step, "evaluation": told}
            save_weights(self.folder / "best.safetensors", self.model.state_dict(), found)

    def _save(self) -> None:
        self.window.gather(self.world)
        if not self.world.writes or self.counters.step in self.checkpoints.steps():
            return
        states: dict[str, Any] = {"model": dict(self.model.state_dict()), "optimiser": self.optimiser.state_dict()}
        if self.ema is not None:
            states["ema"] = self.ema.state_dict()
        facts = {
            "description": self.description,
            "schedule": sample(self.schedule, self.settings.steps),
            "counters": asdict(self.counters),
            "window": asdict(self.window),
        }
        self.checkpoints.save(self.counters.step, states, facts)
        self.checkpoints.keep_last(self.settings.keep_last)

    def _roll_back(self) -> None:
        """Go back to the last checkpoint, or the one before if that one led here too, with half the learning rate."""
        c, s = self.counters, self.settings
        target = None
        if self.world.writes:
            newest = self.checkpoints.newest()
            older = self.checkpoints.newest(below=newest) if newest is not None and newest == c.rolled_to else None
            target = newest if older is None else older
        target = self.world.from_first(target)
        if target is None or c.rollbacks >= s.rollback_limit:
            raise TrainingError(
                f"Loss or gradient was not finite for {c.skipped_in_row} steps in a row, up to step {c.step}, "
                f"after {c.rollbacks} roll-backs. Lower the learning rate, warm up longer, set clip_norm, or look at "
                f"the batches there; the log is {self.folder / 'log.jsonl'}."
            )
        keep = {"rollbacks": c.rollbacks + 1, "rate": c.rate / 2, "rolled_to": target}
        keep |= {"skipped": c.skipped, "seconds": c.seconds}
        self.scribes.line({"step": c.step, "event": "rollback", "to": target, "rate": c.rate / 2})
        states, facts = self.checkpoints.load(target)
        self._take(states, facts)
        c.take(keep)
        self.world.wait()  # all have read it
        if self.world.writes:
            self.checkpoints.remove([step for step in self.checkpoints.steps() if step > target])

    def _interruption(self, number: int) -> TrainingInterrupted:
        told = TrainingInterrupted(number or signal.SIGTERM, step=self.counters.step, folder=self.folder)
        if self.world.writes:
            print(told, file=sys.stderr)
        return told
