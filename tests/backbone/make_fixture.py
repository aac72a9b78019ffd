"""Writes fixture/: a tiny RoFormerV2 with random weights as the original implementation sees and saves it.

Run once, in an environment of its own (this is the only place where TensorFlow is used):

    python3.11 -m venv /tmp/original
    /tmp/original/bin/pip install "tensorflow==2.15.1" "numpy<2"
    /tmp/original/bin/pip install --no-deps "bert4keras==0.11.5"
    /tmp/original/bin/python tests/backbone/make_fixture.py

It leaves, under tests/backbone/fixture/:
    single/, half/    bert_config.json and bert_model.ckpt.{index,data-00000-of-00001}, in float32 and float16
    expected.npz      ids, segments [3, 12]; hidden, logits and the same with unilm_ and causal_ [3, 12, ..], float32
"""

import json
import os
from pathlib import Path

os.environ["TF_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

tf.keras = keras  # the module itself: bert4keras replaces sys.modules["keras"], which the lazy loader does not survive
from bert4keras.models import build_transformer_model  # noqa: E402

FOLDER = Path(__file__).parent / "fixture"
CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "relu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def main() -> None:
    random = np.random.default_rng(8998)
    config_path = FOLDER / "single" / "bert_config.json"
    config_path.parent.mkdir(parents=True, exist_ok=True)
    config_path.write_text(json.dumps(CONFIG, indent=2) + "\n")

    original = build_transformer_model(
        str(config_path), model="roformer_v2", with_mlm="linear", return_keras_model=False
    )
    weights = [random.normal(0, 0.3, weight.shape).astype("float32") for weight in original.model.get_weights()]
    weights = [weight.astype("float16").astype("float32") for weight in weights]  # one truth for both precisions
    original.model.set_weights(weights)
    save(original, FOLDER / "single", "float32")
    save(original, FOLDER / "half", "float16")

    ids = random.integers(5, 50, (3, 12))
    lengths = np.array([12, 7, 9])
    valid = np.arange(12) < lengths[:, None]
    ids = np.where(valid, ids, 0)
    segments = np.where(np.arange(12) >= np.array([5, 3, 1])[:, None], 1, 0) * valid

    prefix = str(FOLDER / "single" / "bert_model.ckpt")
    expected = {"ids": ids, "segments": segments}
    for name, application, marks in (
        ("", "encoder", np.zeros_like(ids)),
        ("unilm_", "unilm", segments),
        ("causal_", "lm", np.zeros_like(ids)),
    ):
        whole = build_transformer_model(
            str(config_path), prefix, model="roformer_v2", application=application, with_mlm="linear"
        )
        last_norm = whole.get_layer("Transformer-1-FeedForward-Norm").get_output_at(0)
        both = keras.Model(whole.inputs, [last_norm, whole.output])
        expected[name + "hidden"], expected[name + "logits"] = both.predict([ids, marks], verbose=0)
    np.savez_compressed(FOLDER / "expected.npz", **expected)


def save(original, folder: Path, dtype: str) -> None:
    """The checkpoint that the original's own `save_weights_as_checkpoint` writes (TF 1 graph and Saver)."""
    v1 = tf.compat.v1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    named = {
        name: value.astype(dtype)
        for layer, names in original.variable_mapping().items()
        if layer in original.layers
        for name, value in zip(names, original.layers[layer].get_weights(), strict=True)
    }
    with v1.Graph().as_default():
        variables = [v1.get_variable(name, initializer=value) for name, value in named.items()]
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(variables).save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
    (folder / "checkpoint").unlink()


if __name__ == "__main__":
    main()
