"""The names of token ids, from whatever tokenizer file lies beside a checkpoint.

Understood: `tokenizer.json` of Hugging Face (WordPiece, BPE, Unigram) and of this project, `vocab.txt` (one piece a
line), `vocab.json` (piece -> id) and SentencePiece's `tokenizer.model` or `spiece.model`, each with
`added_tokens.json`. Pieces of byte-level BPE are shown as their text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tianwen.errors import InputError

# Not sentencepiece.bpe.model: the models that have it number their tokens one further than the file does.
FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def find_token_names(folder: Path | None) -> dict[int, str]:
    """Names by id from the first tokenizer file in the folder that can be read; empty without one."""
    for name in FILES if folder else ():
        try:
            return read_token_names(folder / name)  # type: ignore[operator]
        except (InputError, OSError):
            continue
    return {}


def read_token_names(path: Path) -> dict[int, str]:
    """Names by id from one tokenizer file, or from the folder that holds one. Raises InputError if there are none."""
    if path.is_dir():
        if names := find_token_names(path):
            return names
        raise InputError(f"{path} holds no tokenizer that can be read. Known files are: {', '.join(FILES)}.")
    try:
        match path.suffix:
            case ".model":
                names = _from_sentencepiece(path.read_bytes())
            case ".txt":
                names = _from_lines(path.read_text(encoding="utf-8"))
            case _:
                names = _from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"There is no tokenizer at {path}. Known files are: {', '.join(FILES)}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            f"{path} is no tokenizer file that can be read ({error}). Known: {', '.join(FILES)}."
        ) from error
    added = path.with_name("added_tokens.json")
    if added.is_file():
        with suppress(ValueError, TypeError, AttributeError):  # a nicety: the vocabulary itself was read
            names.update(_by_id(json.loads(added.read_bytes())))
    if not names:
        raise InputError(f"{path} names no tokens. Known files are: {', '.join(FILES)}.")
    return names


def _from_lines(text: str) -> dict[int, str]:
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return {number: line.rstrip("\r") for number, line in enumerate(lines)}


def _from_sentencepiece(content: bytes) -> dict[int, str]:
    """Field 1 of the message, once a piece; field 1 of a piece is its text."""
    pieces = [value for number, value in _fields(content) if number == 1]
    texts = [next((text for number, text in _fields(piece) if number == 1), b"") for piece in pieces]
    return {number: text.decode("utf-8") for number, text in enumerate(texts)}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each field of a protocol buffer that holds bytes; the others are passed over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 2:
                length, at = _varint(message, at)
                if at + length > len(message):
                    raise ValueError("it is cut short")
                yield key >> 3, message[at : at + length]
                at += length
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case _:
                raise ValueError("it is no protocol buffer")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends): seven bits a byte, the lowest first, the eighth says that more follow."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _from_json(content: dict[str, Any]) -> dict[int, str]:
    if isinstance(content.get("vocabulary"), list):  # ours
        return {number: str(piece) for number, piece in enumerate(content["vocabulary"])}
    model = content.get("model")
    if not isinstance(model, dict):  # vocab.json: byte-level BPE in practice
        return _readable(_by_id(content))
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [piece, score]
        names = {number: str(entry[0]) for number, entry in enumerate(vocabulary)}
    else:
        names = _by_id(vocabulary)
    if _byte_level(content):
        names = _readable(names)
    names.update({int(token["id"]): str(token["content"]) for token in content.get("added_tokens") or ()})
    return names


def _by_id(vocabulary: Mapping[str, int]) -> dict[int, str]:
    return {int(number): str(piece) for piece, number in vocabulary.items()}


def _byte_level(content: Mapping[str, Any]) -> bool:
    return any('"ByteLevel"' in json.dumps(content.get(part)) for part in ("decoder", "pre_tokenizer"))


def _readable(names: dict[int, str]) -> dict[int, str]:
    """Byte-level pieces as text; a piece that is no whole text (half a Chinese character) stays as it is."""
    byte_of = _bytes_by_letter()
    readable = {}
    for number, piece in names.items():
        try:
            readable[number] = bytes(byte_of[letter] for letter in piece).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            readable[number] = piece
    return readable


def _bytes_by_letter() -> dict[str, int]:
    """Byte-level BPE writes printable bytes of Latin-1 as themselves, the others as letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
