"""The pictures of a folder as one array on disk, memory-mapped: read once, then as quick as the disk.

Post: 9152

Notation
    pixels  uint8 [pictures, channels, side, side]        labels  int64 [pictures], -1 where there are none

    CACHE/KEY/pixels.bin, labels.bin, about.json          KEY follows from the names, sizes and times of change of all
                                                          files and from the shape asked for

A cache is written beside and renamed, so it is complete or not there, whenever a writer is killed; a second
writer waits for the first. Its bytes are compared with their checksum before use; a damaged cache is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.diffusion.picture_folder import FolderReport, PictureFile, find_pictures, label_names, report_of
from tianwen.diffusion.pictures import PictureShape, Unreadable, is_gray, pixels_of, reading
from tianwen.errors import InputError
from tianwen.training.atomic import new_folder, remove_parts

try:
    import fcntl
except ImportError:  # not a POSIX system: two writers then do the same work, and one of them says so
    fcntl = None

FORMAT = 1
THREADS = min(8, os.cpu_count() or 1)

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""


@dataclass(frozen=True)
class Pictures:
    """Pictures in memory or mapped from disk, ready for training."""

    pixels: np.ndarray
    """uint8 [pictures, channels, side, side]."""
    labels: np.ndarray
    """int64 [pictures]: index into `label_names`, -1 where there are none."""
    label_names: tuple[str, ...]
    digest: str
    """Follows from pixels and labels: the same pictures have the same, wherever they lie."""
    report: FolderReport

    def __len__(self) -> int:
        return len(self.pixels)


def pictures_of(pixels: np.ndarray, labels: np.ndarray | None = None, label_names: Sequence[str] = ()) -> Pictures:
    """Pictures from an array uint8 [pictures, channels, side, side], with their labels int64 [pictures].

    Raises InputError for another type or shape, and for labels without a name.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise InputError(
            f"Pictures are uint8 [pictures, 1 or 3, side, side], at least one; given: {pixels.dtype} {pixels.shape}."
        )
    known = np.full(len(pixels), -1) if labels is None else np.asarray(labels)
    known = known.astype(np.int64)  # [pictures]
    if known.shape != (len(pixels),) or known.max() >= len(label_names) or known.min() < (-1 if labels is None else 0):
        raise InputError(
            f"{len(pixels)} pictures, labels of shape {known.shape} from {known.min()} to {known.max()}, "
            f"{len(label_names)} names of labels: give one label for each picture and one name for each label."
        )
    counts = {name: int((known == i).sum()) for i, name in enumerate(label_names)}
    report = FolderReport(len(pixels), labels=counts)
    return Pictures(pixels, known, tuple(label_names), _digest(pixels, known), report)


def open_pictures(
    folder: str | Path,
    cache: str | Path,
    shape: PictureShape | None = None,
    *,
    but: str | Path | None = None,
    progress: Progress | None = None,
) -> Pictures:
    """The pictures of `folder`, from the cache in the folder `cache` if nothing changed, else read and kept there.

    What lies in the folder `but` is passed over. Files that cannot be read are left out and named in the report. Raises
    InputError if the folder has no pictures or none can be read, or the cache cannot be written; MissingExtra without
    Pillow.
    """
    how = shape or PictureShape()
    files, other = find_pictures(folder, but=but)
    place = Path(cache) / _key(files, how)
    known = _load(place, other)
    if known is not None:
        return known
    try:
        with _only_writer(Path(cache)):
            if _load(place, other) is None:  # else another writer was quicker
                remove_parts(Path(cache))
                shutil.rmtree(place, ignore_errors=True)  # a damaged one
                _write(place, Path(folder), files, how, progress)
    except OSError as error:
        raise InputError(f"The pictures could not be kept in {str(cache)!r}: {error}. Make room there.") from error
    known = _load(place, other)
    if known is None:
        raise InputError(f"The pictures kept in {str(place)!r} are damaged as soon as written: is the disk failing?")
    return known


def _key(files: Sequence[PictureFile], shape: PictureShape) -> str:
    told = [FORMAT, asdict(shape), [[file.name, file.size, file.changed] for file in files]]
    return sha256(json.dumps(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@contextmanager
def _only_writer(cache: Path) -> Iterator[None]:
    """Wait for other writers of this cache; the system lifts the lock of one that was killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(place: Path, folder: Path, files: list[PictureFile], shape: PictureShape, progress: Progress | None) -> None:
    """Read every file into a new cache at `place`."""
    with reading(), new_folder(place) as part:
        gray = all(is_gray(folder / file.name) for file in files) if shape.gray is None else shape.gray
        _fill(part, folder, files, PictureShape(shape.side, gray, shape.fit), progress)


def _fill(part: Path, folder: Path, files: list[PictureFile], shape: PictureShape, progress: Progress | None) -> None:
    read: list[PictureFile] = []
    unreadable: list[tuple[str, str]] = []
    with (part / "pixels.bin").open("wb") as out:
        for number, (file, pixels) in enumerate(_all_pixels(folder, files, shape), start=1):
            if isinstance(pixels, str):
                unreadable.append((file.name, pixels))
            else:
                read.append(file)
                out.write(pixels.tobytes())
            if progress:
                progress(number, len(files))
    if not read:
        name, reason = unreadable[0]
        raise InputError(
            f"None of the {len(files)} pictures in {str(folder)!r} can be read; the first, {name!r}: {reason}."
        )
    names = label_names(read)
    labels = np.array([names.index(str(file.label)) if names else -1 for file in read], dtype="<i8")
    (part / "labels.bin").write_bytes(labels.tobytes())
    size = (len(read), 1 if shape.gray else 3, shape.side, shape.side)
    pixels = np.memmap(part / "pixels.bin", np.uint8, "r", shape=size)
    report = report_of(read, unreadable=unreadable, other=0, labels=names)
    about = {"shape": size, "labels": names, "digest": _digest(pixels, labels), "report": asdict(report)}
    (part / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _all_pixels(
    folder: Path, files: list[PictureFile], shape: PictureShape
) -> Iterator[tuple[PictureFile, np.ndarray | str]]:
    """Each file with its pixels, or with what is wrong with it; in order, a few ahead in threads."""

    def read(file: PictureFile) -> np.ndarray | str:
        try:
            return pixels_of(folder / file.name, shape)
        except Unreadable as error:
            return str(error)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="pictures") as pool:
        for first in range(0, len(files), 16 * THREADS):  # in rounds: a Ctrl-C need not wait for all
            some = files[first : first + 16 * THREADS]
            yield from zip(some, pool.map(read, some), strict=True)


def _load(place: Path, other: int) -> Pictures | None:
    """The cache at `place`; None if it is not there or not whole."""
    try:
        about: dict[str, Any] = json.loads((place / "about.json").read_text(encoding="utf-8"))
        size = tuple(about["shape"])
        labels = np.frombuffer((place / "labels.bin").read_bytes(), "<i8").astype(np.int64)  # [pictures]
        if (place / "pixels.bin").stat().st_size != int(np.prod(size)):
            return None
        pixels = np.memmap(place / "pixels.bin", np.uint8, "r", shape=size)
        report = FolderReport(**about["report"] | {"other": other})
        report.unreadable = [(name, reason) for name, reason in report.unreadable]
        found = Pictures(pixels, labels, tuple(about["labels"]), about["digest"], report)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if _digest(pixels, labels) == found.digest else None


def _digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    """The same for the same pictures and labels, whatever the files were called."""
    digest = sha256(f"{pixels.shape} {labels.astype('<i8').tobytes().hex()}".encode())
    rows = max(1, (1 << 24) // max(1, pixels[0].nbytes))
    for first in range(0, len(pixels), rows):
        digest.update(np.ascontiguousarray(pixels[first : first + rows]).data)
    return digest.hexdigest()[:16]
