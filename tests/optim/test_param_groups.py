"""Kinds of parameters by the module that holds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tianwen.errors import InputError
from tianwen.optim.param_groups import param_groups_for


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(4))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.LayerNorm((2, 4))  # a gain of two axes
        self.attention = nn.MultiheadAttention(4, 2)
        self.convolution = nn.Conv1d(4, 4, 3)
        self.scale = Scale()
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight  # tied
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.table = nn.Parameter(torch.zeros(7, 3))


def kinds(groups: list[dict[str, Any]]) -> dict[str, str]:
    return {name: group["kind"] for group in groups for name, _ in group["params"]}


def test_the_module_tells_the_kind():
    found = kinds(param_groups_for(Model()))
    assert found == {
        "embed.weight": "embedding",
        "norm.weight": "gain",
        "norm.bias": "bias",
        "attention.in_proj_weight": "matrix",
        "attention.in_proj_bias": "bias",
        "attention.out_proj.weight": "matrix",
        "attention.out_proj.bias": "bias",
        "convolution.weight": "matrix",
        "convolution.bias": "bias",
        "scale.factor": "bias",
        "table": "matrix",
    }


def test_a_tied_table_is_an_embedding_whoever_comes_first():
    model = nn.ModuleDict({"a": nn.Linear(4, 10, bias=False), "b": nn.Embedding(10, 4)})
    model["b"].weight = model["a"].weight
    assert kinds(param_groups_for(model)) == {"a.weight": "embedding"}


def test_exceptions_by_name_by_module_and_by_type():
    exceptions: dict[Any, Any] = {
        "table": "embedding",
        "attention": "matrix",
        Scale: "gain",
        "attention.out_proj": "bias",
    }
    found = kinds(param_groups_for(Model(), kinds=exceptions))
    assert found["table"] == "embedding"
    assert found["attention.in_proj_bias"] == "matrix"
    assert found["attention.out_proj.weight"] == "bias"  # the longest name counts
    assert found["scale.factor"] == "gain"


def test_weight_decay_is_for_matrices_and_embeddings():
    by_kind = {group["kind"]: group.get("weight_decay") for group in param_groups_for(Model(), weight_decay=0.1)}
    assert by_kind == {"matrix": 0.1, "embedding": 0.1, "bias": 0.0, "gain": 0.0}
    assert "weight_decay" not in param_groups_for(Model())[0]  # the optimiser's own


def test_other_optimisers_take_them_too():
    model = Model()
    parameters: list[Tensor] = [
        p for group in torch.optim.AdamW(param_groups_for(model)).param_groups for p in group["params"]
    ]
    assert len({id(p) for p in parameters}) == len(parameters) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("exceptions", "said"),
    [
        ({"tabel": "embedding"}, "no parameter or module"),
        ({nn.LSTM: "matrix"}, "no module of the model is of this type"),
        ({"table": "vector"}, "one of matrix, embedding"),
    ],
)
def test_a_name_that_is_not_there_is_refused(exceptions, said):
    with pytest.raises(InputError, match=said):
        param_groups_for(Model(), kinds=exceptions)
