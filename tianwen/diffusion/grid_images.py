"""Pictures out: a grid of them as one PNG, the way from noise to picture as a GIF.

Post: 9152, 9181 (both show their results so)

Notation
    x       [pictures, channels, height, width] floating point, -1 black, 1 white; what is beyond is clipped
    pixels  the same as uint8, 0 .. 255; channels 1 (gray) or 3 (red, green, blue)
    page    uint8 [channels, rows * (height + gap) + gap, columns * (width + gap) + gap]

PNG needs nothing but Python's zlib; GIF needs Pillow, the extra "draw".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.errors import InputError
from tianwen.training.atomic import replace_file

GAP = 2
"""Pixels between the pictures of a page."""


def to_bytes(x: Float[Tensor, " pictures channels height width"]) -> np.ndarray:
    """uint8 of the same shape; not-a-number becomes middle gray rather than an error in the last step of a long run."""
    return (x.detach().float().cpu().nan_to_num(0.0).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()


def from_bytes(pixels: np.ndarray) -> Float[Tensor, " pictures channels height width"]:
    """The inverse of `to_bytes` up to rounding: float32 from -1 to 1."""
    return torch.from_numpy(np.array(pixels)).float() / 127.5 - 1


def page(pixels: np.ndarray, *, columns: int | None = None, zoom: int = 1, gap: int = GAP) -> np.ndarray:
    """All pictures on one page, row by row; `columns` None: about as many as rows. `zoom` repeats each pixel.

    Raises InputError for another shape or type, no pictures, or a page of more than 2^29 values.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise InputError(
            f"A page needs uint8 [pictures, 1 or 3, height, width], at least one; given: {pixels.dtype} {pixels.shape}."
        )
    count, channels, height, width = pixels.shape
    size = page_size(count, (channels, height, width), columns=columns, zoom=zoom, gap=gap)
    height, width = height * zoom + gap, width * zoom + gap
    wide = (size[2] - gap) // width
    out = np.full(size, 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = gap + i // wide * height, gap + i % wide * width
        large = picture.repeat(zoom, axis=1).repeat(zoom, axis=2)  # [channels, zoom height, zoom width]
        out[:, top : top + height - gap, left : left + width - gap] = large
    return out


def page_size(
    count: int, shape: tuple[int, int, int], *, columns: int | None = None, zoom: int = 1, gap: int = GAP
) -> tuple[int, int, int]:
    """Shape of the page of so many pictures of `shape`; raises what `page` would, before anything is drawn."""
    if zoom < 1 or gap < 0 or (columns is not None and columns < 1):
        raise InputError(f"zoom={zoom}, columns={columns}, gap={gap}: zoom and columns are 1 or more, gap 0 or more.")
    channels, height, width = shape
    wide = min(count, columns or math.ceil(math.sqrt(count)))
    height, width = height * zoom + gap, width * zoom + gap
    size = (channels, -(-count // wide) * height + gap, wide * width + gap)
    if math.prod(size) > 1 << 29:
        raise InputError(f"{count} pictures of {width} x {height} make too large a page: fewer pictures, or less zoom.")
    return size


def png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 [1 or 3, height, width]."""
    channels, height, width = pixels.shape
    rows = pixels.transpose(1, 2, 0).reshape(height, width * channels)  # [height, width * channels]
    # Each row begins with the number of its filter: 0, as it is.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 [1 or 3, height, width], in one step. Raises InputError if it cannot be written."""
    _write(Path(path), png_bytes(pixels))


def write_gif(path: str | Path, pages: Sequence[np.ndarray], *, seconds: float = 3.0, hold: float = 1.5) -> None:
    """Write pages of equal shape, uint8 [1 or 3, height, width], one after the other; the last is shown longer.

    Raises MissingExtra without Pillow, InputError without pages or if it cannot be written.
    """
    from io import BytesIO

    from tianwen.diffusion.pictures import pillow

    if not pages:
        raise InputError("A GIF needs at least one page.")
    module = pillow().Image
    frames = [module.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0).copy()) for one in pages]
    each = max(20, round(1000 * seconds / len(frames)))  # milliseconds; viewers slow down what is quicker
    times = [each] * (len(frames) - 1) + [each + round(1000 * hold)]
    saved = BytesIO()
    frames[0].save(saved, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    _write(Path(path), saved.getvalue())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _write(path: Path, content: bytes) -> None:
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder: name a file, such as {str(path / 'grid.png')!r}.")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe is written to; a rename would destroy it
            path.write_bytes(content)
        else:
            replace_file(path, lambda part: (part.write_bytes(content), None)[1])
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error}. Choose another place.") from error
