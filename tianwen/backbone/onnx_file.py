"""An exported model on disk: the ONNX file, and beside it what its texts are read by; compared with torch before.

Post: 8998
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from tianwen import __version__
from tianwen.backbone.onnx_graph import Graph, onnx_package
from tianwen.errors import InputError, MissingExtra, ModelError
from tianwen.training.atomic import write_file

CLOSE = 1e-3
"""Largest difference from torch, as a share of the largest number; a right graph stays below 1e-5."""

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]
"""Inputs by name to outputs by name."""


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its size, what goes in and comes out.

    `difference`: the largest between torch and ONNX Runtime on a batch of random rows; None where the package
    onnxruntime is not installed, and nothing was compared.
    """

    file: Path
    architecture: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bytes: int
    difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        plain = {"file": str(self.file), "inputs": list(self.inputs), "outputs": list(self.outputs)}
        return {**vars(self), **plain}


@dataclass(frozen=True)
class Reader:
    """What belongs to an export besides its graph: metadata, and files by name."""

    architecture: str
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]


def write_export(file: Path, graph: Graph, reader: Reader, difference: Callable[[Run], float]) -> Exported:
    """Compare the graph with torch, then write what lies beside the file and the file itself, each in one step.

    `difference` runs the graph on inputs of its choice and tells the largest difference, as a share of the largest
    number. Raises ModelError where the graph gives other numbers than torch, and InputError where the file's folder has
    the tokenizer or schema of another model; nothing is written then.
    """
    if file.suffix != ".onnx":
        raise InputError(f"{str(file)!r} does not end in .onnx, which tells other programs what it is.")
    metadata = {"architecture": reader.architecture, "tianwen": __version__, **reader.metadata}
    content = graph.bytes({key: _as_text(value) for key, value in metadata.items()})
    for name, beside in reader.files.items():
        there = file.parent / name
        if there.exists() and (not there.is_file() or there.read_bytes() != beside):
            raise InputError(
                f"{there} belongs to another model; what reads the texts of this one is written under that name. "
                "Export into a folder of its own."
            )
    run = runtime(content)
    apart = None if run is None else difference(run)
    if apart is not None and not apart <= CLOSE:
        raise ModelError(
            f"The exported graph gives other numbers than torch (largest difference {apart:.2g} of the largest number, "
            f"allowed is {CLOSE}). Nothing was written; this is a defect of the export, or of this onnxruntime."
        )
    for name, beside in reader.files.items():
        write_file(file.parent / name, beside)
    write_file(file, content)
    return Exported(file, reader.architecture, graph.inputs, graph.outputs, len(content), apart)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@runtime_checkable
class Saves(Protocol):
    """A tokenizer or a schema."""

    def save(self, path: Path, /) -> None:
        """Write it to a file."""
        ...


def as_saved(thing: Saves) -> bytes:
    """What it writes to a file."""
    with TemporaryDirectory() as folder:
        thing.save(Path(folder) / "saved")
        return (Path(folder) / "saved").read_bytes()


def runtime(content: bytes) -> Run | None:
    """ONNX Runtime on a model, on the CPU and one thread; None where it is not installed."""
    try:
        onnxruntime = onnx_package("onnxruntime")
    except MissingExtra:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def random_rows(vocabulary: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids [4, 41] and lengths [4], a row of a single token and a full one among them."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (4, 41), generator=random), torch.tensor([41, 1, 23, 40])


def largest_difference(ours: np.ndarray, wanted: np.ndarray) -> float:
    """As a share of the largest number wanted; not-a-number where one side has none and the other has."""
    if ours.shape != wanted.shape:
        return float("inf")
    return float(np.abs(ours - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-6))
