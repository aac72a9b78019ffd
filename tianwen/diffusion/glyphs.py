"""Pictures of characters, drawn from fonts: a folder to train on where there are no pictures at hand.

Post: 9152

    python -m tianwen.diffusion.glyphs FONT_OR_FOLDER... --out glyphs --each 16 --side 32

Each character becomes a subfolder, so it is a label. Every picture is one font's character, black on white, turned,
sized and moved a little by random numbers that follow from the seed, the font and the character alone. Needs Pillow.

Notation
    drawn at OVERSAMPLE * side, then averaged down to side x side; height of a character: 0.6 to 0.85 of the side
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.diffusion.pictures import pillow
from tianwen.errors import InputError
from tianwen.training.randomness import seed_from

DIGITS = "0123456789"
OVERSAMPLE = 4
TURN = 8.0
"""Most degrees to either side."""


def find_fonts(places: Sequence[str | Path]) -> list[Path]:
    """The font files (.ttf, .otf) among `places` and in the folders there, by name. InputError if there are none."""
    found: set[Path] = set()
    for place in map(Path, places):
        inside = [path for path in place.rglob("*") if path.suffix.lower() in (".ttf", ".otf")]
        found |= set(inside) if place.is_dir() else {place}
    if not found:
        raise InputError(f"No fonts (.ttf, .otf) in {', '.join(map(str, places)) or 'no folder at all'}.")
    return sorted(found, key=lambda path: path.name)


def draw_glyph(font: Any, character: str, side: int, random: np.random.Generator) -> np.ndarray:
    """One picture: uint8 [side, side]. `font`: Pillow's, of any size; `random` says how it is turned and placed."""
    from PIL import Image, ImageDraw

    large = OVERSAMPLE * side
    left, top, right, bottom = font.getbbox(character)
    tall = large * random.uniform(0.6, 0.85)
    fitting = font.font_variant(size=max(1, round(font.size * tall / max(1, bottom - top, (right - left) * 0.8))))
    angle = float(random.uniform(-TURN, TURN))
    shift = random.uniform(-0.04, 0.04, 2) * large
    canvas = Image.new("L", (large, large), 255)
    place = (large / 2 + float(shift[0]), large / 2 + float(shift[1]))
    left, top, right, bottom = fitting.getbbox(character)  # in the middle by its ink, not by its line
    corner = (place[0] - (left + right) / 2, place[1] - (top + bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, character, fill=0, font=fitting)
    turned = canvas.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=255)
    return np.asarray(turned.resize((side, side), Image.Resampling.BOX), dtype=np.uint8)


def glyph_pictures(
    fonts: Sequence[str | Path], characters: str = DIGITS, *, each: int = 16, side: int = 32, seed: int = 0
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(character, name of the picture, uint8 [side, side]), `each` of every font and character.

    Raises InputError for a file that is no font; fonts that do not have all the characters are the caller's care.
    """
    pillow()
    from PIL import ImageFont

    for path in fonts:
        try:
            font = ImageFont.truetype(str(path), size=OVERSAMPLE * side)
        except OSError as error:
            raise InputError(f"{str(path)!r} is no font that can be read: {error}.") from error
        for character in characters:
            random = np.random.default_rng(seed_from("glyph", seed, Path(path).name, character))
            for number in range(each):
                name = f"{Path(path).stem}-{number:03}"
                yield character, name, draw_glyph(font, character, side, random)


def main() -> None:
    """The command in the head of this file."""
    from tianwen.diffusion.grid_images import png_bytes

    parser = argparse.ArgumentParser(description="Pictures of characters from fonts, a subfolder for each character.")
    parser.add_argument("fonts", nargs="+", help="font files, or folders with them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--characters", default=DIGITS)
    parser.add_argument("--each", type=int, default=16, help="pictures of every font and character")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    fonts = find_fonts(given.fonts)
    options = {"each": given.each, "side": given.side, "seed": given.seed}
    count = 0
    for character, name, pixels in glyph_pictures(fonts, given.characters, **options):
        (given.out / character).mkdir(parents=True, exist_ok=True)
        (given.out / character / f"{name}.png").write_bytes(png_bytes(pixels[None]))
        count += 1
    print(f"{count:,} pictures of {len(given.characters)} characters from {len(fonts)} fonts in {given.out}")


if __name__ == "__main__":
    main()
