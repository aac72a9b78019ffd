"""Run by test_ddp.py under torchrun and alone: the same training script in both, as a user would write it.

torchrun --nproc-per-node 2 ddp_script.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from tianwen.optim.schedule import cosine
from tianwen.training import FitSettings, fit, in_batches, local_device


class TwoHeads(nn.Module):
    """The second head is used by some examples only, so some processes have no gradient for it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(6, 1)

    def score(self, x: Tensor, odd: bool) -> Tensor:
        return (self.second if odd else self.first)(torch.tanh(self.body(x)))[..., 0]


def loss_fn(model: TwoHeads, batch: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean over the tokens of sequences of different length; not through `forward`."""
    errors = [(model.score(x, len(x) == 1) - x.sum(1)).square() for x in batch]
    values = {"longest": float(max(len(x) for x in batch))} if len(batch) > 1 else {}
    tokens = sum(len(x) for x in batch)
    return torch.cat(errors).mean(), {"weight": tokens, "tokens": tokens, **values}


def train(folder: Path, steps: int) -> TwoHeads:
    generator = torch.Generator().manual_seed(5)
    examples = [torch.randn(1 + i % 4, 4, generator=generator, dtype=torch.float64) for i in range(13)]
    model = TwoHeads().double().to(local_device())
    fit(
        model,
        loss_fn,
        in_batches(examples, lambda chosen, random: chosen, size=3, seed=1),
        optimiser=torch.optim.AdamW(model.parameters(), lr=0.02),
        schedule=cosine(16, warmup=2),
        settings=FitSettings(
            steps=steps, accumulate=2, ema_decay=0.9, log_every=4, checkpoint_every=5, evaluate_every=8
        ),
        folder=folder,
        evaluate=lambda m: {"first": float(m.first.weight.sum())},
    )
    return model


def main(folder: Path) -> None:
    # In each process another start: rank 0's must count. Stopped and resumed on the way.
    import os

    for steps in (6, 16):
        torch.manual_seed(1 if os.environ.get("RANK", "0") == "0" else 99)
        model = train(folder, steps)
    torch.save(
        {k: v.cpu() for k, v in model.state_dict().items()}, folder / f"end-{os.environ.get('RANK', 'alone')}.pt"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
