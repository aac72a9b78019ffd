"""Attention as a mixer: its state is a window, documents are apart, padding is seen by nobody."""

from __future__ import annotations

import pytest
import torch

from tianwen.backbone.attention_mixer import AttentionMixer


@pytest.fixture
def mixer():
    return AttentionMixer(8, heads=2, window=5).double().eval()


def test_a_token_sees_its_window_and_no_further(mixer):
    x = torch.randn(1, 12, 8, dtype=torch.double)
    other = x.clone()
    other[:, 3] += 1
    with torch.no_grad():
        changed = (mixer(x)[0] - mixer(other)[0]).abs().amax(dim=(0, 2)) > 1e-9
    assert changed.tolist() == [3 <= t < 3 + 5 for t in range(12)]


def test_both_ways_everything_is_seen():
    mixer = AttentionMixer(8, heads=2, window=1 << 62, causal=False).double().eval()
    x = torch.randn(1, 6, 8, dtype=torch.double)
    other = x.clone()
    other[:, 3] += 1
    with torch.no_grad():
        assert bool(((mixer(x)[0] - mixer(other)[0]).abs().amax(dim=(0, 2)) > 1e-9).all())


def test_the_state_keeps_a_window_at_most_and_nothing_after_a_reset(mixer):
    state = mixer.init_state(2)
    with torch.no_grad():
        for _ in range(30):
            _, state = mixer.step(torch.randn(2, 8, dtype=torch.double), state)
            assert state.keys.shape[2] <= 4
        one = torch.tensor([[True], [False]])
        _, state = mixer(torch.randn(2, 1, 8, dtype=torch.double), state=state, reset=one)
    assert state.document.tolist() == [1, 0]
    assert (state.documents == state.document[:, None]).sum(1).tolist() == [1, 4]


def test_rows_of_several_lengths_go_on_as_if_alone(mixer):
    x, more = torch.randn(3, 7, 8, dtype=torch.double), torch.randn(3, 6, 8, dtype=torch.double)
    lengths = torch.tensor([7, 2, 0])
    with torch.no_grad():
        _, state = mixer(x, lengths=lengths)
        together, _ = mixer(more, state=state)
        for row, length in enumerate(lengths.tolist()):
            alone, _ = mixer(torch.cat([x[row, :length], more[row]])[None])
            torch.testing.assert_close(together[row], alone[0, length:])
