"""Tables with drifting rows planted among healthy ones, and the files that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WALL = 100.0


def healthy(rows: int, dim: int, *, std: float = 0.02, spread: float = 0.2) -> Tensor:
    """Normal noise whose rows have sizes spread log-normally: [rows, dim]."""
    return torch.randn(rows, dim) * std * torch.exp(torch.randn(rows, 1) * spread)


def plant(table: Tensor, rows: Tensor, rms: Tensor) -> None:
    """Move rows [n] along random sign vectors until they have about this RMS [n]."""
    table[rows] += torch.sign(torch.randn(len(rows), table.shape[1])) * rms[:, None]


def save_folder(folder: Path, tensors: dict[str, Tensor], *, tokens: int = 0) -> Path:
    """A folder as Hugging Face has it; with a tokenizer of so many tokens, named tok0, tok1 ..."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokens:
        write_tokenizer(folder / "tokenizer.json", tokens)
    return folder


def write_tokenizer(file: Path, tokens: int) -> None:
    """A WordPiece tokenizer file with the tokens tok0, tok1 ..."""
    vocabulary = {f"tok{number}": number for number in range(tokens)}
    file.write_text(json.dumps({"model": {"type": "WordPiece", "vocab": vocabulary}}))
