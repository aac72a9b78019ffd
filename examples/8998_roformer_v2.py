"""Post 8998: a RoFormerV2 of the published small shape, asked about itself.

    python examples/8998_roformer_v2.py [FOLDER]

With a folder of published weights (TensorFlow or Hugging Face) it is that model, otherwise a random one.

Post: 8998
"""

import sys

import torch

from tianwen.backbone.checkpoints import load
from tianwen.backbone.masks import unilm_mask
from tianwen.backbone.roformer_v2 import SMALL, RoFormerV2


def main() -> None:
    torch.manual_seed(0)
    model = load(sys.argv[1]) if len(sys.argv) > 1 else RoFormerV2(SMALL).eval()
    print(f"{model.parameter_count():,} parameters, none of them a bias")
    print(f"deviation of the first layer's queries: {model.layers[0].attention.qkv.weight.std():.4f}")
    print(f"at the start it is (width * layers)^-1/2 = {(model.config.width * model.config.layers) ** -0.5:.4f}")

    # Padding-free: sequences of any length side by side, each equal to what it gives alone.
    sequences = [torch.randint(5, model.config.vocabulary, (length,)) for length in (3, 90, 17, 17, 5, 40)]
    together = model.encode(sequences)
    with torch.no_grad():
        alone, _ = model(sequences[1][None])
    print(f"packed against alone: {(together[1] - alone[0]).abs().max():.0e}")

    # UniLM: the source sees itself, the target sees the source and its own past ...
    segments = torch.tensor([[0, 0, 0, 1, 1]])
    mask = unilm_mask(segments)
    print("who may look at whom in question question question answer answer:")
    print(mask[0, 0].int())

    # ... so an answer can be fed token by token, and the question only once.
    ids = sequences[3][None, :5]
    with torch.no_grad():
        whole, _ = model(ids, segments=segments, mask=mask)
        _, cache = model(ids[:, :3])
        first, cache = model(ids[:, 3:4], segments=segments[:, 3:4], past=cache)
        second, cache = model(ids[:, 4:], segments=segments[:, 4:], past=cache)
    print(f"token by token against whole: {(torch.cat([first, second], dim=1) - whole[:, 3:]).abs().max():.0e}")


if __name__ == "__main__":
    main()
