"""A folder of pictures is read once, kept whole or not at all, and read anew when it changes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tianwen.diffusion import picture_cache
from tianwen.diffusion.picture_cache import open_pictures, pictures_of
from tianwen.diffusion.pictures import PictureShape
from tianwen.errors import InputError

Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")

SHAPE = PictureShape(8)


def paint(folder: Path, names: dict[str, int], mode: str = "L") -> None:
    """Pictures of one brightness each."""
    for name, brightness in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (9, 9), brightness if mode == "L" else (brightness,) * 3).save(folder / name)


def test_pixels_labels_and_report(tmp_path):
    paint(tmp_path / "p", {"b/2.png": 20, "a/1.png": 10, "a/3.png": 30})
    (tmp_path / "p/a/bad.jpg").write_bytes(b"no picture")
    (tmp_path / "p/note.txt").touch()
    found = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    assert (found.pixels.dtype, found.pixels.shape) == (np.uint8, (3, 1, 8, 8))
    assert found.pixels[:, 0, 0, 0].tolist() == [10, 30, 20], "in the order of their names"
    assert found.labels.tolist() == [0, 0, 1]
    assert found.label_names == ("a", "b")
    assert found.report.labels == {"a": 2, "b": 1}
    assert found.report.unreadable == [("a/bad.jpg", "not a picture that Pillow can read")]
    assert found.report.other == 1
    assert isinstance(found.pixels, np.memmap)


def test_a_picture_at_the_top_means_no_labels(tmp_path):
    paint(tmp_path / "p", {"b/2.png": 20, "1.png": 10})
    found = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    assert found.label_names == ()
    assert found.labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("mode", "gray", "channels"), [("L", None, 1), ("RGB", None, 3), ("RGB", True, 1), ("L", False, 3)]
)
def test_gray_or_colour(tmp_path, mode, gray, channels):
    paint(tmp_path / "p", {"1.png": 10, "2.png": 20}, mode)
    found = open_pictures(tmp_path / "p", tmp_path / "cache", PictureShape(8, gray))
    assert found.pixels.shape == (2, channels, 8, 8)


def test_one_colour_picture_makes_a_colour_folder(tmp_path):
    paint(tmp_path / "p", {"1.png": 10, "2.png": 20})
    paint(tmp_path / "p", {"3.png": 10}, "RGB")
    assert open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE).pixels.shape == (3, 3, 8, 8)


def test_nothing_is_read_twice_until_something_changes(tmp_path, monkeypatch):
    paint(tmp_path / "p", {"1.png": 10, "2.png": 20})
    reads: list[Path] = []
    pixels_of = picture_cache.pixels_of
    monkeypatch.setattr(picture_cache, "pixels_of", lambda path, shape: (reads.append(path), pixels_of(path, shape))[1])
    first = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    again = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    assert len(reads) == 2
    assert first.digest == again.digest
    paint(tmp_path / "p", {"2.png": 99})
    changed = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    assert len(reads) == 4
    assert changed.pixels[1].max() == 99
    assert changed.digest != first.digest
    open_pictures(tmp_path / "p", tmp_path / "cache", PictureShape(4))
    assert len(reads) == 6, "another size is another cache"


def test_the_digest_is_that_of_the_pictures_and_not_of_their_times(tmp_path):
    paint(tmp_path / "p", {"1.png": 10, "2.png": 20})
    first = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    os.utime(tmp_path / "p/1.png", ns=(1, 1))
    (tmp_path / "p/2.png").rename(tmp_path / "p/3.png")
    assert open_pictures(tmp_path / "p", tmp_path / "other", SHAPE).digest == first.digest
    assert first.digest == pictures_of(np.array(first.pixels)).digest


@pytest.mark.parametrize("file", ["pixels.bin", "labels.bin", "about.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_cache_is_made_anew(tmp_path, file, damage):
    paint(tmp_path / "p", {"a/1.png": 10, "b/2.png": 20})
    first = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    digest = first.digest
    (path,) = (tmp_path / "cache").glob(f"*/{file}")
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if damage == "flip" else bytes(content)[: len(content) // 2])
    found = open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    assert found.digest == digest
    assert found.pixels[:, 0, 0, 0].tolist() == [10, 20]


def test_a_folder_where_nothing_can_be_read(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/x.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"None of the 1 pictures .* the first, 'x.png': not a picture"):
        open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)
    assert not list((tmp_path / "cache").glob("*/about.json"))


def test_a_cache_that_cannot_be_written(tmp_path):
    paint(tmp_path / "p", {"1.png": 10})
    (tmp_path / "cache").touch()
    with pytest.raises(InputError, match="could not be kept in"):
        open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)


WRITERS = """
import os, signal, sys, time
from pathlib import Path
from tianwen.diffusion import picture_cache
from tianwen.diffusion.pictures import PictureShape

folder, cache = sys.argv[1:]
pixels_of = picture_cache.pixels_of
reads = 0

def slow(path, shape):
    global reads
    reads += 1
    time.sleep(0.01)
    return pixels_of(path, shape)

picture_cache.pixels_of, picture_cache.THREADS = slow, 1

def writer():  # one import of everything, then forks: no thread has been started yet
    child = os.fork()
    if child:
        return child
    digest = picture_cache.open_pictures(folder, cache, PictureShape(8)).digest
    os.write(1, f"done {digest} {reads}\\n".encode())  # at once: another process writes too
    os._exit(0)

killed = writer()
while not list(Path(cache).glob(".writing-*/pixels.bin")):
    time.sleep(0.005)
os.kill(killed, signal.SIGKILL)
os.waitpid(killed, 0)
print("killed", len(list(Path(cache).glob(".writing-*"))), flush=True)
for child in [writer(), writer()]:
    print("exit", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")
def test_a_writer_that_is_killed_and_two_at_once(tmp_path):
    paint(tmp_path / "p", {f"{i:02}.png": i for i in range(40)})
    whole = open_pictures(tmp_path / "p", tmp_path / "other", SHAPE).digest
    command = [sys.executable, "-c", WRITERS, tmp_path / "p", tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"done {whole} 0",  # the second waits and reads nothing
        f"done {whole} 40",
        "exit 0",
        "exit 0",
        "killed 1",
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 2, "the cache and its lock; nothing is left of the killed one"


def test_many_pictures_are_read_quickly(tmp_path):
    paint(tmp_path / "p", {f"{i}.png": i % 256 for i in range(300)})
    before = time.process_time()
    assert len(open_pictures(tmp_path / "p", tmp_path / "cache", SHAPE)) == 300
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("pixels", "labels", "names"),
    [
        (np.zeros((2, 1, 4, 4)), None, ()),
        (np.zeros((2, 4, 4), np.uint8), None, ()),
        (np.zeros((0, 1, 4, 4), np.uint8), None, ()),
        (np.zeros((2, 1, 4, 4), np.uint8), np.array([0]), ("a",)),
        (np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1]), ("a",)),
        (np.zeros((2, 1, 4, 4), np.uint8), np.array([0, -1]), ("a",)),
    ],
)
def test_arrays_that_are_no_pictures(pixels, labels, names):
    with pytest.raises(InputError, match=r"Pictures are uint8|give one label"):
        pictures_of(pixels, labels, names)
