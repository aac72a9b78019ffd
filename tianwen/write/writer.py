"""Writing on from a prompt, character by character, in constant memory.

Post: 9554 (serial generation: the state is all that is kept)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from tianwen.errors import InputError
from tianwen.write.characters import PAD, START, Characters
from tianwen.write.language_model import LanguageModel
from tianwen.write.model_files import load_language_model, save_language_model
from tianwen.write.sampling import SamplingSettings, choose


class Writer:
    """A trained language model and its characters."""

    def __init__(self, model: LanguageModel, characters: Characters) -> None:
        self.model = model
        self.characters = characters

    @classmethod
    def load(cls, path: str | Path) -> Writer:
        """Read the folder that a training wrote. Raises ModelError if it is none, or damaged."""
        return cls(*load_language_model(Path(path)))

    def save(self, path: str | Path) -> None:
        """Write the model as a folder."""
        save_language_model(Path(path), self.model, self.characters)

    def write(self, prompt: str = "", *, length: int = 200, how: SamplingSettings | None = None) -> Iterator[str]:
        """What follows the prompt, as it comes, until there are `length` characters (or one more).

        A prompt begins a document. Where the model begins another one, an empty line stands in the text and its state
        is zero again. Memory does not grow with `length`, nor beyond the prompt itself with the prompt.
        Raises InputError for a length below 0, ModelError if the weights are broken.
        """
        if length < 0:
            raise InputError(f"length is {length}; it is how much to write, 0 or more.")
        return self._stream(prompt, length, how or SamplingSettings())

    def surprise(self, text: str) -> float:
        """Mean -log2 p of the ids of `text`, in bits: how well the model knows such text. 0 for an empty text."""
        ids = torch.from_numpy(self.characters.ids(text)).long()
        total, state, last = 0.0, self.model.init_state(1), torch.tensor([START])
        with torch.inference_mode():
            for part in ids.split(512):
                read = torch.cat([last, part[:-1]])  # each is predicted from those before it
                logits, state = self.model(read[None], state=state)
                total -= float(logits[0].double().log_softmax(-1).gather(1, part[:, None]).sum())
                last = part[-1:]
        return total / max(1, len(ids)) / torch.log(torch.tensor(2.0)).item()

    def _stream(self, prompt: str, length: int, how: SamplingSettings) -> Iterator[str]:
        generator, decoder, model = how.generator(), self.characters.decoder(), self.model
        ids = torch.from_numpy(self.characters.ids(prompt)).long()
        with torch.inference_mode():
            logits, state = model.read(torch.cat([torch.tensor([START]), ids]), model.init_state(1))
        written = 0
        while written < length:
            with torch.inference_mode():  # not around the yield: it would hold for the caller, too
                logits[PAD] = -torch.inf
                drawn = choose(logits, how, generator)
                if drawn == START:
                    state = model.init_state(1)
                rows, state = model.step(torch.tensor([drawn]), state)
                logits = rows[0]
            text = decoder.push(drawn) + ("\n\n" if drawn == START else "")
            if text:  # nothing, as long as a character in bytes is not complete
                written += len(text)
                yield text
