"""An extractor on disk: a folder with `model.safetensors` (weights, shape, settings), `tokenizer.json`, `schema.json`.

One that reads the vectors of words has the fingerprint of its table, and the table beside it or among what is bundled.

Post: 8888
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError, ModelError
from tianwen.extract.encoder import BackboneConfig
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.schema import Schema
from tianwen.text import Tokenizer
from tianwen.training import model_folder
from tianwen.training.weights import save_weights
from tianwen.words.features import WordFeatures
from tianwen.words.table import find_table, keep_table

ARCHITECTURE = "tianwen extractor 1"
BACKBONES: dict[str, type[RoFormerV2Config] | type[ShellConfig]] = {
    "roformer_v2": RoFormerV2Config,
    "shell": ShellConfig,
}


@dataclass(frozen=True)
class ExtractorSettings:
    """What belongs to a trained extractor besides its weights.

    `threshold`: what is found has at least this probability (.5 is the score 0 of the post); `thresholds`: of single
    predicates or types. `length`: tokens of a window, without [CLS] and [SEP]; `overlap`: tokens that two share.
    `longest`: tokens of a mention of each class of the entity map at most; empty: no bound.
    """

    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    length: int = 128
    overlap: int = 32
    longest: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        odd = [value for value in (self.threshold, *self.thresholds.values()) if not 0 < value < 1]
        if odd:
            raise InputError(f"A threshold is a probability between 0 and 1, without the ends, not {odd[0]}.")
        object.__setattr__(self, "longest", tuple(self.longest))  # files know lists only
        if any(tokens < 1 for tokens in self.longest):
            raise InputError(f"A mention has at least 1 token; longest={self.longest}.")
        if not 0 <= self.overlap < self.length / 2:
            raise InputError(
                f"Windows of {self.length} tokens that share {self.overlap}: at most half of a window may be shared."
            )


def save_extractor(
    model: GPLinker,
    tokenizer: Tokenizer,
    schema: Schema,
    settings: ExtractorSettings,
    folder: Path,
    *,
    storage: Literal["fp32", "fp16", "int8"] = "fp32",
) -> None:
    """Write the folder; each file is replaced in one step, the weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    schema.save(folder / "schema.json")
    config = asdict(model.config)
    config["backbone"] |= {"kind": "roformer_v2" if isinstance(model.config.backbone, RoFormerV2Config) else "shell"}
    metadata = {
        "architecture": ARCHITECTURE,
        "config": config,
        "settings": asdict(settings),
        "tokenizer": tokenizer.fingerprint,
    }
    if model.encoder.words is not None:
        keep_table(folder, model.encoder.words.table)
        metadata["words"] = model.encoder.words.table.fingerprint
    save_weights(folder / model_folder.WEIGHTS, model.state_dict(), metadata, storage=storage)


def load_extractor(folder: Path) -> tuple[GPLinker, Tokenizer, Schema, ExtractorSettings]:
    """Read a folder that `save_extractor` wrote. Raises ModelError that says what is missing, damaged or different."""
    weights = model_folder.open_weights(
        folder, architecture=ARCHITECTURE, kind="extractor", train="tianwen train extract --data FILE --out MODEL"
    )
    metadata = weights.metadata
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model_folder.require_reader(folder, "tokenizer", tokenizer.fingerprint, metadata["tokenizer"])
    try:
        schema = Schema.load(folder / "schema.json")
    except InputError as error:
        raise ModelError(f"The extractor in {str(folder)!r} has no readable schema: {error}") from error
    config = config_from(metadata["config"])
    words = None
    if config.words:
        words = WordFeatures(find_table(folder, metadata["words"]), tokenizer, config.backbone.width)
    model = GPLinker(config, words)
    model_folder.fill(model, weights, folder)
    names = {entry.name for entry in fields(ExtractorSettings)}
    settings = {name: value for name, value in metadata["settings"].items() if name in names}
    return model, tokenizer, schema, ExtractorSettings(**settings)


def replace_settings(folder: Path, settings: ExtractorSettings) -> None:
    """Write other settings into a saved extractor; what is stored as int8 or fp16 comes back to the same bytes."""
    model_folder.replace_settings(folder, asdict(settings))


def config_from(content: Mapping[str, Any]) -> GPLinkerConfig:
    """The configuration that `save_extractor` wrote as plain values."""
    backbone = dict(content["backbone"])
    kind: Any = BACKBONES[backbone.pop("kind")]
    shape: BackboneConfig = kind(**backbone)
    tuples = {
        "entity_labels": tuple(content["entity_labels"]),
        "predicates": tuple(content["predicates"]),
        "roles": tuple((event, role) for event, role in content["roles"]),
    }
    return GPLinkerConfig(**{**content, **tuples, "backbone": shape})
