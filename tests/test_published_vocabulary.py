"""Published BERT and RoFormer vocabularies keep their ids and are used by the rules of BERT."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.text import Tokenizer

BERT = [
    *["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "中", "国", "un", "##want", "##ed", "runn", "##ing"],
    *["want", "wa", ",", "!", "?", "1", "##9", "19", "##a", "a", "cafe", "a", "，", "##中"],
]


def spelt(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.pieces[i] for i in tokenizer.ids(text)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_bytes("".join(f"{piece}\r\n" for piece in [*BERT, "\u2028"]).encode())
    return Tokenizer.from_vocab_txt(path)


def test_a_published_vocabulary_keeps_its_ids(bert: Tokenizer) -> None:
    assert bert.pieces == [*BERT, "\u2028"]
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (0, 2, 3, 4, 5)
    assert bert.ids("a").tolist() == [len(BERT) - 3]  # of two equal lines the last counts, as in the original


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("UNwant\u00c9d,running", ["un", "##want", "##ed", ",", "runn", "##ing"]),
        ("中国1999!", ["中", "国", "19", "##9", "##9", "!"]),
        ("199中9", ["19", "##9", "中", "[UNK]"]),
        ("Cafe\u0301 CAFÉ", ["cafe", "cafe"]),
        ("a\x00\u200d\ufffda", ["a", "##a"]),
        ("a\ud800a", ["a", "##a"]),
        ("，Ａ", ["，", "[UNK]"]),  # no NFKC here
        ("[MASK]", ["[UNK]", "[UNK]", "[UNK]"]),
        ("a" * 101, ["[UNK]"]),
    ],
)
def test_published_vocabularies_are_used_as_bert_uses_them(bert: Tokenizer, text: str, pieces: list[str]) -> None:
    assert spelt(bert, text) == pieces


def bert_words(text: str) -> list[str]:
    """BERT's rules, written down again: the slow oracle."""
    cleaned = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            cleaned.append(" ")
        elif character not in "\x00\ufffd" and not category.startswith("C"):
            cleaned.append(f" {character} " if "\u4e00" <= character <= "\u9fff" else character)
    words = []
    for word in "".join(cleaned).split():
        bare = [c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"]
        current = ""
        for character in bare:
            if (character.isascii() and not character.isalnum()) or unicodedata.category(character).startswith("P"):
                words += [current, character]
                current = ""
            else:
                current += character
        words.append(current)
    return [word for word in words if word]


@given(text=st.text(alphabet="中国aAZz1 9,.$^`!?éÉüñ。，《》\t\n\u3000\xa0\x00\u200d\ufeff\u0301-_ßøАи", max_size=12))
def test_bert_style_agrees_with_the_rules_of_bert(bert: Tokenizer, text: str) -> None:
    assert bert._cutter.words(text) == bert_words(text)
    np.testing.assert_array_equal(bert.ids_batch([text])[1], bert.slow_encode(text).ids)
    np.testing.assert_array_equal(bert.ids(text), bert.slow_encode(text).ids)


def test_a_vocabulary_without_the_special_pieces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n中\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no \[MASK\]"):
        Tokenizer.from_vocab_txt(tmp_path / "vocab.txt")
