"""Text files to ids: documents, encodings, what is held out, and the windows of a batch."""

from __future__ import annotations

import gzip
import io
import lzma
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.write.characters import START, Characters
from tianwen.write.text_files import Text, in_windows, read_text, read_texts, windows

ABC = Characters.count(["abc"])


def write(path, text: str | bytes):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def documents(file, kind) -> list[str]:
    """What `read_texts` finds in one file, as texts."""
    text = read_texts([file], documents=kind, held_out=0)
    parts = np.split(text.train, np.flatnonzero(text.train == START))
    assert not len(parts[0])  # every file begins a document
    return [text.characters.decode(part) for part in parts[1:]]


def test_a_document_is_a_file_a_paragraph_or_a_line(tmp_path):
    file = write(tmp_path / "a.txt", "one\ntwo\n \n\n  three\n\n")
    assert documents(file, "file") == ["one\ntwo\n \n\n  three\n"]
    assert documents(file, "blank") == ["one\ntwo", "  three"]
    assert documents(write(file, "\none\n\ntwo\n"), "line") == ["one", "two"]


@settings(max_examples=30)
@given(st.lists(st.text("ab 天\n\t", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=5))
def test_paragraphs_come_back_one_by_one(tmp_path_factory, parts):
    parts = ["\n".join(line for line in part.splitlines() if line.strip()) for part in parts]
    file = write(tmp_path_factory.mktemp("paragraphs") / "a.txt", " \n\n".join(parts))
    assert [" ".join(d.split()) for d in documents(file, "blank")] == [" ".join(part.split()) for part in parts]


def test_several_files_are_several_documents(tmp_path):
    files = [write(tmp_path / name, name) for name in "ab"]
    text = read_texts(files)
    assert text.characters.decode(text.train) == "a\nb\n"
    assert (text.train == START).tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize(("ending", "opened"), [(".gz", gzip.open), (".xz", lzma.open), (".txt", open)])
def test_compressed_files_are_read(tmp_path, ending, opened):
    file = tmp_path / f"a{ending}"
    with opened(file, "wb") as stream:
        stream.write("\ufeff天问\r\n二\r三".encode())
    assert read_text(file) == ("天问\n二\n三", 0)


def test_stdin_is_a_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("天".encode())))
    assert read_text("-") == ("天", 0)


def test_a_few_broken_bytes_are_counted_many_are_refused(tmp_path):
    file = write(tmp_path / "a.txt", b"\xff" + "天\x00\ufffd".encode() + b"x" * 30)
    assert read_text(file) == ("\ufffd天\x00\ufffd" + "x" * 30, 1)
    assert read_texts([file]).broken == 1
    with pytest.raises(InputError, match="iconv"):
        read_text(write(file, "天问是中国古代的一首长诗".encode("gb18030")))


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="no text"):
        read_texts([write(tmp_path / "a.txt", content)])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_even_where_all_but_its_mark_could_be_utf_8(tmp_path, encoding):
    with pytest.raises(InputError, match="iconv -f utf-16"):
        read_text(write(tmp_path / "a.txt", ("\ufeff" + "hello world " * 50).encode(encoding)))


def test_a_damaged_middle_of_a_gz_is_told(tmp_path):
    whole = bytearray(gzip.compress(np.random.default_rng(0).bytes(3000).hex().encode()))
    whole[100:103] = bytes(255 - byte for byte in whole[100:103])  # Huffman codes, not only the checksum
    with pytest.raises(InputError, match="damaged"):
        read_text(write(tmp_path / "a.gz", bytes(whole)))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        read_text(write(tmp_path / "a.xz", lzma.compress(b"x" * 999)[:40]))
    with pytest.raises(InputError, match="at least one"):
        read_texts([])


def test_the_end_is_held_out_if_it_is_long_enough(tmp_path):
    file = write(tmp_path / "a.txt", "abcde" * 200)
    text = read_texts([file], shortest=50)
    assert len(text.held_out) == 50
    assert text.characters.decode(np.concatenate([text.train, text.held_out])) == "abcde" * 200 + "\n"
    assert not len(read_texts([file], shortest=51).held_out)


def test_targets_are_the_ids_one_place_further(tmp_path):
    ids = np.arange(50, dtype=np.uint16)
    batch = windows(ids, np.array([0, 40]), 9)
    assert batch["ids"].tolist() == [[*range(9)], [*range(40, 49)]]
    assert batch["targets"].tolist() == [[*range(1, 10)], [*range(41, 50)]]


def test_batches_follow_from_their_index_and_are_shared_by_processes():
    text = Text(np.arange(1000, dtype=np.uint16) % 300, np.array([]), ABC)
    source = in_windows(text, length=20, batch=5, seed=1)
    whole = source.batch(3, 0, 1)["ids"]
    assert whole.tolist() == source.batch(3, 0, 1)["ids"].tolist()
    parts = [source.batch(3, rank, 2)["ids"] for rank in range(2)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())
    assert whole.tolist() != source.batch(4, 0, 1)["ids"].tolist()
    assert source.batch(0, 5, 6) is None  # nothing is left for the sixth process
    other = Text(text.train + np.uint16(1), text.held_out, text.characters)
    assert source.describe() != in_windows(other, length=20, batch=5, seed=1).describe()


def test_a_text_shorter_than_the_window_is_used_whole():
    text = Text(np.arange(8, dtype=np.uint16), np.array([]), ABC)
    seen = {
        row for i in range(9) for row in in_windows(text, length=20, batch=1, seed=0).batch(i, 0, 1)["ids"][0].tolist()
    }
    assert seen == set(range(7))
    with pytest.raises(InputError, match="single character"):
        in_windows(Text(text.train[:1], text.held_out, text.characters), length=20, batch=1, seed=0)
