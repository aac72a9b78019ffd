"""What both U-Nets are made of: their shape, convolutions without bias, group norm, attention, conditions.

Post: 9152

Notation
    N  batch      C  channels of a feature map, width times a multiplier      H, W  its sides
    s  width of the network      t  time, 0 .. T-1      e  embedding of time (and class), [N, width of it]

Why group norm and never batch norm: a training batch mixes all times, from clean to pure noise, a sampling batch has
one time; statistics of one are wrong for the other. Groups here are runs of neighbouring channels. The reference puts
the channels with equal c mod 32 into one group, which matters only to somebody who carries weights over: permute then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.diffusion.convolution import Convolution
from tianwen.diffusion.same_bits import Dense, GroupNorm, without_gradients_on_cpu
from tianwen.errors import InputError


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net; the defaults are the post's, for pictures of 128 x 128."""

    side: int = 128  # pictures trained on; others are computed if they can be halved as often
    colours: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2  # at each level
    smallest_side: int = 4  # of the light net: levels at this side are not pooled further
    groups: int = 32
    times: int = 1000  # T of the schedule
    classes: int = 0  # 0: no labels; otherwise one more embedding stands for "no label"
    attention_sides: tuple[int, ...] = ()  # sides of feature maps that get attention behind each block

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention_sides"):  # lists, as JSON has them, are welcome
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.multipliers:
            raise InputError("A U-Net has at least one level: give at least one multiplier, such as (1, 2, 4).")
        sizes = [self.side, self.colours, self.width, self.blocks, self.smallest_side, self.groups, self.times]
        sizes += [*self.multipliers, *self.attention_sides]
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise InputError(f"Every size of a U-Net must be a whole number of at least 1; given was {self}.")
        if not isinstance(self.classes, int) or self.classes < 0:
            raise InputError(f"classes is the number of labels, 0 for none; given was {self.classes!r}.")
        if self.width % self.groups:
            raise InputError(
                f"Group norm splits {self.width} channels into {self.groups} groups, which must come out even. Choose "
                f"groups that divide the width, such as {math.gcd(self.width, self.groups)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UNetConfig:
        """The settings of a file; InputError names what it does not know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"A U-Net has no setting {unknown[0]!r}; it has {', '.join(f.name for f in fields(cls))}.")
        return cls(**values)


def variance_scaling_(weight: Tensor, *, scale: float = 1.0) -> None:
    """Uniform in +-sqrt(3 scale / fan_avg), fan_avg the mean of inputs and outputs of one weight; 0 if scale is 0."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    limit = math.sqrt(6 * scale / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)


def conv(inputs: int, outputs: int, *, scale: float = 1.0) -> Convolution:
    """A 3x3 convolution without bias that keeps the sides."""
    layer = Convolution(inputs, outputs)
    variance_scaling_(layer.weight, scale=scale)
    return layer


def dense(inputs: int, outputs: int) -> Dense:
    """A dense layer without bias."""
    layer = Dense(inputs, outputs)
    variance_scaling_(layer.weight)
    return layer


def pointwise(inputs: int, outputs: int) -> nn.Module:
    """A dense layer over channels (1x1 convolution), where the number of channels changes; nothing where it stays."""
    if inputs == outputs:
        return nn.Identity()
    layer = Convolution(inputs, outputs, 1)
    variance_scaling_(layer.weight)
    return layer


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, added to it; the last layer starts at zero.

    Heads of 64 channels (one head, if there are fewer or they do not come out even).
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // 64 if channels % 64 == 0 else 1
        self.norm = GroupNorm(groups, channels)
        self.qkv = pointwise(channels, 3 * channels)
        self.output = Convolution(channels, channels, 1)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Float[Tensor, " N C H W"]) -> Float[Tensor, " N C H W"]:
        sides = x.shape[2:]
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))  # [N, 3, heads, C/heads, H W]
        q, k, v = qkv.transpose(3, 4).unbind(1)  # each [N, heads, H W, C/heads]
        mixed = _attended(q, k, v).transpose(2, 3).flatten(1, 2)  # [N, C, H W]
        return x + self.output(mixed.unflatten(2, sides))


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention, in CPU inference each picture by itself; all [N, heads, H W, C/heads]."""
    if q.shape[0] < 2 or not without_gradients_on_cpu(q):
        return F.scaled_dot_product_attention(q, k, v)
    each = [F.scaled_dot_product_attention(q[n : n + 1], k[n : n + 1], v[n : n + 1]) for n in range(q.shape[0])]
    return torch.cat(each)


class ClassEmbedding(nn.Module):
    """One row a class and a last one for "no label", which guidance needs; what it gives is added to the time's."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.rows = nn.Embedding(classes + 1, width)
        nn.init.uniform_(self.rows.weight, -0.05, 0.05)

    def forward(self, labels: Int[Tensor, " N"] | None, batch: int) -> Float[Tensor, " N width"]:
        """Rows of the labels; None and -1 stand for "no label"."""
        if labels is None:
            labels = torch.full((batch,), -1, device=self.rows.weight.device)
        if labels.device.type == "cpu" and labels.numel() and int(labels.max()) >= self.classes:
            top = int(labels.max())
            raise InputError(
                f"This network knows the labels 0 to {self.classes - 1}, and -1 for none; given was {top}."
            )
        # Elsewhere nothing is looked at, so that no device is waited for; a label too high finds no row and fails.
        return self.rows(torch.where(labels < 0, self.classes, labels + (labels >= self.classes)))


def run_block(parts: nn.Module, x: Tensor, e: Tensor) -> Tensor:
    """A block and, where there is one, the attention behind it."""
    assert isinstance(parts, nn.ModuleList)
    x = parts[0](x, e)
    for attention in parts[1:]:
        x = attention(x)
    return x


def no_labels_expected(labels: Tensor | None) -> None:
    """Refuse labels for a network that has none."""
    if labels is not None:
        raise InputError("This network was made without classes, so it takes no labels; make it with classes=N.")


def check_side(side: int, halvings: int) -> None:
    """Refuse to make a network for pictures that cannot go through it."""
    if side % 2**halvings:
        often, unit = (side & -side).bit_length() - 1, 2**halvings
        raise InputError(
            f"Pictures of side {side} can be halved {often} times, but this network would halve them {halvings} times. "
            f"Choose a side that is a multiple of {unit}, such as {-(-side // unit) * unit}, fewer multipliers, or, "
            f"for the light network, smallest_side={max(1, side // 2**often)}."
        )


def check_times(t: Tensor, labels: Tensor | None, *, batch: int, times: int) -> None:
    """Refuse another number of times or labels than pictures, and (on a CPU) times that the network does not know."""
    if t.shape != (batch,) or (labels is not None and labels.shape != (batch,)):
        given = list(t.shape) if labels is None else f"{list(t.shape)} and {list(labels.shape)}"
        raise InputError(f"{batch} pictures need {batch} times (and labels, if any), one each; given were {given}.")
    if t.is_floating_point() or (labels is not None and labels.is_floating_point()):
        raise InputError("Times and labels are whole numbers; times count from 0, not from 0.0 to 1.0.")
    if t.device.type == "cpu" and batch and not 0 <= int(t.min()) <= int(t.max()) < times:
        raise InputError(
            f"This network was made for the times 0 to {times - 1}; given were times from {int(t.min())} to "
            f"{int(t.max())}. Its `times` and the T of the schedule must be the same."
        )


def check_picture(x: Tensor, *, colours: int, halvings: int) -> None:
    """Refuse what cannot go through: other colours, or sides that cannot be halved as often as the network does."""
    if x.dim() != 4 or x.shape[1] != colours:
        raise InputError(f"The network wants [batch, {colours}, height, width]; given was {list(x.shape)}.")
    unit = 2**halvings
    if x.shape[2] % unit or x.shape[3] % unit or 0 in x.shape[2:]:
        near = [max(unit, round(side / unit) * unit) for side in x.shape[2:]]
        raise InputError(
            f"Pictures of {x.shape[2]} x {x.shape[3]} cannot go through this network: it halves the sides {halvings} "
            f"times, so they must be multiples of {unit}. Scale or pad them, to {near[0]} x {near[1]} for instance, or "
            "use fewer levels."
        )
