"""Post 9152: noise becomes data step by step, seen on data whose best network is known exactly.

    python examples/9152_ddpm.py

No training: for numbers drawn from N(0.5, 0.2^2) the best prediction of the noise is a formula, so what is missing in
the end is the sampler's fault alone. Then the two networks of the post.

Post: 9152
"""

import torch

from tianwen.diffusion import GaussianOracle, Schedule, sample
from tianwen.diffusion.unet_light import LightUNet
from tianwen.diffusion.unet_paper import PaperUNet
from tianwen.diffusion.unet_parts import UNetConfig


def main() -> None:
    schedule = Schedule.post()
    print(f"what is left of the picture at the last of {schedule.T} times: A = {float(schedule.A[-1]):.5f}")

    oracle = GaussianOracle(schedule)
    print("deviation that DDPM reaches (right: 0.200)")
    for steps in (10, 50, 250):
        small = sample(oracle, (20_000,), schedule=schedule, solver="ddpm", steps=steps, seeds=0)
        known = sample(
            oracle, (20_000,), schedule=schedule, solver="ddpm", steps=steps, seeds=0, unexplained=oracle.unexplained()
        )
        print(f"  {steps:4} steps: {small.std():.3f}, with the variance of post 9245: {known.std():.3f}")

    # The same seed is the same picture, alone or in any batch.
    three = sample(oracle, (4,), schedule=schedule, solver="ddpm", steps=10, seeds=[1, 2, 3])
    alone = sample(oracle, (4,), schedule=schedule, solver="ddpm", steps=10, seeds=[2])
    print(f"picture 2 of a batch equals picture 2 alone: {torch.equal(three[1], alone[0])}")

    config = UNetConfig(side=32, width=64, multipliers=(1, 2, 2, 2))
    for kind in (LightUNet, PaperUNet):
        net = kind(config)
        prediction = net(torch.randn(1, 3, 32, 32), torch.tensor([500]))
        print(f"{kind.__name__}: {sum(p.numel() for p in net.parameters()):,} parameters, {list(prediction.shape)}")


if __name__ == "__main__":
    main()
