"""Pretrain an encoder from text alone: from files to a folder that `train ask` and `train extract` go on from.

Post: 8998.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tianwen.backbone.encoder_folder import ARCHITECTURE, save_encoder
from tianwen.backbone.heads import MaskedLanguageModel
from tianwen.backbone.roformer_v2 import RoFormerV2, residual_weight
from tianwen.errors import ModelError
from tianwen.optim.schedule import piecewise_linear
from tianwen.pretrain.corpus import Corpus
from tianwen.pretrain.curves import draw_curves
from tianwen.pretrain.objective import MaskedText, accuracy, masked_loss
from tianwen.pretrain.sequences import split_spans
from tianwen.pretrain.settings import PretrainSettings, optimiser_for
from tianwen.pretrain.tokenising import corpus_of
from tianwen.training.atomic import write_file
from tianwen.training.distributed import joined_world, local_device
from tianwen.training.loop import fit
from tianwen.training.model_folder import WEIGHTS
from tianwen.training.randomness import preserved, reseed
from tianwen.training.settings import FitResult, FitSettings
from tianwen.training.step import to_device
from tianwen.training.weights import load_weights

EVALUATIONS, CHECKPOINTS = 20, 40
"""How often the held-out text is measured, and a checkpoint written, unless `fit_options` say otherwise."""


def prepare(
    files: Sequence[str | Path],
    folder: str | Path,
    *,
    device: torch.device | None = None,
    **options: Any,
) -> Corpus:
    """The tokenised corpus in `folder`, made if it is not there; `options` are those of `corpus_of`.

    Under torchrun the first process makes it and the others wait: for a large corpus do it before, in one process.
    """
    with joined_world(device or local_device()) as world:
        if not world.writes:
            world.wait()
        made = corpus_of(files, Path(folder), **options)
        if world.writes:
            world.wait()
        return made


def train_encoder(
    corpus: Corpus,
    out: str | Path,
    *,
    settings: PretrainSettings,
    device: torch.device | None = None,
    **fit_options: Any,
) -> dict[str, Any]:
    """Pretrain and save an encoder in the folder `out` (its run, for resuming, in `out`/run); gives its numbers.

    `fit_options` go to `FitSettings`. Under torchrun every process calls it alike. Raises InputError for settings that
    cannot be used, TrainingError for a run of other settings in `out`, ModelError for another kind of model in `out`.
    """
    folder, place = Path(out), device or local_device()
    refuse_other_model(folder)
    text = MaskedText(
        corpus,
        split_spans(corpus, length=settings.length, held_out=settings.held_out),
        budget=settings.batch,
        rate=settings.rate,
        seed=settings.seed,
    )
    model = new_model(corpus.tokenizer.size, settings).to(place)
    with joined_world(place) as world:
        steps = planned_steps(model, text, settings, folder, processes=world.size) if world.writes else None
        steps = int(world.from_first(steps))
        result = pretrain(model, text, settings, steps=steps, folder=folder / "run", **fit_options)
        numbers = _numbers(corpus, text, model, result, accumulate=settings.accumulate)
        if world.writes:
            save_encoder(folder, model.backbone, corpus.tokenizer, numbers, storage=settings.storage)
            write_file(folder / "numbers.json", (json.dumps(numbers, ensure_ascii=False, indent=1) + "\n").encode())
            draw_curves(folder / "run" / "log.jsonl", folder / "curves.svg")
    return {"model": str(out), **numbers}


def pretrain(
    model: MaskedLanguageModel,
    text: MaskedText,
    how: PretrainSettings,
    *,
    steps: int,
    folder: Path,
    **fit_options: Any,
) -> FitResult:
    """Train `model` in place for `steps` updates; `model.backbone.residual_weight` ends at 1."""
    backbone = model.backbone
    warm, rise = max(1, round(how.warmup * steps)), round(how.residual * steps)

    def before(step: int) -> None:
        backbone.residual_weight = residual_weight(step, steps=rise)

    usual: dict[str, Any] = {
        "checkpoint_every": max(20, steps // CHECKPOINTS),
        "evaluate_every": max(20, steps // EVALUATIONS),
        "log_every": max(1, min(20, steps // 20)),
        "prefetch": 4 if next(model.parameters()).is_cuda else 0,
    }
    options = {"steps": steps, "precision": how.precision, "accumulate": how.accumulate, "seed": how.seed, **usual}
    result = fit(
        model,
        masked_loss,
        text,
        optimiser=optimiser_for(model, how),
        schedule=piecewise_linear({0: 0.0, warm: 1.0, max(steps, warm + 1): 0.0}),
        settings=FitSettings(**(options | fit_options)),
        folder=folder,
        evaluate=(lambda m: accuracy(m, text.held_out())) if text.spans.held_out else None,
        before_step=before,
    )
    backbone.residual_weight = 1.0
    return result


def new_model(vocabulary: int, how: PretrainSettings) -> MaskedLanguageModel:
    """A model that has learnt nothing yet, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        return MaskedLanguageModel(RoFormerV2(how.shape(vocabulary)))


def planned_steps(
    model: MaskedLanguageModel, text: MaskedText, how: PretrainSettings, folder: Path, *, processes: int = 1
) -> int:
    """The steps of a run; those for a number of minutes are measured once and kept in `folder`/plan.json.

    The learning rate falls to nothing at the last step, so its number must stand before the first.
    """
    if how.steps is not None:
        return how.steps
    if how.tokens is not None:
        return max(1, round(how.tokens / (text.tokens_per_batch * how.accumulate)))
    plan, request = folder / "plan.json", json.loads(json.dumps(asdict(how)))
    if plan.is_file():
        known = json.loads(plan.read_text(encoding="utf-8"))
        if known.get("settings") == request:
            return int(known["steps"])
    assert how.minutes is not None
    seconds = seconds_per_step(model, text, how, processes=processes)
    steps = max(1, int(0.95 * 60 * how.minutes / seconds))  # a twentieth is for measuring and for checkpoints
    write_file(plan, json.dumps({"steps": steps, "seconds_per_step": seconds, "settings": request}).encode())
    return steps


def seconds_per_step(
    model: MaskedLanguageModel, text: MaskedText, how: PretrainSettings, *, least: float = 4.0, processes: int = 1
) -> float:
    """Median time of a step, measured on a copy for at least `least` seconds; nothing is learnt from it.

    Of several processes this one's part is measured, without the time that adding the gradients takes.
    """
    place = next(model.parameters()).device
    copy = new_model(model.backbone.config.vocabulary, how).to(place)
    optimiser = optimiser_for(copy, how)
    times: list[float] = []
    loss = torch.zeros(())
    with preserved():
        reseed("measuring")
        while sum(times) < least or len(times) < 4:
            begin = time.perf_counter()
            for part in range(how.accumulate):
                batch = to_device(text.batch(len(times) * how.accumulate + part, 0, processes), place)
                with torch.autocast(place.type, torch.bfloat16, enabled=how.precision == "bf16"):
                    loss = masked_loss(copy, batch)[0]
                loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            float(loss.detach())  # waits for a GPU
            times.append(time.perf_counter() - begin)
    late = sorted(times[len(times) // 2 :])
    return late[len(late) // 2]


def refuse_other_model(folder: Path) -> None:
    """Raise ModelError if `folder` holds a model that is no encoder: training would overwrite it."""
    file = folder / WEIGHTS
    if file.exists():
        found = load_weights(file).metadata.get("architecture")
        if found != ARCHITECTURE:
            raise ModelError(f"{folder} holds {found!r}, no encoder. Choose another folder, or delete this one.")


def _numbers(
    corpus: Corpus, text: MaskedText, model: MaskedLanguageModel, result: FitResult, *, accumulate: int
) -> dict[str, Any]:
    evaluation: Mapping[str, float] = result.evaluation
    return {
        "parameters": model.backbone.parameter_count(),
        "vocabulary": corpus.tokenizer.size,
        "files": {source.name: source.tokens for source in corpus.sources},
        "broken_lines": corpus.broken,
        "tokens": int(text.spans.lengths.sum()),
        "tokens_seen": round(result.step * accumulate * text.tokens_per_batch),
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        **{name: round(value, 4) for name, value in evaluation.items()},
    }
