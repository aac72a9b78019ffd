"""Post 8998: a RoFormerV2 of the published small shape, asked about itself.

    python examples/8998_roformer_v2.py

Post: 8998
"""

import torch

from tianwen.backbone.masks import unilm_mask
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config


def main() -> None:
    torch.manual_seed(0)
    model = RoFormerV2(RoFormerV2Config()).eval()
    print(f"{model.parameter_count():,} parameters, none of them a bias")
    print(f"initial deviation of the queries: {model.layers[0].attention.qkv.weight.std():.4f}; (384 * 6)^-1/2 = .0208")

    # Padding-free: sequences of any length side by side, each equal to what it gives alone.
    sequences = [torch.randint(5, 12000, (length,)) for length in (3, 40, 17)]
    together = model.encode(sequences)
    with torch.no_grad():
        alone, _ = model(sequences[1][None])
    print(f"packed against alone: {(together[1] - alone[0]).abs().max():.0e}")

    # UniLM: the source sees itself, the target sees the source and its own past.
    segments = torch.tensor([[0, 0, 0, 1, 1]])
    print("who may look at whom in question question question answer answer:")
    print(unilm_mask(segments)[0, 0].int())


if __name__ == "__main__":
    main()
