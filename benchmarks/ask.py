"""Questions per second: the asker against the same weights step by step, and against transformers, in one run.

Post: 8802

    tianwen bench ask --json                    a made-up knowledge base of KgCLUE's shape
    tianwen bench ask --kb D --questions F      your own

Rows, interleaved round by round on the same questions, batch 32, 4 beams:
    default        the asker as it comes: subjects by beam, all predicates scored as a whole minus the prior
    path           the post's way: one beam through subject, predicate and sense, lookahead, forced chains
    path_stepwise  the same weights and the same beam, one model call a token: no forced chains, no speculation
    transformers   a GPT-2 of equal size under `generate` with `prefix_allowed_tokens_fn` over a dict trie

`questions_per_second` and the ratios are those of `path`, a beam of 4 like the others'; `default_` keys those of the
asker as it comes, which does more (every predicate is scored, twice) to be right more often. `different_from_stepwise`
counts answers in which path and path_stepwise differ: it must be 0.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ask_peer import Peer, Size

from tianwen.ask.asker import Answer, Asker, AskOptions, Trace
from tianwen.ask.cold_start import ColdStart
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.questions import read_questions
from tianwen.errors import MissingExtra

ROWS = {
    "default": AskOptions(),
    "path": AskOptions(scoring="path"),
    "path_stepwise": AskOptions(scoring="path", forced_chains=False, speculate=False),
}
HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]


def made_up(folder: Path, asker: Asker, facts: int, asked: int) -> tuple[KnowledgeBase, list[str]]:
    """A knowledge base of KgCLUE's shape (about 7 predicates a subject, senses in a quarter) and questions about it."""
    chance = random.Random(0)
    source = ColdStart([("天", "")], ["名"])
    predicates = source.listed
    rows, names = [], []
    while len(rows) < facts:
        subject = "".join(chance.choice(HAN) for _ in range(chance.choice((2, 3, 3, 4, 5, 7))))
        sense = "".join(chance.choice(HAN) for _ in range(6)) if chance.random() < 0.27 else ""
        own = [chance.choice(predicates) for _ in range(chance.randint(3, 12))]
        rows += [Fact(subject, predicate, f"对象{len(rows) + i}", sense) for i, predicate in enumerate(own)]
        names.append((subject, own))
    questions = []
    while len(questions) < asked:
        subject, own = chance.choice(names)
        questions.append(source.ask(subject, chance.choice(own), chance)[0])
    return KnowledgeBase.build(rows, folder, tokenizer=asker.tokenizer), questions


def keys_of(kb: KnowledgeBase, asker: Asker) -> list[list[int]]:
    """Every key as the dict trie of the peer wants it."""
    sep = asker.tokenizer.sep_id
    keys = set()
    for fact in kb.snapshot().iter_facts():
        parts = [asker.tokenizer.ids(text).tolist() for text in (fact.subject, fact.predicate, fact.sense)]
        keys.add((*parts[0], sep, *parts[1], sep, *parts[2], sep))
    return [list(key) for key in sorted(keys)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Questions per second, side by side.")
    parser.add_argument("--facts", type=int, default=50_000, help="size of the made-up knowledge base")
    parser.add_argument("--count", type=int, default=128, help="questions a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kb", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asker = Asker.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        if options.kb:
            kb = KnowledgeBase.open(options.kb)
            known = read_questions([options.questions])
            questions = [question.text for question in random.Random(0).sample(known, min(options.count, len(known)))]
        else:
            kb, questions = made_up(Path(folder) / "made-up.kb", asker, options.facts, options.count)
        result = measure(asker, kb, questions, options.rounds)
        kb.close()
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for name, value in result.items():
        print(f"{name:34}{value:.4g}" if isinstance(value, float) else f"{name:34}{value}")


def measure(asker: Asker, kb: KnowledgeBase, questions: list[str], rounds: int) -> dict[str, float | int | str]:
    """All rows, interleaved; medians over rounds."""
    snapshot = kb.snapshot()
    times: dict[str, list[float]] = {name: [] for name in (*ROWS, "transformers")}
    traces: dict[str, Trace] = {}
    answers: dict[str, list[list[Answer]]] = {}
    peer, peer_tally = peer_of(asker, kb), None
    ids = [asker.question_ids(question).tolist() for question in questions]
    for name in ROWS:  # compile and warm up
        list(asker.answers(questions[:32], snapshot, ROWS[name]))
    for turn in range(rounds):
        for name, how in ROWS.items():
            traces[name], start = Trace(), time.perf_counter()
            answers[name] = list(asker.answers(questions, snapshot, how, trace=traces[name]))
            times[name].append(len(questions) / (time.perf_counter() - start))
        if peer is not None:
            part = ids[32 * turn : 32 * turn + 32] or ids[:32]
            peer_tally = peer.run(part, seconds=0.0)
            times["transformers"].append(peer_tally.questions_per_second)
        print(f"round {turn + 1} of {rounds}", {k: round(v[-1], 2) for k, v in times.items() if v}, file=sys.stderr)
    median = {name: statistics.median(values) for name, values in times.items() if values}
    result: dict[str, float | int | str] = {
        "questions_per_second": median["path"],
        "default_questions_per_second": median["default"],
        "ratio_stepwise": median["path"] / median["path_stepwise"],
        "different_from_stepwise": sum(map(_differ, answers["path"], answers["path_stepwise"])),
        "model_calls_per_question": traces["path"].model_calls / len(questions),
        "default_model_calls_per_question": traces["default"].model_calls / len(questions),
        "stepwise_model_calls_per_question": traces["path_stepwise"].model_calls / len(questions),
        "tokens_per_question": traces["default"].tokens / len(questions),
        "facts": len(snapshot),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if peer_tally is not None:
        import transformers

        result |= {
            "transformers_questions_per_second": median["transformers"],
            "ratio_transformers": median["path"] / median["transformers"],
            "default_ratio_transformers": median["default"] / median["transformers"],
            "transformers_steps_per_batch": peer_tally.steps_per_batch,
            "transformers": transformers.__version__,
        }
    return result


def peer_of(asker: Asker, kb: KnowledgeBase) -> Peer | None:
    """The peer of equal size over the same keys; None with a note if transformers is not installed."""
    shape = asker.model.config.backbone
    size = Size(shape.layers, shape.width, shape.heads, shape.vocabulary)
    try:
        return Peer(keys_of(kb, asker), size, beams=4, batch=32)
    except MissingExtra as error:
        print(f"no row for transformers: {error}", file=sys.stderr)
        return None


def _differ(one: list[Answer], other: list[Answer]) -> bool:
    """Whether two lists of answers name different paths, or their probabilities differ by more than rounding."""
    paths = [[(a.subject, a.predicate, a.sense) for a in answers] for answers in (one, other)]
    close = (
        np.allclose([a.probability for a in one], [b.probability for b in other], atol=1e-4)
        if paths[0] == paths[1]
        else False
    )
    return not close


if __name__ == "__main__":
    main()
