"""The settings of a training run, and what a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tianwen.errors import InputError

POSITIVE = ("accumulate", "keep_last", "checkpoint_every", "log_every", "evaluate_every", "skip_limit")


@dataclass(frozen=True)
class FitSettings:
    """How to train. The optimiser brings the learning rate, the schedule its course.

    Fields that change the result (precision, accumulate, clip_norm, ema_decay, nonfinite, seed) must stay the same when
    a run is resumed; the others may change, `steps` too as far as the schedule stays the same on the way already gone.
    """

    steps: int
    """Updates in all, also counting those of the runs that are resumed."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward pass under autocast; weights, gradients and the optimiser stay in their own type."""
    accumulate: int = 1
    """Batches per update, their gradients averaged (weighted, see `fit`)."""
    clip_norm: float | int | None = 1.0
    """Longest gradient, over all parameters together; None for no limit."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then what is evaluated and kept as best; None for none."""
    seed: int = 0
    """From it follow all random numbers of the loop; the order of the data has a seed of its own."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is written at the end and when a signal stops the run, too."""
    keep_last: int = 2
    """Checkpoints to keep."""
    evaluate_every: int | None = None
    """Steps between calls of `evaluate`; None: only after the last step."""
    keep_best: str | None = None
    """Name of a value of `evaluate` to keep the best weights by: the highest ("f1"), or with "-" the lowest ("-loss").
    They are written to best.safetensors."""
    patience: int | None = None
    """Stop after this many evaluations without a new best (needs keep_best); None: go on to the last step."""
    leave: Literal["auto", "last", "average", "best"] = "auto"
    """Weights in the model when `fit` returns. auto: best if keep_best, else the average if ema_decay, else last."""
    nonfinite: Literal["skip", "pass"] = "skip"
    """skip: no update from a loss or gradient that is not finite; pass: leave that to the optimiser."""
    skip_limit: int = 10
    """Skipped steps in a row before the run rolls back to the last checkpoint with half the learning rate."""
    rollback_limit: int = 3
    """Roll-backs before the run gives up."""
    prefetch: int = 0
    """Batches made ahead in a thread; worth it where the model runs on a GPU and batches take time to make."""
    log_every: int = 10
    """Steps between lines in log.jsonl; each line is about all the steps since the line before."""
    tensorboard: bool = False
    """Also write events for TensorBoard to FOLDER/tensorboard (extra "logs")."""
    quiet: bool = False
    """No progress bar; there is one only if stderr is a terminal."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"steps={self.steps}: the number of steps cannot be negative.")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value}: it counts steps or things, so the least is 1.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm={self.clip_norm}: a positive length, or None for no clipping.")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay={self.ema_decay}: a decay lies in [0, 1), usually between 0.99 and 0.9999.")
        if self.keep_best is None and (self.patience is not None or self.leave == "best"):
            raise InputError(
                'patience and leave="best" need keep_best, the name of the value to compare, as in "-loss".'
            )
        if self.ema_decay is None and self.leave == "average":
            raise InputError('leave="average" needs ema_decay, for example 0.999.')

    @property
    def left(self) -> Literal["last", "average", "best"]:
        """What `leave` means here."""
        if self.leave != "auto":
            return self.leave
        if self.keep_best is not None:
            return "best"
        return "last" if self.ema_decay is None else "average"


@dataclass(frozen=True)
class FitResult:
    """What a finished run gives back; the model itself holds the weights that `FitSettings.leave` names."""

    step: int
    """Updates done in all."""
    loss: float
    """Mean loss of the last logged interval (nan if no step was done)."""
    seconds: float
    """Time spent training, over all the runs that were resumed, evaluation included."""
    folder: Path
    evaluation: dict[str, float] = field(default_factory=dict)
    """What `evaluate` said last."""
    best: float | None = None
    """Best value of `keep_best`."""
    best_step: int | None = None
    skipped: int = 0
    """Steps without an update because the loss or the gradient was not finite."""
    rollbacks: int = 0
