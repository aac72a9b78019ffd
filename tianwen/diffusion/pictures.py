"""One picture file in, a square of bytes out: any size, rotation, transparency, palette, 16 bits, CMYK.

Post: 9152 (its pictures are faces, cropped to the middle and made 128 pixels wide)

Notation
    path -> uint8 [channels, side, side], channels 1 (gray) or 3 (red, green, blue)
    "crop": the middle square, nothing is distorted; "pad": the whole picture on white; "stretch": distorted to fit

What is done, in this order: a JPEG is decoded at a fraction of its size where that is enough; the rotation that a
camera wrote down is carried out; transparency is laid on white; 16 bits and CMYK become 8 bits of gray or RGB; of an
animation the first frame counts. Needs Pillow, the extra "draw".
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tianwen.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "pad", "stretch"]

MOST_PIXELS = 100_000_000
"""Most pixels that are decoded at once: 300 MB of RGB. Beyond, only a JPEG can be read, at a fraction of its size."""
LARGE = 12_000_000
"""Pictures with more pixels than this are decoded one at a time, however many threads read."""
MOST_SIDE = 4096
"""Largest side of what is read for a model."""

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")
"""What is looked for in a file, whatever its name. Formats that start other programs (EPS) are not among them."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""How to undo each orientation of EXIF (tag 0x0112)."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class PictureShape:
    """What every picture is made into. `gray` None: gray if every file of the folder is, else RGB."""

    side: int = 32
    gray: bool | None = None
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if not 1 <= self.side <= MOST_SIDE:
            raise InputError(f"side={self.side}: pictures are made into squares of 1 to {MOST_SIDE} pixels.")
        if self.fit not in ("crop", "pad", "stretch"):
            raise InputError(f"fit={self.fit!r}: a picture is made square by 'crop', 'pad' or 'stretch'.")


def pillow() -> Any:
    """The module PIL. Raises MissingExtra if it is not installed."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise MissingExtra("pillow", "draw") from error
    return PIL


def read_picture(path: str | Path, shape: PictureShape) -> np.ndarray:
    """The picture as uint8 [1 or 3, side, side]; gray if `shape.gray`, else RGB.

    Raises InputError naming the file and what is wrong with it: missing, no picture, truncated, too large to decode.
    """
    try:
        with reading():
            return pixels_of(Path(path), shape)
    except Unreadable as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


class Unreadable(Exception):
    """What is wrong with a picture file, in a few words."""


@contextmanager
def reading() -> Iterator[None]:
    """Within the block Pillow leaves the question of size to us, and its remarks on odd files are not shown.

    Both are settings of the whole process: threads that read belong inside one block.
    """
    image = pillow().Image
    before = image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            image.MAX_IMAGE_PIXELS = before


def is_gray(path: Path) -> bool:
    """True if the file's header says that it has no colours (also True of a file that cannot be read)."""
    try:
        with _opened(path) as image:
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except Exception:  # whatever is wrong shows when the picture is read
        return True


def pixels_of(path: Path, shape: PictureShape) -> np.ndarray:
    """Like `read_picture`, inside a `reading()` block. Raises Unreadable."""
    if not path.is_file():  # a pipe would wait for ever
        raise Unreadable("a broken link" if path.is_symlink() else "no such file" if not path.exists() else "no file")
    try:
        with _opened(path) as image:
            _draft(image, shape)
            if image.width * image.height <= LARGE:
                return _decoded(image, shape)
            with _one_at_a_time:
                return _decoded(image, shape)
    except Unreadable:
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise Unreadable(_in_words(error)) from error


def _opened(path: Path) -> Image:
    module = pillow().Image
    module.init()  # names its formats only then
    return module.open(path, formats=[name for name in FORMATS if name in module.OPEN])


def _draft(image: Image, shape: PictureShape) -> None:
    """Ask the decoder for a fraction of the size where it can do that (JPEG: down to an eighth); refuse the rest."""
    width, height = image.size
    scan_by_scan = bool(image.info.get("progressive") or image.info.get("progression"))
    if width * height > MOST_PIXELS and (image.format not in ("JPEG", "MPO") or scan_by_scan):
        raise Unreadable(
            f"{width} x {height} pixels, more than the {MOST_PIXELS // 10**6} million that are decoded at once; "
            "make it smaller, or save it as a baseline JPEG, which can be read at a fraction of its size"
        )
    least = 2 * shape.side  # twice what is needed: then the resampling is as good as from the whole
    scale = min(width, height) / least
    if scale > 1:
        image.draft(None, (int(width / scale), int(height / scale)))
    if image.width * image.height > MOST_PIXELS:
        raise Unreadable(f"{width} x {height} pixels, too many for a side of {shape.side}; make it smaller")


def _decoded(image: Image, shape: PictureShape) -> np.ndarray:
    image.load()
    square = _squared(_flattened(_eight_bits(image), gray=bool(shape.gray)), shape)
    pixels = np.asarray(_upright(square, image), dtype=np.uint8)  # [side, side] or [side, side, 3]
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image) -> Image:
    """Integers of 16 or 32 bits and floating-point numbers as 8 bits of gray; other modes as they are."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image).astype(np.float32)  # [height, width]
    if not np.isfinite(values).all():
        raise Unreadable("it holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    limits = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    top = next((limit for limit in limits if low >= 0 and high <= limit), None)
    if top is None:
        raise Unreadable(f"its values go from {low:g} to {high:g}; save it with 8 or 16 bits")
    return pillow().Image.fromarray((values * (255 / top) + 0.5).astype(np.uint8))


def _flattened(image: Image, *, gray: bool) -> Image:
    """Mode L or RGB, transparency laid on white."""
    module = pillow().Image
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = module.new("RGBA", image.size, (255, 255, 255, 255))
        image = module.alpha_composite(white, image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if gray else "RGB")


def _upright(image: Image, original: Image) -> Image:
    """`image` turned as the original file's note of the camera says, as far as that can be read."""
    try:
        orientation = original.getexif().get(0x0112, 1)
    except Exception:  # a damaged note on a whole picture
        return image
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(pillow().Image.Transpose[turn])


def _squared(image: Image, shape: PictureShape) -> Image:
    """Resampled to side x side; large pictures are first averaged in whole blocks, which is quick."""
    side, ops, best = (shape.side, shape.side), pillow().ImageOps, pillow().Image.Resampling.LANCZOS
    if (factor := min(image.size) // (3 * shape.side)) > 1:
        image = image.reduce(factor)
    match shape.fit:
        case "crop":
            return ops.fit(image, side, method=best)
        case "pad":
            return ops.pad(image, side, method=best, color="white")
        case "stretch":
            return image.resize(side, resample=best)


def _in_words(error: Exception) -> str:
    """A decoder's error as a reason for people."""
    text = str(error)
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture that Pillow can read"
    if "truncated" in text or "Truncated" in text:
        return "truncated: its end is missing"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"damaged ({text or type(error).__name__})"
