"""Checkpoints that are complete or not there, on disk as safetensors and JSON.

    FOLDER/checkpoints/step-00001000/
        model.safetensors  optimiser.safetensors  ema.safetensors     the tensors of each state dict
        state.json         the rest: the shape of the state dicts, counters, the settings of the run
        manifest.json      size and SHA-256 of each file above, and of itself

A checkpoint is written into a folder beside, forced to the disk and renamed; what a killed process left half-written
has no such name and is ignored. Reading compares every checksum: a damaged checkpoint is passed over for an older one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tianwen.errors import TrainingError
from tianwen.training.atomic import PART, new_folder, remove_parts
from tianwen.training.tree import pack, unpack

FORMAT = 1


class Checkpoints:
    """The checkpoints of one run, by the number of steps done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"

    def clean(self) -> None:
        """Delete what a killed process left half-written; for the one process that writes."""
        remove_parts(self.folder)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first; they may still turn out to be damaged."""
        return sorted(int(path.name[5:]) for path in self.folder.glob("step-*") if path.name[5:].isdigit())

    def path(self, step: int) -> Path:
        """The folder of the checkpoint at `step`."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, states: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write state dicts by name and a dict of plain values. Raises TrainingError if the disk refuses."""
        try:
            with new_folder(self.path(step)) as part:
                _write(part, states, facts)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The checkpoint of step {step} could not be written to {self.folder}: {error}. "
                "Earlier checkpoints are whole; make room and run the same command again."
            ) from error

    def load(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state dicts and the plain values. Raises TrainingError naming the file that is missing or damaged."""
        return _read(self.path(step))

    def newest(self, *, below: int | None = None) -> int | None:
        """The newest step (before `below`) whose files all have the right checksum, or None. Reads every byte."""
        for step in reversed(self.steps()):
            if below is not None and step >= below:
                continue
            try:
                _check(self.path(step))
            except TrainingError:
                continue
            return step
        return None

    def remove(self, steps: list[int]) -> None:
        """Delete the checkpoints of these steps."""
        for step in steps:
            # Renamed first: a process killed in the middle leaves rubbish, not half a checkpoint.
            rubbish = self.path(step).with_name(f"{PART}{os.getpid()}-old-{step}")
            os.replace(self.path(step), rubbish)
            shutil.rmtree(rubbish, ignore_errors=True)

    def keep_last(self, count: int) -> None:
        """Delete all but the newest `count`."""
        self.remove(self.steps()[:-count])


def _write(part: Path, states: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    nodes = {}
    for name, state in states.items():
        nodes[name], tensors = pack(state)
        save_file(tensors, part / f"{name}.safetensors")
    state_json = json.dumps({"format": FORMAT, "states": nodes, "facts": facts}, ensure_ascii=False)
    (part / "state.json").write_text(state_json, encoding="utf-8")
    files = {file.name: [file.stat().st_size, _sha256(file)] for file in sorted(part.iterdir())}
    manifest = {"files": files, "sha256": _sha256_of(files)}
    (part / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    _check(folder)
    content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise TrainingError(
            f"{folder} has checkpoint format {content['format']}, this version of Tianwen reads format {FORMAT}. "
            "Go on with the version that wrote it, or train into a new folder."
        )
    states = {name: unpack(node, load_file(folder / f"{name}.safetensors")) for name, node in content["states"].items()}
    return states, content["facts"]


def _check(folder: Path) -> None:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files, own = manifest["files"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"The checkpoint {folder} has no readable manifest.json: {error}.") from error
    if _sha256_of(files) != own:
        raise TrainingError(f"The checkpoint {folder} is damaged: manifest.json does not match its own checksum.")
    for name, (size, checksum) in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size or _sha256(file) != checksum:
            raise TrainingError(
                f"The checkpoint {folder} is damaged: {name} is missing or does not match its size and checksum. "
                "Delete this checkpoint's folder to go on from an older one."
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_of(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
