"""The peer of `tianwen bench ask`: a transformers model of equal size, held to the same keys as users hold it today.

Post: 8802

What people write without Tianwen: a dict trie over the catalogue, `generate` with beam search, and a Python function
`prefix_allowed_tokens_fn` that walks the trie for every beam of every question at every step (the way of GENRE). The
weights are random, which changes neither the size nor the work of a step; the number of steps is reported beside the
speed, because speed per question depends on it.

    notation     meaning
    vocabulary   the tokens of questions and keys are 0 .. vocabulary-1; two more are added: padding and end
    key          tokens of one catalogue entry, without the end token that is added here
    step         one call of the model for all beams of a batch
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tianwen.errors import InputError, MissingExtra, TianwenError

Trie = dict[int, Any]
VOCABULARY, SEPARATOR = 6000, 3  # of the made-up keys


@dataclass(frozen=True, slots=True)
class Size:
    """Settings of the peer's model, to be made equal to those of the model that it is compared with."""

    layers: int
    width: int
    heads: int
    vocabulary: int


@dataclass(slots=True)
class Tally:
    """What a run did: questions answered, seconds in `generate`, steps, and answers that are no key (a failure)."""

    questions: int = 0
    seconds: float = 0.0
    steps: int = 0
    batches: int = 0
    strangers: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def questions_per_second(self) -> float:
        return self.questions / self.seconds

    @property
    def steps_per_batch(self) -> float:
        return self.steps / self.batches


def build_trie(keys: Sequence[Sequence[int]], end: int) -> Trie:
    """Nested dicts, `end` being a child like any other, so that a key that is a prefix of another can be reached."""
    root: Trie = {}
    for key in keys:
        node = root
        for token in key:
            node = node.setdefault(token, {})
        node[end] = {}
    return root


def follow(trie: Trie, prefix: Sequence[int]) -> Trie:
    """The node after `prefix`; an empty one where the prefix has left the trie."""
    node = trie
    for token in prefix:
        node = node.get(token)
        if node is None:
            return {}
    return node


def allowed_tokens_fn(trie: Trie, prompt_length: int, end: int) -> Callable[[int, Tensor], list[int]]:
    """The function that `generate` calls for every beam at every step.

    Without live continuations (a finished beam, or more beams than continuations) only the end is left: an empty list
    makes `generate` raise.
    """

    def allowed(_: int, ids: Tensor) -> list[int]:
        return list(follow(trie, ids[prompt_length:].tolist())) or [end]

    return allowed


class Peer:
    """A GPT-2 of the given size with its trie; `run` may be called many times, interleaved with its rival's runs."""

    def __init__(self, keys: Sequence[Sequence[int]], size: Size, *, beams: int, batch: int, seed: int = 0) -> None:
        """Build model and trie.

        Raises MissingExtra without transformers, InputError when there are no keys or ids outside the vocabulary.
        """
        if not keys or not all(len(key) for key in keys):
            raise InputError("The peer needs keys, none of them empty.")
        if max(map(max, keys)) >= size.vocabulary:
            raise InputError(f"A key has a token outside the vocabulary of {size.vocabulary}.")
        self.pad, self.end = size.vocabulary, size.vocabulary + 1
        self.beams, self.batch = beams, batch
        self.keys = {tuple(key) for key in keys}
        self.longest = max(map(len, keys)) + 1  # with the end
        self.trie = build_trie(keys, self.end)
        self.model = _random_model(size, self.pad, self.end, seed)

    def run(self, questions: Sequence[Sequence[int]], *, seconds: float) -> Tally:
        """Answer batch after batch, from the first again after the last, until `seconds` are over (at least one)."""
        tally = Tally()
        start = 0
        while tally.batches == 0 or tally.seconds < seconds:
            chosen = [questions[(start + i) % len(questions)] for i in range(self.batch)]
            self._answer(chosen, tally)
            start = (start + self.batch) % len(questions)
        return tally

    def _answer(self, questions: Sequence[Sequence[int]], tally: Tally) -> None:
        begin = time.perf_counter()
        ids, mask = self._padded(questions)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation(),
            prefix_allowed_tokens_fn=allowed_tokens_fn(self.trie, ids.shape[1], self.end),
        )
        answers = [tuple(row) for row in output[:, ids.shape[1] :].tolist()]
        tally.seconds += time.perf_counter() - begin
        tally.questions += len(questions)
        tally.steps += self.model.steps
        tally.batches += 1
        self.model.steps = 0
        # Outside the clock: whatever comes out must be a key.
        tally.strangers += [answer for answer in map(self._until_end, answers) if answer not in self.keys]

    def _until_end(self, answer: tuple[int, ...]) -> tuple[int, ...]:
        return answer[: answer.index(self.end)] if self.end in answer else answer

    def _padded(self, questions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, questions))
        ids = torch.full((len(questions), width), self.pad)
        for row, question in enumerate(questions):
            ids[row, width - len(question) :] = torch.tensor(list(question))
        return ids, (ids != self.pad).long()

    def _generation(self) -> Any:
        return _transformers().GenerationConfig(
            num_beams=self.beams,
            do_sample=False,
            early_stopping=True,  # stop as soon as `beams` keys are complete: the fewest steps that `generate` can do
            max_new_tokens=self.longest,
            pad_token_id=self.pad,
            bos_token_id=self.end,
            eos_token_id=self.end,
            use_cache=True,
        )


def peer_questions_per_second(
    questions_ids: list[list[int]],
    keys: list[list[int]],
    *,
    layers: int,
    width: int,
    heads: int,
    vocabulary: int,
    beams: int,
    batch: int,
    seconds: float,
) -> float:
    """Questions per second of the peer, measured over `seconds` after one batch to warm up.

    Raises MissingExtra without transformers, and TianwenError when an answer is no key of the catalogue.
    """
    peer = Peer(keys, Size(layers, width, heads, vocabulary), beams=beams, batch=batch)
    peer.run(questions_ids, seconds=0)
    tally = peer.run(questions_ids, seconds=seconds)
    if tally.strangers:
        raise TianwenError(f"The peer answered {tally.strangers[0]}, which is no key: its numbers would mean nothing.")
    return tally.questions_per_second


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise MissingExtra("transformers", "hf") from error


def _random_model(size: Size, pad: int, end: int, seed: int) -> Any:
    transformers = _transformers()
    config = transformers.GPT2Config(
        vocab_size=size.vocabulary + 2,
        n_positions=1024,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        activation_function="relu",  # the cheapest, and what RoFormerV2 has
        pad_token_id=pad,
        bos_token_id=end,
        eos_token_id=end,
    )

    class Counting(transformers.GPT2LMHeadModel):
        """Counts the calls of the model."""

        steps = 0

        def forward(self, *args: Any, **options: Any) -> Any:
            self.steps += 1
            return super().forward(*args, **options)

    torch.manual_seed(seed)
    return Counting(config).eval()


def run(*, quiet: bool = False) -> dict[str, float]:
    """The peer alone, on made-up keys: three fields a key, as facts have, of 10 tokens on average."""
    del quiet  # nothing is shown before the numbers
    keys = made_up_keys(subjects=8000, predicates=600, each=6)
    generator = random.Random(1)
    questions = [[2, *_words(generator, 10, 24)] for _ in range(256)]
    peer = Peer(keys, Size(4, 256, 4, VOCABULARY), beams=4, batch=32)
    peer.run(questions, seconds=0)
    tally = peer.run(questions, seconds=10)
    return {
        "questions_per_second": round(tally.questions_per_second, 2),
        "steps_per_batch": round(tally.steps_per_batch, 2),
        "answers_outside_the_catalogue": len(tally.strangers),
        "keys": len(keys),
        "threads": torch.get_num_threads(),
    }


def made_up_keys(*, subjects: int, predicates: int, each: int, seed: int = 0) -> list[list[int]]:
    """Keys `subject [SEP] predicate [SEP] [SEP]` of random tokens; `each` subject has that many predicates."""
    generator = random.Random(seed)
    names = [_words(generator, 2, 9) for _ in range(subjects)]
    kinds = [_words(generator, 2, 5) for _ in range(predicates)]
    return [
        [*name, SEPARATOR, *kind, SEPARATOR, SEPARATOR] for name in names for kind in generator.sample(kinds, k=each)
    ]


def _words(generator: random.Random, least: int, most: int) -> list[int]:
    return [generator.randrange(5, VOCABULARY) for _ in range(generator.randint(least, most))]


if __name__ == "__main__":
    print(json.dumps(run()))
