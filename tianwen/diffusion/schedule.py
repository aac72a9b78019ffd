"""How much picture and how much noise is left at each time: the amplitudes A and B of a diffusion.

Post: 9119, 9152, 9181
Paper: Ho et al., Denoising Diffusion Probabilistic Models, 2020; Nichol and Dhariwal, 2021 (cosine); Lin et al.,
Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023 (zero terminal SNR).

Notation (T times; here t = 0 .. T-1 counts from zero, the post's t = 1 .. T from one)
    here    post         DDPM paper            shape
    A[t]    bar alpha_t  sqrt(bar alpha_t)     [T]    what is left of the picture, strictly falling
    B[t]    bar beta_t   sqrt(1-bar alpha_t)   [T]    amplitude of the noise; A^2 + B^2 = 1
    a[t]    alpha_t      sqrt(alpha_t)         [T]    A[t] / A[t-1], and A[0] / 1
    b[t]    beta_t       sqrt(beta_t)          [T]    sqrt(1 - a[t]^2); the post's b is an amplitude, the paper's not
    x_t = A[t] x_0 + B[t] eps = a[t] x_{t-1} + b[t] eps_t
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tianwen.errors import InputError

VANISHED = 1e-7
"""Below this A a float32 cannot hold the picture beside the noise: the signal-to-noise ratio counts as zero."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Amplitudes of T noise levels in float64, from a nearly clean picture (t = 0) to nearly pure noise (t = T-1).

    `A` and `B` are CPU tensors. Raises InputError if A does not fall strictly from below 1 to 0 or above.
    """

    A: Float[Tensor, " T"]
    B: Float[Tensor, " T"]
    name: str = "own"

    def __post_init__(self) -> None:
        pair = (self.A, self.B)
        if not all(isinstance(one, Tensor) and one.dim() == 1 and one.dtype == torch.float64 for one in pair):
            raise InputError(
                "A and B are tensors of T float64 each; Schedule.from_amplitudes(A) makes them of any list."
            )
        falls = bool((torch.diff(self.A) < 0).all()) and len(self.A) and self.A[-1] >= 0 and self.A[0] < 1
        if (
            not falls
            or self.A.shape != self.B.shape
            or not torch.allclose(self.A**2 + self.B**2, torch.ones_like(self.A))
        ):
            raise InputError("A must fall strictly, from below 1 to no less than 0, and A^2 + B^2 = 1 at every time.")

    @classmethod
    def post(cls, T: int = 1000) -> Schedule:
        """The post's a_t = sqrt(1 - 0.02 t / T), t = 1 .. T, for T = 1000; other T: the same curve at T points.

        With the formula itself T = 100 would end at A = 0.6, a picture still, and sampling could not start from noise.
        """
        return cls._along(np.log1p(-0.02 * np.arange(1, 1001) / 1000) / 2, T, "post")

    @classmethod
    def paper(cls, T: int = 1000) -> Schedule:
        """The DDPM paper's b_t^2 from 1e-4 to 0.02, evenly, for T = 1000; other T: the same curve at T points."""
        return cls._along(np.log1p(-np.linspace(1e-4, 0.02, 1000)) / 2, T, "paper")

    @classmethod
    def cosine(cls, T: int = 1000) -> Schedule:
        """Nichol and Dhariwal's A(t) = cos(pi/2 (t/T + .008) / 1.008), normed to A(0) = 1, with b_t^2 at most .999."""
        angle = math.pi / 2 * (np.arange(_checked(T) + 1) / T + 0.008) / 1.008
        squared = (np.cos(angle) / np.cos(angle[0])) ** 2
        kept = np.maximum(squared[1:] / squared[:-1], 0.001)  # a_t^2 = 1 - b_t^2
        return cls._from_log(np.cumsum(np.log(kept)) / 2, "cosine")

    @classmethod
    def named(cls, name: str, T: int = 1000) -> Schedule:
        """The schedule of that name: post, paper or cosine; for settings files and checkpoints."""
        match name:
            case "post":
                return cls.post(T)
            case "paper":
                return cls.paper(T)
            case "cosine":
                return cls.cosine(T)
        raise InputError(f"There is no schedule {name!r}; there are post, paper and cosine.")

    @classmethod
    def from_amplitudes(cls, A: object, *, name: str = "own") -> Schedule:
        """A schedule of your own from the T values of A, first the cleanest; sequence, array or tensor."""
        try:
            values = np.asarray(A.detach().cpu() if isinstance(A, Tensor) else A, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError("The amplitudes must be a flat list of numbers, the cleanest time first.") from None
        if values.ndim != 1 or not values.size:
            raise InputError(f"The amplitudes must be a list of at least one number; given was shape {values.shape}.")
        falling = np.diff(np.concatenate([[1.0], values]))
        if not np.isfinite(values).all() or (falling >= 0).any() or values[-1] < 0:
            raise InputError(
                "The amplitudes A must fall strictly, all below 1 and none below 0: time 0 is the cleanest, time T-1 "
                f"the noisiest; given was {_shortened(values)}."
            )
        return cls._of(values, np.sqrt((1 - values) * (1 + values)), name)

    @classmethod
    def _along(cls, log_a: NDArray[np.float64], T: int, name: str) -> Schedule:
        """The curve whose logarithm falls by `log_a` a step, read at T evenly spaced times; exact where T is theirs."""
        steps = len(log_a)
        curve = np.concatenate([[0.0], np.cumsum(log_a)])  # [steps + 1]
        return cls._from_log(np.interp(np.arange(1, _checked(T) + 1) * (steps / T), np.arange(steps + 1), curve), name)

    @classmethod
    def _from_log(cls, log_A: NDArray[np.float64], name: str) -> Schedule:
        return cls._of(np.exp(log_A), np.sqrt(-np.expm1(2 * log_A)), name)  # expm1: B is exact also near t = 0

    @classmethod
    def _of(cls, A: NDArray[np.float64], B: NDArray[np.float64], name: str) -> Schedule:
        return cls(torch.from_numpy(A.copy()), torch.from_numpy(B.copy()), name)

    def with_zero_terminal_snr(self) -> Schedule:
        """The same curve shifted and stretched so that A[T-1] = 0 exactly and A[0] stays (Lin et al., algorithm 1).

        Such a model must predict v or x0: at the last time x is the noise itself and eps says nothing of the picture.
        """
        if self.T == 1:
            raise InputError("A schedule of one time cannot end at zero signal: its only A would be 0. Use T >= 2.")
        A = self.A.numpy()
        stretched = (A - A[-1]) * (A[0] / (A[0] - A[-1]))
        stretched[-1] = 0.0
        return Schedule.from_amplitudes(stretched, name=f"{self.name}, zero terminal SNR")

    @property
    def T(self) -> int:
        """Number of times."""
        return self.A.shape[0]

    @property
    def a(self) -> Float[Tensor, " T"]:
        """a[t] = A[t] / A[t-1], what one step of the chain leaves of its input."""
        return self.A / torch.cat([self.A.new_ones(1), self.A[:-1]])

    @property
    def b(self) -> Float[Tensor, " T"]:
        """b[t] = sqrt(1 - a[t]^2), the noise that one step of the chain adds."""
        return ((1 - self.a) * (1 + self.a)).sqrt()

    @property
    def log_snr(self) -> Float[Tensor, " T"]:
        """log(A / B), half the logarithm of the signal-to-noise ratio; strictly falling, -inf where A is 0."""
        return (self.A / self.B).log()

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether nothing of the picture is left at T-1 (zero terminal SNR), so that eps cannot be the target."""
        return float(self.A[-1]) < VANISHED

    def at(
        self, t: Int[Tensor, " batch"], x: Float[Tensor, " batch *shape"]
    ) -> tuple[Float[Tensor, " batch *ones"], Float[Tensor, " batch *ones"]]:
        """A and B of each picture's time, on the device and in the type of `x`, shaped to multiply it."""
        ones = (-1, *[1] * (x.dim() - 1))
        kind = x.dtype if x.dtype == torch.float64 else torch.float32
        where = t.to(self.A.device)
        return (
            self.A[where].to(x.device, kind).view(ones),  # [batch, 1, ..]
            self.B[where].to(x.device, kind).view(ones),
        )

    def add_noise(
        self,
        x0: Float[Tensor, " batch *shape"],
        eps: Float[Tensor, " batch *shape"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch *shape"]:
        """x_t = A[t] x_0 + B[t] eps, computed at least in float32 and given back in the type of `x0`."""
        A, B = self.at(t, x0)
        return (A * x0 + B * eps).to(x0.dtype)


def _checked(T: int) -> int:
    if not isinstance(T, int | np.integer) or isinstance(T, bool) or T < 1:
        raise InputError(f"The number of times T must be a whole number of at least 1; given was {T!r}.")
    return int(T)


def _shortened(values: NDArray[np.float64]) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:6])
    return shown + (f", … ({values.size} values)" if values.size > 6 else "")
