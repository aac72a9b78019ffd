"""A vocabulary counted out of texts: its layout, its limits, the same in every process; unusable ones are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

FIXED = [*SPECIAL_PIECES, *BYTE_PIECES]

TEXTS = [
    "战神I-X在哪里发射？肯尼迪航天中心。",
    "嫦娥五号于2020年11月24日由长征五号遥五运载火箭发射",
    "白蛇（电影）的主演是谁",
    "The launch vehicle launched launching rockets; the rocket was launched.",
    "NASA's Apollo 11 landed on the Moon in 1969.",
    "café naïve fish finish fishing istanbul",
    "中国 Ω μ",
] * 10


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, size=800)


def test_layout_of_a_trained_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces[:261] == FIXED
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert len(set(tokenizer.pieces)) == tokenizer.size <= 800
    assert {"战", "，"} & set(tokenizer.pieces) == {"战"}  # the full-width comma is the comma
    assert "launch" in tokenizer.pieces
    assert {"a", "##a", "z", "##z", "0", "!", "~"} <= set(tokenizer.pieces)


def test_min_count_and_size_are_kept() -> None:
    texts = ["甲甲甲乙乙丙", "ж ж жж", "\ud800\ud800"]
    assert {"甲", "乙", "丙", "ж", "##ж"} & set(Tokenizer.train(texts, min_count=2).pieces) == {"甲", "乙", "ж"}
    assert {"甲", "乙", "丙"} & set(Tokenizer.train(texts, min_count=1).pieces) == {"甲", "乙", "丙"}
    many = ["".join(map(chr, range(0x4E00, 0x4E00 + 500))) * 2, "launch rockets " * 50]
    tokenizer = Tokenizer.train(many, size=500)
    assert tokenizer.size == 500
    assert "launch" in tokenizer.pieces  # words have their share of a full vocabulary
    with pytest.raises(InputError, match="size is 300"):
        Tokenizer.train(many, size=300)
    with pytest.raises(InputError, match="min_count is 0"):
        Tokenizer.train(many, min_count=0)


def test_training_counts_what_stands_in_slow_texts_too() -> None:
    texts = ["ｶﾞ", "カ\u3099", "e\u0301", "é"] * 2
    assert {"ガ", "é"} <= set(Tokenizer.train(texts).pieces)


def test_training_is_the_same_in_every_process() -> None:
    program = (
        "import random; from tianwen.text import Tokenizer; r = random.Random(5);"
        "words = [''.join(r.choice('abcdé') for _ in range(r.randint(1, 7))) for _ in range(600)];"
        "print(Tokenizer.train([' '.join(words) + '中国龘'], size=700, min_count=1).fingerprint)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in range(3)
    ]
    assert len({run.stdout for run in runs}) == 1


def test_training_on_nothing() -> None:
    tokenizer = Tokenizer.train([])
    assert tokenizer.decode(tokenizer.ids("Hello 中国")) == "hello中国"


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([], "261 pieces"),
        (["中", *FIXED], "261 pieces"),
        ([*FIXED, "中", "中"], "stand twice"),
        ([*FIXED, "\ud800"], "surrogate"),
    ],
)
def test_vocabularies_that_cannot_be_used(pieces: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Tokenizer(pieces)
