"""The command line: what it prints, where, and how it ends. Answers come from a stand-in for the model."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import tianwen
from tianwen import cli, terminal
from tianwen.ask.asker import Answer, Asker
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.training.weights import load_weights

FACTS = """天问一号	发射时间	2020年7月23日	国家航天局
白蛇（电影）	导演	黄家康	
Mars	moons	Phobos	IAU
Mars	moons	Deimos	IAU
"""


class ParrotAsker:
    """Answers with the first subject of the knowledge base that stands in the question."""

    tokenizer = Tokenizer.train([FACTS], size=400, min_count=1)

    def ask(self, questions, kb, *, top=1, beams=4, search="beam", threshold=None):
        if not all(question.strip() for question in questions):
            raise InputError("The question is empty.")
        return [self.answers(question, kb.snapshot(), threshold)[:top] for question in questions]

    def answers(self, question, snapshot, threshold):
        for subject in ("天问一号", "白蛇", "Mars"):
            if subject in question and (facts := list(snapshot.find(subject=subject))):
                objects, sources = [fact.object for fact in facts], [fact.source for fact in facts]
                known = (threshold or 0) <= 0.75
                return [Answer(subject, facts[0].predicate, facts[0].sense, objects, 0.75, sources, known)]
        return []


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a command in an empty folder with a table of facts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Asker, "load", classmethod(lambda cls, path=None: ParrotAsker()))
    monkeypatch.setattr(cli.knowledge_base, "tokenizer_of", lambda model: ParrotAsker.tokenizer)
    (tmp_path / "facts.tsv").write_text(FACTS, encoding="utf-8")

    def invoke(*words, stdin=None, exit_code=0):
        result = CliRunner().invoke(cli.app, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    (folder / "facts.tsv").write_text(FACTS, encoding="utf-8")
    KnowledgeBase.build(folder / "facts.tsv", folder / "my.kb", tokenizer=ParrotAsker.tokenizer).close()
    return folder / "my.kb"


@pytest.fixture
def kb(run, built, tmp_path):
    shutil.copytree(built, tmp_path / "my.kb")
    return "my.kb"


def test_build_says_what_it_read_and_names_the_lines_left_out(run, tmp_path):
    (tmp_path / "more.tsv").write_text("one column\nVenus\tmoons\tnone\n", encoding="utf-8")
    result = run("build", "facts.tsv", "more.tsv", "--kb", "my.kb")
    assert "5 facts read" in result.stdout
    assert "; 1 line left out" in result.stdout
    assert "more.tsv, line 1" in result.stderr
    assert "left out" not in run("build", "facts.tsv", "more.tsv", "--kb", "my.kb", "--force", "-q").stderr


def test_build_answers_programs_in_json(run):
    report = json.loads(run("build", "facts.tsv", "--kb", "my.kb", "--json").stdout)
    assert (report["facts"], report["skipped"], report["problems"]) == (4, 0, [])


def test_build_reads_stdin_in_the_format_given(run):
    assert "1 fact read" in run("build", "-", "--format", "csv", "--kb", "my.kb", stdin="Venus,moons,none\n").stdout


def test_strict_refuses_a_table_with_a_bad_line(run, tmp_path):
    (tmp_path / "bad.tsv").write_text("one column\n", encoding="utf-8")
    result = run("build", "bad.tsv", "--kb", "my.kb", "--strict", exit_code=1)
    assert "bad.tsv, line 1" in result.stderr
    assert not (tmp_path / "my.kb").exists()


def test_build_does_not_overwrite_unless_forced(run, kb):
    said = run("build", "facts.tsv", "--kb", kb, exit_code=1).stderr
    assert "tianwen add --kb my.kb --facts FILE" in said
    assert "tianwen build FACTS --kb my.kb --force" in said
    run("build", "facts.tsv", "--kb", kb, "--force")


def test_an_answer_shows_objects_probability_path_and_source_in_the_language_of_the_question(run, kb):
    chinese = run("ask", "--kb", kb, "天问一号是什么时候发射的？").stdout
    assert chinese == "2020年7月23日  75%\n    路径  天问一号 → 发射时间\n    来源  国家航天局\n"
    english = run("ask", "--kb", kb, "Which moons does Mars have?").stdout
    assert english == "Phobos; Deimos  75%\n    path    Mars → moons\n    source  IAU\n"
    assert "白蛇（电影） → 导演" in run("ask", "--kb", kb, "白蛇是谁导演的？").stdout


def test_unsure_and_unanswerable_questions_say_so(run, kb):
    assert run("ask", "--kb", kb, "--threshold", "0.9", "Mars?").stdout.startswith("I don't know; closest: Phobos")
    assert run("ask", "--kb", kb, "月球？").stdout == "不知道。\n"


def test_only_the_best_answer_can_be_unsure():
    answers = [Answer("S", "p", "", ["a"], 0.9, [""]), Answer("S", "q", "", ["b"], 0.1, [""], known=False)]
    plain = re.sub(r"\x1b\[\d+m", "", terminal.for_people("which?", answers))
    assert plain.split("\n")[::2] == ["a  90%", "b  10%"]
    unsure = re.sub(r"\x1b\[\d+m", "", terminal.for_people("which?", answers[1:]))
    assert unsure.startswith("I don't know; closest: b  10%")


def test_bundled_is_no_model_of_your_own_unless_a_folder_has_that_name(run, kb, tmp_path):
    said = run(
        "eval", "ask", "--kb", kb, "--questions", "q.tsv", "--model", "bundled", "--calibrate", exit_code=2
    ).stderr
    assert "--calibrate changes a model of your own" in said
    (tmp_path / "bundled").mkdir()
    again = run("eval", "ask", "--kb", kb, "--questions", "q.tsv", "--model", "bundled", "--calibrate", exit_code=1)
    assert "no question file" in again.stderr, "it went on with that folder"


@pytest.mark.parametrize(
    "command", [["train", "ask", "--questions"], ["train", "extract", "--data"], ["draw", "train"]]
)
def test_a_file_is_no_folder_for_a_model(run, tmp_path, command):
    (tmp_path / "here").write_text("a file", encoding="utf-8")
    assert "is a file" in run(*command, "facts.tsv", "--out", "here", exit_code=2).stderr
    assert (tmp_path / "here").read_text(encoding="utf-8") == "a file"


def test_questions_on_stdin_give_a_json_line_each_and_a_bad_one_its_error(run, kb):
    lines = run("ask", "--kb", kb, stdin="Mars?\n\n天问一号？\r\nMoon?").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["question"] for row in rows] == ["Mars?", "", "天问一号？", "Moon?"]
    assert rows[0]["answers"][0]["objects"] == ["Phobos", "Deimos"]
    assert rows[1]["error"] == "The question is empty."
    assert rows[2]["answers"][0]["sources"] == ["国家航天局"]
    assert rows[3]["answers"] == []


def test_bytes_that_are_not_utf8_come_back_as_they_went_in(run, kb):
    row = json.loads(run("ask", "--kb", kb, stdin=b"Mars \xff?\n").stdout)
    assert row["question"] == "Mars \udcff?"


def test_a_long_line_that_arrives_in_pieces_is_one_question():
    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(min(size, 7))

    text = ["天" * 30, "", "b" * 20, "last"]
    got = [line for batch in terminal.batches(Slow("\n".join(text).encode()), 2) for line in batch]
    assert got == text
    assert [len(b) for b in terminal.batches(io.BytesIO(b"1\n2\n3\n4\n5\n"), 2)] == [2, 2, 1]


def test_added_and_removed_facts_are_seen_by_the_next_question(run, kb):
    assert run("add", "--kb", kb, "天问一号", "运载火箭", "长征五号", "--source", "x").stdout == "1 fact added.\n"
    assert "长征五号" in run("ask", "--kb", kb, "天问一号？").stdout
    assert run("remove", "--kb", kb, "Mars", "moons", "Phobos").stdout == "1 fact removed.\n"
    assert run("ask", "--kb", kb, "Mars?").stdout.startswith("Deimos  ")
    assert run("remove", "--kb", kb, "白蛇（电影）").stdout == "1 fact removed.\n"
    assert json.loads(run("remove", "--kb", kb, "白蛇", "--json").stdout) == {"removed": 0}


def test_a_table_can_be_added_too(run, kb, tmp_path):
    (tmp_path / "more.jsonl").write_text(
        '{"subject": "Venus", "predicate": "moons", "object": "none"}\n', encoding="utf-8"
    )
    assert run("add", "--kb", kb, "--facts", "more.jsonl").stdout == "1 fact added.\n"
    run("compact", "--kb", kb)
    assert json.loads(run("info", "--kb", kb, "--json").stdout)["facts"] == 5


def test_objects_are_replaced_one_or_all_and_by_a_table(run, kb, tmp_path):
    run("add", "--kb", kb, "Mars", "moons", "Phobas")
    replaced = run("replace", "--kb", kb, "Mars", "moons", "Deimos", "Phobos", "--source", "IAU")
    assert replaced.stdout == "1 fact removed, 0 added.\n"
    replaced = run("replace", "--kb", kb, "Mars", "moons", "福波斯", "--old", "Phobos")
    assert replaced.stdout == "1 fact removed, 1 added.\n"
    assert "福波斯" in run("ask", "--kb", kb, "Mars?").stdout
    refused = run("replace", "--kb", kb, "白蛇", "导演", "x", exit_code=1).stderr
    assert "nothing to replace" in refused
    assert "'电影'" in refused
    (tmp_path / "new.tsv").write_text("Mars\tmoons\tnone\n火星\t卫星\t火卫一\n", encoding="utf-8")
    counts = json.loads(run("replace", "--kb", kb, "--facts", "new.tsv", "--json").stdout)
    assert counts == {"removed": 2, "added": 2, "skipped": 0}
    assert run("replace", "--kb", kb, "Mars", "moons", "none").stdout == "Nothing to change: it is so already.\n"


@pytest.mark.parametrize(
    "words", [["Mars", "moons"], ["a", "b", "c", "--facts", "x"], ["--facts", "x", "--old", "y"], []]
)
def test_replace_wants_one_key_or_one_file(run, kb, words):
    assert "SUBJECT PREDICATE OBJECT" in run("replace", "--kb", kb, *words, exit_code=2).stderr


@pytest.mark.parametrize("words", [["Mars"], ["Mars", "moons", "Io", "--facts", "x.tsv"], []])
def test_add_wants_one_whole_fact_or_one_file(run, kb, words):
    assert "SUBJECT PREDICATE OBJECT" in run("add", "--kb", kb, *words, exit_code=2).stderr


def test_info_is_readable(run, kb):
    assert "facts" in run("info", "--kb", kb).stdout


@pytest.mark.parametrize(
    "words",
    [
        ["ask"],
        ["build", "--kb", "x"],
        ["nonsense"],
        ["ask", "--kb", "x", "--top", "0", "?"],
        ["train", "ask", "--out", "x"],
    ],
)
def test_wrong_usage_ends_with_2(run, words):
    assert run(*words, exit_code=2).stdout == ""


def test_errors_are_one_sentence_and_end_with_1(run):
    result = run("ask", "--kb", "nowhere.kb", "Mars?", exit_code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("tianwen: ")
    assert "Traceback" not in result.stderr


def test_the_demonstration_asks_ten_questions_and_judges_each(run, monkeypatch):
    result = json.loads(run("demo", "--json").stdout)
    assert result["questions"] == len(result["answers"]) == 10
    assert result["right"] == sum(row["right"] for row in result["answers"])
    text = run("demo", "-q").stdout
    assert "战神I-X在哪里发射？" in text
    assert text.count("✗") + text.count("✓") == 10


def test_the_demonstration_counts_only_whole_and_sure_answers_as_right():
    from tianwen.demonstration import is_right

    def answer(objects, known=True):
        return SimpleNamespace(objects=objects, known=known)

    assert is_right({"answer": ["a", "b"]}, [answer(["b", "a"])])
    assert not is_right({"answer": ["a", "b"]}, [answer(["a"])])
    assert not is_right({"answer": ["a"]}, [answer(["a"], known=False)])
    assert not is_right({"answer": ["a"]}, [])


def test_the_prompt_answers_until_the_end_and_keeps_a_history(monkeypatch, tmp_path, capsys):
    typed = iter(["Mars?", "  ", "empty!"])

    def read(_):
        if (line := next(typed, None)) is None:
            raise EOFError
        return line

    def find(questions):
        if questions == ["empty!"]:
            raise InputError("no such thing")
        return [[Answer("Mars", "moons", "", ["Phobos"], 0.5, ["IAU"])]]

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    terminal.prompt(find)
    out, err = capsys.readouterr()
    assert out.count("Phobos") == 1
    assert "no such thing" in err
    assert (tmp_path / "tianwen" / "questions").exists()


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with Ctrl-C ignored
from tianwen import cli
@cli.app.command()
def sleepy():
    print("ready", flush=True)
    time.sleep(60)
@cli.app.command()
def endless():
    while True:
        print("line", flush=True)
cli.main()
"""


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def test_ctrl_c_ends_with_130_and_a_sentence():
    process = start("sleepy")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped by Ctrl-C" in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error_to_show():
    process = start("endless")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=120) == 141
    process.stderr.close()


def test_a_slow_writer_is_answered_before_it_writes_on():
    program = (
        "import sys, time\nfrom tianwen import terminal\n"
        "for line in terminal.answer_stream(sys.stdin.buffer, lambda questions: [[] for _ in questions]):\n"
        "    print(line, flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    begin = time.monotonic()
    for question in ("first", "second"):
        process.stdin.write(question + "\n")
        assert json.loads(process.stdout.readline())["question"] == question
    process.communicate()
    assert time.monotonic() - begin < 30


def test_knowledge_bases_are_built_with_the_vocabulary_of_the_model(tmp_path):
    tokenizer = ParrotAsker.tokenizer
    tokenizer.save(tmp_path / "tokenizer.json")
    assert cli.knowledge_base.tokenizer_of(tmp_path).fingerprint == tokenizer.fingerprint


def test_info_can_verify_every_byte(run, kb, tmp_path):
    run("info", "--kb", kb, "--verify")
    file = next((tmp_path / kb).rglob("*.arrow"))
    flipped = bytearray(file.read_bytes())
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    assert "Traceback" not in run("info", "--kb", kb, "--verify", exit_code=1).stderr


def test_a_benchmark_gets_the_options_after_its_name(run, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(cli.bench, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert "source checkout" in run("bench", "speed", exit_code=1).stderr
    (tmp_path / "peer.py").write_text("NAME = 'peer'", encoding="utf-8")
    (tmp_path / "speed.py").write_text("import sys, peer\nprint(__name__, peer.NAME, sys.argv[1:])", encoding="utf-8")
    assert run("bench", "speed", "--json", "--keys", "5").stdout == "__main__ peer ['--json', '--keys', '5']\n"
    assert "peer, speed" in run("bench", "depth", exit_code=2).stderr


def test_train_passes_its_options_on(run, kb, monkeypatch):
    from tianwen.ask import learning

    calls = []

    def train_ask(questions, out, *, kb, settings, quiet, **begin):
        assert begin == {"start": None, "scratch": True, "encoder": None}
        told = settings.steps, settings.mixer, quiet
        calls.append(([str(file) for file in questions], str(out), kb.info()["facts"], *told))

    monkeypatch.setattr(learning, "train_ask", train_ask)
    files, how = ("--questions", "a", "--questions", "b"), ("--steps", "7", "--scratch", "--mixer", "lru", "-q")
    result = run("train", "ask", *files, "--kb", kb, "--out", "m", *how)
    assert calls == [(["a", "b"], "m", 4, 7, "lru", True)]
    assert "Ask with it: tianwen ask --kb my.kb --model m QUESTION" in result.stdout


def test_eval_prints_numbers_for_people_and_programs(run, kb, monkeypatch, tmp_path):
    from tianwen.ask import evaluation

    (tmp_path / "q.tsv").write_text("Mars?\tMars\tmoons\tPhobos\n", encoding="utf-8")
    seen = []

    def evaluate_ask(asker, base, questions, *, options, progress):
        seen.append((questions[0].subject, options.beams))
        return evaluation._numbers([], []) | {
            "em": 200 / 3,
            "calibration_error": 1 / 22,
            "thresholds": [{"threshold": 0.5, "answered": 100.0, "em": 200 / 3}, _at_least(0.95)],
            "in_knowledge_base": 1.0,
            "questions_per_second": 128.04,
            "model_calls_per_question": 4.25,
        }

    monkeypatch.setattr(evaluation, "evaluate_ask", evaluate_ask)
    rows = dict(
        line.split("  ", 1) for line in run("eval", "ask", "--kb", kb, "--questions", "q.tsv").stdout.splitlines()
    )
    told = {name: text.strip() for name, text in rows.items()}
    assert (told["em"], told["f1"], told["in_knowledge_base"]) == ("66.7%", "0.0%", "100.0%")
    assert (told["calibration_error"], told["questions_per_second"]) == ("0.045", "128.0")
    assert told["thresholds"] == "0.50: 100.0% answered,  66.7% of them right"
    assert told[""] == "0.95:   5.0% answered, 100.0% of them right"  # below the other, digit below digit
    numbers = json.loads(run("eval", "ask", "--kb", kb, "--questions", "q.tsv", "--beams", "8", "--json").stdout)
    assert numbers["in_knowledge_base"] == 1.0
    assert seen == [("Mars", 4), ("Mars", 8)]
    (tmp_path / "none.tsv").write_text("question\tsubject\tpredicate\n", encoding="utf-8")
    assert "no question in none.tsv" in run("eval", "ask", "--kb", kb, "--questions", "none.tsv", exit_code=1).stderr


def test_a_table_of_things_that_is_read_as_facts_is_pointed_out(run, tmp_path):
    goods = [f"货{i},{i}.5元,{100 - i}" for i in range(9)]
    (tmp_path / "goods.csv").write_text("\n".join(["商品,价格,库存", *goods]), encoding="utf-8")
    done = run("build", "goods.csv", "--kb", "one")
    assert "goods.csv was read as facts (货0 → 0.5元 → 100)" in done.stderr
    assert "values stand where predicates should (0.5元, 1.5元, 2.5元)" in done.stderr
    assert "quickstart" in done.stderr
    assert "was read as" not in run("build", "goods.csv", "--kb", "two", "-q").stderr
    assert "was read as" in run("build", "goods.csv", "--kb", "strict", "--strict").stderr  # a guess refuses nothing
    facts = [f"货{i}\t{predicate}\t{i}" for i in range(9) for predicate in ("价格", "库存")]
    (tmp_path / "facts.tsv").write_text("\n".join(facts), encoding="utf-8")
    assert "was read as" not in run("build", "facts.tsv", "--kb", "three").stderr
    (tmp_path / "few.csv").write_text("\n".join(goods[:6]), encoding="utf-8")
    assert "was read as" in run("build", "few.csv", "--kb", "four").stderr


def _at_least(threshold):
    return {"threshold": threshold, "answered": 5.0, "em": 100.0}


def test_the_threshold_that_help_and_quickstart_tell_is_that_of_the_bundled_model():
    bundled = load_weights(Path(tianwen.__file__).parent / "models" / "asker" / "model.safetensors")
    threshold = bundled.metadata["settings"]["threshold"]
    help = " ".join(CliRunner().invoke(cli.app, ["ask", "--help"]).stdout.split())
    assert f"the model's own, {threshold} of the bundled one" in help
    docs = Path(__file__).parents[1] / "docs"
    for page in ("quickstart.md", "quickstart.zh.md"):
        (line,) = [
            line for line in (docs / page).read_text(encoding="utf-8").splitlines() if "`--threshold 0.5`" in line
        ]
        assert re.search(rf"\b{threshold}\b", line), page


def test_the_version():
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"tianwen {tianwen.__version__}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_said_in_words():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tianwen", "extract", "天问一号由长征五号发射。", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert done.returncode == 1
    assert "disk is full" in done.stderr
    assert "Errno" not in done.stderr
