"""The model's promises: initialisation, sizes, order of operations, options."""

import pytest
import torch
from torch.nn import functional as F

from tianwen.backbone.masks import encoder_mask
from tianwen.backbone.roformer_v2 import (
    BASE,
    LARGE,
    SMALL,
    RoFormerV2,
    RoFormerV2Config,
    residual_weight,
    rms_norm,
)
from tianwen.errors import InputError

TINY = RoFormerV2Config(vocabulary=30, layers=2, width=16, heads=2, max_length=8)


@pytest.mark.parametrize(("config", "count"), [(SMALL, 15_225_600), (BASE, 94_152_192), (LARGE, 314_279_936)])
def test_published_sizes_have_the_published_number_of_parameters(config: RoFormerV2Config, count: int) -> None:
    with torch.device("meta"):
        assert RoFormerV2(config).parameter_count() == count


def test_initial_deviations_are_the_specified_ones() -> None:
    def deviation(fan_in: int, layers: int) -> float:
        return (fan_in * layers) ** -0.5  # after truncation, which 1.13684723 makes up for

    assert deviation(384, 6) == pytest.approx(0.0208, abs=5e-5)  # the small model's q, k, v, o, inner, embeddings
    assert deviation(1536, 6) == pytest.approx(0.0104, abs=5e-5)  # and its outer
    model = RoFormerV2(RoFormerV2Config(vocabulary=300, layers=6, width=96, heads=6))
    layer = model.layers[3]
    for weight in (model.tokens.weight, layer.attention.qkv.weight, layer.inner.weight, layer.outer.weight):
        expected = deviation(384 if weight is layer.outer.weight else 96, 6)
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
        assert 1.99 < weight.abs().max().item() / (1.13684723 * expected) <= 2.00001  # cut at two, and reached


def test_norm_has_no_gain_and_no_centre() -> None:
    x = torch.randn(2, 3, 8) + 5
    torch.testing.assert_close(rms_norm(x, 1e-7), x / (x.pow(2).mean(-1, keepdim=True) + 1e-7).sqrt())
    assert not any("norm" in name or "bias" in name for name, _ in RoFormerV2(TINY).named_parameters())


def test_epsilon_is_a_setting() -> None:
    torch.manual_seed(1)
    plain = RoFormerV2(TINY).eval()
    torch.manual_seed(1)
    blunt = RoFormerV2(RoFormerV2Config(vocabulary=30, layers=2, width=16, heads=2, eps=1.0)).eval()
    ids = torch.arange(5)[None]
    assert not torch.allclose(plain(ids)[0], blunt(ids)[0], atol=1e-2)


def test_a_layer_is_post_norm_with_relu() -> None:
    model = RoFormerV2(TINY).eval()
    layer = model.layers[0]
    ids = torch.arange(6)[None]
    x = model.embed(ids, torch.zeros_like(ids))
    q, k, v = (part.view(6, 2, 8).transpose(0, 1) for part in (x[0] @ layer.attention.qkv.weight.T).chunk(3, dim=-1))
    angle = torch.arange(6.0)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    turn = torch.polar(torch.ones_like(angle), angle)
    q, k = (torch.view_as_real(torch.view_as_complex(p.reshape(2, 6, 4, 2)) * turn).flatten(-2) for p in (q, k))
    mixed = ((q @ k.mT) * 8**-0.5).softmax(-1) @ v
    x = rms_norm(x + mixed.transpose(0, 1).reshape(1, 6, 16) @ layer.attention.output.weight.T, 1e-7)
    x = rms_norm(x + F.relu(x @ layer.inner.weight.T) @ layer.outer.weight.T, 1e-7)
    one = RoFormerV2(RoFormerV2Config(vocabulary=30, layers=1, width=16, heads=2)).eval()
    one.tokens, one.segments, one.layers[0] = model.tokens, model.segments, layer
    torch.testing.assert_close(one(ids)[0], x, atol=1e-5, rtol=0)


def test_residual_weight_rises_from_nothing_to_one() -> None:
    assert [residual_weight(step, steps=4) for step in (0, 1, 2, 4, 9)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert residual_weight(0, steps=0) == 1.0
    model = RoFormerV2(TINY).eval()
    ids = torch.arange(6)[None]
    full = model(ids)[0]
    model.residual_weight = 0.0
    torch.testing.assert_close(model(ids)[0], model.embed(ids, torch.zeros_like(ids)), atol=1e-5, rtol=0)
    model.residual_weight = 0.5
    assert (model(ids)[0] - full).abs().max() > 0.01


def test_longer_inputs_than_max_length_are_computed() -> None:
    short, long = RoFormerV2(TINY).eval(), RoFormerV2(TINY).eval()
    long.rope = RoFormerV2(RoFormerV2Config(vocabulary=30, layers=2, width=16, heads=2, max_length=64)).rope
    long.load_state_dict(short.state_dict())
    ids = torch.randint(0, 30, (1, 40))
    assert torch.equal(short(ids)[0], long(ids)[0])
    assert torch.equal(
        short(ids, positions=torch.arange(40)[None] + 1000)[0], long(ids, positions=torch.arange(1000, 1040)[None])[0]
    )


def test_padding_of_any_amount_and_side_changes_nothing() -> None:
    model = RoFormerV2(TINY).eval()
    ids = torch.randint(1, 30, (1, 5))
    alone = model(ids)[0]
    for left, right in ((0, 3), (3, 0), (2, 2)):
        padded = F.pad(ids, (left, right))
        valid = F.pad(torch.ones_like(ids), (left, right)).bool()
        positions = (torch.arange(padded.shape[1]) - left)[None]  # negative before the text; the rotation allows it
        hidden = model(padded, positions=positions, mask=encoder_mask(valid))[0]
        torch.testing.assert_close(hidden[:, left : left + 5], alone, atol=1e-5, rtol=0)
        assert hidden.isfinite().all()


def test_checkpointed_gradients_are_the_same() -> None:
    config = RoFormerV2Config(vocabulary=30, layers=3, width=16, heads=2, dropout=0.2)
    model = RoFormerV2(config).train()
    ids = torch.randint(0, 30, (2, 6))
    gradients = []
    for model.checkpoint_gradients in (False, True):
        torch.manual_seed(7)  # the same dropout
        model.zero_grad()
        hidden, cache = model(ids)
        assert len(cache) == (0 if model.checkpoint_gradients else 3)
        hidden[..., 0].sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_dropout_comes_before_the_embedding_norm() -> None:
    model = RoFormerV2(RoFormerV2Config(vocabulary=30, layers=1, width=64, heads=2, dropout=0.5)).train()
    ids = torch.zeros(1, 400, dtype=torch.long)
    squares = model.embed(ids, ids).pow(2).mean(-1)
    torch.testing.assert_close(squares, torch.ones_like(squares), atol=1e-3, rtol=0)  # normalised after the dropout


def test_extra_is_added_before_the_norm() -> None:
    model = RoFormerV2(TINY).eval()
    ids, zero = torch.arange(6)[None], torch.zeros(1, 6, dtype=torch.long)
    other = torch.arange(6).flip(0)[None]
    extra = model.tokens(other) - model.tokens(ids)
    torch.testing.assert_close(model(ids, extra=extra)[0], model(other)[0], atol=1e-5, rtol=0)
    assert not torch.allclose(model.embed(ids, zero), model.embed(ids, zero, extra))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_other_precisions_stay_close(precision: torch.dtype) -> None:
    model = RoFormerV2(TINY).eval()
    ids = torch.randint(0, 30, (2, 7))
    single = model(ids)[0]
    other = model.to(precision)(ids)[0]
    assert other.dtype == precision
    assert (other.float() - single).abs().max() < (0.1 if precision == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    "wrong", [{"width": 10, "heads": 3}, {"width": 6, "heads": 2}, {"layers": 0}, {"vocabulary": -1}]
)
def test_impossible_shapes_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=r"multiple of 2|at least 1"):
        RoFormerV2Config(**wrong)
