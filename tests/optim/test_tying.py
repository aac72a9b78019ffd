"""Tied heads with swapped halves: what they compute, what they share, and that every row gets a gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tianwen.errors import InputError
from tianwen.optim.tying import TiedHead, swap_halves, tie_embeddings


class Model(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"tokens": nn.Embedding(10, dim)})
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        return self.head(self.body["tokens"](x))


def test_swapped_halves():
    assert swap_halves(torch.arange(6.0)).tolist() == [3, 4, 5, 0, 1, 2]
    h = torch.randn(2, 3, 8)
    assert torch.equal(swap_halves(swap_halves(h)), h)


@pytest.mark.parametrize("half_swap", [True, False])
def test_logits_are_products_with_the_rows(half_swap):
    model = tie_embeddings(Model(), "body.tokens", "head", half_swap=half_swap)
    table = model.body["tokens"].weight
    h = table[4]
    other = torch.cat([h[3:], h[:3]]) if half_swap else h
    assert torch.allclose(model(torch.tensor(4)), table @ other)


def test_one_weight_for_both_and_a_gradient_in_every_row():
    model = tie_embeddings(Model(), "body.tokens", "head")
    assert len(list(model.parameters())) == 1
    nn.functional.cross_entropy(model(torch.tensor([1, 2])), torch.tensor([2, 3])).backward()
    grad = model.body["tokens"].weight.grad
    assert grad is not None
    assert (grad != 0).any(1).all()
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.body["tokens"].weight
    twin.load_state_dict(model.state_dict())


def test_what_cannot_be_tied_is_refused():
    with pytest.raises(InputError, match="no module 'tokens'"):
        tie_embeddings(Model(), "tokens", "head")
    with pytest.raises(InputError, match="no module ''"):
        tie_embeddings(Model(), "", "head")
    with pytest.raises(InputError, match="is a Linear"):
        tie_embeddings(Model(), "head", "head")
    with pytest.raises(InputError, match="two halves"):
        tie_embeddings(Model(5), "body.tokens", "head")
    wide = Model()
    wide.head = nn.Linear(6, 11)
    with pytest.raises(InputError, match="cannot be one"):
        tie_embeddings(wide, "body.tokens", "head")
    assert "half_swap=True" in repr(TiedHead(nn.Embedding(3, 4)))


def test_a_head_inside_another_module_is_replaced_there():
    model = Model()
    model.body["head"] = nn.Linear(6, 10)
    tie_embeddings(model, "body.tokens", "body.head", half_swap=False)
    assert isinstance(model.body["head"], TiedHead)
    assert isinstance(model.head, nn.Linear)  # another one of the same name stays
