"""GPLinker: an encoder and three maps of scores, from which facts, entities or events are read.

Post: 8888 (facts), 8373 (entities), 8926 (events)

Notation
    B, T, d  batch, tokens with [CLS] and [SEP], width       (s_h, s_t, p, o_h, o_t)  a fact: inclusive token positions
    entity map  one label an entity type (or subject and object); spans, so row <= column; with RoPE
    head map    one label a predicate: cell (s_h, o_h);  tail map: cell (s_t, o_t).  No RoPE, no triangle, for an object
                may precede its subject
    A fact is there iff S1(s_h, s_t) > 0, S2(o_h, o_t) > 0, S3(s_h, o_h | p) > 0 and S4(s_t, o_t | p) > 0.
    events      labels of the entity map are pairs (type, role); head and tail map have one label, "the same event", and
                no direction: row <= column.  Entities alone: no head and no tail map (None).
    loss        the sum of the maps' multilabel losses
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.backbone.linear import unpack
from tianwen.backbone.masks import valid_tokens
from tianwen.backbone.packing import Pack
from tianwen.errors import InputError
from tianwen.extract.encoder import BackboneConfig, Encoder
from tianwen.extract.loss import projection_loss
from tianwen.extract.pointer import EfficientGlobalPointer, GlobalPointer, Pointer, Projection
from tianwen.words.features import WordFeatures

IMPROBABLE = -5.0
"""Scores of an untrained model: most cells are no mention and no link, and learning that takes a thousand updates. It
also keeps the decoding of half-trained models short."""


@dataclass(frozen=True)
class GPLinkerConfig:
    """Shape and labels of a GPLinker. `roles` are the (type, role) pairs of events; they exclude the other labels."""

    backbone: BackboneConfig
    entity_labels: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    head: Literal["efficient", "standard"] = "efficient"
    head_size: int = 64
    reach: int = 2  # neighbours on either side whose embeddings are added to each token's
    words: int = 0  # numbers of the vectors of words that are added too; 0: none

    def __post_init__(self) -> None:
        if not self.entity_labels and not self.roles:
            raise InputError("There is nothing to find: give entity labels (and predicates), or roles of events.")
        if self.roles and (self.entity_labels or self.predicates):
            raise InputError("A model finds events (roles) or facts (entity labels, predicates); train one for each.")
        if self.head not in ("efficient", "standard"):
            raise InputError(f"head={self.head!r}: there are 'efficient' and 'standard'.")

    @property
    def events(self) -> bool:
        """Whether the model finds events."""
        return bool(self.roles)

    @property
    def links(self) -> int:
        """Labels of the head map and of the tail map; 0: entities alone."""
        return 1 if self.roles else len(self.predicates)


class Projections(NamedTuple):
    """What the three maps are made of; head and tail are None where only entities are looked for."""

    entity: Projection
    head: Projection | None
    tail: Projection | None


class Positives(NamedTuple):
    """The positives of the three maps, each [n, 4]: batch, label, row, column."""

    entity: Tensor
    head: Tensor
    tail: Tensor


class GPLinker(nn.Module):
    """Ids of [CLS] text [SEP] to the projections of the three maps."""

    def __init__(self, config: GPLinkerConfig, words: WordFeatures | None = None) -> None:
        super().__init__()
        found = words.table_width if words is not None else 0
        if found != config.words:
            raise InputError(f"The model reads vectors of {config.words} numbers for words, and has those of {found}.")
        self.config = config
        self.encoder = Encoder(config.backbone, reach=config.reach, words=words)
        kind = EfficientGlobalPointer if config.head == "efficient" else GlobalPointer
        width, size, events = config.backbone.width, config.head_size, config.events
        self.entity: Pointer = kind(width, len(config.entity_labels or config.roles), size=size)
        self.head: Pointer | None = None
        self.tail: Pointer | None = None
        if config.links:
            self.head = kind(width, config.links, size=size, rope=False, triangular=events)
            self.tail = kind(width, config.links, size=size, rope=False, triangular=events)
        for pointer in (self.entity, self.head, self.tail):
            if isinstance(pointer, EfficientGlobalPointer):
                nn.init.constant_(pointer.biases.bias, IMPROBABLE)

    def train(self, mode: bool = True) -> GPLinker:
        """As `nn.Module.train`; weights that were packed for inference are unpacked before they change."""
        if mode:
            unpack(self)
        return super().train(mode)

    def hidden(
        self, ids: Int[Tensor, " batch length"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch length width"]:
        """Hidden states of right-padded rows [CLS] text [SEP]; `lengths` count both."""
        return self.encoder(ids, lengths)

    def hidden_packed(self, batch: Pack) -> Float[Tensor, " tokens width"]:
        """Hidden states of such rows laid end to end."""
        return self.encoder.forward_packed(batch)

    def projections(self, hidden: Float[Tensor, " batch length width"], lengths: Int[Tensor, " batch"]) -> Projections:
        """What the maps are made of; padding, [CLS] and [SEP] are masked in each row."""
        valid = valid_tokens(lengths - 1, hidden.shape[1])
        valid[:, 0] = False
        return self._project(hidden, valid, None, None)

    def projections_packed(self, hidden: Float[Tensor, " tokens width"], batch: Pack) -> list[Projections]:
        """The same for each sequence of a pack, in the order of `batch.order`, each with a batch of 1."""
        positions = batch.positions[None]
        valid = positions > 0  # all but [CLS]
        valid[0, batch.starts + torch.tensor(batch.lengths, device=valid.device) - 1] = False  # and [SEP]
        maps = self._project(hidden[None], valid, positions, max(batch.lengths))
        entity, head, tail = ([None] * len(batch.order) if p is None else p.split(batch.lengths) for p in maps)
        return [Projections(*parts) for parts in zip(entity, head, tail, strict=True)]  # type: ignore[arg-type]

    def _project(
        self, hidden: Tensor, valid: Bool[Tensor, " batch length"], positions: Tensor | None, bound: int | None
    ) -> Projections:
        entity = self.entity(hidden, valid, positions=positions, bound=bound)
        if self.head is None or self.tail is None:
            return Projections(entity, None, None)
        return Projections(entity, self.head(hidden, valid), self.tail(hidden, valid))

    def loss(self, ids: Tensor, lengths: Tensor, positives: Positives) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and the loss of each map by name."""
        maps = self.projections(self.hidden(ids, lengths), lengths)
        with torch.autocast(ids.device.type, enabled=False):
            losses = {
                name: projection_loss(projection, cells)
                for name, projection, cells in zip(Positives._fields, maps, positives, strict=True)
                if projection is not None
            }
        total = torch.stack(list(losses.values())).sum()
        return total, {name: float(value.detach()) for name, value in losses.items()}

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())
