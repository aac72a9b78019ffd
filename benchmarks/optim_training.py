"""Tiger, Lion, AdamW and a layer-adapted Adam on the same small training at equal steps: which loss they reach.

Post: 9512, 9473, 9736

An asker of two layers, width 128, from scratch on real questions; every optimiser at several rates with the first seed,
its best rate then with further seeds. Told is the mean loss on held-out questions, of the last weights (no average).

    python benchmarks/optim_training.py --questions train.json --held-out dev.json [--steps 120] [--seeds 3] [--json]

    notation        meaning
    NAME            held-out loss at the best rate, mean over seeds      NAME_spread   largest minus smallest of them
    NAME_rates      {rate: held-out loss} with the first seed
    adapted_adam    as LAMB does: Adam's step times RMS(theta) / RMS(step) for matrices; written here, no peer's code
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tianwen.ask.mixture import Mixture, MixtureSettings, ask_loss
from tianwen.ask.questions import Question, read_questions
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.optim.lion import Lion
from tianwen.optim.param_groups import param_groups_for
from tianwen.optim.schedule import piecewise_linear
from tianwen.optim.tiger import Tiger
from tianwen.text import Tokenizer
from tianwen.training import FitSettings, fit

Make = Callable[[nn.Module, float], torch.optim.Optimizer]


class AdaptedAdam(torch.optim.Optimizer):
    """theta <- theta - lr r s,  s = m / sqrt(v) + .01 theta,  r = RMS(theta) / RMS(s) for matrices, 1 for vectors."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "kind": "matrix", "weight_decay": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                m = state["exp_avg"].lerp_(p.grad, 0.1)
                v = state["exp_avg_sq"].lerp_(p.grad.square(), 0.01)
                u = m / (1 - 0.9 ** state["step"]) / ((v / (1 - 0.99 ** state["step"])).sqrt() + 1e-8)
                u.add_(p, alpha=group["weight_decay"])
                large = group["kind"] in ("matrix", "embedding") and bool(p.any()) and bool(u.any())
                ratio = float(p.norm() / u.norm()) if large else 1.0
                p.add_(u, alpha=-group["lr"] * ratio)


OPTIMISERS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "adamw": (
        lambda model, lr: torch.optim.AdamW(param_groups_for(model, weight_decay=0.01), lr=lr, betas=(0.9, 0.98)),
        (1e-3, 2e-3, 4e-3, 8e-3),
    ),
    "lion": (lambda model, lr: Lion(param_groups_for(model), lr=lr, weight_decay=0.1), (2e-4, 4e-4, 8e-4, 16e-4)),
    "tiger": (lambda model, lr: Tiger(param_groups_for(model), lr=lr), (4e-3, 8e-3, 16e-3, 32e-3)),
    "tiger_stale": (
        lambda model, lr: Tiger(param_groups_for(model), lr=lr, embedding_update="stale"),
        (4e-3, 8e-3, 16e-3, 32e-3),
    ),
    "adapted_adam": (lambda model, lr: AdaptedAdam(param_groups_for(model), lr=lr), (1e-2, 2e-2, 4e-2, 8e-2)),
}


class Training:
    """One task: the data, and what a training with an optimiser reaches."""

    def __init__(self, questions: list[Question], held_out: list[Question], steps: int) -> None:
        self.steps = steps
        texts = [text for q in questions for text in (q.text, q.subject, q.predicate, q.sense)]
        self.tokenizer = Tokenizer.train(texts, size=5000)
        plain = MixtureSettings(batch=32, prior=0.0, synthetic=0.0)
        self.data = Mixture(questions, self.tokenizer, plain)
        still = MixtureSettings(batch=64, prior=0.0, synthetic=0.0, swap=0.0)
        self.held_out = [Mixture(held_out, self.tokenizer, still).batch(i, 0, 1) for i in range(4)]

    def loss(self, make: Make, rate: float, seed: int) -> float:
        """Held-out loss after the steps."""
        torch.manual_seed(seed)
        shape = RoFormerV2Config(vocabulary=self.tokenizer.size, layers=2, width=128, heads=2, attention_dropout=0.0)
        model = AskModel(AskConfig(shape))
        with tempfile.TemporaryDirectory() as folder:
            fit(
                model,
                ask_loss,
                self.data,
                optimiser=make(model, rate),
                schedule=piecewise_linear({0: 0.0, self.steps // 10: 1.0, self.steps: 0.02}),
                settings=FitSettings(steps=self.steps, seed=seed, checkpoint_every=self.steps, quiet=True),
                folder=folder,
            )
        model.eval()
        with torch.no_grad():
            return statistics.mean(float(ask_loss(model, batch)[0]) for batch in self.held_out if batch)


def run(questions: list[str], held_out: list[str], *, steps: int = 120, seeds: int = 3) -> dict[str, Any]:
    """Every number by name."""
    began = time.perf_counter()
    training = Training(read_questions(questions), read_questions(held_out), steps)
    numbers: dict[str, Any] = {}
    for name, (make, rates) in OPTIMISERS.items():
        tried = {rate: training.loss(make, rate, 0) for rate in rates}
        best = min(tried, key=lambda rate: tried[rate])
        losses = [tried[best], *(training.loss(make, best, seed) for seed in range(1, seeds))]
        numbers[name] = round(statistics.mean(losses), 4)
        numbers[f"{name}_spread"] = round(max(losses) - min(losses), 4)
        numbers[f"{name}_best_rate"] = best
        numbers[f"{name}_rates"] = {f"{rate:g}": round(loss, 4) for rate, loss in tried.items()}
    seconds = round(time.perf_counter() - began, 1)
    return numbers | {"steps": steps, "seeds": seeds, "seconds": seconds, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = run(options.questions, options.held_out, steps=options.steps, seeds=options.seeds)
    if options.json:
        print(json.dumps(numbers))
        return
    for key, value in numbers.items():
        print(f"{key:28} {value}")


if __name__ == "__main__":
    main()
