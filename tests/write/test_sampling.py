"""Choosing the next id: what may be drawn, how often, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tianwen.errors import InputError, ModelError
from tianwen.write.sampling import SamplingSettings, choose

CHANCES = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])
LOGITS = CHANCES.log()


def draw(how: SamplingSettings, times: int = 400, logits=LOGITS) -> Counter[int]:
    generator = how.generator()
    return Counter(choose(logits, how, generator) for _ in range(times))


def test_ids_are_drawn_as_often_as_they_are_likely():
    drawn = draw(SamplingSettings(seed=1), 4000)
    for i, chance in enumerate(CHANCES.tolist()):
        assert drawn[i] / 4000 == pytest.approx(chance, abs=0.03)
    assert drawn[2] == 0


@pytest.mark.parametrize(
    ("how", "allowed"),
    [
        (SamplingSettings(temperature=0), {1}),
        (SamplingSettings(top_k=1, seed=0), {1}),
        (SamplingSettings(top_k=2, seed=0), {1, 4}),
        (SamplingSettings(top_k=99, seed=0), {0, 1, 3, 4}),
        (SamplingSettings(top_p=1e-9, seed=0), {1}),
        (SamplingSettings(top_p=0.4, seed=0), {1}),
        (SamplingSettings(top_p=0.41, seed=0), {1, 4}),
        (SamplingSettings(top_p=0.7001, seed=0), {1, 3, 4}),
        (SamplingSettings(top_p=1.0, seed=0), {0, 1, 3, 4}),
        (SamplingSettings(top_k=3, top_p=0.5, seed=0), {1, 4}),
    ],
)
def test_what_may_be_drawn_is_drawn_and_nothing_else(how, allowed):
    assert set(draw(how)) == allowed


def test_temperature_sharpens():
    cold, warm = (draw(SamplingSettings(temperature=t, seed=0), 2000) for t in (0.5, 2.0))
    powers = CHANCES.double() ** 2
    assert cold[1] / 2000 == pytest.approx(float(powers[1] / powers.sum()), abs=0.04)
    assert cold[1] > warm[1]
    assert choose(LOGITS * 1e4, SamplingSettings(temperature=1e-6, seed=0), torch.Generator()) == 1


def test_the_same_seed_draws_the_same():
    logits = torch.zeros(1000)
    assert draw(SamplingSettings(seed=-3), 20, logits) == draw(SamplingSettings(seed=-3), 20, logits)
    assert draw(SamplingSettings(), 20, logits) != draw(SamplingSettings(), 20, logits)


@pytest.mark.parametrize("options", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}])
def test_meaningless_settings_are_refused(options):
    with pytest.raises(InputError):
        SamplingSettings(**options)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_model_is_refused(broken):
    with pytest.raises(ModelError, match="broken"):
        choose(torch.tensor([0.0, broken]), SamplingSettings(), torch.Generator())
