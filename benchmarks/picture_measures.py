"""How good drawn pictures are: distances and shares over the features of a small classifier.

Post: 9152

Published numbers (FID) are distances over the features of the Inception network, which no package ships and which
knows nothing of clothes in 28 x 28. Here the features are those of a classifier trained on the same pictures; the
numbers compare with each other, never with published ones.

Notation
    u, v       features [n, d] of real and of drawn pictures      m, C   their mean [d] and covariance [d, d]
    Frechet    |m_u - m_v|^2 + tr(C_u + C_v - 2 (C_u C_v)^(1/2))
    precision  share of drawn pictures that lie in the ball of some real one; its radius is the distance to that
               one's third neighbour among the real.   recall: the same with the sides changed
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLACES = ("/usr/share/datasets/fashion-mnist",)
CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def read_fashion(folder: str | Path | None, side: int) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """ "train" and "test": (uint8 [n, 1, side, side], labels [n]); None if the files are not there."""
    place = next((Path(p) for p in ([folder] if folder else PLACES) if Path(p).is_dir()), None)
    if place is None:
        return None
    found = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        raw = gzip.decompress((place / f"{name}-images-idx3-ubyte.gz").read_bytes())
        pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        labels = np.frombuffer(
            gzip.decompress((place / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
        )
        if side != 28:
            x = F.interpolate(torch.from_numpy(pixels.copy()).float(), (side, side), mode="area")
            pixels = x.round().to(torch.uint8).numpy()
        found[split] = (pixels, labels.astype(np.int64))
    return found


class Classifier(nn.Module):
    """Two convolutions and a layer of 64 features; [n, 1, side, side] from -1 to 1 -> [n, 10]."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.features = nn.Linear(32 * (side // 4) ** 2, 64)
        self.last = nn.Linear(64, 10)

    def see(self, x: Tensor) -> Tensor:
        """Features [n, 64]."""
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return F.relu(self.features(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.see(x))


def train_classifier(pixels: np.ndarray, labels: np.ndarray, *, steps: int = 1500, batch: int = 128) -> Classifier:
    """A classifier from fixed seeds; some half a minute."""
    torch.manual_seed(0)
    net, random = Classifier(pixels.shape[-1]), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for _ in range(steps):
        rows = random.integers(len(pixels), size=batch)
        loss = F.cross_entropy(net(as_floats(pixels[rows])), torch.from_numpy(labels[rows]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def as_floats(pixels: np.ndarray) -> Tensor:
    """-1 to 1."""
    return torch.from_numpy(pixels).float() / 127.5 - 1


@torch.no_grad()
def look(net: Classifier, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(features [n, 64] float64, classes [n])."""
    features = torch.cat([net.see(part) for part in x.split(500)])
    return features.double().numpy(), net.last(features).argmax(1).numpy()


def frechet(u: np.ndarray, v: np.ndarray) -> float:
    """The distance of the notation."""
    cu, cv = np.cov(u.T), np.cov(v.T)
    values, vectors = np.linalg.eigh(cu)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # C_u^(1/2); C_u C_v has the roots of its square form
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cv @ root), 0)).sum()
    return float(((u.mean(0) - v.mean(0)) ** 2).sum() + np.trace(cu) + np.trace(cv) - 2 * cross)


def share_inside(real: np.ndarray, drawn: np.ndarray, *, neighbours: int = 3) -> float:
    """Share of `drawn` within the reach of `real`: precision; with the sides changed it is recall."""
    radius = np.sort(distances(real, real), axis=1)[:, neighbours]  # [n]; place 0 is the picture itself
    return float((distances(drawn, real) <= radius[None]).any(1).mean())


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[len(a), len(b)]."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
