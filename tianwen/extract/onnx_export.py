"""An extractor as an ONNX file: what its three maps are made of, from which numpy reads entities and facts.

Post: 8888 (facts), 8877 (the efficient head), 8998 (the backbone)

Notation
    B, T  batch, tokens with [CLS] and [SEP]      C  classes of a map      s  size of a query      K  C, or 1 if shared

    ids      int64 [batch, length]    [CLS] text [SEP], right-padded with [PAD]; tokenizer.json lies beside the file
    lengths  int64 [batch]            tokens of each row, [CLS] and [SEP] counted
    entity_  the map of mentions: one class an entity label, or a (type, role) of events
    head_    the map of first tokens: one class a predicate; of events: one class, "the same event"
    tail_    the map of last tokens.   A model of entities alone has neither.
    each map has
        queries, keys  float [batch, K, length, s]   turned and scaled
        starts, ends   float [batch, C, length]      K = C: zeros
        score[c, i, j] = <queries[c, i], keys[c, j]> + starts[c, i] + ends[c, j]

**Reading.** Only tokens 1 .. length - 2 of a row count, between [CLS] and [SEP]. A mention of class c is (i, j), i <= j
with a score in the entity map above log(p / (1 - p)) of its threshold p, and of at most longest[c] tokens. A fact is a
predicate p with a subject (i, j) and an object (k, l), its types allowed by schema.json, whose scores head[p, i, k] and
tail[p, j, l] are above the threshold of p; its own score is the least of the four. Arguments of an event are mentions
whose pairs all score in head and tail map, with row <= column. `examples/8888_onnx.py` does that in numpy. Where
Tianwen is installed, `tianwen.extract.decode` does it without torch, on what `text_maps_of` makes of the outputs.

The metadata of the file: architecture, labels (JSON: entities, predicates, roles), settings (JSON: threshold,
thresholds, length and overlap of windows, longest), config (JSON), tokenizer (fingerprint), tianwen (version), and
words (fingerprint of the table whose words' vectors are read, where there is one: the graph holds it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tianwen.extract.maps import PointerMap, TextMaps

if TYPE_CHECKING:
    from tianwen.backbone.onnx_file import Exported

MAPS = ("entity", "head", "tail")
PARTS = ("queries", "keys", "starts", "ends")


def export_extractor(folder: str | Path | None, file: str | Path) -> Exported:
    """Write the extractor in `folder` (None: the bundled one) to `file`; its tokenizer and schema go beside it.

    Raises ModelError for what is missing, damaged or has no form in ONNX, MissingExtra without onnx.
    """
    from tianwen.backbone.onnx_file import Reader, as_saved, write_export
    from tianwen.extract import model_files, onnx_maps
    from tianwen.extract.extractor import BUNDLED

    model, tokenizer, schema, settings = model_files.load_extractor(BUNDLED if folder is None else Path(folder))
    config = model.eval().config
    labels = {"entities": config.entity_labels, "predicates": config.predicates, "roles": config.roles}
    metadata = {
        "labels": labels,
        "settings": asdict(settings),
        "config": asdict(config),
        "tokenizer": tokenizer.fingerprint,
    }
    if model.encoder.words is not None:
        metadata["words"] = model.encoder.words.table.fingerprint
    reader = Reader(
        model_files.ARCHITECTURE,
        metadata,
        {"tokenizer.json": as_saved(tokenizer), "schema.json": as_saved(schema)},
    )
    graph = onnx_maps.extractor_graph(model)
    return write_export(Path(file), graph, reader, lambda run: onnx_maps.difference(model, tokenizer, run))


def text_maps_of(outputs: Mapping[str, np.ndarray], row: int, length: int) -> TextMaps:
    """The maps of one row, for `tianwen.extract.decode`, from the outputs by name; `length` counts [CLS] and [SEP]."""
    maps = {name: _map_of(outputs, name, row, length) for name in MAPS if f"{name}_queries" in outputs}
    return TextMaps(maps["entity"], maps.get("head"), maps.get("tail"))


def _map_of(outputs: Mapping[str, np.ndarray], name: str, row: int, length: int) -> PointerMap:
    queries, keys, starts, ends = (outputs[f"{name}_{part}"][row] for part in PARTS)
    queries, keys = queries[:, 1 : length - 1], keys[:, 1 : length - 1]
    if len(queries) == 1 and len(starts) > 1:  # shared by all classes
        queries, keys = queries[0], keys[0]
    return PointerMap(queries, keys, starts[:, 1 : length - 1], ends[:, 1 : length - 1])
