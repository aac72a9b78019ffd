"""Files that are complete or absent, and what must never be put in the place of something else."""

from __future__ import annotations

import os

import pytest

from tianwen.training.atomic import replace_file, write_file


def test_a_file_is_replaced_in_one_step_or_stays_as_it_was(tmp_path):
    path = tmp_path / "deep" / "file"
    write_file(path, b"one")

    def breaks(part):
        part.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(path, breaks)
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["file"]


def test_a_link_to_a_file_may_be_replaced(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_folder_or_a_pipe_is_left_alone(tmp_path, kind):
    path = tmp_path / "out"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(FileExistsError, match="not a file that can be replaced"):
        write_file(path, b"new")
    assert path.is_dir() if kind == "folder" else path.is_fifo()
    assert os.listdir(tmp_path) == ["out"]
