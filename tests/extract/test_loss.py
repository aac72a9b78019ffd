"""The loss against its definition in float64, at every size of score, and against the form that is wrong."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tianwen.errors import InputError
from tianwen.extract import multilabel_loss
from tianwen.extract.loss import projection_loss
from tianwen.extract.pointer import EfficientGlobalPointer, GlobalPointer


def oracle(scores: Tensor, positives: Tensor) -> float:
    """The definition, cell by cell, in float64."""
    table = scores.double().numpy()
    where = np.zeros(table.shape, bool)
    where[tuple(positives.T.numpy())] = True
    total = 0.0
    for b in range(table.shape[0]):
        for h in range(table.shape[1]):
            yes, no = table[b, h][where[b, h]], table[b, h][~where[b, h]]
            total += np.logaddexp.reduce(np.append(no, 0)) + np.logaddexp.reduce(np.append(-yes, 0))
    return total / table.shape[0]


def example(seed: int, size: float) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, 5, 5, generator=random) * size
    scores = scores.masked_fill(torch.rand(2, 1, 5, 5, generator=random) < 0.3, -math.inf)
    positives = (torch.isfinite(scores) & (torch.rand(2, 3, 5, 5, generator=random) < 0.2)).nonzero()
    return scores, positives


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.1, 3.0, 30.0, 1000.0]))
def test_equals_the_definition_in_float64(seed: int, size: float) -> None:
    scores, positives = example(seed, size)
    loss = multilabel_loss(scores, positives)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(oracle(scores, positives), rel=1e-5, abs=1e-5)


def test_gradient_is_that_of_the_definition() -> None:
    scores, positives = example(1, 2.0)
    scores = scores.double().requires_grad_()
    multilabel_loss(scores, positives).backward()
    grad = scores.grad
    assert grad is not None
    assert torch.isfinite(grad).all()
    for cell in [positives[0], torch.isfinite(scores).nonzero()[0]]:
        cell, step = tuple(cell.tolist()), 1e-5
        moved = [scores.detach().clone() for _ in range(2)]
        moved[0][cell] += step
        moved[1][cell] -= step
        slope = (oracle(moved[0], positives) - oracle(moved[1], positives)) / (2 * step)
        assert float(grad[cell]) == pytest.approx(slope, abs=1e-6)


def subtracting_loss(scores: Tensor, positives: Tensor) -> Tensor:
    """The sparse form in wide use: the positives' share taken away from the sum over everything."""
    yes = scores[tuple(positives.T)]
    everything = torch.logsumexp(torch.cat([scores.flatten(), scores.new_zeros(1)]), 0)
    share = (1 - (torch.logsumexp(yes, 0) - everything).exp()).clamp(1e-7, 1)
    return everything + share.log() + torch.logsumexp(torch.cat([-yes, scores.new_zeros(1)]), 0)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_defect_positives_that_score_high(kind: torch.dtype) -> None:
    """A positive at 20 among negatives at -5: the subtracting form loses all digits, and pushes the positive down."""
    scores = torch.full((1, 1, 5, 5), -5.0, dtype=kind)
    scores[0, 0, 1, 2] = 20.0
    positives = torch.tensor([[0, 0, 1, 2]])
    expected = math.log1p(24 * math.exp(-5)) + math.log1p(math.exp(-20))
    assert float(multilabel_loss(scores, positives)) == pytest.approx(expected, rel=1e-3)
    assert abs(float(subtracting_loss(scores, positives)) - expected) > 1
    exact, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    multilabel_loss(exact, positives).backward()
    subtracting_loss(other, positives).backward()
    assert exact.grad is not None
    assert other.grad is not None
    assert float(exact.grad[0, 0, 0, 0]) > 1e-3  # negatives go down
    assert -1e-6 < float(exact.grad[0, 0, 1, 2]) <= 0  # the positive stays up
    assert float(other.grad[0, 0, 1, 2]) > 0.1 or float(other.grad[0, 0, 0, 0]) < 1e-6


def test_all_masked_and_no_positives() -> None:
    scores = torch.full((2, 2, 3, 3), -math.inf).requires_grad_()
    loss = multilabel_loss(scores, torch.zeros(0, 4, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert bool((scores.grad == 0).all())


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3, 3), (2, 2, 0, 0)])
def test_maps_without_cells_have_no_loss(shape: tuple[int, ...]) -> None:
    scores = torch.zeros(shape, requires_grad=True)
    loss = multilabel_loss(scores, torch.zeros(0, 4, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None


def test_what_has_another_shape_or_type_is_refused() -> None:
    nothing = torch.zeros(0, 4, dtype=torch.long)
    plain = inspect.unwrap(multilabel_loss)  # without the tests' own look at shapes
    with pytest.raises(InputError, match="batch, heads, length, length"):
        plain(torch.zeros(2, 3, 3), nothing)
    with pytest.raises(InputError, match="whole numbers"):
        plain(torch.zeros(1, 1, 2, 2), torch.tensor([[0, 0, 1.5, 1]]))


def test_what_stands_in_padding_does_not_matter() -> None:
    """Not even for the largest exponent: queries and biases of padding are whatever a network leaves there."""
    torch.manual_seed(0)
    valid = torch.tensor([[True, True, True, False]])
    projection = EfficientGlobalPointer(4, 3, size=4)(torch.randn(1, 4, 4), valid)
    assert projection.row_bias is not None
    assert projection.column_bias is not None
    positives = torch.tensor([[0, 1, 0, 2]])
    wanted = float(projection_loss(projection, positives).detach())
    for bias in (projection.row_bias, projection.column_bias):
        bias.data[..., 3] = 45.0
    assert float(projection_loss(projection, positives).detach()) == pytest.approx(wanted, rel=1e-6)


def test_bf16_is_finite_at_any_score() -> None:
    scores, positives = example(3, 300.0)
    loss = multilabel_loss(scores.bfloat16(), positives)
    assert float(loss) == pytest.approx(oracle(scores, positives), rel=2e-2)


def test_a_positive_given_twice_counts_once() -> None:
    scores, positives = example(5, 1.0)
    assert multilabel_loss(scores, positives) == multilabel_loss(scores, torch.cat([positives, positives[:2]]))


def test_positives_that_cannot_be() -> None:
    scores = torch.zeros(1, 2, 3, 3).masked_fill(~torch.ones(3, 3).triu().bool(), -math.inf)
    with pytest.raises(InputError, match="masked cell"):
        multilabel_loss(scores, torch.tensor([[0, 0, 2, 0]]))
    with pytest.raises(InputError, match="outside the maps"):
        multilabel_loss(scores, torch.tensor([[0, 2, 0, 0]]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.3, 2.0, 60.0]), spans=st.booleans(), some=st.booleans())
def test_without_maps_it_is_the_same_number_and_gradient(seed: int, size: float, spans: bool, some: bool) -> None:
    torch.manual_seed(seed)
    head = EfficientGlobalPointer(6, 7, size=8, triangular=spans)
    hidden = (torch.randn(3, 6, 6) * size).requires_grad_()
    valid = torch.rand(3, 6) < 0.8
    projection = head(hidden, valid)
    allowed = projection.cell_mask()[:, None].expand(-1, 7, -1, -1)
    positives = (allowed & (torch.rand(3, 7, 6, 6) < (0.04 if some else 0))).nonzero()
    dense = multilabel_loss(projection.dense_scores().double(), positives)
    factored = projection_loss(projection, positives)
    assert float(factored.detach()) == pytest.approx(float(dense.detach()), rel=1e-5, abs=1e-6)
    expected = torch.autograd.grad(dense, hidden, retain_graph=True)[0]
    found = torch.autograd.grad(factored, hidden)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_without_maps_huge_scores_are_exact_too() -> None:
    head = EfficientGlobalPointer(4, 3, size=4)
    with torch.no_grad():
        projection = head(torch.randn(2, 5, 4) * 1000, torch.ones(2, 5, dtype=torch.bool))
    positives = torch.tensor([[0, 1, 2, 3]])
    expected = oracle(projection.dense_scores(), positives)
    assert float(projection_loss(projection, positives)) == pytest.approx(expected, rel=1e-5)


def test_standard_head_takes_whole_maps() -> None:
    projection = GlobalPointer(4, 2, size=4)(torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool))
    positives = torch.tensor([[1, 0, 2, 3]])
    assert float(projection_loss(projection, positives).detach()) == pytest.approx(
        oracle(projection.dense_scores().detach(), positives), rel=1e-5
    )
