"""The tied head and the first token."""

import torch
from torch.nn import functional as F

from tianwen.backbone.heads import MaskedLanguageModel, first_token
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config

CONFIG = RoFormerV2Config(vocabulary=30, layers=1, width=16, heads=2, dropout=0.5)


def test_head_is_tied_and_has_no_parameters_of_its_own() -> None:
    model = MaskedLanguageModel(RoFormerV2(CONFIG)).eval()
    assert sum(p.numel() for p in model.parameters()) == model.backbone.parameter_count()
    ids = torch.randint(0, 30, (2, 5))
    hidden, _ = model.backbone(ids)
    torch.testing.assert_close(model(ids), hidden @ model.backbone.tokens.weight.T)
    assert torch.equal(first_token(hidden), hidden[:, 0])


def test_dropout_comes_before_the_product() -> None:
    model = MaskedLanguageModel(RoFormerV2(CONFIG)).train()
    logits = model.logits(torch.ones(4, 16))
    assert not torch.equal(logits[0], logits[1])
    assert (logits != 0).all()  # units are dropped, not words


def test_loss_counts_wanted_tokens_only() -> None:
    model = MaskedLanguageModel(RoFormerV2(CONFIG)).eval()
    ids, targets = torch.randint(0, 30, (2, 6)), torch.randint(0, 30, (2, 6))
    wanted = torch.rand(2, 6) < 0.4
    expected = F.cross_entropy(model(ids)[wanted], targets[wanted])
    torch.testing.assert_close(model.loss(ids, wanted, targets), expected)
    nothing = model.loss(ids, torch.zeros_like(wanted), targets)
    nothing.backward()
    assert nothing.item() == 0
