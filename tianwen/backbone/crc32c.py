"""CRC-32C of many megabytes with numpy alone, as TensorFlow checkpoints carry it.

Source: RFC 3720 appendix B.4 (the polynomial), LevelDB's table format (the mask).

Notation
    A CRC without its first and last inversion is linear: crc(a + b) = shift(crc(a), len b) ^ crc(b), where shift(c, n)
    feeds n zero bytes. So the data is cut into lanes of m bytes, all lanes step together byte by byte, and neighbours
    are then joined pairwise, log2(lanes) times.
"""

from __future__ import annotations

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected


def _byte_table() -> np.ndarray:
    """CRC of each single byte: uint32[256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


_TABLE = _byte_table()
_BITS = np.arange(32, dtype=np.uint32)


def _apply(operator: np.ndarray, crcs: np.ndarray) -> np.ndarray:
    """A linear map, given by the images of the 32 bits, on a vector of CRCs."""
    bits = (crcs[:, None] >> _BITS) & np.uint32(1)  # [n, 32]
    return np.bitwise_xor.reduce(bits * operator, axis=1)


def _shift(count: int) -> np.ndarray:
    """The map "feed `count` zero bytes", by repeated squaring: uint32[32]."""
    one = np.uint32(1) << _BITS
    result, power = one, (one >> np.uint32(8)) ^ _TABLE[one & np.uint32(255)]
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of `data`."""
    size = len(data)
    lanes = 1 << max(0, min(14, size.bit_length() - 6))
    width = -(-size // lanes)
    padded = np.zeros(lanes * width, dtype=np.uint8)
    padded[lanes * width - size :] = np.frombuffer(data, dtype=np.uint8)  # leading zeros leave a bare CRC at zero
    crcs = np.zeros(lanes, dtype=np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, width).T):
        crcs = (crcs >> np.uint32(8)) ^ _TABLE[(crcs ^ column) & np.uint32(255)]
    shift = _shift(width)
    while len(crcs) > 1:
        crcs = _apply(shift, crcs[0::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)  # twice the width
    start = _apply(_shift(size), np.array([0xFFFFFFFF], dtype=np.uint32))
    return int(crcs[0] ^ start[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview) -> int:
    """The form stored in files: rotated and offset, so that a CRC of data with CRCs inside is no weaker."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
