"""Writing on: the stream is what the model means, memory stays, and any prompt can be read."""

from __future__ import annotations

import gc
import resource
from itertools import islice

import pytest
import torch

from tianwen.backbone.mixers import MIXERS, ShellConfig
from tianwen.errors import InputError
from tianwen.write.characters import START, Characters
from tianwen.write.language_model import LanguageModel
from tianwen.write.sampling import SamplingSettings
from tianwen.write.writer import Writer

TEXT = "天问 who? 遂古之初，谁传道之\n"
GREEDY = SamplingSettings(temperature=0)


def writer(mixer: str = "lru", **options) -> Writer:
    torch.manual_seed(0)
    characters = Characters.count([TEXT])
    shape = {"layers": 2, "width": 16, "heads": 2, "window": 8} | options
    model = LanguageModel(ShellConfig(vocabulary=characters.size, mixer=mixer, **shape))  # type: ignore[arg-type]
    return Writer(model.eval(), characters)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_stream_is_the_likeliest_way_on(mixer):
    ours = writer(mixer)
    ids = [START, *ours.characters.ids("天问").tolist()]
    written = "".join(ours.write("天问", length=12, how=GREEDY))
    with torch.no_grad():
        while len(ours.characters.decode(ids[3:])) < 12:  # the whole text anew for each id
            ids.append(int(ours.model(torch.tensor([ids]))[0][0, -1, 1:].argmax()) + 1)
    assert START not in ids[1:]
    assert written == ours.characters.decode(ids[3:])


def test_the_same_seed_writes_the_same():
    ours = writer()
    texts = ["".join(ours.write("", length=40, how=SamplingSettings(seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_text_comes_while_it_is_written():
    stream = writer().write("天", length=10**9, how=SamplingSettings(seed=0))
    assert len("".join(islice(stream, 5))) >= 5
    assert torch.ones(1, requires_grad=True).add(1).requires_grad  # nothing is left switched off for the caller


def test_a_new_document_begins_from_nothing():
    ours = writer()
    with torch.no_grad():  # START is always the likeliest
        ours.model.shell.tokens.weight[START] *= 50
        ours.model.shell.tokens.weight[START] = ours.model.shell.tokens.weight[START].abs()
    ours.model.step = lambda ids, state: (torch.eye(ours.characters.size)[START][None], [float(ids)])  # type: ignore[method-assign]
    ours.model.read = lambda ids, state: (torch.eye(ours.characters.size)[START], state)  # type: ignore[method-assign]
    assert "".join(ours.write("天", length=4, how=GREEDY)) == "\n\n\n\n"


@pytest.mark.parametrize("mixer", ["lru", "attention"])
def test_memory_stays_the_same(mixer):
    stream = writer(mixer).write("天", length=10**9, how=SamplingSettings(seed=0))
    for _ in islice(stream, 20):
        pass
    gc.collect()
    before, peak = len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in islice(stream, 60):
        pass
    gc.collect()
    assert abs(len(gc.get_objects()) - before) < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2048  # kB


@pytest.mark.parametrize("prompt", ["", "\0", "\ud800天\udc80", " \n", "🚀", "問"])
@pytest.mark.parametrize("mixer", ["lru", "attention"])
def test_any_prompt_can_be_gone_on_from(prompt, mixer):
    text = "".join(writer(mixer).write(prompt, length=20, how=SamplingSettings(seed=0)))
    assert len(text) in (20, 21)
    text.encode()  # can be written to any stream


def test_a_prompt_of_a_megabyte_is_read_in_constant_memory():
    ours = writer(layers=1, width=8)
    assert "".join(ours.write("天问" * (2**20 // 6), length=1, how=GREEDY))
    assert not list(ours.write("天", length=0))


def test_a_negative_length_is_refused_at_once():
    with pytest.raises(InputError, match="length is -1"):
        writer().write("", length=-1)


def test_surprise_is_the_mean_of_what_each_id_costs():
    ours = writer()
    text = TEXT * 40  # longer than one chunk
    ids = torch.tensor([START, *ours.characters.ids(text).tolist()])
    with torch.no_grad():
        chances = ours.model(ids[None])[0][0, :-1].double().log_softmax(-1)
    expected = -chances.gather(1, ids[1:, None]).mean() / torch.log(torch.tensor(2.0))
    assert ours.surprise(text) == pytest.approx(float(expected), abs=1e-4)
    assert ours.surprise("") == 0
