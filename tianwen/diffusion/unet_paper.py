"""The paper-like U-Net: norm before convolution, concatenated skips, fixed sinusoidal times; heavier, a little better.

Post: 9152 (its second network)
Paper: Ho et al., 2020 (without attention unless asked for)

Notation
    N  batch      c  width of a block's input      C  of its output      H, W  sides      s  width of the network
    e  [N, 4 s]   time: fixed sinusoid -> dense swish -> dense swish (plus the class's)

    block:   y <- conv(swish(groupnorm(x))) + W_e e;  y <- conv0(swish(groupnorm(y)));  y + residual(x)
             conv0 starts at zero: at first a block does nothing.
    down:    blocks, then 2x2 mean pooling at every level but the last; a stack keeps all of them.
    middle:  one block
    up:      blocks + 1 blocks per level, each on [x, top of the stack] concatenated; nearest doubling between levels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.diffusion.convolution import laid_out
from tianwen.diffusion.same_bits import GroupNorm, SameBits
from tianwen.diffusion.unet_parts import (
    Attention,
    ClassEmbedding,
    UNetConfig,
    check_picture,
    check_side,
    check_times,
    conv,
    dense,
    no_labels_expected,
    pointwise,
    run_block,
)


def sinusoids(times: int, width: int) -> Float[Tensor, " times width"]:
    """sin and cos in turn of t / 10000^(2i / width): the fixed embedding of a time."""
    t = torch.arange(times, dtype=torch.float64)[:, None]
    angle = t * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # [T, (s + 1) / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width].float()  # [T, s]


class PaperBlock(nn.Module):
    """Two convolutions, each behind norm and swish, and a residual; the second starts at zero."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_first = GroupNorm(config.groups, inputs)
        self.first = conv(inputs, outputs)
        self.time = dense(4 * config.width, outputs)
        self.norm_second = GroupNorm(config.groups, outputs)
        self.second = conv(outputs, outputs, scale=0.0)
        self.residual = pointwise(inputs, outputs)

    def forward(self, x: Float[Tensor, " N c H W"], e: Float[Tensor, " N four_s"]) -> Float[Tensor, " N C H W"]:
        y = self.first(F.silu(self.norm_first(x)))
        y = y + self.time(e)[:, :, None, None]  # [N, C, H, W]
        y = self.second(F.silu(self.norm_second(y)))
        return y + self.residual(x)


class PaperUNet(nn.Module):
    """The network: pictures [N, colours, H, W] and times [N] to a prediction of the pictures' shape."""

    sinusoid: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.same_bits = SameBits()  # .exact = False: a little faster, no promise about bits
        self.register_buffer("sinusoid", sinusoids(config.times, config.width), persistent=False)
        self.time_first = dense(config.width, 4 * config.width)
        self.time_second = dense(4 * config.width, 4 * config.width)
        self.labels = ClassEmbedding(config.classes, 4 * config.width) if config.classes else None
        self.first = conv(config.colours, config.width)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        check_side(config.side, self.halvings)
        width = self._build()
        self.norm = GroupNorm(config.groups, width)
        self.last = conv(width, config.colours)

    def _build(self) -> int:
        """Lay out both ways, following the stack of widths of the forward pass; the width that comes out last."""
        config, side, width = self.config, self.config.side, self.config.width
        stack = [width]
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                self.down.append(self._block(width, multiplier * config.width, side))
                width = multiplier * config.width
                stack.append(width)
            if level < self.halvings:
                stack.append(width)
                side //= 2
        self.middle = self._block(width, width, side)
        for multiplier in reversed(config.multipliers):
            for _ in range(config.blocks + 1):
                self.up.append(self._block(width + stack.pop(), multiplier * config.width, side))
                width = multiplier * config.width
            side *= 2
        return width

    def _block(self, inputs: int, outputs: int, side: int) -> nn.ModuleList:
        block = nn.ModuleList([PaperBlock(inputs, outputs, self.config)])
        if side in self.config.attention_sides:
            block.append(Attention(outputs, self.config.groups))
        return block

    @property
    def halvings(self) -> int:
        """How often the sides are halved; pictures must have sides that are multiples of 2 to this power."""
        return len(self.config.multipliers) - 1

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction [N, colours, H, W] of x of that shape: noise, picture or velocity, as trained.

        `t` [N] counts from 0; `labels` [N] or None, -1 or None: no label. Shapes are checked here, with sentences.

        In CPU inference each picture gets the bits that it has alone (`same_bits.py`). Raises InputError for sides that
        cannot be halved often enough, and for labels where there are no classes.
        """
        check_picture(x, colours=self.config.colours, halvings=self.halvings)
        check_times(t, labels, batch=x.shape[0], times=self.config.times)
        return self.same_bits.run(self._run, x, t, labels)

    def _run(
        self, x: Float[Tensor, " N colours H W"], t: Int[Tensor, " N"], labels: Int[Tensor, " N"] | None
    ) -> Float[Tensor, " N colours H W"]:
        e = self._condition(t, labels)  # [N, 4 s]
        blocks = iter(self.down)
        x = self.first(laid_out(x))
        stack = [x]
        for level in range(len(self.config.multipliers)):
            for _ in range(self.config.blocks):
                x = run_block(next(blocks), x, e)
                stack.append(x)
            if level < self.halvings:
                x = F.avg_pool2d(x, 2)
                stack.append(x)
        x = run_block(self.middle, x, e)
        blocks = iter(self.up)
        for level in range(len(self.config.multipliers)):
            for _ in range(self.config.blocks + 1):
                x = run_block(next(blocks), torch.cat([x, stack.pop()], dim=1), e)
            if level < self.halvings:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.last(F.silu(self.norm(x)))

    def _condition(self, t: Tensor, labels: Tensor | None) -> Tensor:
        e = F.silu(self.time_first(self.sinusoid[t]))  # [N, 4 s]
        e = F.silu(self.time_second(e))
        if self.labels is None:
            no_labels_expected(labels)
            return e
        return e + self.labels(labels, t.shape[0])
