"""The moving average against its formula, and the swap that must always be undone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tianwen.errors import InputError
from tianwen.optim.ema import Ema, decay_at


def test_decay_warms_up():
    assert decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert decay_at(10**6, 0.999) == 0.999
    assert decay_at(1, 0.999, warmup=False) == 0.999


def test_average_follows_the_formula():
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.6)
    expected = model.weight.detach().clone()
    for n in range(1, 8):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update()
        d = min(0.6, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * model.weight.detach()
    torch.testing.assert_close(ema.average["weight"], expected)


def test_low_precision_weights_are_averaged_in_fp32():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    ema = Ema(model, 0.999, warmup=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema.average["weight"].zero_()
    for _ in range(3):
        ema.update()
    assert ema.average["weight"].dtype == torch.float32
    assert float(ema.average["weight"]) == pytest.approx(1 - 0.999**3, rel=1e-4)


def test_swap_is_undone_even_after_an_error():
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1)
    own = model.weight.detach().clone()

    def look() -> None:
        with ema.swapped():
            assert torch.equal(model.weight, ema.average["weight"])
            assert not torch.equal(model.weight, own)
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert torch.equal(model.weight, own)


def test_state_travels():
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1)
    ema.update()
    other = Ema(nn.Linear(2, 2), 0.5)
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    assert all(torch.equal(other.average[name], ema.average[name]) for name in ema.average)
    with pytest.raises(InputError, match="another model"):
        Ema(nn.Linear(2, 2, bias=False), 0.5).load_state_dict(ema.state_dict())


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(InputError):
        Ema(nn.Linear(1, 1), decay)
