"""Trees and tables that hold decoding to a catalogue: ours, nested dicts, marisa-trie, STATIC.

Post: 8802

    peer       what it is
    tianwen    the tree of a knowledge base, from its three columns of texts, tokenising included
    general    our tree over any sequences, from the tokens
    dict       nested dicts, as the reference and GENRE have them; scores through transformers' own processor
    marisa     marisa-trie over keys written as characters, as GENRE uses it: all keys below a prefix are listed
    static     STATIC (YouTube, 2026): the public code's builder and PyTorch step, in the folder that the environment
               variable TIANWEN_BENCH_STATIC names
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_keys import FILL, ROWS, VOCABULARY, Keys
from index_peer import FIRST_CHARACTER, SCORES, Peer, as_text
from torch import Tensor

from tianwen.ask.asker import BUNDLED
from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.huggingface import CatalogueLogitsProcessor
from tianwen.ask.trie import CatalogueTrie
from tianwen.text import Tokenizer

MODEL_END = VOCABULARY - 2  # of the model that is held; nothing in the catalogue


class _Ours(Peer):
    trie: Any  # a Constraint that can be saved

    def stand(self, ids: np.ndarray) -> None:
        self.state = self.trie.walk(ids, np.full(len(ids), ids.shape[1]))
        self.plug = CatalogueLogitsProcessor(self.trie, prompt_len=1, eos_token_id=MODEL_END, pad_token_id=0)
        self.whole = torch.cat([torch.zeros(len(ids), 1, dtype=torch.int64), torch.from_numpy(ids)], dim=1)

    def go_back(self) -> None:
        if self.whole.shape[1] > 1:
            self.plug(self.whole[:, :-1], SCORES)

    def compact(self) -> Any:
        return self.trie.allowed(self.state)

    def lists(self, given: Any) -> list[list[int]]:
        row_ptr, token, _ = given
        return [part.tolist() for part in np.split(token, row_ptr[1:-1])]

    def scores(self) -> Tensor:
        return self.plug(self.whole, SCORES)

    def offered(self, scores: Tensor) -> list[list[int]]:
        """The END that completes a key comes as the model's."""
        ended = torch.isfinite(scores[:, MODEL_END])
        rows = super().offered(scores)
        return [sorted([*row, self.trie.end_id]) if end else row for row, end in zip(rows, ended, strict=True)]


class Fielded(_Ours):
    def build(self, keys: Keys) -> None:
        tokenizer = Tokenizer.load(BUNDLED / "tokenizer.json")
        facts = keys.columns()
        self.trie, _ = FieldedTrie.build(facts["subject"], facts["predicate"], facts["sense"], tokenizer)

    def save(self, folder: Path) -> None:
        self.trie.save(folder)

    def open(self, folder: Path) -> None:
        self.trie = FieldedTrie.open(folder)


class General(_Ours):
    def build(self, keys: Keys) -> None:
        self.trie, _ = CatalogueTrie.build(*keys.flat(), end_id=FILL)

    def save(self, folder: Path) -> None:
        self.trie.save(folder)

    def open(self, folder: Path) -> None:
        self.trie = CatalogueTrie.open(folder)


class _ByFunction(Peer):
    """A peer that tells one row's tokens from its prefix; transformers makes scores of it."""

    def allowed(self, prefix: list[int]) -> list[int]:
        raise NotImplementedError

    def stand(self, ids: np.ndarray) -> None:
        self.prefixes = ids.tolist()
        self.whole = torch.cat([torch.zeros(len(ids), 1, dtype=torch.int64), torch.from_numpy(ids)], dim=1)
        transformers = import_module("transformers")
        self.plug = transformers.PrefixConstrainedLogitsProcessor(lambda _, row: self.allowed(row[1:].tolist()), 1)

    def compact(self) -> Any:
        return [self.allowed(prefix) for prefix in self.prefixes]

    def lists(self, given: Any) -> list[list[int]]:
        return [sorted(row) for row in given]

    def scores(self) -> Tensor:
        return self.plug(self.whole, SCORES)


class Dict(_ByFunction):
    package = "transformers"

    def build(self, keys: Keys) -> None:
        self.root: dict[int, Any] = {}
        row_ptr, tokens = keys.flat()
        bounds = row_ptr.tolist()
        for low, high in pairwise(bounds):
            node = self.root
            for token in tokens[low:high].tolist():
                node = node.setdefault(token, {})

    def save(self, folder: Path) -> None:
        with (folder / "trie.pickle").open("wb") as file:
            pickle.dump(self.root, file, protocol=pickle.HIGHEST_PROTOCOL)

    def open(self, folder: Path) -> None:
        with (folder / "trie.pickle").open("rb") as file:
            self.root = pickle.load(file)

    def _node(self, prefix: list[int]) -> dict[int, Any]:
        node = self.root
        for token in prefix:
            node = node[token]
        return node

    def allowed(self, prefix: list[int]) -> list[int]:
        return list(self._node(prefix))

    def stand(self, ids: np.ndarray) -> None:
        super().stand(ids)
        self.nodes = [self._node(prefix) for prefix in self.prefixes]

    def compact(self) -> Any:
        return [list(node) for node in self.nodes]


class Marisa(_ByFunction):
    package = "marisa-trie"

    def build(self, keys: Keys) -> None:
        marisa_trie = import_module("marisa_trie")
        texts = as_text(keys)
        self.trie = marisa_trie.Trie(texts)
        self.first = sorted({ord(text[0]) - FIRST_CHARACTER for text in texts})

    def save(self, folder: Path) -> None:
        self.trie.save(str(folder / "keys.marisa"))
        (folder / "first.json").write_text(json.dumps(self.first))

    def open(self, folder: Path) -> None:
        self.trie = import_module("marisa_trie").Trie().mmap(str(folder / "keys.marisa"))
        self.first = json.loads((folder / "first.json").read_text())

    def allowed(self, prefix: list[int]) -> list[int]:
        if not prefix:  # kept aside, as GENRE does: otherwise every key would be listed
            return self.first
        text, depth = "".join(chr(FIRST_CHARACTER + token) for token in prefix), len(prefix)
        return [ord(token) - FIRST_CHARACTER for token in {key[depth] for key in self.trie.iterkeys(text)}]


class Static(Peer):
    """Keys of equal length: shorter ones are filled up. Its two dense levels (the default) know two tokens."""

    NAMES = ("packed", "pointer", "branches", "start", "dense", "dense_states")

    def __init__(self) -> None:
        sys.path.insert(0, os.environ["TIANWEN_BENCH_STATIC"])
        self.builder = import_module("static_decoding.csr_utils").build_static_index
        self.step = import_module("static_decoding.decoding_pt").generate_and_apply_logprobs_mask

    def build(self, keys: Keys) -> None:
        self._take(self.builder(np.asarray(keys.keys), vocab_size=VOCABULARY, dense_lookup_layers=2))

    def _take(self, parts: Any) -> None:
        self.arrays = dict(zip(self.NAMES, map(np.asarray, parts), strict=True))
        self.tensors = {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    def save(self, folder: Path) -> None:
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array)

    def open(self, folder: Path) -> None:
        self._take([np.load(folder / f"{name}.npy") for name in self.NAMES])

    def _state(self, prefix: list[int]) -> int:
        """The state behind a prefix of two tokens or more; a search reads it off the candidates of the step before."""
        packed, pointer = self.arrays["packed"], self.arrays["pointer"]
        state = prefix[0] + 1
        for token in prefix[1:]:
            low, high = pointer[state], pointer[state + 1]
            state = int(packed[low + np.searchsorted(packed[low:high, 0], token), 1])
        return state

    def stand(self, ids: np.ndarray) -> None:
        self.depth = ids.shape[1]
        self.first = torch.from_numpy(ids[:, 0]) if self.depth else torch.zeros(len(ids), dtype=torch.int64)
        if self.depth >= 2:
            self.states = torch.tensor([self._state(prefix) for prefix in ids.tolist()], dtype=torch.int32)

    def compact(self) -> Any:
        if self.depth >= 2:
            limit = int(self.arrays["branches"][self.depth])
            table = self.tensors["packed"], self.tensors["pointer"]
            return self.step(SCORES, self.states, *table, limit, VOCABULARY, torch.device("cpu"))
        mask = self.tensors["start"] if self.depth == 0 else self.tensors["dense"][self.first]
        return torch.where(mask, SCORES, -torch.inf)

    def lists(self, given: Any) -> list[list[int]]:
        if self.depth < 2:
            return [torch.isfinite(row).nonzero()[:, 0].tolist() for row in given]
        values, tokens, _ = given
        return [row[torch.isfinite(value)].tolist() for value, row in zip(values, tokens, strict=True)]

    def scores(self) -> Tensor:
        given = self.compact()
        if self.depth < 2:
            return given
        values, tokens, _ = given
        tokens = torch.where(torch.isneginf(values), VOCABULARY, tokens.long())  # slots that are filled up
        return torch.full((ROWS, VOCABULARY + 1), -torch.inf).scatter_(1, tokens, values)[:, :VOCABULARY]

    def version(self) -> str:
        lines = (Path(os.environ["TIANWEN_BENCH_STATIC"]) / "pyproject.toml").read_text().splitlines()
        return next((line.split('"')[1] for line in lines if line.startswith("version")), "")
