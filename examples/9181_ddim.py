"""Post 9181: ten steps instead of a thousand, latents of pictures, and paths between them.

    python examples/9181_ddim.py

No training: the data is N(0.5, 0.2^2), whose best network is a formula.

Post: 9181
"""

import torch

from tianwen.diffusion import GaussianOracle, Schedule, sample, times_of
from tianwen.diffusion.latents import decode, edit, encode, slerp


def main() -> None:
    schedule = Schedule.post()
    oracle = GaussianOracle(schedule)
    print("deviation reached in ten steps (right: 0.200)")
    for solver in ("ddim", "2m"):
        for grid in ("uniform", "trailing", "quadratic", "logsnr"):
            x = sample(oracle, (50_000,), schedule=schedule, solver=solver, grid=grid, steps=10, seeds=0)
            print(f"  {solver:5} {grid:10} {x.std():.3f}   {times_of(schedule, grid, 10)}")

    pictures = 0.5 + 0.2 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = encode(oracle, pictures, schedule=schedule, steps=20)
    back = decode(oracle, latents, schedule=schedule, steps=20)
    print(f"latents have deviation {latents.std():.2f}; pictures come back within {(back - pictures).abs().max():.0e}")

    middle = slerp(latents[:1], latents[1:], 0.5)
    straight = (latents[:1] + latents[1:]) / 2
    for name, z in (("on the sphere", middle), ("on a straight line", straight)):
        print(f"half way {name}: deviation {decode(oracle, z, schedule=schedule, steps=20).std():.3f} (right: 0.200)")

    for t in (50, 300, 999):
        changed = edit(oracle, pictures, t=t, schedule=schedule, steps=20, seeds=[0, 1])
        print(f"noised up to time {t} and drawn again: moved by {(changed - pictures).std():.3f}")


if __name__ == "__main__":
    main()
