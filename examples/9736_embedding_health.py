"""Post 9736: rare tokens' embeddings drift to 1/wd under a sign optimiser, and what helps.

    python examples/9736_embedding_health.py [--full] [--seeds 5] [--plot FILE.svg] [--json]

A small language model reads text from a Zipf law, once with each remedy; then the doctor looks at its embeddings.
Without options: a small one, in seconds, with rates so high that losses mean little. --full: 1,000 tokens and 5,000
steps, about two minutes a seed on one core.

Post: 9736

Notation
    V  vocabulary            x -> y  a token and the next          R_t  RMS of a token's row after t steps
    p(x) ~ rank^-1.5         y given x: nine times in ten from the class that follows the class of x, else any
    rare loss   expected cross entropy of y given x, exact, mean over the tokens x seen 1 to 50 times
    relearnt    the same after a fine-tuning with AdamW in which these tokens are the frequent ones
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from tianwen.optim.drift import logistic_law
from tianwen.optim.embedding_health import EmbeddingHealth
from tianwen.optim.figure import Curve, Panel, draw
from tianwen.optim.tiger import Tiger
from tianwen.optim.tying import tie_embeddings

REMEDIES = ("plain", "tied", "lazy", "adam", "stale")
DIM, CLASSES, BATCH, DECAY, EVERY = 32, 10, 128, 0.01, 20
Row = dict[str, float | str]


@dataclass(frozen=True)
class Size:
    """How large an experiment is."""

    vocabulary: int
    steps: int
    lr: float


QUICK, FULL = Size(300, 400, 2e-2), Size(1000, 5000, 2e-3)


class Text:
    """Pairs of tokens; tokens are numbered by frequency, 0 the most frequent."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        zipf = np.arange(1, vocabulary + 1) ** -1.5
        self.p = zipf / zipf.sum()
        classes = self.rng.permutation(vocabulary) % CLASSES
        within = (classes[None] == np.arange(CLASSES)[:, None]) * self.p  # [classes, V]
        within /= within.sum(1, keepdims=True)
        following = self.rng.permutation(CLASSES)[classes]  # [V]: the class that follows each token
        self.next = 0.9 * within[following] + 0.1 * self.p  # [V, V]
        self.steps = self.next.cumsum(1)

    def batch(self) -> tuple[Tensor, Tensor]:
        """x and y, [batch] each."""
        x = self.rng.choice(len(self.p), size=BATCH, p=self.p)
        return torch.from_numpy(x), self.following(x)

    def following(self, x: np.ndarray) -> Tensor:
        """A next token for each: [batch]."""
        y = (self.steps[x] < self.rng.random((len(x), 1))).sum(1)
        return torch.from_numpy(y.clip(max=len(self.p) - 1))


class Model(nn.Module):
    """A transformer's outline without attention: embedding, a pre-norm feed-forward on the residual, norm, head."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, DIM)
        self.norm1, self.norm2 = nn.RMSNorm(DIM), nn.RMSNorm(DIM)
        self.inner, self.outer = nn.Linear(DIM, 4 * DIM, bias=False), nn.Linear(4 * DIM, DIM, bias=False)
        self.head = nn.Linear(DIM, vocabulary, bias=False)
        for weight in (self.embed.weight, self.head.weight):
            nn.init.normal_(weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next token: [batch, V]."""
        h = self.embed(x)  # [batch, dim]
        h = h + self.outer(torch.relu(self.inner(self.norm1(h))))
        return self.head(self.norm2(h))


@dataclass
class Run:
    """What one training left behind."""

    model: Model
    text: Text
    counts: np.ndarray  # [V]
    last_seen: np.ndarray  # [V] steps
    rms: list[np.ndarray] = field(default_factory=list)  # each [V], every EVERY steps

    def note_rms(self) -> None:
        self.rms.append(self.model.embed.weight.detach().square().mean(1).sqrt().numpy())


def train(remedy: str, *, seed: int, size: Size) -> Run:
    """Train one model. Text and start are those of the seed, whatever the remedy."""
    torch.manual_seed(seed)
    model = Model(size.vocabulary)
    if remedy == "tied":
        tie_embeddings(model, "embed", "head", half_swap=True)
    rule = "plain" if remedy == "tied" else remedy
    optimizer = Tiger(model, lr=size.lr, weight_decay=DECAY, embedding_update=rule)
    run = Run(model, Text(size.vocabulary, seed), np.zeros(size.vocabulary), np.full(size.vocabulary, -1))
    for step in range(size.steps):
        if step % EVERY == 0:
            run.note_rms()
        x, y = run.text.batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        np.add.at(run.counts, x.numpy(), 1)
        run.last_seen[x.numpy()] = step
    run.note_rms()
    return run


@torch.no_grad()
def exact_loss(run: Run, tokens: np.ndarray) -> float:
    """Expected cross entropy after these tokens, in nats; nothing is sampled."""
    logits = run.model(torch.from_numpy(tokens))
    return float(-(torch.from_numpy(run.text.next[tokens]) * logits.log_softmax(1)).sum(1).mean())


def relearn(run: Run, tokens: np.ndarray, *, steps: int) -> float:
    """Loss after these tokens once they are the frequent ones: what a later user's fine-tuning reaches."""
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=2e-3)
    for _ in range(steps):
        x = run.text.rng.choice(tokens, size=BATCH)
        optimizer.zero_grad()
        nn.functional.cross_entropy(run.model(torch.from_numpy(x)), run.text.following(x)).backward()
        optimizer.step()
    return exact_loss(run, tokens)


def measure(remedy: str, run: Run, *, seed: int, size: Size) -> Row:
    """Losses and drift of a run, and what the doctor says."""
    rare = np.flatnonzero((run.counts >= 1) & (run.counts <= 50))
    table = {"embed.weight": run.model.embed.weight}
    health = EmbeddingHealth.of(table, counts=run.counts, weight_decay=DECAY, lr=size.lr)
    row: Row = {
        "remedy": remedy,
        "seed": seed,
        "frequent_loss": exact_loss(run, np.arange(20)),
        "rare_loss": exact_loss(run, rare),
        "largest": float(run.model.embed.weight.detach().abs().max()),
        "rare_over_frequent": float(np.median(run.rms[-1][rare]) / np.median(run.rms[-1][:20])),
        "drifting": len(health.tables[0].drifting),
        "verdict": health.verdict,
    }
    row["relearnt_loss"] = relearn(run, rare, steps=size.steps // 20)
    return row


def silent_panel(run: Run, size: Size) -> Panel:
    """Rows of the tokens that disappear first; the law from where they are silent and three times their first size."""
    seen = np.flatnonzero(run.counts >= 1)
    tokens = seen[np.argsort(run.last_seen[seen], kind="stable")][:3]
    times = [number * EVERY for number in range(len(run.rms) - 1)] + [size.steps]
    curves = []
    for number, token in enumerate(tokens):
        rms = [float(at[token]) for at in run.rms]
        label = f"token {token}, last seen at step {run.last_seen[token]}"
        curves.append(Curve(times, rms, label))
        silent = [i for i, t in enumerate(times) if t > run.last_seen[token]]
        start = next((i for i in silent if rms[i] > 3 * rms[0]), None)
        if start is not None:
            law = [logistic_law(t - times[start], rms[start], lr=size.lr, wall=1 / DECAY) for t in times[start:]]
            curves.append(Curve(times[start:], law, "" if number else "logistic law", "dashed", "#4d4d4d"))
    return Panel("no remedy: rows of tokens no longer seen", "step", "RMS of the row", curves, log_y=True)


def decile_panel(runs: dict[str, Run]) -> Panel:
    """Medians by frequency decile at the end."""
    curves = []
    for remedy, run in runs.items():
        groups = np.array_split(np.argsort(-run.counts, kind="stable"), 10)
        medians = [float(np.median(run.rms[-1][group])) for group in groups]
        curves.append(Curve(list(range(1, 11)), medians, remedy))
    return Panel("at the end, by remedy", "frequency decile, the most frequent first", "median RMS", curves, log_y=True)


def table(rows: list[Row]) -> str:
    """Means and standard deviations over the seeds."""
    names = ("frequent_loss", "rare_loss", "relearnt_loss", "largest", "rare_over_frequent", "drifting")
    lines = ["remedy " + "".join(f"{name:>20}" for name in names) + "   verdicts"]
    for remedy in REMEDIES:
        mine = [row for row in rows if row["remedy"] == remedy]
        cells = []
        for name in names:
            values = np.array([float(row[name]) for row in mine])
            cells.append(f"{values.mean():.3f} +- {values.std(ddof=min(1, len(values) - 1)):.3f}")
        verdicts = sorted({str(row["verdict"]) for row in mine})
        lines.append(f"{remedy:7}" + "".join(f"{cell:>20}" for cell in cells) + "   " + ", ".join(verdicts))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="the size of the numbers in docs/posts/9736.md")
    parser.add_argument("--quick", action="store_true", help="the small size; this is the default")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--plot", metavar="FILE.svg")
    parser.add_argument("--json", action="store_true", help="one line a run")
    options = parser.parse_args()
    size = FULL if options.full and not options.quick else QUICK
    rows, runs = [], {}
    for seed in range(options.seeds):
        for remedy in REMEDIES:
            before = time.process_time()
            run = train(remedy, seed=seed, size=size)
            rows.append(measure(remedy, run, seed=seed, size=size))
            runs.setdefault(remedy, run)
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
            elif sys.stderr.isatty():
                print(f"seed {seed}, {remedy}: {time.process_time() - before:.0f} s", file=sys.stderr)
    if not options.json:
        print(table(rows))
    if options.plot:
        draw(options.plot, [silent_panel(runs["plain"], size), decile_panel(runs)], title="Embedding rows under Tiger")


if __name__ == "__main__":
    main()
