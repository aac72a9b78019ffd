"""Training end to end on texts of a few words: it learns, resumes bit for bit, goes on from other models."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tianwen.cli import app
from tianwen.errors import InputError, ModelError, TrainingError
from tianwen.extract.encoder import Encoder
from tianwen.extract.extractor import Extractor
from tianwen.extract.labels import Example
from tianwen.extract.learning import (
    Texts,
    TrainExtractSettings,
    longest_mentions,
    read_texts,
    train_extract,
    usual_protocol,
)
from tianwen.extract.schema import EventType, RelationType, Schema
from tianwen.extract.start import read_start
from tianwen.training.weights import load_weights
from tianwen.words.table import WordTable, bundled_table

BUNDLED_ASKER = Path(__file__).parents[2] / "tianwen" / "models" / "asker"
SMALL = TrainExtractSettings(
    epochs=12, layers=1, width=32, dropout=0.0, vocabulary=500, length=40, overlap=10, budget=160, learning_rate=1e-2
)
BRIEF = replace(SMALL, epochs=8, mixer="roformer_v2", dropout=0.1, swap=0.5, hide=0.1)
CRAFT = ["天问一号", "嫦娥五号", "神舟十号", "祝融号", "玉兔二号", "风云一号"]
PLACES = ["文昌", "酒泉", "太原", "西昌", "东方", "海南"]


def file(folder: Path, name: str, *, shift: int) -> Path:
    path = folder / name
    lines = []
    for i, craft in enumerate(CRAFT):
        place = PLACES[(i + shift) % 6]
        text = f"昨天{craft}从{place}发射。" if i % 2 else f"{place}：{craft}升空。"
        lines.append({"text": text, "spo_list": [{"subject": craft, "predicate": "发射地", "object": place}]})
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("extract")
    texts = read_texts(
        [file(folder, "train.json", shift=0), file(folder, "more.json", shift=1)], [file(folder, "dev.json", shift=2)]
    )
    _, numbers = train_extract(texts, folder / "model", settings=SMALL, quiet=True)
    return folder, numbers


def test_it_learns_and_tells(trained: tuple[Path, dict]) -> None:
    folder, numbers = trained
    assert numbers["f1"] > 0.8
    assert numbers["labelled"] == {"mentions": 24, "links": 12}
    assert numbers["left_out"] == {}
    scores = json.loads((folder / "model" / "scores.json").read_text(encoding="utf-8"))
    assert set(scores["per_label"]) == {"发射地"}
    lines = [json.loads(line) for line in (folder / "model" / "run" / "log.jsonl").read_text().splitlines()]
    assert {"entity", "head", "tail", "loss"} <= set(next(line for line in lines if "loss" in line))
    assert any("f1" in line.get("evaluation", {}) for line in lines)


def test_it_learns_from_texts_with_types_and_texts_without(tmp_path: Path) -> None:
    """Half of the facts name no types, as the page on extraction allows; none may be lost."""
    path = tmp_path / "mixed.jsonl"
    bare = [
        {"text": f"昨天{craft}从{place}发射。", "facts": [[craft, "发射地", place]]}
        for craft, place in zip(CRAFT, PLACES, strict=True)
    ]
    typed = [
        {
            "text": f"{ship}属于{owner}。",
            "facts": [
                {
                    "subject": {"text": ship, "label": "船"},
                    "predicate": "属于",
                    "object": {"text": owner, "label": "机构"},
                }
            ],
        }
        for ship, owner in zip(CRAFT, PLACES, strict=True)
    ]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in bare + typed), encoding="utf-8")
    texts = read_texts([path])
    assert texts.report.ok
    extractor, numbers = train_extract(texts, tmp_path / "m", settings=replace(SMALL, epochs=40), quiet=True)
    assert numbers["labelled"] == {"mentions": 24, "links": 12}
    assert numbers["left_out"] == {}
    for found in (extractor, Extractor.load(tmp_path / "m")):
        (one,) = found.extract(bare[0]["text"]).relations
        assert (one.subject.label, one.predicate, one.object.label) == ("", "发射地", "")
        (one,) = found.extract(typed[0]["text"]).relations
        assert (one.subject.label, one.predicate, one.object.label) == ("船", "属于", "机构")


def test_mentions_may_be_half_as_long_again_as_what_was_learnt() -> None:
    rows = [[(0, 2, 4), (1, 0, 0)], [(0, 5, 5)]]
    ids, links = np.zeros(9, np.int64), np.zeros((0, 3), np.int64)
    examples = [Example(ids, np.array(mentions), links) for mentions in rows]
    assert longest_mentions(examples, 3) == (5, 2, 2)  # 3 tokens, 1 token, never seen


def test_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    texts = read_texts([file(tmp_path, "train.json", shift=0)])
    whole, _ = train_extract(texts, tmp_path / "whole", settings=BRIEF, quiet=True)
    with pytest.raises(SystemExit):
        _interrupted(texts, tmp_path / "parts")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    parts, _ = train_extract(texts, tmp_path / "parts", settings=BRIEF, quiet=True)
    pairs = zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _interrupted(texts, folder: Path) -> None:
    """Training stopped by a signal in its fifth step."""
    import os
    import signal
    from unittest import mock

    from tianwen.extract import learning

    calls, loss = [], learning.extract_loss

    def counted(model, batch):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch)

    with mock.patch.object(learning, "extract_loss", counted):
        train_extract(texts, folder, settings=BRIEF, quiet=True)


@pytest.mark.parametrize("mixer", ["roformer_v2", "attention", "slru"])
def test_every_backbone_trains(tmp_path: Path, mixer: str) -> None:
    texts = read_texts([file(tmp_path, "train.json", shift=0)])
    settings = replace(SMALL, mixer=mixer, epochs=1, swap=0.3, hide=0.1)
    extractor, numbers = train_extract(texts, tmp_path / "model", settings=settings, quiet=True)
    assert numbers["parameters"] == extractor.model.parameter_count()
    assert "f1" not in numbers


def test_it_goes_on_from_other_models(trained: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = trained
    texts = read_texts([folder / "train.json"])
    again, _ = train_extract(
        texts,
        tmp_path / "a",
        settings=replace(SMALL, epochs=0.01, learning_rate=1e-9),
        start=folder / "model",
        quiet=True,
    )
    first = again.extract("昨天天问一号从酒泉发射。")
    assert first.triples() == [("天问一号", "发射地", "酒泉")]  # same labels: the heads come along
    begun = read_start(BUNDLED_ASKER)
    asked, _ = train_extract(
        texts,
        tmp_path / "b",
        settings=replace(SMALL, epochs=0.01),
        start=BUNDLED_ASKER,
        quiet=True,
    )
    assert asked.tokenizer.fingerprint == begun.tokenizer.fingerprint
    assert asked.model.config.backbone == begun.backbone
    (tmp_path / "c").mkdir()
    with pytest.raises(ModelError):
        read_start(tmp_path / "c")


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"text": "天问一号", "facts": []}\n', encoding="utf-8")
    with pytest.raises(InputError, match="label"):
        train_extract(read_texts([path]), tmp_path / "model", settings=SMALL)
    with pytest.raises(InputError, match="must fit into a batch"):
        TrainExtractSettings(budget=100)
    with pytest.raises(InputError, match="shares"):
        TrainExtractSettings(hide=1.0)
    with pytest.raises(InputError, match="'foo' is not known; allowed are triples"):
        TrainExtractSettings(protocol="foo")


def test_usual_protocols() -> None:
    assert usual_protocol(Schema(events=(EventType("e", ("r",)),))) == "argument-spans"
    assert usual_protocol(Schema(relations=(RelationType("p"),))) == "triples"
    assert usual_protocol(Schema(("a",))) == "entities"


def test_command(tmp_path: Path) -> None:
    data = file(tmp_path, "train.json", shift=0)
    run = CliRunner()
    checked = run.invoke(app, ["train", "extract", "--data", str(data), "--check", "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["data"]["texts"] == 6
    options = [
        "--width",
        "32",
        "--layers",
        "1",
        "--epochs",
        "1",
        "--vocabulary",
        "400",
        "--length",
        "40",
        "--json",
        "-q",
    ]
    done = run.invoke(
        app, ["train", "extract", "--data", str(data), "--dev", str(data), "--out", str(tmp_path / "m"), *options]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["protocol"] == "triples"
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert run.invoke(app, ["train", "extract", "--data", str(data)]).exit_code == 2


@pytest.mark.parametrize("more", [("--check",), ("--out", "m"), ("--out", "m", "--dev", "none.json")])
def test_the_command_refuses_an_unknown_protocol_before_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "extract", "--data", "none.json", "--protocol", "foo", *more])
    assert done.exit_code == 1
    assert "'foo' is not known; allowed are triples" in done.stderr
    assert not (tmp_path / "m").exists()


def test_check_fails_on_errors(tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(
        '{"text": "天问一号", "spo_list": [{"subject": "嫦娥", "predicate": "p", "object": "天问"}]}\n',
        encoding="utf-8",
    )
    checked = CliRunner().invoke(app, ["train", "extract", "--data", str(data), "--check"])
    assert checked.exit_code == 1
    assert "error" in checked.output


def word_table(seed: int = 0, width: int = 6) -> WordTable:
    words = ["天问", "嫦娥", "酒泉", "太原", "发射", "升空"]
    return WordTable.of(words, np.random.default_rng(seed).normal(size=(len(words), width)).astype(np.float32))


ONCE = replace(SMALL, epochs=1, learning_rate=1e-9)


@pytest.fixture(scope="module")
def reading_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Texts]:
    folder = tmp_path_factory.mktemp("words")
    texts = read_texts([file(folder, "train.json", shift=0)])
    train_extract(texts, folder / "model", settings=ONCE, words=word_table(), quiet=True)
    return folder / "model", texts


@pytest.mark.parametrize("other", [word_table(1), None])
def test_a_run_goes_on_with_its_own_word_table_only(reading_words: tuple[Path, Texts], other: WordTable | None) -> None:
    folder, texts = reading_words
    with pytest.raises(TrainingError, match=f"data.word_table was '{word_table().fingerprint}'"):
        train_extract(texts, folder, settings=ONCE, words=other, quiet=True)
    train_extract(texts, folder, settings=ONCE, words=word_table(), quiet=True)


def test_what_is_learnt_of_words_goes_on_with_the_same_table_only(
    reading_words: tuple[Path, Texts], tmp_path: Path
) -> None:
    folder, texts = reading_words
    learnt = Extractor.load(folder).model.encoder
    assert learnt.words is not None

    def begun(name: str, words: WordTable | None) -> Encoder:
        how = replace(ONCE, seed=5)
        extractor, _ = train_extract(texts, tmp_path / name, settings=how, start=folder, words=words, quiet=True)
        assert torch.allclose(extractor.model.encoder.backbone.tokens.weight, learnt.backbone.tokens.weight, atol=1e-6)
        return extractor.model.encoder

    same, other = begun("same", word_table()).words, begun("other", word_table(1)).words
    wider, none = begun("wider", word_table(1, 7)).words, begun("none", None).words
    assert same is not None
    assert other is not None
    assert wider is not None
    assert none is None
    assert torch.allclose(same.mix.weight, learnt.words.mix.weight, atol=1e-6)
    assert not torch.allclose(other.mix.weight, learnt.words.mix.weight, atol=1e-3)
    assert wider.mix.weight.shape == (32, 28)


def test_the_command_goes_on_with_the_models_own_table(reading_words: tuple[Path, Texts], tmp_path: Path) -> None:
    folder, _ = reading_words
    data = str(file(tmp_path, "train.json", shift=0))
    begin = ["train", "extract", "--data", data, "--epochs", "0.1", "--batch", "320", "-q"]

    def used(*more: str) -> str | None:
        out = str(tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        done = CliRunner().invoke(app, [*begin, "--out", out, *more])
        assert done.exit_code == 0, done.output
        words = Extractor.load(out).model.encoder.words
        return words and words.table.fingerprint

    assert used("--model", str(folder)) == word_table().fingerprint
    assert used("--model", str(folder), "--words", "none") is None
    word_table(1).save(tmp_path / "t.safetensors")
    small = ("--layers", "1", "--width", "32", "--vocabulary", "500")
    assert used(*small, "--words", str(tmp_path / "t.safetensors")) == word_table(1).fingerprint
    assert used(*small) == bundled_table().fingerprint


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_words_are_read_under_autocast_by_averages_and_by_the_best_weights(tmp_path: Path, precision: str) -> None:
    texts = read_texts([file(tmp_path, "a.json", shift=0)], [file(tmp_path, "b.json", shift=2)])
    how = replace(SMALL, epochs=3, precision=precision)
    one, _ = train_extract(texts, tmp_path / "m", settings=how, words=word_table(), ema_decay=0.9, quiet=True)
    best = load_weights(tmp_path / "m" / "run" / "best.safetensors").tensors
    assert not any(name.endswith(("vectors", "hashes", "rows")) for name in best)
    mix = one.model.encoder.words
    assert mix is not None
    assert torch.equal(mix.mix.weight, best["encoder.words.mix.weight"])
    again = Extractor.load(tmp_path / "m")
    copied = pickle.loads(pickle.dumps(again))
    for text in ("昨天天问一号从酒泉发射。", ""):
        assert one.extract(text) == again.extract(text) == copied.extract(text) == copy.deepcopy(again).extract(text)
