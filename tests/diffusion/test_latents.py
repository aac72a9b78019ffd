"""Inversion, paths on the sphere, mid-chain starts, inpainting, guidance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tianwen.diffusion import GaussianOracle, Schedule, sample
from tianwen.diffusion.guidance import drop_labels, guided
from tianwen.diffusion.inpainting import inpaint
from tianwen.diffusion.latents import decode, edit, encode, slerp
from tianwen.diffusion.noise import normal
from tianwen.diffusion.sampling import Options
from tianwen.errors import InputError

POST = Schedule.post()
ORACLE = GaussianOracle(POST)


def pictures(batch: int = 3) -> torch.Tensor:
    return 0.5 + 0.2 * torch.randn(batch, 3, 16, 16)


@pytest.mark.parametrize("steps", [10, 50])
def test_a_picture_comes_back_from_its_latent(steps):
    x0 = pictures()
    z = encode(ORACLE, x0, schedule=POST, steps=steps)
    torch.testing.assert_close(decode(ORACLE, z, schedule=POST, steps=steps), x0, rtol=0, atol=1e-4)
    assert float(z.mean()) == pytest.approx(0, abs=0.1)
    plain = decode(ORACLE, encode(ORACLE, x0, schedule=POST, steps=steps, refinements=0), schedule=POST, steps=steps)
    assert float((plain - x0).abs().max()) > 0.05  # what the refinements are for


def test_no_pictures_have_no_latents():
    assert encode(ORACLE, torch.zeros(0, 3), schedule=POST, steps=3).shape == (0, 3)


def test_inversion_of_a_model_that_is_not_linear():
    def model(x, t):
        return ORACLE(x, t) + 0.05 * torch.sin(3 * x)

    x0 = pictures()
    z = encode(model, x0, schedule=POST, steps=30, refinements=5)
    torch.testing.assert_close(decode(model, z, schedule=POST, steps=30), x0, rtol=0, atol=1e-3)


def test_latents_depend_on_their_picture_alone():
    x0 = pictures()
    together = encode(ORACLE, x0, schedule=POST, steps=5)
    assert torch.equal(encode(ORACLE, x0[1:2], schedule=POST, steps=5)[0], together[1])


def test_drawing_is_decoding_the_noise_of_the_seeds():
    z = normal([4, 5], (2, 2), stream="start")
    expected = sample(ORACLE, (2, 2), schedule=POST, steps=6, seeds=[4, 5])
    assert torch.equal(decode(ORACLE, z, schedule=POST, steps=6, options=Options()), expected)
    with pytest.raises(InputError, match="needs seeds"):
        decode(ORACLE, z, schedule=POST, steps=6, options=Options(solver="ddpm"))
    with pytest.raises(InputError, match="2 pictures need 2 seeds"):
        decode(ORACLE, z, schedule=POST, steps=6, options=Options(solver="ddpm"), seeds=[1])


def test_no_latent_where_nothing_of_the_picture_is_left():
    zero = POST.with_zero_terminal_snr()
    with pytest.raises(InputError, match="no latent leads back"):
        encode(GaussianOracle(zero, target="v"), pictures(), schedule=zero, steps=5, target="v")


def test_the_path_between_latents_keeps_the_length_of_noise():
    z1, z2 = torch.randn(2, 4, 3, 32, 32)
    for fraction in (0.0, 0.25, 0.5, 1.0):
        for measured in (True, False):
            z = slerp(z1, z2, fraction, measured=measured)
            assert float(z.std()) == pytest.approx(1, abs=0.02)
            angle = fraction * math.pi / 2
            torch.testing.assert_close(z, z1 * math.cos(angle) + z2 * math.sin(angle), rtol=0, atol=0.1)
    assert float((0.5 * z1 + 0.5 * z2).std()) < 0.75  # the straight line does not
    assert torch.equal(slerp(z1, z2, 0), z1)
    assert torch.equal(slerp(z1, z2, 1), z2)


def test_the_path_between_latents_that_are_not_independent():
    z = torch.randn(2, 500)
    torch.testing.assert_close(slerp(z, z, 0.5), z)
    assert float(slerp(z, z, 0.5, measured=False).norm() / z.norm()) == pytest.approx(math.sqrt(2), rel=1e-3)
    near = z + 0.3 * torch.randn(2, 500)
    assert float(slerp(z, near, 0.5).norm(dim=1).min()) > 0.98 * float(
        torch.minimum(z.norm(dim=1), near.norm(dim=1)).min()
    )
    for odd in (
        slerp(z, -z, 0.5),
        slerp(torch.zeros(2, 3), torch.zeros(2, 3), 0.5),
        slerp(z.bfloat16(), z.bfloat16(), 0.3),
    ):
        assert bool(odd.isfinite().all())
    with pytest.raises(InputError, match="number"):
        slerp(z, z, float("nan"))
    with pytest.raises(InputError, match="same shape"):
        slerp(z, z[:1], 0.5)


@pytest.mark.parametrize("t", [100, 499, 900])
def test_defect_4_noise_and_start_belong_to_the_same_time(t):
    """One number for both, as in the reference, is right at T / 2 only: 100 skipped steps start at 899, not at 100."""
    x0, calls = pictures(1), []

    def model(x, now):
        calls.append((int(now[0]), x.clone()))
        return ORACLE(x, now)

    edit(model, x0, t=t, schedule=POST, steps=5, seeds=[8])
    first, x = calls[0]
    assert first == t
    eps = normal([8], x0.shape[1:], stream="start")
    torch.testing.assert_close(x, float(POST.A[t]) * x0 + float(POST.B[t]) * eps)


def test_an_edit_keeps_more_of_the_picture_the_earlier_it_starts():
    x0 = pictures(4)
    far = [
        float((edit(ORACLE, x0, t=t, schedule=POST, steps=10, seeds=range(4)) - x0).std()) for t in (10, 100, 300, 999)
    ]
    assert far == sorted(far)
    assert far[0] < 0.05
    assert far[-1] == pytest.approx(0.2 * math.sqrt(2), rel=0.1)
    one = edit(ORACLE, x0[2:3], t=100, schedule=POST, steps=10, seeds=[2])
    assert torch.equal(one[0], edit(ORACLE, x0, t=100, schedule=POST, steps=10, seeds=range(4))[2])
    assert edit(ORACLE, x0, t=0, schedule=POST, seeds=range(4)).shape == x0.shape
    for t in (-1, 1000, 2.5):
        with pytest.raises(InputError, match="from 0 to T-1"):
            edit(ORACLE, x0, t=t, schedule=POST, steps=1, seeds=range(4))


def test_an_edit_below_the_last_time_needs_no_signal_at_the_last():
    zero = POST.with_zero_terminal_snr()
    x = edit(GaussianOracle(zero), pictures(1), t=500, schedule=zero, steps=5, seeds=[0])
    assert bool(x.isfinite().all())


def correlated(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The exact model of pictures whose left and right half are equal: N(.5, .2^2) for each pair."""
    A, B = POST.at(t, x)
    left, right = x.chunk(2, dim=-1)
    mean = (left + right) / 2  # sufficient, with half the noise variance
    known = A * 0.04 / (A * A * 0.04 + B * B / 2)
    x0 = 0.5 + known * (mean - A * 0.5)
    return (x - A * torch.cat([x0, x0], dim=-1)) / B


def test_what_is_filled_in_agrees_with_what_is_known():
    half = 0.5 + 0.2 * torch.randn(4, 1, 8, 8)
    known = torch.cat([half, torch.zeros_like(half)], dim=-1)
    mask = torch.zeros(8, 16)
    mask[:, :8] = 1
    filled = inpaint(correlated, known, mask, schedule=POST, steps=20, rounds=4, seeds=range(4))
    assert torch.equal(filled[..., :8], half)
    error = [
        float(
            (inpaint(correlated, known, mask, schedule=POST, steps=20, rounds=n, seeds=range(4))[..., 8:] - half).std()
        )
        for n in (1, 4)
    ]
    assert error[1] < 0.05
    assert error[1] < error[0]
    alone = inpaint(correlated, known[3:], mask, schedule=POST, steps=20, rounds=4, seeds=[3])
    assert torch.equal(alone[0], filled[3])


def test_masks_and_rounds_that_cannot_be():
    x = pictures(1)
    options = {"schedule": POST, "steps": 2}
    with pytest.raises(InputError, match="nothing between"):
        inpaint(ORACLE, x, torch.full((16, 16), 0.5), seeds=[0], **options)
    with pytest.raises(InputError, match="does not fit"):
        inpaint(ORACLE, x, torch.ones(5, 5), seeds=[0], **options)
    with pytest.raises(InputError, match="at least 1"):
        inpaint(ORACLE, x, torch.ones(16, 16), seeds=[0], rounds=0, **options)
    with pytest.raises(InputError, match="as many seeds"):
        inpaint(ORACLE, x, torch.ones(16, 16), seeds=[0, 1], **options)
    assert torch.equal(inpaint(ORACLE, x, torch.ones(16, 16), seeds=[0], **options), x)


def labelled(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return x * 0 + labels.float()[:, None]


def test_guidance_mixes_with_and_without_label():
    x, t, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.tensor([4, 1])
    for weight, right in ((0, [-1, -1]), (1, [4, 1]), (2, [9, 3]), (0.5, [1.5, 0])):
        assert guided(labelled, labels, weight=weight)(x, t)[:, 0].tolist() == right
    with pytest.raises(InputError, match="as many labels"):
        guided(labelled, labels)(x[:1], t[:1])
    with pytest.raises(InputError, match="finite"):
        guided(labelled, labels, weight=math.inf)
    with pytest.raises(InputError, match="whole numbers"):
        guided(labelled, labels.float())


def test_labels_are_dropped_at_the_rate_asked_for():
    labels = torch.arange(10_000) % 10
    dropped = drop_labels(labels, 0.1, generator=torch.Generator().manual_seed(0))
    assert 0.08 < float((dropped < 0).float().mean()) < 0.12
    assert torch.equal(dropped[dropped >= 0], labels[dropped >= 0])
    assert torch.equal(drop_labels(labels, 0.0), labels)
    assert bool((drop_labels(labels, 1.0) == -1).all())
    with pytest.raises(InputError, match="from 0 to 1"):
        drop_labels(labels, 1.5)


def test_latents_of_single_numbers_have_a_path_too():
    z = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(slerp(z, z, np.float32(0.5)), z)
    with pytest.raises(InputError, match="same shape"):
        slerp(z[0], z[0], 0.5)


def test_the_known_part_has_the_noise_of_its_time():
    """A clean half beside a noisy one is nothing the model was trained on; and the last step has one round."""
    x0, seen = pictures(1), []

    def model(x, t):
        seen.append((int(t[0]), x.clone()))
        return ORACLE(x, t)

    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    inpaint(model, x0, mask, schedule=POST, grid=[999, 600, 300], rounds=3, seeds=[0])
    assert [t for t, _ in seen] == [999] * 3 + [600] * 3 + [300]
    for t, x in seen[3:]:
        noise = (x - float(POST.A[t]) * x0)[..., :8] / float(POST.B[t])
        assert float(noise.std()) == pytest.approx(1, abs=0.1)
