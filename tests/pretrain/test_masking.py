"""Whole words are hidden, in the shares of the post, and never a special token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.pretrain.masking import check_rate, mask_words, ordinary_ids
from tianwen.pretrain.words import LONGEST, word_cutter, word_starts
from tianwen.text import Tokenizer
from tianwen.vocabulary import SPECIAL_PIECES

TOKENIZER = Tokenizer.train(["长征五号在文昌发射 launching rockets 2020", "火箭 rocket launch"] * 20, size=500)
ORDINARY = ordinary_ids(TOKENIZER)
IS_ORDINARY = np.isin(np.arange(TOKENIZER.size), ORDINARY)


def masked(ids: np.ndarray, starts: np.ndarray, *, rate: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return mask_words(
        ids,
        starts,
        IS_ORDINARY,
        random=np.random.default_rng(seed),
        rate=rate,
        mask_id=TOKENIZER.mask_id,
        stand_ins=ORDINARY,
    )


def words_of(seed: int, count: int = 40_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random ids, where words begin, and the number of each token's word; a tenth of the tokens are special."""
    random = np.random.default_rng(seed)
    ids = random.choice(ORDINARY, count)
    special = random.random(count) < 0.1
    ids[special] = random.choice([TOKENIZER.cls_id, TOKENIZER.sep_id], int(special.sum()))
    starts = random.random(count) < 0.6
    starts |= special | np.append(True, special[:-1])  # a special token is a word of its own
    return ids, starts, np.cumsum(starts) - 1


def test_shares_are_those_of_the_post():
    ids, starts, word = words_of(1)
    read, asked = masked(ids, starts)
    words = np.unique(word[IS_ORDINARY[ids]])
    chosen = np.unique(word[asked])
    assert abs(len(chosen) / len(words) - 0.15) < 4 * np.sqrt(0.15 * 0.85 / len(words))
    hidden = np.unique(word[read == TOKENIZER.mask_id])
    left = np.setdiff1d(chosen, word[asked & (read != ids)])
    assert abs(len(hidden) / len(chosen) - 0.8) < 0.03
    assert abs(len(left) / len(chosen) - 0.1) < 0.03  # a replaced word is the same by chance once in 260


def test_a_word_has_one_fate():
    ids, starts, word = words_of(2)
    read, asked = masked(ids, starts)
    for number in np.unique(word[asked]):
        members = word == number
        assert asked[members].all()
        hidden = read[members] == TOKENIZER.mask_id
        assert hidden.all() or not hidden.any()


def test_special_tokens_are_neither_asked_for_nor_put_in():
    ids, starts, _ = words_of(3)
    read, asked = masked(ids, starts, rate=0.99)
    special = ~IS_ORDINARY[ids]
    assert not asked[special].any()
    assert (read[special] == ids[special]).all()
    put_in = read[(read != ids) & (read != TOKENIZER.mask_id)]
    assert len(put_in) > 1000
    assert IS_ORDINARY[put_in].all()
    assert not {TOKENIZER.pieces[i] for i in set(put_in.tolist())} & set(SPECIAL_PIECES)


def test_what_is_not_asked_for_is_read_as_it_is():
    ids, starts, _ = words_of(4)
    before = ids.copy()
    read, asked = masked(ids, starts)
    assert (read[~asked] == ids[~asked]).all()
    assert (ids == before).all()


def test_the_same_generator_gives_the_same_masks_and_another_others():
    ids, starts, _ = words_of(5)
    assert (masked(ids, starts)[0] == masked(ids, starts)[0]).all()
    assert (masked(ids, starts)[0] != masked(ids, starts, seed=1)[0]).any()


def slow_starts(text: str, offsets: np.ndarray, words: list[str]) -> list[bool]:
    """A token begins a word if it stands in another word than the token before it, or that word is too long."""
    owner = [i for i, word in enumerate(words) for _ in word]
    owners = [owner[int(first)] for first, _ in offsets]
    starts, since = [], 0
    for i in range(len(owners)):
        since = 0 if i == 0 or owners[i] != owners[i - 1] else since + 1
        starts.append(since % LONGEST == 0)
    return starts


@given(st.lists(st.text("长征五号 abz1，\u3000é", min_size=1, max_size=6), min_size=1, max_size=12))
def test_words_are_those_of_the_cutter(words):
    text = "".join(words)
    encoding = TOKENIZER.encode(text)
    continues = np.array([TOKENIZER.pieces[i].startswith("##") for i in encoding.ids], bool)
    found = word_starts(text, encoding.offsets, continues, lambda _: words)
    assert found.tolist() == slow_starts(text, encoding.offsets, words)


def test_jieba_keeps_words_together():
    pytest.importorskip("jieba")
    cut = word_cutter("jieba")
    assert cut is not None
    text = "我们在北京大学学习 rockets"
    encoding = TOKENIZER.encode(text)
    starts = word_starts(text, encoding.offsets, np.zeros(len(encoding), bool), cut)
    begun = {int(first) for first, _ in encoding.offsets[starts]}
    assert begun == {0, 2, 3, 5, 7, 10}  # 我们 在 北京 大学 学习 rockets


def test_without_jieba_characters_are_words_and_pieces_belong_together():
    text = "文昌 rocketing"
    encoding = TOKENIZER.encode(text)
    continues = np.array([TOKENIZER.pieces[i].startswith("##") for i in encoding.ids])
    assert continues.any()
    starts = word_starts(text, encoding.offsets, continues, word_cutter("characters"))
    assert starts.tolist() == [True, True, True, *[False] * (len(encoding) - 3)]


def test_very_long_words_are_cut():
    offsets = np.stack([np.arange(20), np.arange(1, 21)], 1).astype(np.int32)
    starts = word_starts("1" * 20, offsets, np.zeros(20, bool), lambda text: [text])
    assert np.flatnonzero(starts).tolist() == [0, LONGEST, 2 * LONGEST]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(InputError, match="between 0 and 1"):
        check_rate(rate)
