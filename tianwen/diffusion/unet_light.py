"""The post's light U-Net: skips by addition, no bias, norm after the sum; 2.2 times less work than the paper's.

Post: 9152

Notation
    N  batch      c  width of a block's input      C  of its output      H, W  sides      s  width of the network
    e  [N, s]     trainable embedding of the time t = 0 .. T-1 (plus the class's)

    block:   y <- x + W_e e;  y <- swish(conv(y));  y <- swish(conv(y));  y <- groupnorm(y + residual(x))
    down:    blocks, then 2x2 mean pooling while the side is above the smallest; a stack keeps the first convolution,
             every block and every pooling.     middle: one block; the top of the stack is dropped.
    up:      nearest doubling plus the top of the stack, then blocks, each with the width of the top of the stack, which
             is added to its result. What was halved last is doubled first, so that all sides fit.
    The convolutions inside blocks start with variance 1 / sqrt(2 levels + 1) of the usual, for there are that many
    groups of them on the way.
"""

from __future__ import annotations

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


class LightBlock(nn.Module):
    """Two convolutions and a residual, normalised after the sum."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        scale = (2 * len(config.multipliers) + 1) ** -0.5
        self.time = dense(config.width, inputs)
        self.first = conv(inputs, outputs, scale=scale)
        self.second = conv(outputs, outputs, scale=scale)
        self.residual = pointwise(inputs, outputs)
        self.norm = GroupNorm(config.groups, outputs)

    def forward(self, x: Float[Tensor, " N c H W"], e: Float[Tensor, " N s"]) -> Float[Tensor, " N C H W"]:
        y = x + self.time(e)[:, :, None, None]  # [N, c, H, W]
        y = self.first(y, swish=True)
        y = self.second(y, swish=True)
        return self.norm(y + self.residual(x))


class LightUNet(nn.Module):
    """The network: pictures [N, colours, H, W] and times [N] to a prediction of the pictures' shape."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.same_bits = SameBits()  # .exact = False: a little faster, no promise about bits
        self.times = nn.Embedding(config.times, config.width)
        nn.init.uniform_(self.times.weight, -0.05, 0.05)
        self.labels = ClassEmbedding(config.classes, config.width) if config.classes else None
        self.first = conv(config.colours, config.width)
        self._build()
        check_side(config.side, self.halvings)
        self.norm = GroupNorm(config.groups, self.first.out_channels)
        self.last = conv(config.width, config.colours)

    def _build(self) -> None:
        """Lay out both ways, following the stack of widths that the forward pass will have."""
        config, side, width = self.config, self.config.side, self.config.width
        stack = [width]
        self.pooled: list[bool] = []  # per level, on the way down
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for multiplier in config.multipliers:
            for _ in range(config.blocks):
                self.down.append(self._block(width, multiplier * config.width, side))
                width = multiplier * config.width
                stack.append(width)
            self.pooled.append(side > config.smallest_side)
            if self.pooled[-1]:
                stack.append(width)
                side //= 2
        self.middle = self._block(width, width, side)
        stack.pop()
        for pooled in reversed(self.pooled):
            if pooled:
                side *= 2
                stack.pop()
            for _ in range(config.blocks):
                self.up.append(self._block(width, stack[-1], side))
                width = stack.pop()

    def _block(self, inputs: int, outputs: int, side: int) -> nn.ModuleList:
        block = nn.ModuleList([LightBlock(inputs, outputs, self.config)])
        if side in self.config.attention_sides:
            block.append(Attention(outputs, self.config.groups))
        return block

    @property
    def halvings(self) -> int:
        """How often the sides are halved; pictures must have sides that are multiples of 2 to this power."""
        return sum(self.pooled)

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
        e = condition(self, t, labels)  # [N, s]
        blocks = iter(self.down)
        x = self.first(laid_out(x))
        stack = [x]
        for pooled in self.pooled:
            for _ in range(self.config.blocks):
                x = run_block(next(blocks), x, e)
                stack.append(x)
            if pooled:
                x = F.avg_pool2d(x, 2)
                stack.append(x)
        x = run_block(self.middle, x, e)
        stack.pop()
        blocks = iter(self.up)
        for pooled in reversed(self.pooled):
            if pooled:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest") + stack.pop()
            for _ in range(self.config.blocks):
                x = run_block(next(blocks), x, e) + stack.pop()
        return self.last(self.norm(x))


def condition(net: LightUNet, t: Tensor, labels: Tensor | None) -> Tensor:
    """Embedding of the time, plus that of the class if the network has classes: [N, s]."""
    e = net.times(t)
    if net.labels is None:
        no_labels_expected(labels)
        return e
    return e + net.labels(labels, t.shape[0])
