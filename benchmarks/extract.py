"""Texts to facts: sentences a second beside GLiNER's relation model, and what more predicates and longer texts cost.

Post: 8888

    tianwen bench extract --json                       without gliner its rows are left out, with a note
    tianwen bench extract --json --peers FOLDER        FOLDER: site-packages that hold gliner (torch comes from here)

Both sides: an encoder of 6 layers of width 384 with 6 heads, random weights, biases or thresholds set so that 5
entities and 3 facts a sentence come out; 4 entity types, 24 predicates, the same made-up sentences, from text to
facts with offsets. Rounds are interleaved; medians. The ways to run the peer are those of `extract_peer.py`.

    key                    meaning
    ratio_gliner           our sentences a second over the peer's with plain attention and labels in its input
    ratio_gliner_deberta, ratio_gliner_compressed   the same for the other ways
    X_full                 the same, sentences of 80 words (about 120 tokens) instead of mixed ones
    sweep_P_L_ms           a text of L characters with P predicates, ms
    ratio_200_over_24      time at 200 predicates over that at 24, the worst of the lengths of the sweep
    lazy_dense_difference  largest difference of a fact's score between lazy decoding and the definition on whole maps
    decode_ratio_worst     worst density of `extract_decode.py`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import extract_decode
import numpy as np
import torch
from extract_peer import WAYS, Peer
from extract_texts import calibrate, maps_of, of_characters, predicates, random_extractor, sentences

from tianwen.extract.decode import decode
from tianwen.extract.dense_decode import dense_facts
from tianwen.extract.extractor import ExtractOptions, Extractor

PARTS = ("gliner", "full", "sweep", "decode")
COUNT = 32
"""Sentences of a round."""

Say = Callable[[str], None]


def run(parts: Sequence[str], *, rounds: int, ways: Sequence[str], say: Say) -> dict[str, Any]:
    """The numbers of the parts asked for."""
    numbers: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for part, words in (("gliner", None), ("full", 80)):
        if part in parts:
            say(f"beside GLiNER, {'mixed' if words is None else words} words")
            row = beside(sentences(COUNT, words=words), ways, rounds=rounds)
            numbers |= {f"{key}_full" if part == "full" else key: value for key, value in row.items()}
    if "sweep" in parts:
        numbers |= sweep([24, 50, 100, 200], [128, 512, 2000], rounds=rounds, say=say)
    if "decode" in parts:
        say("decoding")
        decoding = extract_decode.run([49], rounds=3, quiet=True)
        numbers |= {key: decoding[key] for key in ("decode_ratio_worst", "same_facts")}
        numbers["lazy_dense_difference"] = max(decoding["lazy_dense_difference"], lazy_dense_difference())
    return numbers


def beside(texts: list[str], ways: Sequence[str], *, rounds: int) -> dict[str, Any]:
    """Ours and the peer's ways in turns on the same sentences."""
    labels = predicates(24)
    ours = random_extractor(labels)
    calibrate(ours, texts)
    found = ours.extract(texts)
    numbers: dict[str, Any] = {
        "tokens": round(float(np.mean([len(ours.tokenizer.ids(text)) + 2 for text in texts])), 1),
        "entities": round(float(np.mean([len(one.entities) for one in found])), 2),
        "facts": round(float(np.mean([len(one.relations) for one in found])), 2),
    }
    peers: dict[str, Peer] = {}
    try:
        peers = {way: Peer(texts, labels, way) for way in ways}
        numbers["gliner"] = version("gliner")
    except ImportError as error:
        numbers["gliner_note"] = f"left out: {error}. pip install gliner, or --peers FOLDER"
    for way, peer in peers.items():
        peer.choose_batch()
        entities, facts = peer.found()
        row = {"entities": round(entities, 2), "facts": round(facts, 2), "batch": peer.batch}
        if way != "compressed":
            row["tokens"] = round(peer.input_tokens(), 1)
        numbers |= {f"gliner_{way}_{key}": value for key, value in row.items()}
    work = {"ours": lambda: ours.extract(texts)} | {way: peer.run for way, peer in peers.items()}
    times = in_turns(work, rounds)
    numbers["sentences_per_second"] = round(len(texts) / times["ours"], 1)
    for way in peers:
        numbers[f"gliner_{way}_sentences_per_second"] = round(len(texts) / times[way], 2)
        numbers["ratio_gliner" if way == "plain" else f"ratio_gliner_{way}"] = round(times[way] / times["ours"], 2)
    return numbers


def sweep(counts: Sequence[int], lengths: Sequence[int], *, rounds: int, say: Say) -> dict[str, Any]:
    """Ours alone: every number of predicates at every length; those of a length in turns."""
    stock = sentences(COUNT)
    extractors = {count: random_extractor(predicates(count)) for count in counts}
    for extractor in extractors.values():
        calibrate(extractor, stock)
    numbers: dict[str, Any] = {}
    ratios = []
    for length in lengths:
        say(f"sweep, {length} characters")
        texts = of_characters(max(2, 4000 // length), length)
        work = {str(count): _extracting(extractor, texts) for count, extractor in extractors.items()}
        times = in_turns(work, max(rounds, 5))
        numbers |= {f"sweep_{name}_{length}_ms": round(1e3 * t / len(texts), 2) for name, t in times.items()}
        if {24, 200} <= extractors.keys():
            ratios.append(times["200"] / times["24"])
    return numbers | ({"ratio_200_over_24": round(max(ratios), 2)} if ratios else {})


def _extracting(extractor: Extractor, texts: list[str]) -> Callable[[], Any]:
    return lambda: extractor.extract(texts)


def in_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for done in range(rounds + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if done:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def lazy_dense_difference() -> float:
    """On what the network itself gives, 16 sentences; infinite if the facts are not the same."""
    texts = sentences(16)
    extractor = random_extractor(predicates(24))
    calibrate(extractor, texts)
    rules, worst = extractor.rules(ExtractOptions()), 0.0
    for maps in maps_of(extractor, texts):
        lazy, dense = decode(maps, rules), dense_facts(maps, rules)
        mentions = lazy.mentions.label, lazy.mentions.first, lazy.mentions.last
        spans = list(zip(*(column.tolist() for column in mentions), strict=True))
        facts = zip(lazy.facts.subject, lazy.facts.predicate, lazy.facts.object, lazy.fact_score, strict=True)
        ours = {(spans[s], int(p), spans[o]): float(score) for s, p, o, score in facts}
        if any(abs(min(dense[key])) > 1e-5 for key in dense.keys() - ours.keys()) or ours.keys() - dense.keys():
            return float("inf")
        worst = max([worst, *(abs(score - min(dense[key])) for key, score in ours.items() if key in dense)])
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of running the peer")
    parser.add_argument("--peers", help="a folder that holds gliner, looked at after the installed packages")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.peers:
        sys.path.append(given.peers)
    say = (lambda _: None) if given.json else lambda line: print(line, file=sys.stderr)
    numbers = run(given.parts, rounds=given.rounds, ways=given.ways, say=say)
    if given.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        print(f"{name:36}  {value}")


if __name__ == "__main__":
    main()
