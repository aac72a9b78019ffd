"""The numpy reader of TensorFlow checkpoints: real files, damaged files, and files that a tiny writer makes."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.backbone.crc32c import crc32c, masked_crc32c
from tianwen.backbone.tensorflow_checkpoint import read_tensorflow_checkpoint
from tianwen.errors import ModelError

FIXTURE = Path(__file__).parent / "fixture" / "single"
NAME = "bert_model.ckpt"


# Checksums


def test_crc32c_gives_the_values_of_the_rfc() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@given(st.binary(max_size=3000))
@settings(max_examples=40)
def test_crc32c_is_the_bitwise_definition(data: bytes) -> None:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF


# Damaged files


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    return tmp_path / NAME


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_every_flipped_byte_is_noticed(copy: Path, suffix: str) -> None:
    truth = read_tensorflow_checkpoint(copy)
    file = Path(f"{copy}{suffix}")
    content = file.read_bytes()
    places = np.random.default_rng(1).integers(0, len(content), 60)
    noticed = 0
    for place in [0, len(content) - 1, *places]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        file.write_bytes(flipped)
        try:
            tensors = read_tensorflow_checkpoint(copy)
        except ModelError:
            noticed += 1
        else:  # only the footer's padding and the unused meta block carry no meaning
            assert suffix == ".index"
            assert all(np.array_equal(tensors[name], truth[name]) for name in truth | tensors)
    assert noticed > 45


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_every_cut_is_noticed(copy: Path, suffix: str) -> None:
    file = Path(f"{copy}{suffix}")
    content = file.read_bytes()
    for length in {0, 1, 47, 48, len(content) // 2, len(content) - 1}:
        file.write_bytes(content[:length])
        with pytest.raises(ModelError, match="damaged or no TensorFlow checkpoint"):
            read_tensorflow_checkpoint(copy)
    file.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        read_tensorflow_checkpoint(copy)


# What the fixture does not have: several blocks and parts, shared key prefixes, other types, foreign files


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def table(rows: list[tuple[bytes, bytes]], per_block: int, *, compression: int = 0) -> bytes:
    """The sorted table of LevelDB, with prefix-compressed keys."""
    file, handles = b"", []

    def append(rows: list[tuple[bytes, bytes]]) -> bytes:
        nonlocal file
        block, previous = b"", b""
        for key, value in rows:
            shared = next((i for i, (a, b) in enumerate(zip(key, previous, strict=False)) if a != b), None)
            shared = min(len(key), len(previous)) if shared is None else shared
            block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            previous = key
        block += struct.pack("<II", 0, 1)
        handle = varint(len(file)) + varint(len(block))
        tail = bytes([compression])
        file += block + tail + struct.pack("<I", masked_crc32c(block + tail))
        return handle

    for start in range(0, len(rows), per_block):
        part = rows[start : start + per_block]
        handles.append((part[-1][0], append(part)))
    meta, index = append([]), append(handles)
    return file + (meta + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(prefix: Path, tensors: dict[str, tuple[int, np.ndarray]], *, shards: int = 1, **options: int) -> None:
    """A checkpoint of (DataType, array) by name, spread over `shards` files."""
    parts = [b""] * shards
    rows = [(b"", field(1, shards) if options.get("endian", 0) == 0 else field(1, shards) + field(2, 1))]
    for number, (name, (dtype, array)) in enumerate(sorted(tensors.items())):
        raw, shard = array.tobytes(), number % shards
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        crc = varint(6 << 3 | 5) + struct.pack("<I", masked_crc32c(raw))
        place = field(3, shard) + field(4, len(parts[shard])) + field(5, len(raw))
        rows.append((name.encode(), field(1, dtype) + field(2, shape) + place + crc))
        parts[shard] += raw
    per_block, compression = options.get("per_block", 3), options.get("compression", 0)
    Path(f"{prefix}.index").write_bytes(table(rows, per_block, compression=compression))
    for shard, part in enumerate(parts):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(part)


@pytest.mark.parametrize("per_block", [1, 3, 100])
@pytest.mark.parametrize("shards", [1, 3])
def test_blocks_parts_and_types(tmp_path: Path, per_block: int, shards: int) -> None:
    random = np.random.default_rng(0)
    arrays = {f"bert/encoder/layer_{i}/x": (1, random.normal(size=(i, 3)).astype("f4")) for i in range(12)}
    arrays["global_step"] = (9, np.array(7, dtype="i8"))
    arrays["half"] = (19, np.array([1.5, -2], dtype="f2"))
    arrays["double"] = (2, np.array([0.1]))
    arrays["words"] = (7, np.frombuffer(b"a string tensor", dtype="u1"))
    arrays["brain"] = (14, np.array([0x3FC0, 0xC000], dtype="u2"))
    write(tmp_path / "model", arrays, shards=shards, per_block=per_block)
    tensors = read_tensorflow_checkpoint(tmp_path / "model")
    assert "words" not in tensors
    assert tensors.pop("brain").tolist() == [1.5, -2.0]
    assert set(tensors) == set(arrays) - {"words", "brain"}
    for name, array in tensors.items():
        assert array.dtype == arrays[name][1].dtype
        assert np.array_equal(array, arrays[name][1])


def test_foreign_tables_are_explained(tmp_path: Path) -> None:
    tensors = {"x": (1, np.zeros(3, dtype="f4"))}
    write(tmp_path / "m", tensors, compression=1)
    with pytest.raises(ModelError, match="compressed"):
        read_tensorflow_checkpoint(tmp_path / "m")
    write(tmp_path / "m", tensors, endian=1)
    with pytest.raises(ModelError, match="big-endian"):
        read_tensorflow_checkpoint(tmp_path / "m")
    write(tmp_path / "m", tensors, shards=2)
    Path(tmp_path / "m.data-00001-of-00002").unlink()
    with pytest.raises(ModelError, match="data-00001-of-00002 cannot be read"):
        read_tensorflow_checkpoint(tmp_path / "m")
