"""Words found in texts, and word vectors read from the files of others."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.words.lists import LONGEST, SINGLE, UNKNOWN, Words, spans_of, units_of
from tianwen.words.vectors import principal_components, read_word_vectors

WORDS = Words(["味道", "道", "口感", "art", "出生", "出生日期", "日期", "birthplace", "2020"])
TABLE = {"味道": [1.0, 2.0, 2.0], "Cat": [0.0, 3.0, 4.0], "cat": [5.0, 0.0, 0.0], "，": [1.0, 1.0, 1.0]}


def test_units_are_characters_of_han_and_runs_of_the_rest():
    assert units_of("Ａres的3号いろ?") == ["ares", "的", "3", "号", "い", "ろ", "?"]


def test_all_words_are_found_each_once_and_none_inside_a_latin_word():
    assert WORDS.inside("味道的味道") == [0, 1]
    assert WORDS.inside("start ART") == [3]
    assert WORDS.inside("出生日期") == [4, 5, 6]
    assert WORDS.inside("its Birth Place") == [7]


def test_a_cover_takes_the_fewest_words_and_tells_what_has_none():
    assert WORDS.cover("出生日期") == ([5], [])
    assert WORDS.cover("味道x") == ([0], ["x"])
    assert WORDS.cover("") == ([], [])


@settings(deadline=None, max_examples=150)
@given(text=st.text("味道口感出生日期a1 ", max_size=9))
def test_the_cover_is_the_cheapest_of_all(text):
    def cheapest(units):
        if not units:
            return 0.0
        costs = [UNKNOWN + cheapest(units[1:])]
        for stop in range(1, min(LONGEST, len(units)) + 1):
            if WORDS.number("".join(units[:stop])) is not None:
                costs.append(1 + SINGLE * (stop == 1) + cheapest(units[stop:]))
        return min(costs)

    known, unknown = WORDS.cover(text)
    single = sum(len(units_of(WORDS.words[n])) == 1 for n in known)
    assert len(known) + SINGLE * single + UNKNOWN * len(unknown) == pytest.approx(cheapest(units_of(text)))
    assert sorted("".join([*(WORDS.words[n] for n in known), *unknown])) == sorted("".join(units_of(text)))


def test_runs_end_with_the_longest():
    assert spans_of("abc味道", 2) == ["abc", "abc味", "味", "味道", "道"]


def as_text(header=True):
    lines = [f"{len(TABLE)} 3"] if header else []
    return "\n".join([*lines, *(" ".join([word, *map(str, v)]) for word, v in TABLE.items())]).encode()


def as_binary(end=b"\n"):
    rows = [word.encode() + b" " + np.array(v, "<f4").tobytes() + end for word, v in TABLE.items()]
    return f"{len(TABLE)} 3\n".encode() + b"".join(rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.txt", as_text()),
        ("glove.txt", as_text(header=False)),
        ("v.bin", as_binary()),
        ("v.bin", as_binary(b"")),
        ("v.txt.gz", gzip.compress(as_text(), mtime=0)),
        ("v.bin.xz", lzma.compress(as_binary())),
    ],
)
def test_all_formats_give_the_same_words(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    words, table = read_word_vectors(tmp_path / name)
    assert words == ["味道", "cat"]  # the second cat is the same word, a comma is none
    np.testing.assert_allclose(table, [[1 / 3, 2 / 3, 2 / 3], [0, 0.6, 0.8]], rtol=1e-6)
    assert read_word_vectors(tmp_path / name, most=1)[0] == ["味道"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no word vectors"),
        (b"one two\n", "holds no word vectors"),
        ("味道 1 2 x\n口感 1 2 3\n".encode(), "Line 1"),
        ("2 3\n味道 1 2 3\n口感 1 2\n".encode(), "Line 3"),
        ("1 3\n味道 1 nan 3\n".encode(), "not finite"),
        (as_binary()[:-9], "cut off"),
        (b"9 0\n", "cannot be"),
    ],
)
def test_what_is_no_table_of_vectors_is_told(tmp_path, content, says):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_word_vectors(tmp_path / "v")


def test_a_missing_or_broken_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no file of word vectors"):
        read_word_vectors(tmp_path / "none")
    (tmp_path / "v.gz").write_bytes(gzip.compress(as_text())[:-12])
    with pytest.raises(InputError, match="cannot be read"):
        read_word_vectors(tmp_path / "v.gz")


def test_principal_components_keep_the_cosines_as_far_as_they_can():
    flat = np.random.default_rng(1).normal(size=(50, 3)) @ np.random.default_rng(2).normal(size=(3, 8))
    table = (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)
    small = principal_components(table, 3)
    assert small.shape == (50, 3)
    np.testing.assert_allclose(small @ small.T, table @ table.T, atol=1e-4)
    with pytest.raises(InputError, match="1 to 8"):
        principal_components(table, 9)
