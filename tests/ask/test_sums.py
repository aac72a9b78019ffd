from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tianwen.ask.sums import BLOCK, Blocks, sums_of
from tianwen.errors import KnowledgeBaseDamaged


@pytest.mark.parametrize("places", [1, 200])
def test_what_reaches_into_the_next_block_has_that_compared_too(tmp_path: Path, places: int) -> None:
    """With few places, which are looked at one by one, and with many."""
    path = tmp_path / "file"
    content = bytearray(3 * BLOCK)
    path.write_bytes(content)
    size, sums = sums_of(path)
    assert size == len(content)
    content[BLOCK + 5] = 1
    across = np.full(places, BLOCK - 2, np.int64)
    blocks = Blocks(path, bytes(content), sums)
    blocks.require_each(across - 8, 8)
    with pytest.raises(KnowledgeBaseDamaged):
        blocks.require_each(across, 8)


def test_blocks_that_were_compared_are_not_compared_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * BLOCK + 7))
    content = bytearray(path.read_bytes())
    blocks = Blocks(path, bytes(content), sums_of(path)[1])
    for _ in range(3):
        blocks.require(0, BLOCK)
    broken = Blocks(path, bytes(content[:-1]) + b"x", sums_of(path)[1])
    for _ in range(3):
        broken.require(0, BLOCK)
    with pytest.raises(KnowledgeBaseDamaged, match="block 2"):
        broken.require_all()
