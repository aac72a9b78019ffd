"""Word tables: made of vectors, kept, found for a model, refused where they are others."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tianwen.cli import app
from tianwen.errors import InputError, ModelError
from tianwen.words import table as tables
from tianwen.words.table import FILE, WordTable, bundled_table, find_table, keep_table, table_from_vectors


def made(words=("月", "天问", "moon"), width=6, seed=0):
    rows = np.random.default_rng(seed).normal(size=(len(words), width)).astype(np.float32)
    return WordTable.of(words, rows / np.linalg.norm(rows, axis=1, keepdims=True)), rows


def text(file, words, seed=0, width=6):
    rows = np.random.default_rng(seed).normal(size=(len(words), width))
    file.write_text("\n".join(" ".join([w, *map(str, row)]) for w, row in zip(words, rows, strict=True)), "utf-8")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_table_comes_back_as_it_was(tmp_path):
    table, rows = made()
    table.save(tmp_path / FILE)
    again = WordTable.load(tmp_path / FILE)
    assert again.words == table.words
    assert again.width == 6
    assert again.fingerprint == WordTable(again.words, again.codes, again.scale).fingerprint == table.fingerprint
    assert torch.equal(again.vectors, table.vectors)
    np.testing.assert_allclose(table.vectors.float(), rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=0.01)


def test_other_words_or_vectors_have_another_fingerprint():
    prints = {made()[0].fingerprint, made(seed=1)[0].fingerprint, made(("月", "天問", "moon"))[0].fingerprint}
    assert len(prints) == 3
    table = made()[0]
    assert WordTable(table.words, table.codes, 2 * table.scale).fingerprint != table.fingerprint


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    made()[0].save(tmp_path / FILE)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[-2] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        WordTable.load(tmp_path / FILE)
    from tianwen.training.weights import save_weights

    save_weights(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {"architecture": "another"})
    with pytest.raises(ModelError, match="no word table"):
        WordTable.load(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="one each"):
        WordTable.of(["a", "a"], np.ones((2, 3), np.float32))


def test_files_are_read_in_turn_and_the_first_has_the_word(tmp_path):
    one = text(tmp_path / "one.txt", ["月", "moon", "夜"])
    two = text(tmp_path / "two.txt", ["the", "moon", "of", "a"], seed=1)
    table = table_from_vectors([tmp_path / "one.txt", tmp_path / "two.txt"], [3, 4])
    assert table.words == ["月", "the", "moon", "夜", "of", "a"]  # by rank, and by file
    np.testing.assert_allclose(table.vectors[2].float(), one[1], atol=0.01)
    np.testing.assert_allclose(table.vectors[4].float(), two[2], atol=0.01)
    assert table_from_vectors([tmp_path / "one.txt", tmp_path / "two.txt"], [1]).words == ["月", "the"]
    second_first = table_from_vectors([tmp_path / "two.txt", tmp_path / "one.txt"], [4, 3])
    moon = second_first.vectors[second_first.words.index("moon")].float()
    np.testing.assert_allclose(moon, two[1], atol=0.01)
    text(tmp_path / "wide.txt", ["x"], width=9)
    with pytest.raises(InputError, match="width"):
        table_from_vectors([tmp_path / "one.txt", tmp_path / "wide.txt"], [3])
    with pytest.raises(InputError, match="One number each"):
        table_from_vectors([tmp_path / "one.txt"], [3, 4])


def test_a_word_far_down_the_first_file_still_is_the_first_files(tmp_path):
    one = text(tmp_path / "one.txt", ["a", "b", "moon"])
    text(tmp_path / "two.txt", ["moon", "c"], seed=1)
    table = table_from_vectors([tmp_path / "one.txt", tmp_path / "two.txt"], [9])
    np.testing.assert_allclose(table.vectors[table.words.index("moon")].float(), one[2], atol=0.01)
    assert len(table.words) == 4


def test_a_model_finds_its_table_beside_it_or_among_what_is_bundled(tmp_path, monkeypatch):
    table, other = made()[0], made(seed=3)[0]
    keep_table(tmp_path, table)
    assert find_table(tmp_path, table.fingerprint).words == table.words
    before = (tmp_path / FILE).stat().st_mtime_ns
    keep_table(tmp_path, WordTable.load(tmp_path / FILE))
    assert (tmp_path / FILE).stat().st_mtime_ns == before
    with pytest.raises(ModelError, match=f"was trained with a word table \\({other.fingerprint}\\).*another"):
        find_table(tmp_path, other.fingerprint)
    other.save(tmp_path / "bundled.safetensors")
    monkeypatch.setattr(tables, "BUNDLED", tmp_path / "bundled.safetensors")
    assert find_table(tmp_path, other.fingerprint).fingerprint == other.fingerprint
    assert find_table(tmp_path / "empty", other.fingerprint).fingerprint == other.fingerprint
    keep_table(tmp_path, other)  # another training in the same folder
    assert WordTable.load(tmp_path / FILE).fingerprint == other.fingerprint


def test_the_bundled_table_has_both_languages_and_means_something():
    table = bundled_table()
    place = {word: row for row, word in enumerate(table.words)}

    def near(a, b):
        return float(table.vectors[place[a]].float() @ table.vectors[place[b]].float())

    assert near("口感", "味道") > 0.7 > 0.3 > near("口感", "导演")
    assert near("taste", "flavour") > 0.5 > 0.3 > near("taste", "director")
    np.testing.assert_allclose(table.vectors[::500].float().norm(dim=1), 1, atol=0.02)


def test_the_command_makes_a_table(tmp_path):
    text(tmp_path / "one.txt", ["月", "moon", "夜"])
    begin = ["train", "words", "--vectors", str(tmp_path / "one.txt"), "--out", str(tmp_path / "new" / FILE)]
    done = CliRunner().invoke(app, [*begin, "--most", "2", "--width", "4"])
    assert done.exit_code == 0, done.output
    assert WordTable.load(tmp_path / "new" / FILE).codes.shape == (2, 4)
    assert CliRunner().invoke(app, begin).exit_code == 2  # it is there
    assert CliRunner().invoke(app, [*begin, "--force"]).exit_code == 0
    assert len(WordTable.load(tmp_path / "new" / FILE).words) == 3
    (tmp_path / "bad.txt").write_text("not vectors")
    bad = CliRunner().invoke(app, ["train", "words", "--vectors", str(tmp_path / "bad.txt"), "--out", "x"])
    assert bad.exit_code == 1


@pytest.mark.parametrize("word", ["", "a\nb", "Cat", "Ａ", "a b", "月\ud800"])
def test_a_word_that_no_text_can_hold_is_refused(word):
    with pytest.raises(InputError, match="cannot be found in a text"):
        made(("月", word))


@pytest.mark.parametrize("rows", [np.ones((0, 4)), np.ones((1, 0)), np.ones(1), np.full((1, 2), np.nan), [[0.0, 1e5]]])
def test_vectors_that_are_none_are_refused(rows):
    rows = np.array(rows, np.float32)
    with pytest.raises(InputError, match="row of numbers"):
        WordTable.of(["月"][: len(rows)], rows)


@pytest.mark.parametrize(
    "other",
    [
        {"codes": None},
        {"words": torch.tensor([255], dtype=torch.uint8)},
        {"words": torch.tensor([97, 10, 98], dtype=torch.uint8)},
        {"scale": torch.ones(2)},
        {"codes": torch.ones(3, dtype=torch.int8)},
    ],
)
def test_a_file_that_only_says_that_it_is_a_table_is_refused(tmp_path, other):
    from tianwen.training.weights import save_weights

    table = made()[0]
    words = torch.frombuffer(bytearray("\n".join(table.words).encode()), dtype=torch.uint8)
    tensors = {"codes": table.codes, "scale": table.scale, "words": words} | other
    about = {"architecture": tables.ARCHITECTURE, "fingerprint": "0"}
    save_weights(tmp_path / FILE, {name: one for name, one in tensors.items() if one is not None}, about)
    with pytest.raises(ModelError, match="says that it is a word table"):
        WordTable.load(tmp_path / FILE)


def test_a_damaged_file_beside_a_model_does_not_keep_it_from_being_saved(tmp_path):
    (tmp_path / FILE).write_bytes(b"half a download")
    keep_table(tmp_path, made()[0])
    assert WordTable.load(tmp_path / FILE).words == made()[0].words


def test_models_of_a_process_share_a_table_until_its_file_is_another(tmp_path):
    table, other = made()[0], made(seed=3)[0]
    keep_table(tmp_path, table)
    one = find_table(tmp_path, table.fingerprint)
    assert find_table(tmp_path, table.fingerprint) is one
    assert copy.deepcopy(one) is one
    assert pickle.loads(pickle.dumps(one)).fingerprint == one.fingerprint
    keep_table(tmp_path, other)
    assert find_table(tmp_path, other.fingerprint).fingerprint == other.fingerprint
    (tmp_path / FILE).unlink()
    with pytest.raises(ModelError, match="word table"):
        find_table(tmp_path, other.fingerprint)
