"""Where training may begin: a pretrained encoder, or that of a trained extractor or asker, with its tokenizer.

Posts: 8888, 8802 (the asker), 8998 (the pretrained encoder)

An asker reads its question with a RoFormerV2 to which the embeddings of the two tokens BEFORE each are added; here two
on either side are. What it knows of the tokens behind is nothing, and these weights begin at 0. A pretrained encoder
knows nothing of neighbours: all of these weights begin at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tianwen.backbone import encoder_folder
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import ModelError
from tianwen.extract.encoder import BackboneConfig
from tianwen.extract.gplinker import GPLinker
from tianwen.extract.model_files import ARCHITECTURE, config_from
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights
from tianwen.words.table import WordTable, find_table

ASKER = "tianwen asker 1"
REACH = 2


@dataclass(frozen=True)
class Start:
    """An encoder to go on from: its shape, its weights under the names of `Encoder`, and its tokenizer.

    `heads` are the weights of an extractor's heads, taken over where the labels are the same. `words` is the
    fingerprint of the word table that the encoder reads, "" where it reads none.
    """

    backbone: BackboneConfig
    reach: int
    encoder: dict[str, Tensor]
    tokenizer: Tokenizer
    heads: dict[str, Tensor]
    labels: tuple[object, ...] = ()
    words: str = ""

    def into(self, model: GPLinker) -> None:
        """Put the weights into a model of this shape; what it makes of words stays new where its table is another."""
        own, words = model.encoder.state_dict(), model.encoder.words
        same = words is not None and words.table.fingerprint == self.words
        begun = {name: own[name] for name in own if name.startswith("words.")}
        held = {name: tensor for name, tensor in self.encoder.items() if same or not name.startswith("words.")}
        model.encoder.load_state_dict(begun | held)
        config = model.config
        if self.heads and self.labels == (config.entity_labels, config.predicates, config.roles, config.head):
            model.load_state_dict(self.heads, strict=False)


def read_start(folder: Path) -> Start:
    """The encoder in a model's folder. Raises ModelError where there is none, or it is of another architecture."""
    folder = encoder_folder.resolved(folder)
    if (folder / "vocab.txt").is_file():  # published weights
        return from_encoder(folder)
    weights = load_weights(folder / "model.safetensors")
    metadata = weights.metadata
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    match metadata.get("architecture"):
        case str(name) if name == ARCHITECTURE:
            config = config_from(metadata["config"])
            own = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if "encoder." in name}
            heads = {name: tensor for name, tensor in tensors.items() if "encoder." not in name}
            labels = (config.entity_labels, config.predicates, config.roles, config.head)
            return Start(config.backbone, config.reach, own, tokenizer, heads, labels, metadata.get("words", ""))
        case str(name) if name == ASKER:
            if "mixer" in metadata["config"]["backbone"]:
                raise ModelError(
                    f"The asker in {folder} has a recurrence in the place of attention, which no extractor takes over; "
                    "training goes on from askers with attention (the bundled one), from encoders and from extractors."
                )
            shape = RoFormerV2Config(**metadata["config"]["backbone"])
            own = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
            before, behind = tensors["previous.weight"].chunk(2, dim=1)  # of the token before, and the one before that
            nothing = torch.zeros_like(before)
            own["neighbours.weight"] = torch.cat([behind, before, nothing, nothing], dim=1)
            return Start(shape, REACH, own, tokenizer, {})
        case encoder_folder.ARCHITECTURE:
            return from_encoder(folder)
        case other:
            raise ModelError(
                f"{folder} holds {other or 'another model'!r}; training goes on from an encoder, an extractor or an "
                "asker."
            )


def table_of(folder: Path) -> WordTable | None:
    """The word table that an extractor reads; None where it reads none, and for other models. Raises ModelError."""
    if (folder / "vocab.txt").is_file():
        return None
    known = load_weights(folder / "model.safetensors").metadata.get("words")
    return find_table(folder, known) if known else None


def from_encoder(folder: Path) -> Start:
    """A pretrained encoder. Raises ModelError where `folder` holds something else."""
    encoder = encoder_folder.load_encoder(folder)
    shape = replace(encoder.backbone.config, attention_dropout=0.0)  # keeps attention in one kernel
    own = {f"backbone.{name}": tensor for name, tensor in encoder.backbone.state_dict().items()}
    own["neighbours.weight"] = torch.zeros(shape.width, 2 * REACH * shape.width)
    return Start(shape, REACH, own, encoder.tokenizer, {})
