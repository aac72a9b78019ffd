"""Pictures of characters: centred, varied, and the same for the same seed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tianwen.diffusion.glyphs import draw_glyph, find_fonts, glyph_pictures
from tianwen.errors import InputError

ImageFont = pytest.importorskip("PIL.ImageFont", reason="drawing characters needs Pillow")


def test_a_glyph_is_black_on_white_and_about_in_the_middle():
    font = ImageFont.load_default(size=96)  # Pillow's own, where it was built with FreeType
    pictures = [draw_glyph(font, "8", 24, np.random.default_rng(seed)) for seed in range(5)]
    for pixels in pictures:
        assert pixels.shape == (24, 24)
        assert pixels.min() < 60
        assert pixels[[0, -1]].min() > 200
        rows, columns = np.nonzero(pixels < 128)
        assert abs(rows.mean() - 11.5) < 3
        assert abs(columns.mean() - 11.5) < 3
    assert len({pixels.tobytes() for pixels in pictures}) == 5
    assert np.array_equal(pictures[2], draw_glyph(font, "8", 24, np.random.default_rng(2)))


def test_no_fonts(tmp_path):
    with pytest.raises(InputError, match="No fonts"):
        find_fonts([tmp_path])
    (tmp_path / "a.ttf").write_bytes(b"no font")
    assert find_fonts([tmp_path]) == [tmp_path / "a.ttf"]
    with pytest.raises(InputError, match="no font that can be read"):
        next(glyph_pictures([tmp_path / "a.ttf"]))


def test_the_command_writes_a_folder_per_character(tmp_path):
    fonts = [path for path in map(find_fonts_of_the_system, ["/usr/share/fonts"]) if path]
    if not fonts:
        pytest.skip("there are no fonts on this machine")
    out = tmp_path / "glyphs"
    command = [sys.executable, "-m", "tianwen.diffusion.glyphs", *fonts, "--out", out, "--each", "2", "--side", "16"]
    done = subprocess.run([*command, "--characters", "17"], capture_output=True, text=True, timeout=300)
    assert "4 pictures of 2 characters from 1 fonts" in done.stdout, done.stderr
    assert sorted(path.parent.name for path in out.glob("*/*.png")) == ["1", "1", "7", "7"]


def find_fonts_of_the_system(place: str):
    """One font that has digits, or None."""
    try:
        return next((path for path in find_fonts([place]) if "Sans" in path.name), None)
    except InputError:
        return None
