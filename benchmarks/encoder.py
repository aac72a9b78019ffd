"""Useful tokens per second of the encoder on texts of mixed lengths, float32 and int8, beside its peers.

Post: 8998

All have 6 layers of width 384 and random weights. Ours reads without padding (`RoFormerV2.encode`); the peers read
padded batches of 16, as the texts come and sorted by length: transformers' BERT in float32 and with PyTorch's dynamic
int8, and our own encoder exported to ONNX (`tianwen export onnx`) on ONNX Runtime, in float32 and with its dynamic
int8. Only real tokens are counted. Each round runs every contender once, one after the other; a ratio is the median of
the rounds' ratios. What is not installed is left out, with a note. With one thread the time is that thread's own, else
the clock on the wall.

    tianwen bench encoder [--rounds 5] [--threads 2] [--json]

    notation                        meaning
    ratio_transformers_bert         ours over BERT, both float32, BERT's batches as the texts come: lengths are mixed
    ratio_transformers_bert_sorted  the same over BERT's batches by length, which asks for all texts beforehand
    ratio_onnxruntime, .._sorted    the same over the exported encoder on ONNX Runtime
    ratio_int8_...                  ours in int8; over each peer in float32, and in int8 (..._int8)
    int8_difference                 |h - h'| / |h|, hidden states in float32 against int8
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from backbone import bert_of_equal_size, interleaved, median_ratio, version_of_transformers
from torch import Tensor

from tianwen.backbone.int8 import quantise_for_inference
from tianwen.backbone.linear import pack_for_inference
from tianwen.backbone.masks import valid_tokens
from tianwen.backbone.onnx_export import encoder_graph
from tianwen.backbone.onnx_graph import onnx_package
from tianwen.backbone.roformer_v2 import SMALL, RoFormerV2
from tianwen.errors import MissingExtra

Read = Callable[[Tensor, Tensor], Any]
"""Ids [batch, length] and lengths [batch] of right-padded rows, through a peer."""

AT_ONCE = 16
MIXES = {"questions": (2.7, 0.5, 64, 192), "mixed": (3.4, 0.9, 256, 64)}
"""name -> (mean and deviation of the logarithm of a length, the longest, number of texts)"""


def run(*, quiet: bool = False, rounds: int = 5, threads: int | None = None) -> dict[str, Any]:
    """Every number by name; those of the mix "mixed" also without its name."""
    del quiet  # nothing is shown before the numbers
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    plain, small = RoFormerV2(SMALL).eval(), RoFormerV2(SMALL).eval()
    small.load_state_dict(plain.state_dict())
    pack_for_inference(plain)
    layers = quantise_for_inference(small)
    models = {"float32": plain} | ({"int8": small} if layers else {})
    peers = _berts() | _exported(plain)
    numbers: dict[str, Any] = {}
    with torch.inference_mode():
        for name in MIXES:
            numbers |= {f"{name}_{key}": value for key, value in _mix(name, models, peers, rounds).items()}
    numbers |= {key.removeprefix("mixed_"): value for key, value in numbers.items() if key.startswith("mixed_ratio")}
    return numbers | {
        "int8_layers": layers,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "torch": torch.__version__,
        "transformers": version_of_transformers(),
        "onnxruntime": _version_of_onnxruntime(),
        "processor": platform.processor() or platform.machine(),
    }


def _mix(name: str, models: dict[str, RoFormerV2], peers: dict[str, Read], rounds: int) -> dict[str, Any]:
    rows = _rows(name)
    by_length = sorted(rows, key=len)
    contenders: dict[str, Callable[[], Any]] = {
        kind: lambda model=model: model.encode(rows) for kind, model in models.items()
    }
    for kind, read in peers.items():
        contenders[f"{kind}_sorted"] = lambda read=read: _padded(read, by_length)
        contenders[f"{kind}_arrival"] = lambda read=read: _padded(read, rows)
    seconds = interleaved(contenders, rounds)
    tokens = sum(map(len, rows))
    told: dict[str, Any] = {
        f"{kind}_tokens_per_second": round(tokens / sorted(s)[len(s) // 2]) for kind, s in seconds.items()
    }
    for ours in models:
        prefix = "ratio" if ours == "float32" else "ratio_int8"
        for kind in peers:
            label = f"{prefix}_{'transformers_' * kind.startswith('bert')}{kind}"
            told[label] = median_ratio(seconds[f"{kind}_arrival"], seconds[ours])
            told[f"{label}_sorted"] = median_ratio(seconds[f"{kind}_sorted"], seconds[ours])
    if "int8" in models:
        told["int8_over_float32"] = median_ratio(seconds["float32"], seconds["int8"])
        told["int8_difference"] = _difference(models, rows)
    return told


def _rows(name: str) -> list[Tensor]:
    """Random ids of the lengths of a mix."""
    mean, deviation, longest, count = MIXES[name]
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(mean, deviation, count).astype(int), 4, longest)
    return [torch.from_numpy(random.integers(5, SMALL.vocabulary, length)) for length in lengths]


def _padded(read: Read, rows: Sequence[Tensor]) -> list[Any]:
    results = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        ids = torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True)
        results.append(read(ids, torch.tensor([len(row) for row in part])))
    return results


def _difference(models: dict[str, RoFormerV2], rows: list[Tensor]) -> float:
    plain, small = (torch.cat(models[kind].encode(rows)) for kind in ("float32", "int8"))
    return float(f"{float((plain - small).norm() / plain.norm()):.2e}")


def _berts() -> dict[str, Read]:
    """BERT in float32, and in int8 where this PyTorch still has its own way to that."""

    def reader(bert: Any) -> Read:
        return lambda ids, lengths: bert(ids, attention_mask=valid_tokens(lengths, ids.shape[1]).long())[0]

    bert = bert_of_equal_size()
    if bert is None:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = torch.ao.quantization.quantize_dynamic(bert, {torch.nn.Linear})
    except (RuntimeError, AttributeError, NotImplementedError):
        return {"bert": reader(bert)}
    return {"bert": reader(bert), "bert_int8": reader(small)}


def _exported(model: RoFormerV2) -> dict[str, Read]:
    """The same encoder on ONNX Runtime, in float32 and with its dynamic int8."""
    try:
        onnx_package()
        onnxruntime = onnx_package("onnxruntime")
        quantization = onnx_package("onnxruntime.quantization")
    except MissingExtra:
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def reader(file: Path) -> Read:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda ids, lengths: session.run(None, {"ids": ids.numpy(), "lengths": lengths.numpy()})

    with TemporaryDirectory() as folder:
        file, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        file.write_bytes(encoder_graph(model).bytes({}))
        logging.disable(logging.WARNING)  # it recommends a preprocessing that changes nothing here
        quantization.quantize_dynamic(file, small, weight_type=quantization.QuantType.QInt8, per_channel=True)
        logging.disable(logging.NOTSET)
        return {"onnxruntime": reader(file), "onnxruntime_int8": reader(small)}


def _version_of_onnxruntime() -> str:
    try:
        return onnx_package("onnxruntime").__version__
    except MissingExtra:
        return "left out: not installed (pip install 'tianwen[export]')"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    numbers = run(rounds=options.rounds, threads=options.threads)
    if options.json:
        print(json.dumps(numbers, ensure_ascii=False))
    else:
        print("\n".join(f"{name:44} {value}" for name, value in numbers.items()))


if __name__ == "__main__":
    main()
