"""The matrix product: whichever kernel runs, the product is the same."""

import pytest
import torch

from tianwen.backbone import linear as module
from tianwen.backbone.linear import Linear, linear, pack_for_inference, unpack


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (5, 8), (2, 3, 8), (2, 3, 4, 8), (0, 8)])
def test_inference_and_training_give_the_same_product(relu: bool, shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(*shape), torch.randn(6, 8, requires_grad=True)
    with torch.no_grad():
        fast = linear(x, weight, relu=relu)
    plain = linear(x, weight, relu=relu)
    assert plain.requires_grad
    assert fast.shape == (*shape[:-1], 6)
    torch.testing.assert_close(fast, plain.detach(), atol=1e-5, rtol=0)


def test_views_and_rows_of_larger_tensors_are_multiplied_right() -> None:
    wide, weight = torch.randn(4, 9, 16), torch.randn(6, 16)[:, ::2]
    for x in (wide[..., :8], wide[..., ::2], wide[:, 3:5, 8:], wide[..., :8].transpose(0, 1)):
        with torch.no_grad():
            torch.testing.assert_close(linear(x, weight), x @ weight.T, atol=1e-5, rtol=0)


def test_gradients_of_the_fused_relu_are_those_of_a_plain_one() -> None:
    layer, x = Linear(8, 6), torch.randn(3, 8, requires_grad=True)
    layer(x, relu=True).pow(2).sum().backward()
    ours, layer.weight.grad = layer.weight.grad, None
    (x @ layer.weight.T).relu().pow(2).sum().backward()
    torch.testing.assert_close(ours, layer.weight.grad)


def test_a_build_without_the_operator_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(module, "_onednn", missing)
    module._onednn_works.cache_clear()
    try:
        assert not module._onednn_works()
        with torch.no_grad():
            x, weight = torch.randn(3, 8), torch.randn(6, 8)
            assert torch.equal(linear(x, weight), x @ weight.T)
    finally:
        module._onednn_works.cache_clear()


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_packed_weights_give_the_same_product(rows: int) -> None:
    layer, x = Linear(64, 48), torch.randn(rows, 64)
    with torch.no_grad():
        plain = layer(x, relu=True)
        pack_for_inference(layer)
        torch.testing.assert_close(layer(x, relu=True), plain, atol=1e-5, rtol=0)
        torch.testing.assert_close(layer(x[None]), (x @ layer.weight.T)[None], atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", ["in place", "replaced", "loaded"])
def test_a_weight_that_changed_after_packing_is_used_as_it_is(how: str) -> None:
    layer, x, new = Linear(8, 6), torch.randn(3, 8), torch.randn(6, 8)
    pack_for_inference(layer)
    with torch.no_grad():
        if how == "in place":
            layer.weight.copy_(new)
        elif how == "replaced":
            layer.weight.set_(new.clone())
        else:
            layer.load_state_dict({"weight": new})
        torch.testing.assert_close(layer(x), x @ new.T, atol=1e-5, rtol=0)


def test_unpacked_weights_may_be_written_behind_the_back_of_pytorch() -> None:
    layer, x = Linear(8, 6), torch.randn(3, 8)
    pack_for_inference(layer)
    unpack(layer)
    layer.weight.detach().numpy()[:] = 2.0
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x.sum(-1, keepdim=True).mul(2).expand(3, 6), atol=1e-4, rtol=0)


def test_a_pack_dies_with_its_weight() -> None:
    before = len(module._PACKS)
    layer = Linear(8, 6)
    pack_for_inference(layer)
    del layer
    assert len(module._PACKS) == before
