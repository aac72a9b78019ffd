"""Tiger: a sign optimiser with one buffer, rates relative to the weights, and accumulation inside its momentum.

Post: 9512 (the method), 8634 (accumulation), 9736 (embeddings)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from tianwen.optim.sign_optimizer import SignOptimizer

EmbeddingUpdate = Literal["plain", "lazy", "stale", "adam"]
Nonfinite = Literal["shrink", "skip", "raise"]
Rounding = Literal["stochastic", "master", "nearest"]


class Tiger(SignOptimizer):
    """m <- beta m + (1 - beta) g;  theta <- theta - eta (sign(m) + weight_decay theta), with half of Adam's state.

        Tiger(param_groups_for(model), lr=1e-3, embedding_update="stale")       or Tiger(model, ...), the same

    eta is lr RMS(theta) for matrices, lr RMS(row) for each row of an embedding, lr / 2 for biases and gains.

    params: parameters, (name, parameter) pairs, groups (see `param_groups_for`), or a module. Where the kind of a
        parameter is not told, two axes or more make a matrix and the others are biases.
    lr: alpha of the posts; its peak is .001 to .002. A schedule counts calls of `step`, that is micro-steps.
    beta: .965 for language, .945 for vision.
    weight_decay: for matrices and embeddings; biases and gains have none unless their group says so.
    accumulate: micro-steps in a window; the weights move after the last. Equal to one step on the mean gradient of the
        window, without a buffer for it. Call `step` and `zero_grad` after every backward pass.
    embedding_update: what happens to rows without a gradient, see `row_updates`. Groups without kinds: "lazy" and
        "stale" hold for every matrix.
    nonfinite: a tensor whose gradient has a NaN or an infinity keeps its momentum and is shrunk by `shrink` towards
        the value without effect (shrink), or is left alone (skip), or nothing is stepped at all (raise).
    rounding: of 16-bit weights: at random, so that small steps count on average; a float32 copy ("master", 4 bytes a
        weight); or to nearest, which loses most steps.
    relative: False makes eta = lr for all. rms_floor: least RMS, so that tensors of zeros move.
    Raises InputError for options or parameters it cannot use.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        beta: float = 0.965,
        weight_decay: float = 0.01,
        *,
        accumulate: int = 1,
        embedding_update: EmbeddingUpdate = "plain",
        nonfinite: Nonfinite = "shrink",
        shrink: float = 0.99,
        rounding: Rounding = "stochastic",
        relative: bool = True,
        rms_floor: float = 1e-3,
        maximize: bool = False,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        seed: int = 0,
        fused: bool | None = None,
        foreach: bool | None = None,
    ) -> None:
        options = {
            "lr": lr,
            "beta": beta,
            "weight_decay": weight_decay,
            "accumulate": accumulate,
            "embedding_update": embedding_update,
            "nonfinite": nonfinite,
            "shrink": shrink,
            "rounding": rounding,
            "relative": relative,
            "rms_floor": rms_floor,
            "maximize": maximize,
            "adam_betas": adam_betas,
            "adam_eps": adam_eps,
            "seed": seed,
            "fused": fused,
            "foreach": foreach,
            "kind": "auto",
        }
        super().__init__(params, options)

    def _blends(self, group: Mapping[str, Any]) -> tuple[float, float]:
        return group["beta"], group["beta"]
