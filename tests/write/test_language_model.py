"""The language model: what it predicts depends on the past of the same document, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from tianwen.backbone.mixers import MIXERS, ShellConfig
from tianwen.errors import InputError
from tianwen.write.characters import START
from tianwen.write.language_model import UNWANTED, LanguageModel, lm_loss

each_mixer = pytest.mark.parametrize("mixer", MIXERS)


def small(mixer: str = "lru") -> LanguageModel:
    torch.manual_seed(0)
    config = ShellConfig(vocabulary=20, mixer=mixer, layers=2, width=8, heads=2, window=9)  # type: ignore[arg-type]
    return LanguageModel(config).eval()


@each_mixer
def test_the_loss_is_that_of_each_document_alone(mixer):
    model = small(mixer)
    documents = [torch.cat([torch.tensor([START]), torch.randint(2, 20, (n,))]) for n in (4, 1, 8)]
    row = torch.cat(documents)
    packed, _ = lm_loss(model, {"ids": row[None, :-1], "targets": row[None, 1:]})
    total, count = 0.0, 0
    for document in documents:  # each predicts its own ids, and the start of the next
        targets = torch.cat([document[1:], torch.tensor([START])])
        if document is documents[-1]:
            document, targets = document[:-1], targets[:-1]
        loss, values = lm_loss(model, {"ids": document[None], "targets": targets[None]})
        total, count = total + loss.item() * values["weight"], count + int(values["weight"])
    assert count == len(row) - 1
    assert packed.item() == pytest.approx(total / count, abs=1e-5)


def test_unwanted_targets_do_not_count():
    model = small()
    ids = torch.randint(2, 20, (2, 6))
    targets = torch.randint(2, 20, (2, 6))
    whole, _ = lm_loss(model, {"ids": ids[:, :4], "targets": targets[:, :4]})
    targets[:, 4:] = UNWANTED
    padded, values = lm_loss(model, {"ids": ids, "targets": targets})
    assert padded.item() == pytest.approx(whole.item(), abs=1e-6)
    assert values["weight"] == 8


@each_mixer
def test_reading_in_chunks_is_reading_at_once(mixer):
    model = small(mixer)
    ids = torch.cat([torch.tensor([START]), torch.randint(2, 20, (30,))])
    with torch.no_grad():
        at_once, _ = model.read(ids, model.init_state(1), chunk=31)
        in_chunks, state = model.read(ids, model.init_state(1), chunk=4)
        torch.testing.assert_close(in_chunks, at_once, atol=1e-5, rtol=0)
        torch.testing.assert_close(at_once, model(ids[None])[0][0, -1], atol=1e-5, rtol=0)
        again, _ = model.read(ids, state)  # START begins anew, whatever was read before
        torch.testing.assert_close(again, at_once, atol=1e-5, rtol=0)


def test_a_model_that_sees_the_answer_is_refused():
    with pytest.raises(InputError, match="see the answer"):
        LanguageModel(ShellConfig(vocabulary=9, bidirectional=True))
