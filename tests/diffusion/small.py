"""A drawer and pictures so small that tests are quick."""

from __future__ import annotations

import numpy as np
import torch

from tianwen.diffusion.drawer import Drawer, DrawerSettings, new_net
from tianwen.diffusion.learning import TrainDrawSettings
from tianwen.diffusion.picture_cache import Pictures, pictures_of
from tianwen.diffusion.unet_parts import UNetConfig

SIDE = 8


def small_drawer(*, labels: tuple[str, ...] = ("black", "white"), **changes) -> Drawer:
    """Fresh weights, hence noise; everything but the pictures is as in a trained one."""
    torch.manual_seed(3)
    config = UNetConfig(
        side=SIDE, colours=1, width=8, multipliers=(1, 2), blocks=1, groups=8, times=100, classes=len(labels)
    )
    settings = DrawerSettings(config, labels=labels, **changes)
    return Drawer(new_net(settings), settings)


def small_pictures(count: int = 24) -> Pictures:
    """Two kinds: dark with a light upper half, and the other way round."""
    random = np.random.default_rng(5)
    labels = np.arange(count) % 2
    pixels = random.integers(0, 30, (count, 1, SIDE, SIDE), dtype=np.uint8)
    pixels[:, :, : SIDE // 2] = 255 - pixels[:, :, : SIDE // 2]
    pixels[labels == 1] = 255 - pixels[labels == 1]
    return pictures_of(pixels, labels, ("light above", "dark above"))


def small_settings(**changes) -> TrainDrawSettings:
    """Some milliseconds a step; a short schedule."""
    return TrainDrawSettings(
        **{"steps": 6, "batch": 4, "side": SIDE, "width": 8, "blocks": 1, "times": 20, "samples_every": 100, **changes}
    )
