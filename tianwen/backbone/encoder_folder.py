"""A pretrained encoder on disk: a folder with `model.safetensors` (weights, shape, what it learnt from) and tokenizer.

Post: 8998. The asker and the extractor go on from such a folder (`--encoder FOLDER`), vocabulary included. A folder
with published weights (see `checkpoints`) and their `vocab.txt` is read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tianwen.backbone import checkpoints
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.errors import ModelError
from tianwen.text import Tokenizer
from tianwen.training import model_folder
from tianwen.training.weights import save_weights

ARCHITECTURE = "tianwen encoder 1"
BUNDLED = Path(__file__).parent.parent / "models" / "encoder"
TRAIN = "tianwen train encoder TEXT.txt --out ENCODER --minutes 60"


class Encoder(NamedTuple):
    """A backbone in evaluation mode on the CPU, what reads texts for it, and what is known of its training."""

    backbone: RoFormerV2
    tokenizer: Tokenizer
    facts: dict[str, Any]


def save_encoder(
    folder: Path,
    backbone: RoFormerV2,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any] | None = None,
    *,
    storage: Literal["fp32", "fp16", "int8"] = "fp32",
) -> None:
    """Write the folder; each file is replaced in one step, the weights last. `facts` are plain JSON values."""
    if tokenizer.size != backbone.config.vocabulary:
        raise ModelError(
            f"The tokenizer has {tokenizer.size} pieces, the encoder's table {backbone.config.vocabulary} rows: "
            "they belong to different models."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    metadata = {
        "architecture": ARCHITECTURE,
        "config": asdict(backbone.config),
        "tokenizer": tokenizer.fingerprint,
        "facts": dict(facts or {}),
    }
    save_weights(folder / model_folder.WEIGHTS, backbone.state_dict(), metadata, storage=storage)


def resolved(folder: str | Path) -> Path:
    """The folder; "bundled" is the encoder that comes with Tianwen, unless there is a folder of that name."""
    folder = Path(folder)
    return BUNDLED if str(folder) == "bundled" and not folder.exists() else folder


def load_encoder(folder: str | Path) -> Encoder:
    """Read what `save_encoder` wrote, or a folder with published weights and `vocab.txt`; "bundled": see `resolved`.

    Raises ModelError that says what is missing, damaged or different.
    """
    folder = resolved(folder)
    if (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").exists():
        return _published(folder)
    weights = model_folder.open_weights(folder, architecture=ARCHITECTURE, kind="encoder", train=TRAIN)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model_folder.require_reader(folder, "tokenizer", tokenizer.fingerprint, weights.metadata["tokenizer"])
    backbone = RoFormerV2(RoFormerV2Config(**weights.metadata["config"]))
    model_folder.fill(backbone, weights, folder)
    return Encoder(backbone.eval(), tokenizer, dict(weights.metadata.get("facts", {})))


def _published(folder: Path) -> Encoder:
    backbone, tokenizer = checkpoints.load(folder), Tokenizer.from_vocab_txt(folder / "vocab.txt")
    if tokenizer.size != backbone.config.vocabulary:
        raise ModelError(
            f"{folder / 'vocab.txt'} has {tokenizer.size} pieces, the weights beside it {backbone.config.vocabulary} "
            "rows: they belong to different models."
        )
    return Encoder(backbone, tokenizer, {"published": folder.name})
