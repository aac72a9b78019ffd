"""The shell with each mixer: equal weights, exact streaming, documents and padding apart, encoder and causal model."""

from __future__ import annotations

import pytest
import torch

from tianwen.backbone.mixers import MIXERS, Shell, ShellConfig, make_mixer
from tianwen.errors import InputError

each_mixer = pytest.mark.parametrize("mixer", MIXERS)
both_ways = pytest.mark.parametrize("bidirectional", [False, True])
IDS = torch.randint(0, 30, (3, 14), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([14, 5, 9])


def shell(mixer: str, **options) -> Shell:
    torch.manual_seed(0)
    return Shell(ShellConfig(vocabulary=30, mixer=mixer, layers=2, width=8, heads=2, window=6, **options)).eval()


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@each_mixer
@both_ways
def test_every_mixer_has_four_times_the_square_of_the_width(mixer, bidirectional):
    config = ShellConfig(vocabulary=1, mixer=mixer, width=112, bidirectional=bidirectional)
    matrices = [p.numel() for p in make_mixer(config).parameters() if p.dim() == 2]
    assert sum(matrices) == 4 * 112**2


@each_mixer
def test_a_later_token_changes_nothing_before_it(mixer):
    model, other = shell(mixer), IDS.clone()
    other[:, 8] = (other[:, 8] + 1) % 30
    with torch.no_grad():
        before, after = model(IDS)[0], model(other)[0]
    close(before[:, :8], after[:, :8])
    assert bool((before[:, 8:12] - after[:, 8:12]).abs().amax() > 1e-3)


@each_mixer
def test_token_by_token_and_in_chunks_is_the_whole(mixer):
    model, state, rows = shell(mixer), None, []
    with torch.no_grad():
        whole, last = model(IDS)
        for chunk in IDS.split([3, 1, 7, 3], dim=1):
            states, state = model(chunk, state=state)
            rows.append(states)
        close(torch.cat(rows, dim=1), whole)
        state = model.init_state(3)
        for t in range(14):
            states, state = model.step(IDS[:, t], state)
            close(states, whole[:, t])
        close(model.step(IDS[:, 0], state)[0], model.step(IDS[:, 0], last)[0])


@each_mixer
@both_ways
def test_packed_documents_are_as_if_alone(mixer, bidirectional):
    model = shell(mixer, bidirectional=bidirectional)
    reset = torch.zeros_like(IDS, dtype=torch.bool)
    reset[:, [0, 4, 5]] = True
    with torch.no_grad():
        packed, _ = model(IDS, reset=reset)
        for part in (slice(0, 4), slice(4, 5), slice(5, 14)):
            close(packed[:, part], model(IDS[:, part])[0])


@each_mixer
@both_ways
def test_padding_reaches_neither_a_token_nor_the_state(mixer, bidirectional):
    model, other = shell(mixer, bidirectional=bidirectional), IDS.clone()
    other[torch.arange(14) >= LENGTHS[:, None]] = 7
    with torch.no_grad():
        first, second = model(IDS, lengths=LENGTHS), model(other, lengths=LENGTHS)
        for row, length in enumerate(LENGTHS.tolist()):
            alone, state = model(IDS[row : row + 1, :length])
            close(first[0][row, :length], second[0][row, :length])
            close(first[0][row, :length], alone[0])
            if not bidirectional:
                token = IDS[row : row + 1, :1]
                together, _ = model(IDS[:, :1], state=first[1])
                close(together[row], model(token, state=state)[0][0])


@each_mixer
def test_the_encoder_sees_both_sides_and_any_batch(mixer):
    model = shell(mixer, bidirectional=True)
    rows = [row[:length].numpy() for row, length in zip(IDS, LENGTHS.tolist(), strict=True)]
    states = model.encode([*rows, []], budget=20)
    for row, found in zip(rows, states, strict=False):
        with torch.no_grad():
            close(found, model(torch.from_numpy(row)[None])[0][0])
    assert states[3].shape == (0, 8)
    changed = rows[0].copy()
    changed[-1] = (changed[-1] + 1) % 30
    assert bool(((model.encode([changed])[0] - states[0]).abs().amax(1) > 1e-5)[:-1].any())


@each_mixer
def test_gradients_reach_every_parameter(mixer):
    model = shell(mixer).train()
    model(IDS)[0].square().mul(torch.randn(3, 14, 8)).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]


def test_matrices_start_as_deep_as_the_shell_is():
    model = Shell(ShellConfig(vocabulary=3000, layers=4, width=64))
    for weight in (model.tokens.weight, model.layers[0].mixer.input.weight, model.layers[3].outer.weight):
        fan_in = 64 if weight is model.tokens.weight else weight.shape[1]
        assert weight.std().item() == pytest.approx((4 * fan_in) ** -0.5, rel=0.03)


def test_what_cannot_be_is_refused():
    config = ShellConfig(vocabulary=3)
    object.__setattr__(config, "mixer", "lstm")  # the executed types of the tests would refuse it first
    with pytest.raises(InputError, match="attention, lru, slru, rwkv"):
        config.__post_init__()
    with pytest.raises(InputError, match="at least 1"):
        ShellConfig(vocabulary=3, layers=0)
    with pytest.raises(InputError, match="dropout"):
        ShellConfig(vocabulary=3, dropout=1.0)
    with pytest.raises(InputError, match="even number"):
        make_mixer(ShellConfig(vocabulary=3, width=10, heads=4, mixer="attention"))
