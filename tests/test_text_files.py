"""A tokenizer saved, loaded or pickled is the same; a damaged, foreign or missing file is told by a sentence."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from tianwen.errors import ModelError
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

FIXED = [*SPECIAL_PIECES, *BYTE_PIECES]


@pytest.fixture(scope="module")
def tokenizers() -> list[Tokenizer]:
    """A trained one, bytes only, and one in the style of published vocabularies."""
    trained = Tokenizer.train(["战神在哪里发射？中国 launch rocket café"] * 10)
    return [trained, Tokenizer(FIXED), Tokenizer([*SPECIAL_PIECES, "中", "国", "a"], style="bert")]


def test_saved_and_loaded_is_the_same(tokenizers: list[Tokenizer], tmp_path: Path) -> None:
    for tokenizer in tokenizers:
        tokenizer.save(tmp_path / "tokenizer.json")
        loaded = Tokenizer.load(str(tmp_path / "tokenizer.json"))
        assert (loaded.pieces, loaded.style, loaded.fingerprint) == (
            tokenizer.pieces,
            tokenizer.style,
            tokenizer.fingerprint,
        )
        text = "战神I-X ﬁsh㍿\ud800\x00 e\u0301 龘 中国"
        np.testing.assert_array_equal(loaded.ids(text), tokenizer.ids(text))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_fingerprints_tell_vocabularies_apart(tokenizers: list[Tokenizer]) -> None:
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)
    assert all(len(tokenizer.fingerprint) == 16 for tokenizer in tokenizers)
    swapped = Tokenizer([*FIXED, "甲", "乙"]).fingerprint, Tokenizer([*FIXED, "乙", "甲"]).fingerprint
    assert swapped[0] != swapped[1]
    assert Tokenizer([*FIXED, "甲乙"]).fingerprint not in swapped


def loaded_or_refused(path: Path) -> str:
    try:
        return Tokenizer.load(path).fingerprint
    except ModelError as error:
        return "refused" if str(path) in str(error) else f"refused without naming the file: {error}"


def test_damaged_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer([*FIXED, "中", "国"])
    tokenizer.save(path)
    sound = path.read_bytes()
    rng = random.Random(2)
    for _ in range(400):
        place, bit = rng.randrange(len(sound)), rng.randrange(8)
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
        assert loaded_or_refused(path) in (tokenizer.fingerprint, "refused")  # a line feed may turn into another space
    for length in [0, 1, *rng.sample(range(len(sound)), 60)]:
        path.write_bytes(sound[:length])
        with pytest.raises(ModelError, match="damaged"):
            Tokenizer.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "not a tokenizer"),
        (b'{"format": "another"}', "not a tokenizer"),
        (b'{"format": "tianwen-tokenizer", "version": 2}', "format version 2"),
        (b'{"format": "tianwen-tokenizer", "version": 1, "vocabulary": [1]}', "damaged"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_other_files_are_refused_with_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        Tokenizer.load(tmp_path / "file.json")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer file"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ModelError, match="no tokenizer file"):
        Tokenizer.from_vocab_txt(tmp_path / "vocab.txt")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    old = Tokenizer([*FIXED, "中"])
    old.save(path)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full_disk)
    with pytest.raises(OSError, match="No space"):
        Tokenizer([*FIXED, "国"]).save(path)
    assert Tokenizer.load(path).fingerprint == old.fingerprint
    assert len(list(tmp_path.iterdir())) == 1


def test_pickled_is_the_same(tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers:
        again = pickle.loads(pickle.dumps(tokenizer))
        assert again.fingerprint == tokenizer.fingerprint
        assert again.ids("战神 launch e\u0301 龘").tolist() == tokenizer.ids("战神 launch e\u0301 龘").tolist()
