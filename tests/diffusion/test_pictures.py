"""Any picture becomes the square it should; what cannot be read is named with its reason."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tianwen.diffusion.picture_folder import FEW, FolderReport, find_pictures
from tianwen.diffusion.pictures import PictureShape, read_picture
from tianwen.errors import InputError

Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")

RED, WHITE = (200, 30, 10), (255, 255, 255)


def corner_picture(width: int = 40, height: int = 40):
    """White with a red quarter at the top left."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def near(pixel, colour) -> bool:
    """Resampling swings a little beside an edge."""
    return bool(np.abs(np.asarray(pixel).astype(int) - np.asarray(colour)).max() <= 6)


def read(image, path: Path, *, side: int = 8, gray: bool = False, fit="crop", **saving) -> np.ndarray:
    image.save(path, **saving)
    return read_picture(path, PictureShape(side, gray, fit))


def test_colours_and_channels(tmp_path):
    pixels = read(corner_picture(), tmp_path / "a.png")
    assert (pixels.dtype, pixels.shape) == (np.uint8, (3, 8, 8))
    assert near(pixels[:, 1, 1], RED)
    assert near(pixels[:, 6, 6], WHITE)
    assert read(corner_picture(), tmp_path / "a.png", gray=True).shape == (1, 8, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_the_camera_is_carried_out(tmp_path, orientation):
    stored = corner_picture()
    if orientation > 1:
        # Pillow's transposition that makes what such a camera would have stored
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(stored, tmp_path / "a.png", exif=exif)
    assert near(pixels[:, 1, 1], RED)
    assert near(pixels[:, 1, 6], WHITE)
    assert near(pixels[:, 6, 1], WHITE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))  # black and invisible
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    options = {}
    if mode == "P":
        image = image.convert("RGB").quantize(2)
        image.putpixel((15, 0), 1)
        image.putpalette([0, 0, 0, 90, 90, 90])
        image.paste(1, (8, 0, 16, 16))
        image.paste(0, (0, 0, 8, 16))
        options = {"transparency": 1}
    elif mode == "RGB":
        image = Image.new("RGB", (16, 16), (9, 9, 9))
        image.paste((0, 0, 0), (0, 0, 8, 16))
        options = {"transparency": (9, 9, 9)}
    else:
        image = image.convert(mode)
    pixels = read(image, tmp_path / "a.png", **options)
    assert pixels[:, 4, 1].max() < 5
    assert pixels[:, 4, 6].min() > 250


def test_sixteen_bits_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = read(Image.fromarray(ramp), tmp_path / "a.png", gray=True, side=64)
    assert np.abs(pixels[0].astype(float) - ramp / 257).max() <= 1
    assert np.array_equal(read(Image.fromarray(ramp), tmp_path / "a.tif", gray=True, side=64), pixels)


def test_floats_from_0_to_1_are_pictures_and_others_are_refused(tmp_path):
    pixels = read(Image.fromarray(np.full((8, 8), 0.5, np.float32)), tmp_path / "a.tif", gray=True)
    assert np.unique(pixels).tolist() == [128]
    with pytest.raises(InputError, match="values go from -3 to -3"):
        read(Image.fromarray(np.full((8, 8), -3, np.float32)), tmp_path / "b.tif")
    with pytest.raises(InputError, match="not finite"):
        read(Image.fromarray(np.full((8, 8), np.nan, np.float32)), tmp_path / "c.tif")


def test_cmyk_becomes_rgb(tmp_path):
    pixels = read(corner_picture(256, 256).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert pixels.shape == (3, 8, 8)
    assert np.abs(pixels[:, 1, 1].astype(int) - RED).max() < 30
    assert pixels[:, 6, 6].min() > 245


@pytest.mark.parametrize(
    ("fit", "expected"),
    [("crop", [RED, RED]), ("pad", [WHITE, RED]), ("stretch", [WHITE, RED])],
)
def test_ways_to_make_a_square(tmp_path, fit, expected):
    image = Image.new("RGB", (96, 32), RED)  # white thirds left and right in "stretch", bands in "pad"
    if fit != "pad":
        image.paste(WHITE, (0, 0, 32, 32))
        image.paste(WHITE, (64, 0, 96, 32))
    pixels = read(image, tmp_path / "a.png", side=24, fit=fit)
    edge = pixels[:, 1, 12] if fit == "pad" else pixels[:, 12, 1]
    assert near(edge, expected[0])
    assert near(pixels[:, 12, 12], expected[1])


def test_a_file_of_30000_pixels_is_read_small_or_refused_with_a_sentence(tmp_path):
    wide = Image.new("L", (30_000, 3_600), 255)
    wide.paste(0, (0, 0, 15_000, 3_600))
    wide.save(tmp_path / "a.jpg", quality=50)
    baseline = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "p.jpg").write_bytes(baseline.replace(b"\xff\xc0", b"\xff\xc2", 1))  # says that it is progressive
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    size_and_data = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + size_and_data + struct.pack(">I", 9**9) + b"IDAT")
    before = Image.MAX_IMAGE_PIXELS
    pixels = read_picture(tmp_path / "a.jpg", PictureShape(8, True))
    assert near(pixels[0, 4, [1, 6]], [0, 255])
    for name, size in [("a.png", "30000 x 30000"), ("p.jpg", "30000 x 3600")]:
        with pytest.raises(InputError, match=f"{size} pixels, more than the 100 million"):
            read_picture(tmp_path / name, PictureShape(8, True))
    assert before == Image.MAX_IMAGE_PIXELS, "what other code relies on is as it was"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif"])
def test_truncated_and_mangled_files_have_a_reason_and_never_another_error(tmp_path, suffix):
    saved = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(saved, "JPEG" if suffix == "jpg" else "TIFF" if suffix == "tif" else suffix)
    whole, path, chance = saved.getvalue(), tmp_path / f"a.{suffix}", random.Random(3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.\w+ cannot be read: (truncated|damaged|not a picture)"):
        read_picture(path, PictureShape(8))
    for _ in range(60):
        mangled = bytearray(whole)
        for _ in range(chance.randrange(1, 30)):
            mangled[chance.randrange(len(mangled))] = chance.randrange(256)
        path.write_bytes(bytes(mangled))
        with suppress(InputError):  # and nothing else
            assert read_picture(path, PictureShape(8)).shape == (3, 8, 8)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(tmp_path / "a.png", PictureShape(8))
    with pytest.raises(InputError, match="no such file"):
        read_picture(tmp_path / "b.png", PictureShape(8))


def test_odd_shapes_of_pictures(tmp_path):
    for size in [(1, 1), (1, 3000), (3000, 1), (7, 5)]:
        for fit in ("crop", "pad", "stretch"):
            pixels = read(Image.new("1", size, 1), tmp_path / "a.png", gray=True, fit=fit)
            assert pixels.min() == 255


@pytest.mark.parametrize("shape", [{"side": 0}, {"side": 5000}, {"fit": "zoom"}])
def test_a_shape_that_cannot_be(shape):
    with pytest.raises(InputError, match=r"pictures are made into squares|made square by"):
        PictureShape(**shape)


def test_files_are_found_by_their_ending_and_labels_are_subfolders(tmp_path):
    for name in ["b/2.PNG", "a/x/1.jpeg", "a/3.webp", "a/notes.txt", ".hidden/9.png", "a/.9.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "round").symlink_to(tmp_path)  # a circle
    files, other = find_pictures(tmp_path)
    assert [(file.name, file.label) for file in files] == [("a/3.webp", "a"), ("a/x/1.jpeg", "a"), ("b/2.PNG", "b")]
    assert other == 1


@pytest.mark.parametrize(
    ("content", "said"), [([], "it is empty"), (["a.txt", "b.csv"], "only 2 other files"), (None, "does not exist")]
)
def test_a_folder_without_pictures_is_refused(tmp_path, content, said):
    for name in content or []:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=said):
        find_pictures(tmp_path if content is not None else tmp_path / "none")
    with pytest.raises(InputError, match="is a file"):
        find_pictures(__file__)


def test_the_report_names_some_and_counts_all():
    report = FolderReport(1, [(f"{i}.png", "truncated") for i in range(7)], 2)
    told = "\n".join(report.sentences(most=2))
    assert "1 picture\n7 files could not be read" in told
    assert "0.png: truncated" in told
    assert "... and 5 more" in told
    assert "2.png" not in told
    assert "2 other files" in told
    assert "With 1 picture a model" in told
    assert "learns little" not in "\n".join(FolderReport(FEW).sentences())


def test_nothing_is_shown_of_pillows_remarks(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = Image.new("P", (8, 8))
        pixels = read(image, tmp_path / "a.png", transparency=bytes([0, 255]))
    assert pixels.min() == 255


def test_names_that_are_no_text_are_labels_and_reports_all_the_same(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", folder + b"/x.png")
    (file,), _ = find_pictures(tmp_path)
    assert file.label == "caf\\udce9"
    told = FolderReport(1, [("a\x1b[2J\n.png", "cut")]).sentences()
    assert told[2] == "  'a\\x1b[2J\\n.png': cut"


def test_a_folder_that_may_not_be_read_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    (tmp_path / "dark").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "dark":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"dark' cannot be read: Permission denied"):
        find_pictures(tmp_path)
