"""GPLinker, CasRel and TPLinker on one encoder: the same data, labels, optimiser, batches, steps and seeds.

Post: 8888

    python benchmarks/extract_heads.py --train train_triples.json --dev dev_triples.json --protocol last-word

The encoder is that of `tianwen train extract` (2 layers of LRU, width 192), from scratch; AdamW, batches of 1,024
tokens, rate up over a tenth of the steps and down to 0; no moving average, nothing chosen by development score. With
several `--rates` each head gets its own: the best, with the first seed, on a tenth of the training texts that is held
back for that. Every run is a process of its own; one JSON line each.

    key                 meaning
    f1                  by the protocol, of what is found with the thresholds of the papers
    train_seconds       in the steps, by the processor's clock: labels, forward, backward, update
    peak_mb             largest resident memory of the process, after training; begin_mb: before it
    decode_ms           a text: from hidden states to facts, batches of 16 texts
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from extract_rivals import CasRel, Fact, TPLinker
from torch import Tensor, nn

from tianwen.backbone.mixers import ShellConfig
from tianwen.extract import infer_schema, read_annotations, score
from tianwen.extract.annotation import Annotation, Mention, Relation
from tianwen.extract.batches import padded
from tianwen.extract.decode import decode
from tianwen.extract.encoder import Encoder
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig, Projections
from tianwen.extract.labels import Example, Labeller, Labels
from tianwen.extract.maps import text_maps
from tianwen.extract.rules import UNTYPED, Rules
from tianwen.optim.schedule import piecewise_linear
from tianwen.text import Tokenizer
from tianwen.training.data_order import in_token_budget

HEADS = ("efficient", "standard", "casrel", "tplinker")
BUDGET = 1024


@dataclass(frozen=True)
class Data:
    """Texts and labels; all heads see subjects and objects without types."""

    train: list[Example]
    dev: list[Annotation]
    tokenizer: Tokenizer
    predicates: tuple[str, ...]

    @classmethod
    def read(
        cls, train: str, dev: str, *, most: int | None = None, predicates: int | None = None, tuning: bool = False
    ) -> Data:
        """From files of any format; `tuning`: each tenth training text instead of those of the development file.

        `most`: only so many texts of each; `predicates`: only texts all of whose facts have one of the so many most
        frequent predicates, for the cost of TPLinker and of standard heads grows with their number.
        """
        texts, held = list(read_annotations(train))[:most], list(read_annotations(dev))[:most]
        if tuning:
            texts, held = [one for at, one in enumerate(texts) if at % 10], texts[::10]
        if predicates:
            counts = Counter(fact.predicate for one in texts for fact in one.relations)
            kept = {name for name, _ in counts.most_common(predicates)}
            texts, held = (
                [one for one in part if one.relations and all(fact.predicate in kept for fact in one.relations)]
                for part in (texts, held)
            )
        labels = Labels(UNTYPED, infer_schema(texts).predicates)
        tokenizer = Tokenizer.train([one.text for one in texts], size=8000)
        labeller = Labeller(tokenizer, labels)
        return cls([one for text in texts for one in labeller.examples(text)], held, tokenizer, labels.predicates)


class Linked(nn.Module):
    """GPLinker behind the interface of its rivals."""

    def __init__(self, model: GPLinker) -> None:
        super().__init__()
        self.model = model
        self.rules = Rules.of(UNTYPED, model.config.predicates)

    def decode(self, hidden: Tensor, lengths: Tensor) -> list[set[Fact]]:
        """Facts of each text."""
        maps = self.model.projections(hidden, lengths)
        found = []
        for row, length in enumerate(lengths.tolist()):
            one = decode(text_maps(Projections(*(_row(part, row, length) for part in maps))), self.rules)
            m, f = one.mentions, one.facts
            columns = m.first[f.subject], m.last[f.subject], f.predicate, m.first[f.object], m.last[f.object]
            # Row 0 of the maps that are decoded is the first token after [CLS].
            found.append({(a + 1, b + 1, p, c + 1, d + 1) for a, b, p, c, d in zip(*map(list, columns), strict=True)})
        return found


def _row(part: Any, row: int, length: int) -> Any:
    cut = {
        name: None if x is None else x[row : row + 1, ..., :length, :]
        for name, x in (("queries", part.queries), ("keys", part.keys))
    }
    cut |= {
        name: None if x is None else x[row : row + 1, ..., :length]
        for name, x in (("row_bias", part.row_bias), ("column_bias", part.column_bias), ("valid", part.valid))
    }
    return replace(part, **cut)


class Model(nn.Module):
    """The encoder and one of the heads."""

    def __init__(self, head: str, data: Data, *, steps: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        shape = ShellConfig(data.tokenizer.size, "lru", 2, 192, 3, feed_forward=384, bidirectional=True, dropout=0.2)
        self.linker: GPLinker | None = None
        self.head: Any = None
        if head in ("efficient", "standard"):
            self.linker = GPLinker(GPLinkerConfig(shape, UNTYPED, data.predicates, head=head))  # type: ignore[arg-type]
            self.encoder, self.head = self.linker.encoder, Linked(self.linker)
            return
        self.encoder = Encoder(shape)
        count = len(data.predicates)
        self.head = CasRel(192, count, seed=seed) if head == "casrel" else TPLinker(192, count, steps=steps)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Of a batch."""
        if self.linker is not None:
            return self.linker.loss(batch["ids"], batch["lengths"], batch["positives"])[0]
        return self.head.loss(self.encoder(batch["ids"], batch["lengths"]), batch["lengths"], batch["examples"])


def run(head: str, seed: int, data: Data, given: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one."""
    torch.set_num_threads(1)
    lengths = [len(example) for example in data.train]
    collate = lambda examples, _: padded(examples, events=False) | {"examples": examples}  # noqa: E731
    batches = in_token_budget(data.train, lengths, collate, budget=BUDGET, seed=seed)
    steps = max(1, round(given.epochs * batches.order.batches))  # type: ignore[attr-defined]
    model = Model(head, data, steps=steps, seed=seed)
    begin = _peak()
    rate = given.rates[0]
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = piecewise_linear({0: 0.0, max(1, steps // 10): 1.0, max(steps, 2): 0.02})
    seconds, last = 0.0, 0.0
    torch.manual_seed(seed + 1)
    for step in range(steps):
        batch = batches.batch(step, 0, 1)
        start = time.process_time()
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step + 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16"):
            loss = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seconds += time.process_time() - start
        last = float(loss.detach())
        if given.progress and step % 20 == 0:
            print(f"{head} {seed}: step {step} of {steps}, loss {last:.3f}, {seconds:.0f} s", file=sys.stderr)
    peak = _peak()
    found, decoding = extracted(model.eval(), data)
    scores = score(data.dev, found, given.protocol)
    numbers = {
        "head": head,
        "seed": seed,
        "rate": rate,
        "tuning": given.tuning,
        "f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
    }
    numbers |= {"train_seconds": seconds, "begin_mb": begin, "peak_mb": peak, "loss": last}
    numbers |= {"decode_ms": 1e3 * decoding / len(data.dev)}
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in numbers.items()}
    rounded |= {"texts": len(data.train), "held": len(data.dev), "predicates": len(data.predicates)}
    return rounded | {"steps": steps, "parameters": sum(one.numel() for one in model.parameters())}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def extracted(model: Model, data: Data) -> tuple[list[Annotation], float]:
    """What the model finds in the development texts, and the seconds from hidden states to facts."""
    tokenizer = data.tokenizer
    encoded = [tokenizer.encode(one.text) for one in data.dev]
    order = sorted(range(len(encoded)), key=lambda at: len(encoded[at]))
    found: dict[int, Annotation] = {}
    seconds = 0.0
    with torch.inference_mode():
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            rows = [torch.tensor([tokenizer.cls_id, *encoded[at].ids.tolist(), tokenizer.sep_id]) for at in chosen]
            lengths = torch.tensor(list(map(len, rows)))
            hidden = model.encoder(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)
            begin = time.process_time()
            facts = model.head.decode(hidden, lengths)
            seconds += time.process_time() - begin
            for at, own in zip(chosen, facts, strict=True):
                found[at] = annotation(data.dev[at].text, encoded[at].offsets.tolist(), own, data.predicates)
    return [found[at] for at in range(len(encoded))], seconds


def annotation(text: str, offsets: list[list[int]], facts: set[Fact], predicates: Sequence[str]) -> Annotation:
    """Facts in characters; token t is piece t - 1."""

    def mention(first: int, last: int) -> Mention:
        return Mention(offsets[first - 1][0], offsets[last - 1][1], "")

    relations = [Relation(mention(a, b), predicates[p], mention(c, d)) for a, b, p, c, d in sorted(facts)]
    return Annotation(text, (), tuple(relations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev", required=True)
    parser.add_argument("--protocol", default="triples")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of training")
    parser.add_argument("--most", type=int, help="texts of each file")
    parser.add_argument("--predicates", type=int, help="only texts whose facts have the so many most frequent ones")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3], help="several: each head gets its best")
    parser.add_argument("--tuning", action="store_true", help="measure on a tenth of the training texts")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--json", action="store_true", help="it prints JSON anyway")
    given = parser.parse_args()
    if len(given.heads) * len(given.seeds) * len(given.rates) == 1:
        data = Data.read(given.train, given.dev, most=given.most, predicates=given.predicates, tuning=given.tuning)
        print(json.dumps(run(given.heads[0], given.seeds[0], data, given)), flush=True)
        return
    best = {head: tuned(head, given) for head in given.heads}
    for seed in given.seeds:
        for head in given.heads:
            alone(head, seed, best[head], given, tuning=given.tuning)


def tuned(head: str, given: argparse.Namespace) -> float:
    """The rate of the head's best score on held-back training texts."""
    if len(given.rates) == 1:
        return given.rates[0]
    return max(given.rates, key=lambda rate: alone(head, given.seeds[0], rate, given, tuning=True)["f1"])


def alone(head: str, seed: int, rate: float, given: argparse.Namespace, *, tuning: bool) -> dict[str, Any]:
    """What one run in a process of its own prints."""
    same = [f"--{name}={value}" for name, value in vars(given).items() if value and name in SAME]
    same += ["--progress"] * given.progress + ["--tuning"] * tuning
    command = [sys.executable, __file__, *same, "--heads", head, "--seeds", str(seed), "--rates", str(rate)]
    line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(line, flush=True)
    return json.loads(line)


SAME = ("train", "dev", "protocol", "epochs", "precision", "most", "predicates")

if __name__ == "__main__":
    main()
