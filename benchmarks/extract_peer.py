"""GLiNER's model of entities and relations (GLiNER-relex), of equal shape and with random weights, from a config alone.

Post: 8888 (whose speed is compared with it)

The labels are part of its input: `<<ENT>> person ... <<REL>> born in ... <<SEP>> text`, so a text costs more the more
labels there are. Three ways to run it, the best batch size of three each, texts sorted by length for it:

    plain       encoder of BERT's kind, attention like ours: the nearest to an equal encoder
    deberta     DeBERTa v3's kind of attention, which its published models have
    compressed  plain, the labels' embeddings computed once and left out of the input (`compress_prompt_embeddings`)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from extract_texts import ENTITIES, FACTS, TYPES, corpus

WAYS = ("plain", "deberta", "compressed")
BATCHES = (1, 4, 8)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Peer:
    """A model that was told to find as much as ours; raises ImportError without gliner."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str], way: str) -> None:
        self.labels, self.way = list(labels), way
        self.texts = sorted(texts, key=len)
        self.model = _model(way)
        if way == "compressed":
            with _silent():
                self.model.compress_prompt_embeddings(self.texts[::4], list(TYPES), rel_labels=self.labels)
        self.threshold = self.relation_threshold = 0.5
        self.batch = 4
        self._calibrate()

    def run(self) -> tuple[list[Any], list[Any]]:
        """Entities and relations of all texts."""
        return self.model.inference(
            self.texts,
            list(TYPES),
            relations=self.labels,
            threshold=self.threshold,
            relation_threshold=self.relation_threshold,
            batch_size=self.batch,
            flat_ner=False,  # nested ones too, as ours; otherwise more spans would be paired than are found
        )

    def choose_batch(self) -> None:
        """The fastest of BATCHES, each tried on every fourth text."""
        whole, self.texts = self.texts, self.texts[::4]
        times = {}
        for self.batch in BATCHES:
            start = time.perf_counter()
            self.run()
            times[self.batch] = time.perf_counter() - start
        self.batch, self.texts = min(times, key=lambda batch: times[batch]), whole

    def _calibrate(self) -> None:
        """Thresholds at which ENTITIES and FACTS come out of a text.

        From the scores of all spans in one pass: its pairs are quadratic in the spans that are above the threshold.
        """
        prepared = self.model.prepare_batch(self.texts, list(TYPES), None, self.labels)
        scores = []
        for one in prepared["input_x"]:
            batch = self.model.collate_batch([one], list(TYPES), None, self.labels)
            logits = self.model.run_batch(batch, threshold=0.99).logits  # [1, words, widths, types]
            best = logits.sigmoid().amax(-1).flatten()
            scores.append(best[batch["span_mask"].flatten()].numpy())
        every = np.sort(np.concatenate(scores))
        self.threshold = float(every[-1 - round(ENTITIES * len(self.texts))])
        self.relation_threshold = 0.0
        pairs = sorted((one["score"] for found in self.run()[1] for one in found), reverse=True)
        self.relation_threshold = pairs[min(len(pairs) - 1, round(FACTS * len(self.texts)))]

    def found(self) -> tuple[float, float]:
        """Entities and facts a text."""
        entities, facts = self.run()
        return float(np.mean(list(map(len, entities)))), float(np.mean(list(map(len, facts))))

    def input_tokens(self) -> float:
        """Mean tokens of its input, labels and all."""
        prepared = self.model.prepare_batch(self.texts, list(TYPES), None, self.labels)
        collator = self.model.create_collator()
        counts = [
            int(collator([one], entity_types=list(TYPES), relation_types=self.labels)["attention_mask"].sum())
            for one in prepared["input_x"]
        ]
        return float(np.mean(counts))


def _silent() -> Any:
    from contextlib import redirect_stderr

    return redirect_stderr(open(os.devnull, "w"))


def _model(way: str) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config, gliner, transformers = map(import_module, ("gliner.config", "gliner.model", "transformers"))
    tokenizer = _tokenizer(transformers)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    }
    if way == "deberta":
        shape |= {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        shape |= {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        shape |= {"position_biased_input": False, "type_vocab_size": 0}
    else:
        shape |= {"model_type": "bert"}
    relex = gliner.UniEncoderSpanRelexGLiNER
    settings = config.UniEncoderSpanRelexConfig(
        model_name="made-up",  # the name of nothing: the encoder's config is given
        hidden_size=384,
        encoder_config=shape,
        relations_layer="none",  # all pairs of entities are scored, as in the paper
        _attn_implementation=None if way == "deberta" else "sdpa",
    )
    torch.manual_seed(0)
    model = relex(settings, tokenizer=tokenizer, backbone_from_pretrained=False)
    relex._resize_token_embeddings(model, settings, tokenizer, True)
    return model.eval()


def _tokenizer(transformers: Any) -> Any:
    """WordPiece of the same vocabulary size as ours, trained on the same texts."""
    tokenizers = import_module("tokenizers")
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = tokenizers.normalizers.BertNormalizer()
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=6000, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False
    )
    pieces.train_from_iterator(corpus(), trainer)
    ends = [("[CLS]", pieces.token_to_id("[CLS]")), ("[SEP]", pieces.token_to_id("[SEP]"))]
    pieces.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces, **{f"{name}_token": token for name, token in names.items()}
    )
