"""Weights in and out: the published TensorFlow and Hugging Face checkpoints, and one safetensors file of our own.

Post: 8998 (published models: chinese_roformer-v2-char_L-*, and their ports junnyu/roformer_v2_chinese_char_*).

    load(path)               any of the three, told apart by what lies there
    save(model, file)        ours: one .safetensors with the configuration inside
    save_huggingface(model, folder)   config.json and model.safetensors (or pytorch_model.bin)

Notation (i = layer; TensorFlow kernels are [in, out] and are transposed; query, key and value are stacked into qkv)
    ours                           TensorFlow bert/..                          Hugging Face roformer...
    tokens                         embeddings/word_embeddings                  embeddings.word_embeddings
    segments                       embeddings/token_type_embeddings            embeddings.token_type_embeddings
    layers.i.attention.qkv         encoder/layer_i/attention/self/query, ..    encoder.layer.i.attention.self.query, ..
    layers.i.attention.output      encoder/layer_i/attention/output/dense      encoder.layer.i.attention.output.dense
    layers.i.inner                 encoder/layer_i/intermediate/dense          encoder.layer.i.intermediate.dense
    layers.i.outer                 encoder/layer_i/output/dense                encoder.layer.i.output.dense
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.backbone.tensorflow_checkpoint import read_tensorflow_checkpoint
from tianwen.errors import InputError, ModelError

Source = Literal["tensorflow", "huggingface"]
_FORMAT = "tianwen.roformer_v2/1"
_KINDS = (
    "a .safetensors file written by `save`, a folder with config.json and model.safetensors or pytorch_model.bin, "
    "or a folder with bert_config.json and bert_model.ckpt.index"
)


def load(path: str | Path, *, eps: float | None = None) -> RoFormerV2:
    """The model at `path`, in float32 on the CPU and in evaluation mode.

    `path` is one of: a file written by `save`; a Hugging Face folder; a folder with a TensorFlow checkpoint; the
    checkpoint's own prefix (`.../bert_model.ckpt`). `eps` overrides the norm's epsilon (the original computes with
    1e-7, ported configurations say 1e-12; the difference is below 1e-6).
    Raises ModelError if the files are missing, damaged or of another architecture.
    """
    path = Path(path)
    if path.is_dir():
        config, state = _load_folder(path)
        weight = 1.0
    elif Path(f"{path}.index").is_file() or path.suffix == ".index":
        config, state = _load_tensorflow(path.with_suffix("") if path.suffix == ".index" else path)
        weight = 1.0
    elif path.is_file():
        config, state, weight = _load_own(path)
    else:
        raise ModelError(f"There is no model at {path}. Expected is {_KINDS}.")
    config = config if eps is None else replace(config, eps=eps)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = RoFormerV2(config)
    model.load_state_dict(state, assign=True)
    model.residual_weight = weight
    return model.eval()


def save(model: RoFormerV2, path: str | Path) -> None:
    """One safetensors file with configuration and checksum, written beside and renamed."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(asdict(model.config)),
        "residual_weight": repr(model.residual_weight),
    }
    metadata["crc32"] = str(_crc32(state, metadata))
    _write(Path(path), to_bytes(state, metadata))


def save_huggingface(
    model: RoFormerV2, folder: str | Path, *, weights: Literal["safetensors", "bin"] = "safetensors"
) -> None:
    """A folder in the format of the Hugging Face ports; "bin" is for old versions that read pytorch_model.bin only."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = to_huggingface({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
    if weights == "safetensors":
        _write(folder / "model.safetensors", to_bytes(state, {"format": "pt"}))
    else:
        torch.save(state, folder / "pytorch_model.bin.new")
        os.replace(folder / "pytorch_model.bin.new", folder / "pytorch_model.bin")
    _write(folder / "config.json", (json.dumps(_huggingface_config(model.config), indent=2) + "\n").encode())


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names of the Hugging Face ports; the head is tied and not repeated."""
    layers = sum(name.endswith("attention.qkv.weight") for name in state)
    renamed: dict[str, Tensor] = {}
    for ours, theirs in _names("huggingface", layers):
        parts = state[ours].chunk(len(theirs), dim=0)
        renamed |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return renamed


def from_published(tensors: Mapping[str, Tensor], config: RoFormerV2Config, source: Source) -> dict[str, Tensor]:
    """Our state dict, in float32, from the tensors of a published checkpoint.

    Heads, poolers and an optimizer's memory are left aside. Raises ModelError if a tensor is missing or has another
    shape, if the head is not tied, or if there are biases or norm gains (BERT, RoFormer v1).
    """
    if source == "huggingface" and not any(name.startswith("roformer.") for name in tensors):
        tensors = {f"roformer.{name}": tensor for name, tensor in tensors.items()}  # the bare encoder was saved
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in RoFormerV2(config).state_dict().items()}
    for ours, theirs in _names(source, config.layers):
        missing = [name for name in theirs if name not in tensors]
        if missing:
            raise ModelError(
                f"The checkpoint lacks {missing[0]}, which a RoFormerV2 of {config.layers} layers needs. "
                f"It has {len(tensors)} tensors; is the configuration beside it the right one?"
            )
        used.update(theirs)
        parts = [tensors[name].T if name.endswith("/kernel") else tensors[name] for name in theirs]
        state[ours] = torch.cat([part.float() for part in parts]).contiguous()
        if state[ours].shape != shapes[ours]:
            raise ModelError(
                f"{theirs[0]} gives {ours} the shape {tuple(state[ours].shape)}, but the configuration says "
                f"{tuple(shapes[ours])}. Put the configuration of this very checkpoint beside it."
            )
    _refuse_strangers({name: tensor for name, tensor in tensors.items() if name not in used}, state["tokens.weight"])
    return state


def _names(source: Source, layers: int) -> Iterator[tuple[str, list[str]]]:
    """Our name and theirs (three for qkv) of every weight."""
    paths = {"tokens": ["embeddings/word_embeddings"], "segments": ["embeddings/token_type_embeddings"]}
    for i in range(layers):
        stem = f"encoder/layer_{i}"
        paths[f"layers.{i}.attention.qkv"] = [f"{stem}/attention/self/{part}" for part in ("query", "key", "value")]
        paths[f"layers.{i}.attention.output"] = [f"{stem}/attention/output/dense"]
        paths[f"layers.{i}.inner"] = [f"{stem}/intermediate/dense"]
        paths[f"layers.{i}.outer"] = [f"{stem}/output/dense"]
    for ours, theirs in paths.items():
        yield f"{ours}.weight", [_translate(path, source) for path in theirs]


def _translate(path: str, source: Source) -> str:
    match source:
        case "tensorflow":
            return f"bert/{path}" + ("/kernel" if path.startswith("encoder") else "")
        case "huggingface":
            return "roformer." + path.replace("layer_", "layer.").replace("/", ".") + ".weight"


def _refuse_strangers(rest: Mapping[str, Tensor], table: Tensor) -> None:
    """Nothing that changes the encoder's result may be ignored."""
    for name, tensor in rest.items():
        plain = name.replace("/", ".")
        if plain.endswith(("adam_m", "adam_v")) or "Optimizer" in plain:
            continue
        if plain == "cls.predictions.decoder.weight" and not torch.equal(tensor.float(), table):
            raise ModelError("The prediction head is not tied to the embeddings, as RoFormerV2's is: another model.")
        inside = plain.startswith(("bert.embeddings", "bert.encoder", "roformer.embeddings", "roformer.encoder"))
        if inside and not plain.endswith(("embed_positions.weight", "position_ids")):
            raise ModelError(
                f"The checkpoint has {name}, which RoFormerV2 does not: it has no biases, norm gains, position "
                "embeddings or further layers. This looks like BERT, RoFormer v1 or a deeper model than configured."
            )


def _load_folder(folder: Path) -> tuple[RoFormerV2Config, dict[str, Tensor]]:
    indices = sorted(folder.glob("*.index"))
    if (folder / "model.safetensors").is_file():
        tensors = _read_safetensors(folder / "model.safetensors")[0]
    elif (folder / "pytorch_model.bin").is_file():
        tensors = _read_pickle(folder / "pytorch_model.bin")
    elif folder / "bert_model.ckpt.index" in indices or len(indices) == 1:
        chosen = folder / "bert_model.ckpt.index" if folder / "bert_model.ckpt.index" in indices else indices[0]
        return _load_tensorflow(chosen.with_suffix(""))
    else:
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
        raise ModelError(f"{folder} holds no model, or several; it has {found}. Expected is {_KINDS}.")
    config = _read_config(folder / "config.json", eps=1e-12)
    return config, from_published(tensors, config, "huggingface")


def _load_tensorflow(prefix: Path) -> tuple[RoFormerV2Config, dict[str, Tensor]]:
    beside = [prefix.with_name(name) for name in ("bert_config.json", "config.json")]
    config = _read_config(next((path for path in beside if path.is_file()), beside[0]), eps=1e-7)
    tensors = {name: torch.from_numpy(array) for name, array in read_tensorflow_checkpoint(prefix).items()}
    return config, from_published(tensors, config, "tensorflow")


def _load_own(path: Path) -> tuple[RoFormerV2Config, dict[str, Tensor], float]:
    state, metadata = _read_safetensors(path)
    if metadata.get("format") != _FORMAT:
        raise ModelError(f"{path} was not written by `save` of this version ({_FORMAT}). Expected is {_KINDS}.")
    if str(_crc32(state, metadata)) != metadata.get("crc32"):
        raise ModelError(f"{path} is damaged: its content does not match its checksum. Copy or download it again.")
    try:
        config = RoFormerV2Config(**json.loads(metadata["config"]))
        weight = float(metadata["residual_weight"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged: its configuration cannot be read ({error}).") from error
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in RoFormerV2(config).state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in state.items()}:
        raise ModelError(f"{path} holds other weights than its configuration asks for. Save the model again.")
    return config, state, weight


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}). Copy or download it again.") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise ModelError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or holds more than tensors, "
            "which is never executed here. Download it again or convert it to model.safetensors."
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ModelError(f"{path} holds no state dict of tensors. Save it with torch.save(model.state_dict(), ...).")
    return dict(tensors)


def _read_config(path: Path, *, eps: float) -> RoFormerV2Config:
    """Configuration in the words of BERT; `eps` where the file names none."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key, wanted in {
            "hidden_act": "relu",
            "use_bias": False,
            "norm_type": "rms_norm",
            "rotary_value": False,
            "embedding_size": values.get("hidden_size"),
        }.items():
            if values.get(key, wanted) != wanted:
                raise ModelError(f"{path} says {key} = {values[key]!r}; RoFormerV2 has {wanted!r}: another model.")
        return RoFormerV2Config(
            vocabulary=int(values["vocab_size"]),
            layers=int(values["num_hidden_layers"]),
            width=int(values["hidden_size"]),
            heads=int(values["num_attention_heads"]),
            feed_forward=int(values["intermediate_size"]),
            segments=int(values.get("type_vocab_size", 2)),
            max_length=int(values.get("max_position_embeddings", 512)),
            eps=float(values.get("layer_norm_eps", eps)),
            dropout=float(values.get("hidden_dropout_prob", 0.1)),
            attention_dropout=float(values.get("attention_probs_dropout_prob", 0.1)),
        )
    except OSError as error:
        raise ModelError(
            f"The configuration {path} cannot be read ({error.strerror}). Put it beside the weights: "
            "they do not tell the number of heads."
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
        raise ModelError(f"{path} is no configuration of a RoFormerV2 ({type(error).__name__}: {error}).") from error


def _huggingface_config(config: RoFormerV2Config) -> dict[str, Any]:
    return {
        "architectures": ["RoFormerForMaskedLM"],
        "model_type": "roformer",
        "vocab_size": config.vocabulary,
        "embedding_size": config.width,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward or 4 * config.width,
        "hidden_act": "relu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.segments,
        "layer_norm_eps": config.eps,
        "norm_type": "rms_norm",
        "use_bias": False,
        "rotary_value": False,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }


def _crc32(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Checksum over the settings and the tensors' bytes, in the order of their names."""
    settings = sorted((key, value) for key, value in metadata.items() if key != "crc32")
    total = zlib.crc32(repr(settings).encode())
    for name in sorted(state):
        total = zlib.crc32(state[name].contiguous().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), total))
    return total


def _write(path: Path, content: bytes) -> None:
    """Written beside, flushed to the disk and renamed: a reader never sees half a file."""
    beside = path.with_name(path.name + ".new")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ModelError(f"The model cannot be written to {path} ({error.strerror}).") from error
