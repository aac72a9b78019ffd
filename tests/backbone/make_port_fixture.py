"""Writes fixture/port/: the tiny model of fixture/single as the PyTorch port (PyPI `roformer`) itself saves it.

Run once, in an environment of its own (the port does not import under current transformers):

    python3.11 -m venv /tmp/port
    /tmp/port/bin/pip install torch "transformers==4.30.2" "numpy<2" safetensors jaxtyping rjieba
    /tmp/port/bin/pip install --no-deps "roformer==0.4.3"
    PYTHONPATH=. /tmp/port/bin/python tests/backbone/make_port_fixture.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from roformer import RoFormerForMaskedLM

from tianwen.backbone.checkpoints import load, save_huggingface

FIXTURE = Path(__file__).parent / "fixture"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(load(FIXTURE / "single"), folder)
        port = RoFormerForMaskedLM.from_pretrained(folder).eval()
    expected = np.load(FIXTURE / "expected.npz")
    ids = torch.from_numpy(expected["ids"])
    with torch.no_grad():
        logits = port(ids, attention_mask=(ids > 0).long(), token_type_ids=torch.zeros_like(ids)).logits
    difference = np.abs(logits.numpy() - expected["logits"])[expected["ids"] > 0].max()
    print(f"The port differs from the original by {difference:.1e}.")
    port.save_pretrained(FIXTURE / "port")
    (FIXTURE / "port" / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
