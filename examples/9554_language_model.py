"""Post 9554: a language model without attention, trained within seconds on an old poem, writes on from a state.

    python examples/9554_language_model.py [lru | slru | rwkv | attention]

Post: 9554
"""

import sys
import tempfile
from pathlib import Path

import torch

from tianwen.backbone.mixers import Shell, ShellConfig
from tianwen.write.learning import TrainLmSettings, train_lm
from tianwen.write.sampling import SamplingSettings

POEM = """遂古之初，谁传道之？上下未形，何由考之？
冥昭瞢暗，谁能极之？冯翼惟象，何以识之？
明明暗暗，惟时何为？阴阳三合，何本何化？
"""


def main() -> None:
    torch.manual_seed(0)
    mixer = sys.argv[1] if len(sys.argv) > 1 else "lru"
    how = TrainLmSettings(
        mixer=mixer, steps=100, batch=8, length=32, layers=2, width=32, dropout=0.0, learning_rate=0.01
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "poem.txt").write_text(POEM * 4, encoding="utf-8")
        writer, numbers = train_lm([Path(folder) / "poem.txt"], Path(folder) / "model", settings=how, quiet=True)
    print(f"{mixer}: {numbers['parameters']:,} parameters, loss {numbers['loss']:.2f} after {how.steps} steps")
    print("遂古之初，" + "".join(writer.write("遂古之初，", length=37, how=SamplingSettings(temperature=0))))
    print(f"bits a character: {writer.surprise(POEM):.2f} for the poem, {writer.surprise(POEM[::-1]):.2f} backwards")

    # The state is all that is kept of the text so far, and its size does not depend on how much that was.
    state = writer.model.init_state(1)
    _, state = writer.model.read(torch.from_numpy(writer.characters.ids(POEM * 50)).long(), state)
    print(
        f"state after {len(POEM) * 50:,} characters: {[tuple(part.shape) for part in state if torch.is_tensor(part)]}"
    )

    # The same shell as an encoder reads both ways; rows of any length, packed or padded, do not see one another.
    encoder = Shell(ShellConfig(vocabulary=100, mixer=mixer, layers=2, width=32, bidirectional=True)).eval()
    long, short = torch.randint(0, 100, (50,)), torch.randint(0, 100, (7,))
    with torch.no_grad():
        alone, _ = encoder(short[None])
    print(f"beside a longer row against alone: {(encoder.encode([long, short])[1] - alone[0]).abs().max():.0e}")


if __name__ == "__main__":
    main()
