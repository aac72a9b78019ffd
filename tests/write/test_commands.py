"""The commands train lm and write, as a stranger uses them."""

from __future__ import annotations

import json
import lzma

import pytest
from typer.testing import CliRunner

from tianwen.cli import app

TINY = ["--steps", "3", "--batch", "2", "--length", "8", "--layers", "1", "--width", "8", "--heads", "2", "-q"]


def run(*arguments, code=0, **options):
    result = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, [str(a) for a in arguments], **options)
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "a.txt.xz"
    file.write_bytes(lzma.compress(("天地玄黄，宇宙洪荒。\n" * 30).encode() + b"\xff"))
    return file


@pytest.fixture(scope="module")
def model(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "m"
    told = json.loads(run("train", "lm", text, "--out", out, "--json", *TINY).stdout)
    assert told["model"] == str(out)
    assert (told["broken_bytes"], told["mixer"]) == (1, "lru")
    assert told["held_out_bits"] > 0
    return out


def test_it_writes_on_from_a_prompt(model):
    first, second = (run("write", model, "--prompt", "天地", "--length", 9, "--seed", 1).stdout for _ in range(2))
    assert first == second
    assert first.startswith("天地")


def test_json_is_one_object_with_the_same_text(model):
    plain = run("write", model, "--prompt", '天"\\', "--length", 30, "--seed", 2).stdout
    told = json.loads(run("write", model, "--prompt", '天"\\', "--length", 30, "--seed", 2, "--json").stdout)
    assert plain == told["prompt"] + told["text"] + "\n"
    assert told["characters"] == len(told["text"])


def test_the_prompt_and_the_text_can_come_from_stdin(model, tmp_path):
    told = json.loads(run("write", model, "--prompt", "-", "--length", 2, "--json", input=b"\xe5\xa4\xa9\xff\n").stdout)
    assert told["prompt"] == "天\udcff"
    run("train", "lm", "-", "--out", tmp_path / "m", "--mixer", "rwkv", *TINY, input="天地玄黄\n" * 9)
    assert run("write", tmp_path / "m", "--length", 0).stdout == "\n"


def test_started_again_it_goes_on(text, model):
    more = [*TINY[2:], "--steps", "3", "--out", model, "--json"]
    assert json.loads(run("train", "lm", text, *more).stdout)["loss"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "lm", "{empty}", "--out", "{tmp}/m"], 1, "no text"),
        (["train", "lm", "{tmp}/none.txt", "--out", "{tmp}/m"], 1, "cannot be read"),
        (["train", "lm", "{text}", "--out", "{tmp}/m", "--mixer", "lstm"], 2, "lstm"),
        (["train", "lm", "{text}", "--out", "{tmp}/m", "--mixer", "attention", "--width", "10"], 1, "even number"),
        (["train", "lm", "{text}", "--out", "{tmp}/m", "--learning-rate", "-1"], 1, "learning rate"),
        (["train", "lm", "--out", "{tmp}/m"], 2, "FILE"),
        (["write", "{tmp}"], 1, "no language model"),
        (["write", "{model}", "--top-p", "0"], 1, "top_p"),
        (["write", "{model}", "--top-k", "0"], 2, "top-k"),
        (["write", "{model}", "--temperature", "-1"], 2, "temperature"),
        (["write", "{model}", "--length", "-1"], 2, "length"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, code, said, text, model, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    places = {"empty": tmp_path / "empty.txt", "tmp": tmp_path, "text": text, "model": model}
    result = run(*(argument.format(**places) for argument in arguments), code=code)
    assert said in result.output
    assert "Traceback" not in result.output
