"""The peer of the speed benchmark is what it claims to be: it emits keys and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tianwen.errors import InputError, MissingExtra

FILE = Path(__file__).parents[2] / "benchmarks" / "ask_peer.py"
# 7 8 is a prefix of another key; 9 is alone, so that four beams find fewer continuations than they want.
KEYS = [[7, 8], [7, 8, 9], [7, 10], [9]]
END = 21


@pytest.fixture(scope="module")
def peer_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ask_peer", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ask_peer"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_trie_offers_the_end_beside_longer_keys(peer_module: ModuleType) -> None:
    trie = peer_module.build_trie(KEYS, END)
    allowed = peer_module.allowed_tokens_fn(trie, 3, END)
    prompt = [1, 2, 3]

    def after(*tokens: int) -> set[int]:
        return set(allowed(0, torch.tensor([*prompt, *tokens])))

    assert after() == {7, 9}
    assert after(7, 8) == {9, END}
    assert after(9) == {END}
    assert after(7, 8, END) == {END}, "a finished beam"
    assert after(5) == {END}, "a beam that has left the trie"


def test_missing_transformers_is_said(peer_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"tianwen\[hf\]"):
        peer_module.peer_questions_per_second(
            [[1]], KEYS, layers=1, width=8, heads=1, vocabulary=20, beams=2, batch=1, seconds=0
        )


@pytest.mark.parametrize("keys", [[], [[]], [[20]]])
def test_unusable_keys_are_refused(peer_module: ModuleType, keys: list[list[int]]) -> None:
    with pytest.raises(InputError):
        peer_module.Peer(keys, peer_module.Size(1, 8, 1, 20), beams=2, batch=1)


def test_every_answer_is_a_key(peer_module: ModuleType) -> None:
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    peer = peer_module.Peer(KEYS, peer_module.Size(1, 8, 1, 20), beams=4, batch=3)
    tally = peer.run([[1], [2, 3, 4], [5, 6]], seconds=0)
    assert tally.questions == 3
    assert tally.steps >= 2
    assert tally.strangers == []
    speed = peer_module.peer_questions_per_second(
        [[1], [2, 3]], KEYS, layers=1, width=8, heads=1, vocabulary=20, beams=4, batch=2, seconds=0.01
    )
    assert speed > 0
