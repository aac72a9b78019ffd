"""Exported extractors that read the vectors of words: the graph finds the words that torch finds, from ids alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extract.small import BACKBONE, TOKENIZER
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.model_files import ExtractorSettings, save_extractor
from tianwen.extract.onnx_export import export_extractor
from tianwen.extract.schema import Schema
from tianwen.words.features import WordFeatures
from tianwen.words.table import WordTable

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

from tianwen.backbone.onnx_file import runtime  # noqa: E402
from tianwen.backbone.onnx_graph import Graph  # noqa: E402
from tianwen.backbone.onnx_layers import read_rows  # noqa: E402
from tianwen.extract.onnx_words import word_share  # noqa: E402

WORDS = [
    "战神",
    "肯尼迪",
    "航天",
    "航天中心",
    "中心",
    "神",
    "发射台",
    "发射",
    "从肯尼迪航天",
    "ares",
    "florida",
    "i",
    "39",
]
WIDTH = 6


def features(words: list[str]) -> WordFeatures:
    vectors = np.random.default_rng(len(words)).normal(size=(len(words), 5)).astype(np.float32)
    made = WordFeatures(WordTable.of(words, vectors), TOKENIZER, WIDTH)
    torch.nn.init.normal_(made.mix.weight)
    return made.eval()


def runner(words: WordFeatures):
    graph = Graph("words")
    graph.output("share", word_share(graph, words, read_rows(graph)), ["batch", "length", WIDTH])
    run = runtime(graph.bytes({}))
    assert run is not None
    return lambda ids: torch.from_numpy(run({"ids": ids.numpy(), "lengths": np.full(len(ids), ids.shape[1])})["share"])


torch.manual_seed(0)
FEATURES = features(WORDS)
RUN = runner(FEATURES)
PARTS = st.sampled_from([*WORDS, "从", "的", "Ares I-X flew", "。", "肯", "尼迪"])


def rows(texts: list[str]) -> torch.Tensor:
    """[CLS] text [SEP] [PAD].. of each."""
    ids = [[TOKENIZER.cls_id, *TOKENIZER.ids(text), TOKENIZER.sep_id] for text in texts]
    longest = max(map(len, ids))
    return torch.tensor([row + [TOKENIZER.pad_id] * (longest - len(row)) for row in ids])


@given(st.lists(st.lists(PARTS, max_size=12), min_size=1, max_size=4))
@settings(max_examples=60)
def test_the_words_are_those_that_torch_finds(texts):
    ids = rows(["".join(parts) for parts in texts])
    with torch.no_grad():
        torch.testing.assert_close(RUN(ids), FEATURES(ids), atol=1e-5, rtol=0)


def test_words_count_where_they_stand():
    ids = rows(["从肯尼迪航天中心的"])
    with torch.no_grad():
        wanted = FEATURES(ids)
    assert (wanted[0].abs().sum(-1) > 0).tolist() == [False, *[True] * 8, False, False]
    torch.testing.assert_close(RUN(ids), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_rows_shorter_than_a_word(length):
    ids = rows(["从肯尼迪航天"])[:, 1 : length + 1]  # a row may end within a word, too
    with torch.no_grad():
        torch.testing.assert_close(RUN(ids), FEATURES(ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("words", [["䶮䶮"], ["战神"], ["战神", "中心"], WORDS[:3], [*WORDS[:8], "的"]])
def test_tables_of_any_size(words):
    made = features(words)
    ids = rows(["战神从中心的发射台发射"])
    with torch.no_grad():
        torch.testing.assert_close(runner(made)(ids), made(ids), atol=1e-5, rtol=0)


def test_an_extractor_with_words_is_exported_whole(tmp_path):
    torch.manual_seed(1)
    table = FEATURES.table
    config = GPLinkerConfig(BACKBONE, ("人物", "地点"), ("在",), head_size=8, words=table.width)
    words = WordFeatures(table, TOKENIZER, BACKBONE.width)
    torch.nn.init.normal_(words.mix.weight)
    save_extractor(GPLinker(config, words).eval(), TOKENIZER, Schema(), ExtractorSettings(), tmp_path / "model")
    done = export_extractor(tmp_path / "model", tmp_path / "out" / "model.onnx")
    assert done.inputs == ("ids", "lengths")
    assert done.difference is not None
    assert done.difference < 1e-5
    told = {entry.key: entry.value for entry in onnx.load(done.file).metadata_props}
    assert told["words"] == table.fingerprint
