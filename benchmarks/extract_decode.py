"""Decoding of facts against the loop that the reference runs, at every density of candidates, on a CPU.

Post: 8888

64 texts of 128 tokens, made-up projections of an efficient head of size 64. Both sides start from the projections; the
reference's whole maps [P, n, n] are computed by one product and two sums in torch. Rounds are interleaved; medians.

    density    mentions a text (subjects + objects)    links above the threshold
    none       0                                        none
    realistic  4 + 6                                    1 in 10,000 cells
    dense      30 + 30                                  1 in 100
    early      70 + 70, as after a few hundred steps    half

    Numbers of predicates other than 49 at realistic density alone.

    key                   meaning
    X_ours_ms             projections to facts, by `decode`
    X_maps_ms, X_loop_ms  the reference: the maps; the loop over subjects and objects
    X_ratio               (maps + loop) / ours;  X_loop_ratio: the loop alone, as if its maps came for nothing, / ours
    decode_ratio_worst    the least ratio, over all densities and numbers of predicates
    lazy_dense_difference largest difference of a fact's score between `decode` and the definition on whole maps
    same_facts            whether both find the same facts everywhere
    ratio_200_over_24     our time at 200 predicates / at 24, realistic density
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tianwen.extract.decode import Decoded, decode
from tianwen.extract.dense_decode import dense_map
from tianwen.extract.maps import PointerMap, TextMaps
from tianwen.extract.rules import UNTYPED, Rules

TEXTS, TOKENS, SIZE = 64, 128, 64
DENSITIES: dict[str, tuple[int, int, float]] = {
    "none": (0, 0, 0.0),
    "realistic": (4, 6, 1e-4),
    "dense": (30, 30, 1e-2),
    "early": (70, 70, 0.5),
}
"""Subjects, objects, share of the links."""


def run(predicates: list[int], *, rounds: int = 7, quiet: bool = False) -> dict[str, Any]:
    """Every number; those of 49 predicates by density, of others with their number before."""
    numbers: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "numpy": np.__version__}
    ratios, differences, same, realistic = [], [], True, {}
    for count in predicates:
        for name, density in DENSITIES.items():
            if name != "realistic" and count != 49:
                continue  # half a minute a round, and nothing new
            if not quiet:
                print(f"{count} predicates, {name}", file=sys.stderr)
            texts = [made_up(seed, count, *density) for seed in range(TEXTS)]
            row = _measure(texts, _rules(count), rounds)
            same &= row.pop("same")
            differences.append(row.pop("difference"))
            ratios.append(row["ratio"])
            prefix = "" if count == 49 else f"{count}_"
            numbers |= {f"{prefix}{name}_{key}": value for key, value in row.items()}
            if name == "realistic":
                realistic[count] = row["ours_ms"]
    if {24, 200} <= realistic.keys():
        numbers["ratio_200_over_24"] = round(realistic[200] / realistic[24], 2)
    return numbers | {
        "decode_ratio_worst": min(ratios),
        "lazy_dense_difference": max(differences),
        "same_facts": same,
    }


def made_up(seed: int, predicates: int, subjects: int, objects: int, links: float) -> TextMaps:
    """A text with so many mentions, and such a share of links above 0."""
    rng = np.random.default_rng(seed)
    entity = _with_positives(_random(rng, 2), [subjects, objects], spans=True)
    wanted = [round(links * TOKENS * TOKENS)] * predicates
    if 0 < links < 1e-3:  # rarer than one a predicate
        wanted = rng.binomial(TOKENS * TOKENS, links, predicates).tolist()
    return TextMaps(entity, *(_with_positives(_random(rng, predicates), wanted) for _ in range(2)))


def _random(rng: np.random.Generator, classes: int) -> PointerMap:
    queries, keys = rng.normal(size=(2, TOKENS, SIZE)).astype(np.float32)
    starts, ends = rng.normal(size=(2, classes, TOKENS)).astype(np.float32)
    return PointerMap(queries / (2 * SIZE**0.5), keys, starts, ends)


def _with_positives(pointer: PointerMap, wanted: list[int], *, spans: bool = False) -> PointerMap:
    """Shifted so that each class has as many cells above 0 as wanted."""
    scores = -dense_map(pointer, spans=spans).reshape(len(wanted), -1)
    shift = []
    for row, number in zip(scores, wanted, strict=True):
        around = np.partition(row, (max(0, number - 1), number))
        shift.append(-(around[number - 1] + around[number]) / 2 if number else 1 - around[0])
    return pointer._replace(starts=pointer.starts - np.array(shift, np.float32)[:, None])


def _rules(predicates: int) -> Rules:
    rules = Rules.of(UNTYPED, [str(number) for number in range(predicates)])
    return replace(rules, most_mentions=None, most_facts=None)


def _measure(texts: list[TextMaps], rules: Rules, rounds: int) -> dict[str, Any]:
    """Times and agreement; the reference's maps are built a text at a time, so that they stay in the cache."""
    times: dict[str, list[float]] = {"ours": [], "maps": [], "loop": []}
    found: dict[str, list] = {}
    tensors = [_tensors(text) for text in texts]
    for done in range(rounds):
        if done >= 3 and sum(map(sum, times.values())) > 20:
            break
        found["ours"] = _timed(times["ours"], lambda: [decode(text, rules) for text in texts])
        found["maps"] = _timed(times["maps"], lambda: [whole_maps(text) for text in tensors])
        found["loop"] = _timed(times["loop"], lambda: [reference_loop(*maps) for maps in found["maps"]])
    checked = [_difference(*three) for three in zip(found["ours"], found["loop"], found["maps"], strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{f"{name}_ms": round(1e3 * seconds, 2) for name, seconds in medians.items()},
        "ratio": round((medians["maps"] + medians["loop"]) / medians["ours"], 2),
        "loop_ratio": round(medians["loop"] / medians["ours"], 2),
        "same": all(same for same, _ in checked),
        "difference": max(difference for _, difference in checked),
    }


def _timed(times: list[float], work: Callable[[], list]) -> list:
    start = time.perf_counter()
    result = work()
    times.append(time.perf_counter() - start)
    return result


def _tensors(text: TextMaps) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(map(torch.from_numpy, one)) for one in text if one is not None]


def whole_maps(text: list[tuple[torch.Tensor, ...]]) -> list[np.ndarray]:
    """The maps [C, n, n] of a text, that of spans without what is below the diagonal."""
    maps = [starts[:, :, None] + ends[:, None, :] + q @ k.T for q, k, starts, ends in text]
    maps[0].masked_fill_(torch.ones(maps[0].shape[1:], dtype=torch.bool).tril(-1), float("-inf"))
    return [one.numpy() for one in maps]


def reference_loop(spans: np.ndarray, heads: np.ndarray, tails: np.ndarray) -> set[tuple[int, ...]]:
    """The usual way to decode: every subject with every object, and the predicates where both links are positive."""
    subjects, objects = set(), set()
    for label, first, last in zip(*np.where(spans > 0), strict=True):
        (subjects if label == 0 else objects).add((first, last))
    found = set()
    for s_first, s_last in subjects:
        for o_first, o_last in objects:
            by_head = np.where(heads[:, s_first, o_first] > 0)[0]
            by_tail = np.where(tails[:, s_last, o_last] > 0)[0]
            for predicate in set(by_head) & set(by_tail):
                found.add((s_first, s_last, predicate, o_first, o_last))
    return found


def _difference(decoded: Decoded, loop: set[tuple[int, ...]], maps: list[np.ndarray]) -> tuple[bool, float]:
    """Whether the facts are the loop's, but for those as near to 0 as rounding, and how far their scores differ."""
    m, f = decoded.mentions, decoded.facts
    columns = m.first[f.subject], m.last[f.subject], f.predicate, m.first[f.object], m.last[f.object]
    ours = dict(zip(zip(*(column.tolist() for column in columns), strict=True), decoded.fact_score, strict=True))
    same = all(abs(_least(fact, maps)) < 1e-5 for fact in ours.keys() ^ loop)
    return same, max((abs(float(score) - _least(fact, maps)) for fact, score in ours.items()), default=0.0)


def _least(fact: tuple[int, ...], maps: list[np.ndarray]) -> float:
    """The least of the four scores in the whole maps."""
    (s_first, s_last, predicate, o_first, o_last), (spans, heads, tails) = fact, maps
    links = heads[predicate, s_first, o_first], tails[predicate, s_last, o_last]
    return float(min(spans[0, s_first, s_last], spans[1, o_first, o_last], *links))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predicates", type=int, nargs="+", default=[24, 49, 200])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    numbers = run(given.predicates, rounds=given.rounds, quiet=given.json)
    if given.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        print(f"{name:24}  {value}")


if __name__ == "__main__":
    main()
