"""Pages of pictures: bytes, places, PNG and GIF that other programs read."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from tianwen.diffusion.grid_images import from_bytes, page, page_size, png_bytes, to_bytes, write_gif, write_png
from tianwen.errors import InputError


def numbered(count: int, channels: int = 1) -> np.ndarray:
    """Pictures of one value each, 2 x 3."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(channels, 1).repeat(2, 2).repeat(3, 3)


def test_bytes_and_back():
    x = torch.tensor([-1.0, -2.0, 0.0, 1.0, 9.0, float("nan")]).view(1, 1, 2, 3)
    pixels = to_bytes(x)
    assert pixels.ravel().tolist() == [0, 0, 128, 255, 255, 128]
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(to_bytes(from_bytes(every)), every)


def test_pictures_lie_row_by_row():
    out = page(numbered(5, 3), columns=2, gap=1)
    assert out.shape == (3, 3 * 3 + 1, 2 * 4 + 1)
    assert [int(out[0, 1 + 3 * row, 1 + 4 * column]) for row in range(3) for column in range(2)] == [0, 1, 2, 3, 4, 255]
    assert set(np.unique(out[:, 0])) == {255}
    assert page(numbered(5)).shape == page(numbered(5), columns=3).shape
    zoomed = page(numbered(2), columns=2, zoom=3, gap=0)
    assert zoomed.shape == (1, 6, 18)
    assert (zoomed[:, :, 9:] == 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_read_by_others(tmp_path, channels):
    Image = pytest.importorskip("PIL.Image", reason="comparison with Pillow")
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    write_png(tmp_path / "new" / "a.png", pixels)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.mode == {1: "L", 3: "RGB"}[channels]
        assert np.array_equal(np.asarray(image).reshape(5, 7, channels).transpose(2, 0, 1), pixels)


def test_a_gif_has_every_page(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="writing a GIF needs Pillow")
    pages = [np.full((1, 6, 6), value, np.uint8) for value in (0, 90, 255)]
    write_gif(tmp_path / "a.gif", pages)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
        image.seek(2)
        assert np.asarray(image.convert("L")).min() > 250
    with pytest.raises(InputError, match="at least one page"):
        write_gif(tmp_path / "a.gif", [])


@pytest.mark.parametrize(
    "options", [{"zoom": 0}, {"columns": 0}, {"gap": -1}, {"zoom": 20_000}, {"pixels": numbered(0)}]
)
def test_pages_that_cannot_be(options):
    with pytest.raises(InputError):
        page(**{"pixels": numbered(2), **options})


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(InputError, match="is a folder: name a file"):
        write_png(tmp_path, numbered(1)[0])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_png(tmp_path / "file" / "a.png", numbered(1)[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX")
def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """A rename onto /dev/null would put a file in the place of the device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    pixels = np.zeros((1, 2, 2), np.uint8)
    write_png(pipe, pixels)
    assert os.read(reader, 10_000) == png_bytes(pixels)
    os.close(reader)
    assert pipe.is_fifo()


def test_the_size_of_a_page_is_known_before_it_is_drawn():
    pixels = np.zeros((7, 3, 4, 5), np.uint8)
    for options in ({}, {"columns": 3}, {"zoom": 2, "gap": 0}, {"columns": 99}):
        assert page_size(7, (3, 4, 5), **options) == page(pixels, **options).shape
    with pytest.raises(InputError, match="too large a page"):
        page_size(10**7, (3, 32, 32))
