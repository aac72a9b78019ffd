"""What holding a transformers model to a catalogue costs: our processor, and a function over a dict trie.

Post: 8802

    tianwen bench plugs --json

The same model, the same prompts, the same catalogue, in turns: `generate` with `CatalogueLogitsProcessor`, and with
`prefix_allowed_tokens_fn` over nested dicts as users of GENRE have it. Two vocabularies (12,000 and 262,144), 128 rows
each: one greedy decoding of 128 prompts, one beam search of 32 prompts with 4 beams. The cost is what passes inside the
processor of each, not the share of the model; the first decoding of each is for the caches and not counted either.

    key                      meaning
    constraint_ratio         their seconds over ours, of all steps together; the least of all cases
    ours_us_per_step         microseconds a step of 128 rows, the most of all cases; theirs_us_per_step: the least
    outputs_equal            whether both wrote the same sequences in every case
    cases                    each vocabulary and way of decoding, with the cost of each depth (tokens written before)
    alone                    the same steps without a model between them, which leaves nothing in the caches: medians of
                             repeated calls on 128 random prefixes of each depth, and the least ratio of all depths
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from ask_peer import allowed_tokens_fn, build_trie, made_up_keys
from torch import Tensor

from tianwen.ask.huggingface import CatalogueLogitsProcessor
from tianwen.ask.ragged import ragged
from tianwen.ask.trie import CatalogueTrie
from tianwen.errors import MissingExtra

ROWS, PROMPT = 128, 8
PAD = END = 1  # as most decoder-only models have it
WAYS: dict[str, dict[str, Any]] = {"greedy": {}, "beams": {"num_beams": 4, "early_stopping": True}}


class Timed:
    """A logits processor that adds up the seconds spent in another, by the number of tokens written before."""

    def __init__(self, inner: Callable[[Tensor, Tensor], Tensor], prompt_len: int) -> None:
        self.inner, self.prompt_len = inner, prompt_len
        self.seconds: dict[int, list[float]] = defaultdict(list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        started = time.perf_counter()
        masked = self.inner(input_ids, scores)
        self.seconds[input_ids.shape[1] - self.prompt_len].append(time.perf_counter() - started)
        return masked

    def total(self) -> float:
        """Seconds of all steps."""
        return sum(sum(steps) for steps in self.seconds.values())

    def by_depth(self) -> list[int]:
        """Median microseconds of each depth."""
        return [round(float(np.median(self.seconds[depth])) * 1e6) for depth in sorted(self.seconds)]

    def mean(self) -> float:
        """Microseconds a step."""
        return self.total() * 1e6 / sum(map(len, self.seconds.values()))


def random_model(vocabulary: int) -> Any:
    """A GPT-2 so small that a step of 128 rows is mostly its softmax: what is measured is outside of it."""
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise MissingExtra("transformers", "hf") from error
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=128, n_embd=32, n_layer=1, n_head=2, bos_token_id=END, eos_token_id=END
    )
    return transformers.GPT2LMHeadModel(config).eval()


def spread(keys: list[list[int]], vocabulary: int) -> list[list[int]]:
    """The keys with their tokens spread over the vocabulary, so that a larger one is used up to its end."""
    top = max(map(max, keys))
    return [[2 + token * (vocabulary - 3) // top for token in key] for key in keys]


def compare(model: Any, keys: list[list[int]], way: str, rounds: int) -> dict[str, Any]:
    """One case: both ways of holding the model, in turns."""
    transformers: Any = import_module("transformers")
    vocabulary = model.config.vocab_size
    beams = WAYS[way].get("num_beams", 1)
    prompts = torch.randint(2, vocabulary, (ROWS // beams, PROMPT), generator=torch.Generator().manual_seed(1))
    trie, _ = CatalogueTrie.build(*ragged(keys), end_id=END)
    function = allowed_tokens_fn(build_trie(keys, END), PROMPT, END)
    # The function in the library's own processor, where it can be timed; `generate` would make just this one.
    their_processor = transformers.PrefixConstrainedLogitsProcessor(function, beams)
    ours = Timed(CatalogueLogitsProcessor(trie, prompt_len=PROMPT, eos_token_id=END, pad_token_id=PAD), PROMPT)
    theirs = Timed(their_processor, PROMPT)
    config = transformers.GenerationConfig(
        max_new_tokens=max(map(len, keys)) + 1, pad_token_id=PAD, bos_token_id=END, eos_token_id=END, **WAYS[way]
    )
    equal = True
    for counted in range(rounds + 1):
        if counted == 1:  # everything is loaded, compiled and allocated
            ours.seconds.clear()
            theirs.seconds.clear()
        written = [
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                generation_config=config,
                logits_processor=[plug],
            )
            for plug in (ours, theirs)
        ]
        equal = equal and torch.equal(*written)
    return {
        "vocabulary": vocabulary,
        "way": way,
        "ratio": round(theirs.total() / ours.total(), 1),
        "ours_us_per_step": round(ours.mean()),
        "theirs_us_per_step": round(theirs.mean()),
        "outputs_equal": equal,
        "steps": len(ours.seconds),
        "ours_us_by_depth": ours.by_depth(),
        "theirs_us_by_depth": theirs.by_depth(),
    }


def alone(keys: list[list[int]], vocabulary: int, *, depths: int = 9) -> dict[str, Any]:
    """The same call again and again at each depth, both ways."""
    transformers: Any = import_module("transformers")
    chooser = random.Random(0)
    rows = [chooser.choice(keys) for _ in range(ROWS)]
    trie, _ = CatalogueTrie.build(*ragged(keys), end_id=END)
    hold = CatalogueLogitsProcessor(trie, prompt_len=1, eos_token_id=END, pad_token_id=PAD)
    function = allowed_tokens_fn(build_trie(keys, END), 1, END)
    theirs = transformers.PrefixConstrainedLogitsProcessor(function, 1)
    scores = torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(0))
    ours_us, theirs_us = [], []
    for depth in range(depths):
        ids = torch.tensor([[PAD, *(key + [END] * depths)[:depth]] for key in rows])
        times: list[list[float]] = [[], []]
        for turn in range(30):
            if depth:
                hold(ids[:, :-1], scores)  # as `generate` would come
            for plug, spent in ((hold, times[0]), (theirs, times[1]))[: 1 if turn > 5 else 2]:
                started = time.perf_counter()
                plug(ids, scores)
                spent.append(time.perf_counter() - started)
        ours_us.append(round(float(np.median(times[0])) * 1e6, 1))
        theirs_us.append(round(float(np.median(times[1])) * 1e6, 1))
    ratios = [theirs / ours for ours, theirs in zip(ours_us, theirs_us, strict=True)]
    return {"ratio": round(min(ratios), 1), "ours_us_by_depth": ours_us, "theirs_us_by_depth": theirs_us}


def run(*, keys: int = 50_000, rounds: int = 6, vocabularies: tuple[int, ...] = (12_000, 262_144)) -> dict[str, Any]:
    """All cases."""
    made_up = made_up_keys(subjects=max(keys // 6, 1), predicates=600, each=6)
    cases, repeated = [], {}
    for vocabulary in vocabularies:
        model, spread_keys = random_model(vocabulary), spread(made_up, vocabulary)
        cases += [compare(model, spread_keys, way, rounds) for way in WAYS]
        repeated[str(vocabulary)] = alone(spread_keys, vocabulary)
    return {
        "constraint_ratio": min(case["ratio"] for case in cases),
        "ours_us_per_step": max(case["ours_us_per_step"] for case in cases),
        "theirs_us_per_step": min(case["theirs_us_per_step"] for case in cases),
        "outputs_equal": all(case["outputs_equal"] for case in cases),
        "keys": len(made_up),
        "rows": ROWS,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": import_module("transformers").__version__,
        "cases": cases,
        "alone": repeated,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=50_000, help="entries of the catalogue")
    parser.add_argument("--rounds", type=int, default=6, help="decodings of each kind that are counted")
    parser.add_argument("--vocabulary", type=int, action="append", help="another vocabulary than the two; repeatable")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    vocabularies = tuple(options.vocabulary or (12_000, 262_144))
    try:
        result = run(keys=options.keys, rounds=options.rounds, vocabularies=vocabularies)
    except MissingExtra as error:
        result = {"note": f"left out: {error}"}
    print(json.dumps(result, ensure_ascii=False) if options.json else json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
