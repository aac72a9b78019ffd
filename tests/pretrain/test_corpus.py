"""From files to a tokenised corpus: what is read, what is left out, when it is made anew."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError, ModelError
from tianwen.pretrain.corpus import Corpus
from tianwen.pretrain.lines import Counts, read_lines
from tianwen.pretrain.sequences import cut_passages, gather, split_spans
from tianwen.pretrain.tokenising import corpus_of

TEXT = ["长征五号在文昌发射。", "", "火箭 rocket", "Ares I-X 于2009年发射"]


def written(folder: Path, name: str = "text.txt", lines: list[str] | None = None) -> Path:
    path = folder / name
    path.write_text("\n".join(TEXT if lines is None else lines) + "\n", encoding="utf-8")
    return path


def made(folder: Path, *files: Path, **options: object) -> Corpus:
    return corpus_of(files, folder / "corpus", vocabulary="400", words="characters", **options)  # type: ignore[arg-type]


def passages(corpus: Corpus) -> list[str]:
    begins = [0, *corpus.ends[:-1].tolist()]
    assert (corpus.ids[corpus.ends - 1] == corpus.tokenizer.sep_id).all()
    return [corpus.tokenizer.decode(corpus.ids[a : b - 1]) for a, b in zip(begins, corpus.ends.tolist(), strict=True)]


def test_passages_come_back_in_order(tmp_path):
    corpus = made(tmp_path, written(tmp_path), written(tmp_path, "more.txt", ["再见"]))
    known = corpus.tokenizer
    assert passages(corpus) == [known.decode(known.ids(t)) for t in [TEXT[0], *TEXT[2:], "再见"]]
    assert [(s.name, s.first, s.last) for s in corpus.sources] == [("text", 0, 3), ("more", 3, 4)]
    assert sum(source.tokens for source in corpus.sources) == len(corpus.ids) == len(corpus.starts)


def test_several_processes_write_the_same_bytes(tmp_path):
    file = written(tmp_path, lines=[f"第{i}枚火箭 launched {i * 7919} times" for i in range(1500)])
    alone = corpus_of([file], tmp_path / "a", vocabulary="400", words="characters")
    both = corpus_of([file], tmp_path / "b", vocabulary="400", words="characters", workers=2)
    assert alone.checksum == both.checksum
    for name in ("ids.bin", "starts.bin", "ends.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_kinds_of_files(tmp_path):
    plain = written(tmp_path)
    (tmp_path / "packed.txt.xz").write_bytes(lzma.compress(plain.read_bytes()))
    rows = [json.dumps({"text": TEXT[0]}), json.dumps("火箭&nbsp;rocket"), "{broken", json.dumps({"other": 1}), "7"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert list(read_lines(plain, Counts())) == list(read_lines(tmp_path / "packed.txt.xz", Counts()))
    counts = Counts()
    assert list(read_lines(tmp_path / "rows.jsonl", counts)) == [TEXT[0], "火箭 rocket"]
    assert (counts.passages, counts.broken) == (2, 3)


def test_broken_lines_are_counted_and_the_rest_is_read(tmp_path):
    path = tmp_path / "broken.txt"
    path.write_bytes("\ufeff好\n".encode() + "坏".encode("gb18030") + b"\n\xff\n" + "末".encode())
    corpus = made(tmp_path, path)
    assert passages(corpus) == ["好", "末"]
    assert corpus.broken == 2


def test_nothing_but_another_encoding_is_refused_with_a_count(tmp_path):
    (tmp_path / "gb.txt").write_bytes("长征\n火箭\n".encode("gb18030"))
    with pytest.raises(InputError, match="2 lines are not UTF-8"):
        made(tmp_path, tmp_path / "gb.txt")
    assert not (tmp_path / "corpus").exists()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt cannot be read"):
        made(tmp_path, tmp_path / "nowhere.txt")
    (tmp_path / "cut.txt.xz").write_bytes(lzma.compress(b"a\n" * 10_000)[:-30])
    with pytest.raises(InputError, match=r"cut\.txt\.xz is damaged"):
        made(tmp_path, tmp_path / "cut.txt.xz")
    with pytest.raises(InputError, match="at least one file"):
        made(tmp_path)


def test_it_is_made_once_and_anew_when_something_differs(tmp_path):
    file = written(tmp_path)
    first = made(tmp_path, file)
    inode = (tmp_path / "corpus" / "ids.bin").stat().st_ino
    assert made(tmp_path, file).checksum == first.checksum
    assert (tmp_path / "corpus" / "ids.bin").stat().st_ino == inode
    again = corpus_of([file], tmp_path / "corpus", vocabulary=first.tokenizer, words="characters")
    assert (tmp_path / "corpus" / "ids.bin").stat().st_ino == inode, "the vocabulary is the one counted before"
    assert again.checksum == first.checksum
    written(tmp_path, lines=["别的"])
    assert made(tmp_path, file).checksum != first.checksum
    assert made(tmp_path, file).sources[0].last == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    gone, other = tmp_path / ".writing-999999999-corpus", tmp_path / ".writing-999999999-thesis"
    for folder in (gone, other):
        folder.mkdir()
        (folder / "ids.bin").write_bytes(b"half")
    made(tmp_path, written(tmp_path))
    assert not gone.exists()
    assert other.exists()


def test_a_folder_of_something_else_is_not_removed(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.tex, which is no part"):
        made(tmp_path, written(tmp_path))
    assert (tmp_path / "corpus" / "thesis.tex").exists()


def test_a_cut_file_of_the_corpus_is_seen(tmp_path):
    file = written(tmp_path)
    made(tmp_path, file)
    ids = tmp_path / "corpus" / "ids.bin"
    ids.write_bytes(ids.read_bytes()[:-2])
    with pytest.raises(ModelError, match=r"ids\.bin has .* bytes"):
        made(tmp_path, file)


def slow_sequences(ends: list[int], begin: int, length: int) -> list[tuple[int, int]]:
    """Token by token: whole passages while they fit, else a full part."""
    spans, at = [], begin
    while at < ends[-1]:
        fitting = [end for end in ends if at < end <= at + length - 1]
        stop = fitting[-1] if fitting else at + length - 2
        if (stop - 1 if fitting else stop) > at:
            spans.append((at, stop - 1 if fitting else stop))
        at = stop
    return spans


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(0, 5), st.integers(16, 40))
def test_sequences_are_whole_passages_or_parts_of_long_ones(sizes, begin, length):
    ends = (begin + np.cumsum(sizes)).astype(np.int64)
    spans = cut_passages(ends, begin=begin, length=length)
    assert [tuple(span) for span in spans.tolist()] == slow_sequences(ends.tolist(), begin, length)
    covered = np.zeros(ends[-1], int)
    for a, b in spans.tolist():
        assert 0 < b - a <= length - 2
        covered[a:b] += 1
    assert (covered[begin:] <= 1).all()
    assert set(np.flatnonzero(covered[begin:] == 0) + begin) <= set((ends - 1).tolist())  # only [SEP]s are left out


def test_a_pack_reads_its_sequences(tmp_path):
    lines = [f"第{i}枚" + "箭" * (i % 40) for i in range(60)]
    corpus = made(tmp_path, written(tmp_path, lines=lines))
    spans = split_spans(corpus, length=24, held_out=2)
    pack, starts = gather(corpus, spans.train[:9])
    known = corpus.tokenizer
    assert len(pack.ids) % 128 == 0
    for index, ids in list(pack.split(pack.ids))[:9]:
        a, b = spans.train[index]
        assert ids.tolist() == [known.cls_id, *corpus.ids[a:b].tolist(), known.sep_id]
    first = pack.starts.numpy()[:9]
    assert starts[first].all()
    assert starts[first + 1].all()
    assert pack.positions[pack.starts].tolist() == [0] * 10  # the last one fills the pack up
    assert sorted(pack.lengths[:9]) == pack.lengths[:9]
    assert len(starts) == sum(pack.lengths[:9])


def test_what_is_held_out_is_not_learnt_from(tmp_path):
    corpus = made(tmp_path, written(tmp_path, lines=[f"第{i}枚火箭" for i in range(400)]))
    spans = split_spans(corpus, length=16, held_out=10)
    kept = spans.held_out["text"]
    assert len(kept) == 10
    assert not {tuple(s) for s in kept.tolist()} & {tuple(s) for s in spans.train.tolist()}
    assert kept[-1, 0] > corpus.ends[-1] * 0.8  # spread over the file
    with pytest.raises(InputError, match="at least 16 tokens"):
        split_spans(corpus, length=8, held_out=1)
