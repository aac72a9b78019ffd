"""Ours against the original implementation: a tiny model that it saved, and (opt-in) the published small one."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tianwen.backbone.checkpoints import load
from tianwen.backbone.heads import MaskedLanguageModel
from tianwen.backbone.masks import causal_mask, encoder_mask, unilm_mask

FIXTURE = Path(__file__).parent / "fixture"
TOLERANCE = 5e-6
PUBLISHED = "TIANWEN_ROFORMER_V2_SMALL"


@pytest.mark.parametrize("precision", ["single", "half"])
@pytest.mark.parametrize("rule", ["", "unilm_", "causal_"])
def test_hidden_states_and_logits_are_the_originals(precision: str, rule: str) -> None:
    expected = np.load(FIXTURE / "expected.npz")
    ids, segments = torch.from_numpy(expected["ids"]), torch.from_numpy(expected["segments"])
    valid = ids > 0
    mask = {"": encoder_mask(valid), "unilm_": unilm_mask(segments, valid), "causal_": causal_mask(valid)}[rule]
    segments = segments if rule == "unilm_" else torch.zeros_like(segments)
    model = load(FIXTURE / precision)
    with torch.no_grad():
        hidden, _ = model(ids, segments=segments, mask=mask)
        logits = MaskedLanguageModel(model).eval()(ids, segments=segments, mask=mask)
    for ours, name in ((hidden, "hidden"), (logits, "logits")):
        difference = (ours - torch.from_numpy(expected[rule + name])).abs()[valid].max()
        assert difference < TOLERANCE, f"{rule}{name} differs by {difference}"


def test_packed_encoding_is_the_originals() -> None:
    expected = np.load(FIXTURE / "expected.npz")
    ids = expected["ids"]
    rows = [row[row > 0] for row in ids]
    for index, hidden in enumerate(load(FIXTURE / "single").encode(rows, budget=20)):
        assert np.abs(hidden.numpy() - expected["hidden"][index, : len(rows[index])]).max() < TOLERANCE


@pytest.mark.skipif(PUBLISHED not in os.environ, reason=f"set {PUBLISHED} to a folder with the published small weights")
def test_the_published_small_model_gives_its_golden_values() -> None:
    model = load(os.environ[PUBLISHED])
    ids = torch.tensor([[0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]])
    with torch.no_grad():
        hidden, _ = model(ids)
    golden = [
        [0.75068903, 0.13977423, 0.07971212],
        [0.08614583, 0.21606587, -1.08551681],
        [0.98021960, -0.85751861, -1.42552316],
    ]
    assert (hidden[0, 1:4, 1:4] - torch.tensor(golden)).abs().max() < 2e-5
