"""The network: masks, packed against padded, the three maps, gradients."""

import pytest
import torch

from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.packing import pack
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError
from tianwen.extract.encoder import BackboneConfig
from tianwen.extract.gplinker import IMPROBABLE, GPLinker, GPLinkerConfig, Positives
from tianwen.extract.loss import multilabel_loss

LENGTHS = torch.tensor([9, 4, 12])
ROFORMER = RoFormerV2Config(vocabulary=60, layers=1, width=16, heads=2)
LRU = ShellConfig(60, "lru", layers=1, width=16, bidirectional=True)
ATTENTION = ShellConfig(60, "attention", layers=1, width=16, heads=2, bidirectional=True)


def made(backbone: BackboneConfig = ROFORMER, **config: object) -> tuple[GPLinker, torch.Tensor]:
    torch.manual_seed(0)
    labels: dict = {"entity_labels": ("a", "b"), "predicates": ("p", "q", "r")} | config
    model = GPLinker(GPLinkerConfig(backbone, **labels)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model, torch.randint(5, 60, (3, 12))


@pytest.mark.parametrize("backbone", [ROFORMER, LRU, ATTENTION])
@pytest.mark.parametrize("head", ["efficient", "standard"])
def test_packed_equals_padded_and_masks_follow_each_row(backbone: BackboneConfig, head: str) -> None:
    model, ids = made(backbone, head=head)
    with torch.no_grad():
        maps = model.projections(model.hidden(ids, LENGTHS), LENGTHS)
        rows = [ids[i, : int(LENGTHS[i])].numpy() for i in range(3)]
        (one,) = pack(rows)
        for index, parts in zip(one.order, model.projections_packed(model.hidden_packed(one), one), strict=True):
            end = int(LENGTHS[index])
            for packed, padded in zip(parts, maps, strict=True):
                assert packed is not None
                assert padded is not None
                whole = padded.dense_scores()[index]
                torch.testing.assert_close(packed.dense_scores()[0], whole[:, :end, :end], atol=1e-4, rtol=1e-4)
                finite = torch.isfinite(whole).any(0)
                assert not finite[0].any()  # [CLS]
                assert not finite[end - 1 :].any()  # [SEP] and padding
                assert finite[1 : end - 1, 1 : end - 1].triu().sum() == (end - 2) * (end - 1) // 2
    assert torch.isneginf(maps.entity.dense_scores().tril(-1)[torch.ones(3, 2, 12, 12).tril(-1).bool()]).all()


def test_padding_and_neighbouring_texts_change_nothing() -> None:
    for backbone in (ROFORMER, LRU, ATTENTION):
        model, ids = made(backbone)
        with torch.no_grad():
            alone = model.hidden(ids[1:2, :4], LENGTHS[1:2])
            ids[1, 4:] = 7
            torch.testing.assert_close(model.hidden(ids, LENGTHS)[1:2, :4], alone, atol=1e-5, rtol=1e-5)


def test_objects_may_precede_subjects_but_not_in_events() -> None:
    model, ids = made()
    with torch.no_grad():
        head = model.projections(model.hidden(ids, LENGTHS), LENGTHS).head
        assert head is not None
        assert torch.isfinite(head.dense_scores()[0, 0, 5, 2])
        model, ids = made(entity_labels=(), predicates=(), roles=(("e", "trigger"), ("e", "who"), ("f", "who")))
        maps = model.projections(model.hidden(ids, LENGTHS), LENGTHS)
    assert maps.entity.heads == 3
    assert maps.head is not None
    assert maps.head.heads == 1
    assert torch.isneginf(maps.head.dense_scores()[0, 0, 5, 2])
    assert torch.isfinite(maps.head.dense_scores()[0, 0, 2, 2])


def test_entities_alone_have_no_links() -> None:
    model, ids = made(predicates=())
    maps = model.projections(model.hidden(ids, LENGTHS), LENGTHS)
    assert maps.head is None
    assert maps.tail is None
    nothing = torch.zeros(0, 4, dtype=torch.long)
    loss, parts = model.loss(ids, LENGTHS, Positives(torch.tensor([[0, 1, 2, 3]]), nothing, nothing))
    assert set(parts) == {"entity"}
    assert float(loss.detach()) == pytest.approx(parts["entity"])


def test_loss_is_the_sum_over_the_maps_also_under_bf16() -> None:
    model, ids = made()
    positives = Positives(
        torch.tensor([[0, 0, 1, 2], [2, 1, 3, 3]]), torch.tensor([[2, 2, 7, 3]]), torch.tensor([[2, 2, 8, 3]])
    )
    loss, parts = model.loss(ids, LENGTHS, positives)
    maps = model.projections(model.hidden(ids, LENGTHS), LENGTHS)
    expected = [multilabel_loss(one.dense_scores(), cells) for one, cells in zip(maps, positives, strict=True) if one]
    assert float(loss.detach()) == pytest.approx(sum(float(part.detach()) for part in expected), rel=1e-5)
    assert parts["tail"] == pytest.approx(float(expected[2].detach()), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = model.loss(ids, LENGTHS, positives)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(loss.detach()), rel=0.1)


def test_an_untrained_model_says_no() -> None:
    torch.manual_seed(0)
    model = GPLinker(GPLinkerConfig(ROFORMER, ("a",), ("p",))).eval()
    ids = torch.randint(5, 60, (3, 12))
    maps = model.projections(model.hidden(ids, LENGTHS), LENGTHS)
    for one in maps:
        assert one is not None
        scores = one.dense_scores().detach()
        assert float(scores[torch.isfinite(scores)].mean()) == pytest.approx(IMPROBABLE, abs=1)
        assert not (scores > 0).any()


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="nothing to find"):
        GPLinkerConfig(ROFORMER)
    with pytest.raises(InputError, match="events"):
        GPLinkerConfig(ROFORMER, ("a",), roles=(("e", "who"),))
