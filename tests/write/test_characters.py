"""Characters to ids and back: nothing is lost, whatever the vocabulary lacks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError, ModelError
from tianwen.write.characters import FIRST_BYTE, LINE_END, PAD, START, Characters, blocks

SMALL = Characters.count(["hello, World\n天问"], size=300)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_a_text_comes_back_as_it_was(text):
    assert SMALL.decode(SMALL.ids(text)) == text


@given(TEXT, st.integers(0, 6))
def test_ids_of_a_text_are_those_of_its_parts(text, cut):
    whole = np.concatenate([SMALL.ids(text[:cut]), SMALL.ids(text[cut:])])
    assert SMALL.ids(text).tolist() == whole.tolist()


@given(st.binary(max_size=20))
def test_any_bytes_have_ids(content):
    ids = SMALL.ids(content.decode("utf-8", "surrogateescape"))
    assert ids.min(initial=FIRST_BYTE) >= FIRST_BYTE
    assert SMALL.decode(ids) == content.decode("utf-8", "replace")


def test_lone_surrogates_are_spelt_and_read_as_replacement_characters():
    ids = SMALL.ids("h\ud800e\udc80")
    assert len(ids) == 1 + 3 + 1 + 1
    assert "\ufffd" in SMALL.decode(ids)
    assert SMALL.decode(ids)[0] == "h"


def test_rare_characters_are_bytes_and_frequent_ones_are_not():
    characters = Characters.count(["aaabbc"], size=LINE_END + 3)
    assert characters.characters == ["\n", "a", "b"]
    assert characters.ids("ab\n").tolist() == [LINE_END + 1, LINE_END + 2, LINE_END]
    assert characters.ids("c").tolist() == [FIRST_BYTE + ord("c")]


def test_a_character_in_bytes_appears_with_its_last_byte():
    decoder = SMALL.decoder()
    assert [decoder.push(FIRST_BYTE + byte) for byte in "é".encode()] == ["", "é"]
    assert decoder.push(FIRST_BYTE + 0xE5) == ""
    assert decoder.push(int(SMALL.ids("h")[0])) == "\ufffdh"  # a model broke off in the middle
    assert decoder.end() == ""
    assert SMALL.decode([PAD, START]) == ""


def test_counting_takes_blocks_and_ignores_surrogates():
    assert Characters.count(["ab", "b\ud800"]).characters == ["\n", "b", "a"]
    with pytest.raises(InputError, match="put it in a list"):
        Characters.count("text")
    with pytest.raises(InputError, match="size is 5"):
        Characters.count(["a"], size=5)
    with pytest.raises(InputError, match="id 99999"):
        SMALL.decode([99999])


def test_it_is_saved_and_loaded(tmp_path):
    SMALL.save(tmp_path / "c.json")
    again = Characters.load(tmp_path / "c.json")
    assert (again.characters, again.fingerprint) == (SMALL.characters, SMALL.fingerprint)


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "c.json"
    with pytest.raises(ModelError, match="cannot be read"):
        Characters.load(file)
    SMALL.save(file)
    content = file.read_text()
    for broken in (content[:-9], content.replace("W", "V"), "[]", json.dumps({"format": "x"}), "\x00"):
        file.write_text(broken)
        with pytest.raises(ModelError):
            Characters.load(file)


def test_a_long_text_is_counted_in_blocks():
    text = "ab" * 5 + "天" * 3
    assert list(blocks(text, size=4)) == ["abab", "abab", "ab天天", "天"]
    assert Characters.count(["a" * (1 << 20) + "bb", "b"]).characters == ["\n", "a", "b"]
