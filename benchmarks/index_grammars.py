"""Grammar engines that hold decoding to a catalogue: xgrammar and llguidance.

Post: 8802

    xgrammar   a grammar with every key as an alternative
    llguidance a regular expression of all keys; its states are made when they are met, so that what is built is little

They read text: token t is written as the Chinese character U+4E00 + t, so that all peers say the same.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_keys import ROWS, VOCABULARY, Keys
from index_peer import FIRST_CHARACTER, MOST_TOKEN, SCORES, Peer, as_text
from torch import Tensor


class _Grammar(Peer):
    """A peer that reads text and gives masks of bits."""

    masks: Any

    def save(self, folder: Path) -> None:
        (folder / "grammar").write_text(self.saved())

    def open(self, folder: Path) -> None:
        self.load((folder / "grammar").read_text())

    def saved(self) -> str:
        raise NotImplementedError

    def load(self, text: str) -> None:
        raise NotImplementedError

    def lists(self, given: Any) -> list[list[int]]:
        bits = np.unpackbits(np.asarray(given).view(np.uint8), axis=1, bitorder="little")[:, :MOST_TOKEN]
        return [np.flatnonzero(row).tolist() for row in bits]


CHARACTERS = [chr(FIRST_CHARACTER + token) for token in range(VOCABULARY)]


class XGrammar(_Grammar):
    package = "xgrammar"

    def __init__(self) -> None:
        self.library = import_module("xgrammar")
        vocabulary = [*CHARACTERS[:-1], "</s>"]
        self.vocabulary = self.library.TokenizerInfo(vocabulary, vocab_size=VOCABULARY, stop_token_ids=[VOCABULARY - 1])
        self.batch = self.library.BatchGrammarMatcher(max_threads=torch.get_num_threads())

    def build(self, keys: Keys) -> None:
        compiler = self.library.GrammarCompiler(self.vocabulary, max_threads=torch.get_num_threads())
        self._start(compiler.compile_grammar(alternatives(as_text(keys))))

    def _start(self, compiled: Any) -> None:
        self.compiled = compiled
        self.matchers = [self.library.GrammarMatcher(compiled) for _ in range(ROWS)]
        self.masks = self.library.allocate_token_bitmask(ROWS, VOCABULARY)

    def saved(self) -> str:
        return self.compiled.serialize_json()

    def load(self, text: str) -> None:
        self._start(self.library.CompiledGrammar.deserialize_json(text, self.vocabulary))

    def stand(self, ids: np.ndarray) -> None:
        self.table = SCORES.clone()
        for matcher, prefix in zip(self.matchers, ids.tolist(), strict=True):
            matcher.reset()
            for token in prefix:
                matcher.accept_token(token)

    def compact(self) -> Any:
        self.batch.batch_fill_next_token_bitmask(self.matchers, self.masks)
        return self.masks

    def scores(self) -> Tensor:
        self.library.apply_token_bitmask_inplace(self.table, self.compact())
        return self.table


class LLGuidance(_Grammar):
    package = "llguidance"

    def __init__(self) -> None:
        self.library = import_module("llguidance")
        self.arrays = import_module("llguidance.numpy")
        wrapper = self.library.TokenizerWrapper(_Characters())
        self.vocabulary = self.library.LLTokenizer(wrapper, n_vocab=VOCABULARY, eos_token=VOCABULARY - 1)
        self.threads = self.library.LLExecutor(torch.get_num_threads())

    def build(self, keys: Keys) -> None:
        self.load(self.library.LLMatcher.grammar_from_regex("|".join(as_text(keys))))

    def saved(self) -> str:
        return self.grammar

    def load(self, text: str) -> None:
        self.grammar = text
        much = dict.fromkeys(("initial_lexer_fuel", "step_lexer_fuel", "max_grammar_size", "max_lexer_states"), 10**9)
        limits = self.library.LLParserLimits(**much, step_max_items=10**7, max_items_in_row=10**7)
        self.first = self.library.LLMatcher(self.vocabulary, text, limits=limits)
        if self.first.is_error():
            raise RuntimeError(self.first.get_error()[:200])
        self.masks = self.arrays.allocate_token_bitmask(ROWS, VOCABULARY)

    def stand(self, ids: np.ndarray) -> None:
        self.table = SCORES.clone().numpy()
        self.matchers = [(self.first.deep_copy(), row) for row in range(ROWS)]
        for (matcher, _), prefix in zip(self.matchers, ids.tolist(), strict=True):
            matcher.consume_tokens(prefix)

    def compact(self) -> Any:
        self.arrays.fill_next_token_bitmask_par(self.threads, self.matchers, self.masks)
        return self.masks

    def scores(self) -> Tensor:
        self.arrays.apply_token_bitmask_inplace(self.table, self.compact())
        return torch.from_numpy(self.table)


class _Characters:
    """A tokenizer of one token a character, with the single bytes that llguidance asks for between characters."""

    eos_token_id, bos_token_id, special_token_ids = VOCABULARY - 1, None, [VOCABULARY - 1]

    def __init__(self) -> None:
        self.tokens = [character.encode() for character in CHARACTERS[:-1]] + [b"</s>"]
        self.tokens[MOST_TOKEN : MOST_TOKEN + 256] = [bytes([byte]) for byte in range(256)]

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        ids: list[int] = []
        for character in data.decode("utf-8", "surrogateescape"):
            token = ord(character) - FIRST_CHARACTER
            if 0 <= token < MOST_TOKEN:
                ids.append(token)
            else:
                ids += [MOST_TOKEN + byte for byte in character.encode("utf-8", "surrogateescape")]
        return ids


def alternatives(texts: list[str]) -> str:
    """A grammar of texts. Taking common beginnings out made it slower to compile from a few thousand keys on."""
    return "root ::= " + " | ".join(f'"{text}"' for text in texts)
