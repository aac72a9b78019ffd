"""Words as an input: by the slow truth, whatever the vocabulary, and inside the extractor's encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.backbone.packing import pack
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError
from tianwen.extract.encoder import Encoder
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.text import Tokenizer
from tianwen.words.features import ALONE, BEGINS, ENDS, GOES_ON, LONGEST, ROLES, WordFeatures, spelt
from tianwen.words.table import WordTable

WORDS = [
    "天",
    "天问",
    "问一号",
    "一号",
    "月",
    "a",
    "ab",
    "car",
    "carpet",
    "pet",
    "3d",
    "中华人民共和国",
    "天问一号发射",
]
TEXTS = ["天问一号发射", "car carpet ab 3d", "中华人民共和国月"]
TOKENIZER = Tokenizer.train([*TEXTS] * 3, size=385)


PARTS = st.sampled_from([*WORDS, " ", "号", "发", "x"])


def table(width=5, words=WORDS):
    rows = np.random.default_rng(0).normal(size=(len(words), width)).astype(np.float32)
    return WordTable.of(words, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def slow(ids):
    """Each word's pieces are looked for at each place."""
    found = np.zeros((len(ids), ROLES, 5))
    count = np.zeros((len(ids), ROLES))
    vectors = table().vectors.float().numpy()
    pieces, taken = TOKENIZER.pieces, set()
    for row, word in enumerate(WORDS):
        own = TOKENIZER.ids(word).tolist()
        strange = any(pieces[i].startswith(("<0x", "[")) for i in own)
        if not own or strange or len(own) > LONGEST or tuple(own) in taken:
            continue
        taken.add(tuple(own))
        for start in range(len(ids) - len(own) + 1):
            end = start + len(own)
            if ids[start:end] != own or (end < len(ids) and pieces[ids[end]].startswith("##")):
                continue
            for at in range(start, end):
                role = ALONE if len(own) == 1 else BEGINS if at == start else ENDS if at == end - 1 else GOES_ON
                found[at, role] += vectors[row]
                count[at, role] += 1
    return (found / np.maximum(count, 1)[..., None]).reshape(len(ids), -1)


def features(width=7):
    torch.manual_seed(0)
    return WordFeatures(table(), TOKENIZER, width).eval()


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.lists(st.sampled_from([*WORDS, " ", "号", "发", "x"]), min_size=1, max_size=8), min_size=1, max_size=3)
)
def test_each_piece_gets_the_words_that_stand_there(texts):
    rows = [[TOKENIZER.cls_id, *TOKENIZER.ids("".join(text)).tolist(), TOKENIZER.sep_id] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [TOKENIZER.pad_id] * (longest - len(row)) for row in rows])
    found = features().feature(ids)
    for row, one in zip(rows, found, strict=True):
        np.testing.assert_allclose(one[: len(row)], slow(row), atol=1e-5)
        assert not one[len(row) :].any()


def test_words_begin_and_end_with_the_texts_words():
    feature = features().feature
    assert feature(torch.tensor([TOKENIZER.ids("car pet").tolist()])).any()
    ids = TOKENIZER.ids("carpet").tolist()
    assert ids[0] == TOKENIZER.ids("car").tolist()[0]  # its first pieces are those of another word
    np.testing.assert_allclose(feature(torch.tensor([ids]))[0], slow(ids), atol=1e-5)
    assert not feature(torch.tensor([TOKENIZER.ids("zzz").tolist()])).any()
    assert not feature(torch.tensor([[TOKENIZER.mask_id, TOKENIZER.pad_id]])).any()
    assert feature(torch.tensor([[TOKENIZER.ids("月")[0]]])).any()  # a text of one piece


def test_latin_words_are_spelt_as_the_tokenizer_spells_them():
    words = ["car", "carpet", "ab", "abc", "pet", "carcar", "x", "qqqqqqqqqqqq"]
    spelling = spelt(table(words=words), TOKENIZER)
    short = [row for row, word in enumerate(words) if len(TOKENIZER.ids(word)) <= LONGEST]
    assert sorted(spelling.rows.tolist()) == short
    assert (np.diff(spelling.hashes) > 0).all()


def test_an_empty_spelling_adds_nothing():
    none = WordFeatures(table(words=["龘龘龘龘龘龘龘"]), TOKENIZER, 4)
    assert not none.feature(torch.tensor([[300, 301]])).any()


def shape():
    return RoFormerV2Config(vocabulary=TOKENIZER.size, layers=1, width=16, heads=2, feed_forward=32)


def test_padded_and_packed_rows_are_read_alike():
    torch.manual_seed(1)
    encoder = Encoder(shape(), words=WordFeatures(table(), TOKENIZER, 16)).eval()
    rows = [[TOKENIZER.cls_id, *TOKENIZER.ids(text).tolist(), TOKENIZER.sep_id] for text in TEXTS]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [0] * (int(lengths.max()) - len(row)) for row in rows])
    padded = encoder(ids, lengths)
    batch = pack([np.array(row) for row in rows])[0]
    packed = encoder.forward_packed(batch).split(batch.lengths)
    for place, row in enumerate(batch.order):
        torch.testing.assert_close(packed[place], padded[row, : lengths[row]], atol=1e-5, rtol=1e-4)
    assert encoder.words is not None
    encoder.words.mix.weight.data.zero_()
    assert not torch.allclose(encoder(ids, lengths), padded)


def test_a_model_without_its_words_is_refused():
    config = GPLinkerConfig(shape(), entity_labels=("x",), words=5)
    with pytest.raises(InputError, match="of 5 numbers"):
        GPLinker(config)
    with pytest.raises(InputError, match="of 0 numbers"):
        GPLinker(GPLinkerConfig(shape(), entity_labels=("x",)), WordFeatures(table(), TOKENIZER, 16))


def test_a_published_vocabulary_spells_words_as_its_tokenizer_does():
    pieces = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "天", "问", "一", "号", "car", "##pet", "##s"]
    bert = Tokenizer([*pieces, "a", "##b", "3"], style="bert")
    words = ["天问", "天龘", "carpet", "carpets", "carx", "ab", "3", "问一号天问一", "问一号天问一号"]
    spelling = spelt(table(words=words), bert)
    assert sorted(words[row] for row in spelling.rows) == ["3", "ab", "carpet", "carpets", "天问", "问一号天问一"]
    features = WordFeatures(table(words=words), bert, 4)
    found = features.feature(torch.tensor([bert.ids("天问 carpets 天龘").tolist()]))
    assert found.any(-1).tolist() == [[True] * 5 + [False] * 2]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_the_share_of_words_has_the_models_type(kind):
    found = features().to(kind)(torch.tensor([TOKENIZER.ids("天问").tolist()]))
    assert found.dtype == kind
    assert features().feature(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3, ROLES * 5)


def test_of_words_spelt_alike_the_first_counts_and_pieces_may_be_long():
    bert = Tokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "e", "car", "##board", "cardio", "##s"], style="bert"
    )
    words = ["e", "é", "carboard", "cardios"]
    assert bert.ids("é").tolist() == bert.ids("e").tolist()
    assert sorted(spelt(table(words=words), bert).rows.tolist()) == [0, 2, 3]
