"""tianwen extract and tianwen eval extract: what they read, print and refuse. A stand-in finds the words."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests.extract.small import TOKENIZER, Parrot, tiny_extractor
from tianwen import cli
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.cli.extracting_texts import documents, lines_of
from tianwen.cli.extracting_view import View, has_colours
from tianwen.errors import InputError
from tianwen.extract import extractor as module
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.extractor import Extractor

LAUNCH = "战神从肯尼迪发射。"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a command in an empty folder with a page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "decode_windows", Parrot([("战神", 0), ("肯尼迪", 1)], [("战神", 0, "肯尼迪")]))
    monkeypatch.setattr(Extractor, "load", classmethod(lambda cls, path=None, int8=False: tiny_extractor()))
    monkeypatch.setattr(cli.knowledge_base, "tokenizer_of", lambda model: TOKENIZER)
    (tmp_path / "page.txt").write_text(f"昨天，{LAUNCH}", encoding="utf-8")

    def invoke(*words, stdin=None, exit_code=0):
        result = CliRunner().invoke(cli.app, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def records(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_text_a_file_a_folder_and_stdin(run, tmp_path):
    (record,) = records(run("extract", LAUNCH, "--json"))
    (fact,) = record["facts"]
    assert (fact["subject"]["start"], fact["subject"]["end"], fact["object"]["text"]) == (0, 2, "肯尼迪")
    assert "source" not in record
    (record,) = records(run("extract", "page.txt", "--json"))
    assert (record["source"], record["facts"][0]["subject"]["start"]) == ("page.txt", 3)
    folder = tmp_path / "notes" / "deep"
    folder.mkdir(parents=True)
    for name in ("notes/b.md", "notes/deep/a.txt", "notes/c.jpg", "notes/.hidden.txt"):
        (tmp_path / name).write_text(LAUNCH, encoding="utf-8")
    assert [one["source"] for one in records(run("extract", "notes", "--json"))] == ["notes/b.md", "notes/deep/a.txt"]
    (record,) = records(run("extract", "-", stdin=LAUNCH))  # into a pipe: JSON without being told
    assert (record["source"], len(record["facts"])) == ("stdin", 1)


def test_an_empty_word_is_a_text_and_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "other.txt").write_text("战神I-X", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert list(documents(["", "."])) == [("", ""), ("战神I-X", "other.txt")]


def test_lines_are_texts_of_their_own(run, tmp_path):
    stdin = f"{LAUNCH}\n\n无事\r\n{LAUNCH}"
    by_line = records(run("extract", "-", "--lines", "--json", stdin=stdin))
    assert [one["text"] for one in by_line] == [LAUNCH, "", "无事", LAUNCH]
    assert [one["source"] for one in by_line] == [f"stdin, line {n}" for n in (1, 2, 3, 4)]
    (tmp_path / "lines.txt").write_text(stdin, encoding="utf-8", newline="")
    of_file = records(run("extract", "lines.txt", "--lines", "--json"))
    assert [(one["text"], one["source"]) for one in of_file] == [
        (LAUNCH, "lines.txt, line 1"),
        ("无事", "lines.txt, line 3"),
        (LAUNCH, "lines.txt, line 4"),
    ]


def test_a_fact_across_lines_is_pointed_out_with_the_command_that_reads_line_by_line(run, tmp_path):
    (tmp_path / "my list.txt").write_text("战神升空。\n它在肯尼迪。\n", encoding="utf-8")
    said = run("extract", "my list.txt", "page.txt", "--json").stderr
    assert said == (
        "tianwen: my list.txt was read as one text, and 1 fact joins words of different lines. "
        "If every line is a text of its own: tianwen extract 'my list.txt' --lines\n"
    )
    assert "extract - --lines" in run("extract", "-", stdin="肯尼迪\n战神").stderr  # the object may come first
    for words in (["my list.txt", "-q"], ["my list.txt", "--lines"], ["page.txt"], ["战神\n在肯尼迪"]):
        assert not run("extract", *words, "--json").stderr


def test_entities_only_and_thresholds(run):
    (record,) = records(run("extract", LAUNCH, "--entities-only", "--json"))
    assert len(record["entities"]) == 2
    assert record["facts"] == []
    assert "above 0 and below 1" in run("extract", LAUNCH, "--threshold", "1", exit_code=2).output


def test_odd_bytes_keep_their_places(tmp_path):
    file = tmp_path / "odd.txt"
    file.write_bytes(b"\xef\xbb\xbf\xff\0" + LAUNCH.encode() + b"\r\n")
    assert list(documents([str(file)])) == [(f"\udcff\0{LAUNCH}\r\n", str(file))]
    file.write_bytes(LAUNCH.encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        list(documents([str(file)]))


def test_what_cannot_be_read_is_one_sentence(run, tmp_path):
    assert run("extract", "nowhere.txt", exit_code=1).stderr.startswith("tianwen: There is no file nowhere.txt")
    (tmp_path / "empty").mkdir()
    assert "holds no texts" in run("extract", "empty", exit_code=1).stderr
    assert "Missing argument" in run("extract", exit_code=2).output
    for text in ("A text that ends in page.txt", "长" * 5000, "a\0b"):
        assert list(documents([text])) == [(text, "")]


def test_a_slow_writer_is_answered_at_once():
    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return self.readline()

    assert [len(batch) for batch in lines_of(Slow(b"a\nb\nc"))] == [1, 1, 1]


def test_the_view_marks_entities_and_lists_facts(run):
    out = run("extract", LAUNCH, "--view").stdout
    assert out.splitlines() == ["[战神]从[肯尼迪]发射。", "    战神 → 发射地点 → 肯尼迪  88%", ""]
    assert "\x1b" not in out


def annotation(text: str, *mentions: tuple[str, str]) -> Annotation:
    found = tuple(Mention(text.index(w), text.index(w) + len(w), label, 0.9) for w, label in mentions)
    return Annotation(text, found, (Relation(found[0], "在", found[-1], 0.8),))


def test_the_view_has_colours_only_where_they_may_be(monkeypatch):
    one = annotation("战神在肯尼迪航天中心。", ("战神", "火箭"), ("肯尼迪", "人"), ("肯尼迪航天中心", "地点"))
    again = Relation(one.entities[0], "在", one.entities[2], 0.6)
    one = replace(one, relations=(again, *one.relations))
    coloured, plain = (View(colours=colours).show(one) for colours in (True, False))
    assert "\x1b[" in coloured
    assert plain.splitlines()[0] == "[战神|火箭]在[肯尼迪航天中心|地点]。"  # of nested mentions that of a fact
    assert plain.splitlines()[1:] == ["    战神 → 在 → 肯尼迪航天中心  80%"]  # the same twice: the surer
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert has_colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours()


def test_the_view_cannot_be_steered_by_a_text():
    text = "战神\x1b[31m\u202e在\ud800肯尼迪\0。"
    out = View(colours=False).show(annotation(text, ("战神", "\x1b]0;"), ("肯尼迪", "")))
    assert not set(out) & set("\x1b\0\u202e\ud800")


def test_the_view_of_long_texts_leaves_out_empty_sentences():
    text = "无事。" * 1000 + "战神升空。它在肯尼迪。" + "无事。" * 1000
    out = View(colours=False).show(annotation(text, ("战神", ""), ("肯尼迪", "")))
    assert out.splitlines() == ["[战神]升空。它在[肯尼迪]。", "    战神 → 在 → 肯尼迪  80%"]
    assert View(colours=False).show(Annotation("无事。", source="a.txt")) == "a.txt\nnothing found\n无事。"


def test_the_view_of_events():
    text = "兴发质押。"
    event = Event("质押", (Argument("trigger", Mention(2, 4)), Argument("质押方", Mention(0, 2))), 0.75)
    out = View(colours=False).show(Annotation(text, events=(event,)))
    assert out.splitlines() == ["[兴发][质押]。", "    质押: trigger 质押; 质押方 兴发  75%"]


def test_evaluation(run, tmp_path):
    gold = {"text": LAUNCH, "facts": [{"subject": "战神", "predicate": "发射地点", "object": "肯尼迪"}]}
    missed = {"text": "火箭升空", "facts": [{"subject": "火箭", "predicate": "发射台", "object": "升空"}]}
    (tmp_path / "gold.jsonl").write_text("\n".join(json.dumps(one) for one in (gold, missed)), encoding="utf-8")
    words = ("eval", "extract", "--model", "m", "--data", "gold.jsonl", "--protocol", "triples")
    numbers = json.loads(run(*words, "--json").stdout)
    assert (numbers["precision"], numbers["recall"], numbers["f1"]) == (1.0, 0.5, pytest.approx(2 / 3))
    assert numbers["sentences_per_second"] > 0
    assert "per_label" not in numbers
    labels = json.loads(run(*words, "--json", "--per-label").stdout)["per_label"]
    assert labels["发射台"]["f1"] == 0
    assert "发射台" in run(*words, "--per-label").stdout
    assert "triples, last-word" in run(*words[:-1], "?", exit_code=1).stderr


def test_from_text_to_knowledge_base(run, tmp_path):
    found = run("extract", "page.txt", "--json").stdout
    assert "1 fact read" in run("build", "-", "--kb", "page.kb", stdin=found).stdout
    source = "page.txt:0-12: 昨天，战神从肯尼迪发射。"
    with KnowledgeBase.open(tmp_path / "page.kb") as kb:
        (fact,) = kb.snapshot().find(subject="战神")
        assert (fact.predicate, fact.object, fact.source) == ("发射地点", "肯尼迪", source)
        other = run("extract", "战神从肯尼迪离开。", "--json").stdout
    assert "1 fact added" in run("add", "--kb", "page.kb", "--facts", "-", stdin=other).stdout
    nothing = run("extract", "无事。", "--json").stdout
    assert "no fact to build" in run("build", "-", "--kb", "none.kb", stdin=nothing, exit_code=1).stderr
