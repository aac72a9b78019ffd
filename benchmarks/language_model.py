"""The post's comparison, small: language models that differ in nothing but the mixer, at a context of 128 and of 512.

Post: 9554 (training curves of attention, LRU, SLRU and RWKV in the same shell, 100 million parameters)

Each model has the same shell, the same number of weights, and sees the same number of characters a step in the same
order for each context; a twentieth of the text is held out. bits: mean -log2 p of a character held out, each window
read from nothing. One seed each. Dropout is off: nothing is seen twice.

    python benchmarks/language_model.py [--text FILE ...] [--lengths 128 512] [--steps 250] [--threads 1] [--bf16]
        [--layers 3] [--width 128] [--vocabulary 3000] [--curves FILE.json] [--plot FILE.svg] [--json]

    notation                     meaning
    bits_LENGTH_MIXER            on text held out, at the end       seconds_...  of the processor, measuring included
    characters_per_second_...    of training
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from curves import as_json, plot

from tianwen.backbone.mixers import MIXERS
from tianwen.write.learning import TrainLmSettings, fit_language_model
from tianwen.write.text_files import Text, read_texts

TOKENS = 2048  # a step
OWN_PAGES = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))  # little, but everybody has them


def train(text: Text, mixer: str, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run: parameters, bits, seconds and the curve [[step, bits], ...]."""
    how = TrainLmSettings(
        mixer=mixer,  # type: ignore[arg-type]
        steps=options.steps,
        length=length,
        batch=max(1, TOKENS // length),
        layers=options.layers,
        width=options.width,
        dropout=0.0,
        learning_rate=options.rate,
        precision="bf16" if options.bf16 else "fp32",
    )
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="tianwen-") as folder:
        every = max(1, options.steps // 5)
        fit_options = {"evaluate_every": every, "quiet": options.json, "checkpoint_every": 10**6}
        model, _ = fit_language_model(text, Path(folder), how, **fit_options)
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    seconds = time.process_time() - started
    curve = [(line["step"], round(line["evaluation"]["bits"], 4)) for line in lines if "evaluation" in line]
    return {
        "parameters": model.shell.parameter_count(),
        "bits": curve[-1][1],
        "seconds": round(seconds, 1),
        "characters_per_second": round(options.steps * how.batch * length / seconds),
        "steps": options.steps,
        "curve": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", nargs="+", default=OWN_PAGES, help="UTF-8 text, also .xz, .gz; else our own pages")
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=MIXERS)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--vocabulary", type=int, default=3000)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--curves", type=Path, default=None, help="add the curves to this JSON file")
    parser.add_argument("--plot", type=Path, default=None, help="draw all curves of that file as SVG")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    text = read_texts(options.text, vocabulary=options.vocabulary)
    known = json.loads(options.curves.read_text()) if options.curves and options.curves.exists() else {}
    numbers: dict[str, Any] = {"characters": len(text.train) + len(text.held_out)}
    for length in options.lengths:
        for mixer in options.mixers:
            told = train(text, mixer, length, options)
            known.setdefault(f"context {length}", {})[mixer] = told
            numbers |= {f"{key}_{length}_{mixer}": told[key] for key in ("bits", "seconds", "characters_per_second")}
            if not options.json:
                print(f"{length:5} {mixer:10} {told['bits']:.3f} bits  {told['seconds']} s", flush=True)
            if options.curves:
                options.curves.write_text(as_json(known))
    if options.plot:
        options.plot.write_text(plot(known, what="bits a character, on text held out"))
    if options.json:
        print(json.dumps(numbers | {"torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
