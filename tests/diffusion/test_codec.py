"""Noise from counters, the codec that lives on it, and the variance that Analytic-DPM adds."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.diffusion import GaussianOracle, Schedule
from tianwen.diffusion import codec as codec_module
from tianwen.diffusion.analytic import unexplained_variance
from tianwen.diffusion.codec import CodecSettings, compress, decompress, from_bytes, settings_for, to_bytes
from tianwen.diffusion.noise import checked_seeds, codebook, fingerprint, normal
from tianwen.errors import InputError

POST = Schedule.post()
ORACLE = GaussianOracle(POST)


def test_noise_is_standard_normal_and_its_streams_are_independent():
    draws = [normal([7], (100_000,), stream="start")]
    draws += [normal([7], (100_000,), stream="step", draw=draw) for draw in (0, 1)]
    draws += [normal([8], (100_000,), stream="start"), codebook(7, (100_000,), draw=0, entries=[1])]
    both = torch.cat(draws)
    assert float(both.mean(dim=1).abs().max()) < 0.015
    assert float((both.std(dim=1) - 1).abs().max()) < 0.01
    assert float((torch.corrcoef(both) - torch.eye(5)).abs().max()) < 0.015
    # neither are they each other's later numbers
    pairs = [set(pairwise(row[:20_000].tolist())) for row in both]
    assert not pairs[0] & pairs[1]
    assert not pairs[0] & pairs[4]


def test_noise_of_a_seed_is_the_same_everywhere():
    assert torch.equal(normal([1, 2], (5,), stream="start")[1], normal([2], (5,), stream="start")[0])
    assert torch.equal(normal([2], (7,), stream="start")[0, :5], normal([2], (5,), stream="start")[0])
    assert fingerprint() == "528614e4"


@pytest.mark.parametrize(
    "seeds",
    [[], [-1], [2**64], [0.5], [True], ["1"], [None], np.zeros((2, 2), int), torch.zeros(2, 2), torch.tensor(0.5)],
)
def test_seeds_that_are_none(seeds):
    with pytest.raises(InputError):
        checked_seeds(seeds)


def test_seeds_of_all_kinds():
    assert (
        checked_seeds(3)
        == checked_seeds(np.int64(3))
        == checked_seeds(torch.tensor([3]))
        == checked_seeds(torch.tensor(3))
        == [3]
    )
    assert checked_seeds(np.arange(3)) == checked_seeds(range(3)) == [0, 1, 2]


def test_a_picture_is_its_picks():
    x0 = 0.5 + 0.2 * torch.randn(3, 1, 4, 4)
    errors = []
    for steps in (15, 60):
        plan = settings_for(POST, (1, 4, 4), steps=steps, entries=64, seed=5)
        codes = compress(ORACLE, x0, schedule=POST, settings=plan)
        assert codes.shape == (3, steps)
        back = decompress(ORACLE, codes, schedule=POST, settings=plan)
        errors.append(float((back - x0).std()))
        alone = compress(ORACLE, x0[1:2], schedule=POST, settings=plan)
        assert torch.equal(alone[0], codes[1])
    assert errors[1] < errors[0]
    assert errors[1] < 0.12  # .28 would be two pictures that have nothing to do with each other


def test_defect_5_the_codebook_is_never_in_memory(monkeypatch):
    """Eight thousand entries of 3 x 64 x 64 are 400 MB, and each of the S steps has its own; here 1 MiB at a time."""
    monkeypatch.setattr(codec_module, "ENTRY_BYTES", 1 << 20)
    plan = settings_for(POST, (3, 32, 32), steps=2, entries=256)
    x0 = 0.5 + 0.2 * torch.randn(1, 3, 32, 32)
    compress(ORACLE, x0, schedule=POST, settings=plan)  # what is set up once does not count
    tracemalloc.start()
    codes = compress(ORACLE, x0, schedule=POST, settings=plan)
    decompress(ORACLE, codes, schedule=POST, settings=plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20  # one step's codebook alone has 3 MiB in float32; numpy's memory is traced
    monkeypatch.setattr(codec_module, "ENTRY_BYTES", 1 << 26)
    assert torch.equal(compress(ORACLE, x0, schedule=POST, settings=plan), codes)


@settings(max_examples=30)
@given(st.integers(1, 16), st.integers(0, 4), st.integers(1, 9), st.integers(0, 2**32))
def test_files_hold_exactly_the_bits_of_the_picks(bits, batch, steps, seed):
    plan = settings_for(POST, (1, 2, 2), steps=steps, entries=2**bits, seed=seed)
    codes = torch.randint(0, 2**bits, (batch, steps), generator=torch.Generator().manual_seed(seed))
    data = to_bytes(codes, plan)
    back, found = from_bytes(data)
    assert torch.equal(back, codes)
    assert found == plan
    assert len(data.split(b"\n", 2)[2]) == (batch * steps * bits + 7) // 8


def test_files_that_are_none():
    plan = settings_for(POST, (1, 2, 2), steps=5, entries=8)
    data = to_bytes(torch.randint(0, 8, (2, 5)), plan)
    broken = [b"", b"PNG", data[:-1], data + b"x", data[:20], data.replace(b'"entries": 8', b'"entries": 9')]
    broken += [data.replace(b'"pictures": 2', b'"pictures": -2'), data.replace(b'"times"', b'"items"')]
    broken += [data.replace(b'"shape": [1, 2, 2]', b'"shape": 3'), data.replace(fingerprint().encode(), b"00000000")]
    broken += [data.replace(b'"pictures": 2', b'"pictures": Infinity'), data[:6] + b"[" * 100_000]
    broken += [data[:6] + head + b"\n" for head in (b"5", b"null", b'"x"', b"[1]")]
    broken += [data.replace(b'"seed": 0', b'"seed": [1, 2]')]
    for wrong in broken:
        assert wrong != data
        with pytest.raises(InputError):
            from_bytes(wrong)


def test_codes_and_settings_that_do_not_fit():
    plan = settings_for(POST, (2,), steps=4, entries=8)
    for wrong in (torch.zeros(1, 3, dtype=torch.long), torch.full((1, 4), 8), torch.full((1, 4), -1)):
        with pytest.raises(InputError, match="pick"):
            decompress(ORACLE, wrong, schedule=POST, settings=plan)
    with pytest.raises(InputError, match="for pictures of"):
        compress(ORACLE, torch.zeros(1, 3), schedule=POST, settings=plan)
    with pytest.raises(InputError, match="0 to T-1"):
        decompress(GaussianOracle(Schedule.post(5)), torch.zeros(1, 4).long(), schedule=Schedule.post(5), settings=plan)
    for entries in (0, 1, 3, 2**17, 4.0):
        with pytest.raises(InputError, match="codebook"):
            CodecSettings((2,), (999,), entries)


def test_unexplained_variance_is_what_the_oracle_knows():
    batches = [0.5 + 0.2 * torch.randn(16, 64) for _ in range(2)]
    found = unexplained_variance(ORACLE, batches, schedule=POST, times=25)
    right = np.array(ORACLE.unexplained())
    assert len(found) == 1000
    np.testing.assert_allclose(found, right, rtol=0.15)
    assert found[0] < found[500] < found[999] + 1e-3


def test_unexplained_variance_at_given_times_for_v_and_for_no_pictures():
    zero = POST.with_zero_terminal_snr()
    model = GaussianOracle(zero, target="v")
    found = unexplained_variance(
        model, [0.5 + 0.2 * torch.randn(64, 64)], schedule=zero, target="v", times=[0, 500, 999]
    )
    assert found[999] == pytest.approx(0.04, rel=0.1)
    with pytest.raises(InputError, match="No pictures"):
        unexplained_variance(ORACLE, [], schedule=POST)
    with pytest.raises(InputError, match="from 0 to T-1"):
        unexplained_variance(ORACLE, [torch.zeros(1, 2)], schedule=POST, times=[1000])
