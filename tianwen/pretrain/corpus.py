"""The tokens of a corpus on disk, made once and memory-mapped from then on: it may be larger than the memory.

Post: 8998.

    FOLDER/
        ids.bin         token ids, uint16 (uint32 for large vocabularies); each passage ends with [SEP]
        starts.bin      bool, one byte a token: it begins a word
        ends.bin        int64, where each passage ends (behind its [SEP])
        tokenizer.json  the vocabulary that the ids are of
        manifest.json   sizes, a checksum of the content, the files it was made from, what was left out

The folder is written beside and renamed, so it is whole or not there. It is made anew when a file, the vocabulary or
the kind of words differs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.errors import InputError, ModelError
from tianwen.text import Tokenizer
from tianwen.training.atomic import PART

FORMAT = "tianwen corpus 1"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One file of a corpus: its name, its passages [first, last), its tokens, and lines that were left out."""

    name: str
    first: int
    last: int
    tokens: int
    broken: int


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus, memory-mapped. `ids` [tokens], `starts` bool [tokens], `ends` int64 [passages]."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    sources: tuple[Source, ...]
    tokenizer: Tokenizer
    checksum: str

    @property
    def broken(self) -> int:
        """Lines left out because they were no UTF-8, or no JSON with a text."""
        return sum(source.broken for source in self.sources)


def open_corpus(folder: Path) -> Corpus:
    """The corpus in a folder. Raises ModelError if files are missing or of another size than recorded."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        kind, tokens, passages = np.dtype(manifest["ids"]), int(manifest["tokens"]), int(manifest["passages"])
        ids, starts = _mapped(folder / "ids.bin", kind, tokens), _mapped(folder / "starts.bin", np.dtype(bool), tokens)
        ends = _mapped(folder / "ends.bin", np.dtype(np.int64), passages)
        sources = tuple(Source(**source) for source in manifest["sources"])
        checksum = str(manifest["checksum"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The tokenised corpus in {folder} is damaged: {error}. Delete the folder; it is made anew."
        ) from None
    return Corpus(ids, starts, ends, sources, Tokenizer.load(folder / "tokenizer.json"), checksum)


def is_made_from(folder: Path, request: dict[str, Any]) -> bool:
    """Does the folder hold the corpus of this `request` (see `request_for`)?

    A request that names a vocabulary by its fingerprint is also met where that vocabulary was counted out then.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        known = [manifest["request"], {**manifest["request"], "vocabulary": manifest["tokenizer"]}]
        return manifest["format"] == FORMAT and json.loads(json.dumps(request)) in known
    except (OSError, ValueError, KeyError, TypeError):
        return False


def request_for(files: Sequence[str | Path], *, vocabulary: str, words: str) -> dict[str, Any]:
    """What decides the content of a corpus: the files by name, size and both ends, the vocabulary, the kind of words.

    Raises InputError if there is no file, or one cannot be read.
    """
    if not files:
        raise InputError("There is no text to learn from; give at least one file.")
    names = names_of(files)
    told = [[name, *_identity(Path(file))] for name, file in zip(names, files, strict=True)]
    return {"files": told, "vocabulary": vocabulary, "words": words}


def remove_corpus(folder: Path) -> None:
    """Delete a corpus that is to be made anew; never a folder that holds something else."""
    if not folder.exists():
        return
    strangers = {path.name for path in folder.iterdir()} - {
        "ids.bin", "starts.bin", "ends.bin", "tokenizer.json", "manifest.json"
    }  # fmt: skip
    if strangers:
        raise InputError(
            f"{folder} holds {sorted(strangers)[0]}, which is no part of a tokenised corpus. Choose another folder."
        )
    rubbish = folder.with_name(f"{PART}{os.getpid()}-old-{folder.name}")
    os.replace(folder, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def remove_leavings(folder: Path) -> None:
    """Delete what processes that were killed while they made this corpus left beside it."""
    for part in folder.parent.glob(f"{PART}*-{folder.name}"):
        number = part.name.removeprefix(PART).split("-")[0]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(part, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # asking would end it there
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def names_of(files: Sequence[str | Path]) -> list[str]:
    """A short name for each file, its own up to the first dot; the second of one name gets -2."""
    names: list[str] = []
    for file in files:
        stem = Path(file).name.split(".")[0] or Path(file).name
        twins = sum(name == stem or name.startswith(f"{stem}-") for name in names)
        names.append(f"{stem}-{twins + 1}" if twins else stem)
    return names


def _identity(path: Path) -> tuple[int, str]:
    """Size and a checksum of both ends: enough to see another file, without reading all of a large one."""
    digest = blake2b(digest_size=12)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(file.read(BLOCK))
            file.seek(max(0, size - BLOCK))
            digest.update(file.read(BLOCK))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    return size, digest.hexdigest()


def _mapped(path: Path, kind: np.dtype, count: int) -> np.ndarray:
    size = path.stat().st_size
    if size != count * kind.itemsize:
        raise ValueError(f"{path.name} has {size:,} bytes, {count * kind.itemsize:,} were written")
    return np.memmap(path, kind, "r", shape=(count,)) if count else np.zeros(0, kind)
