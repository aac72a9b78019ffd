"""Question files: every format that people have, and what cannot be read named by file and line."""

from __future__ import annotations

import json

import pytest

from tianwen.ask.questions import Question, read_questions
from tianwen.errors import InputError

FORMATS = {
    "kgclue": (
        '{"id": 1, "question": "白蛇的导演是谁", "answer": "白蛇（电影） ||| 导演 ||| 黄家康"}\r\n\n'
        '{"question": "甲", "answer": "天（ ||| 名 ||| 左|右 ||| 上"}',
        [
            Question("白蛇的导演是谁", "白蛇", "导演", "电影", ("黄家康",)),
            Question("甲", "天（", "名", "", ("左|右 ||| 上",)),
        ],
    ),
    "ours": (
        '{"question": "q", "subject": "白蛇（电影）", "predicate": "导演", "answer": ["甲", "乙"]}\n'
        '{"question": "r", "subject": "S", "predicate": "P", "sense": "M", "answer": "丙"}\n'
        '{"question": "s", "subject": "S", "predicate": "P"}\n',
        [
            Question("q", "白蛇", "导演", "电影", ("甲", "乙")),
            Question("r", "S", "P", "M", ("丙",)),
            Question("s", "S", "P"),
        ],
    ),
    "nlpcc": (
        "<question id=1>\t机械设计基础这本书的作者是谁？\n<triple id=1>\t机械设计基础(图书) ||| 作 者 ||| 杨可桢\n"
        "<answer id=1>\t杨可桢\n==================================================\n"
        "<question id=2>\tWho?\n<triple id=2>\tMars ||| full name ||| Mars\n<answer id=2>\tMars\n",
        [
            Question("机械设计基础这本书的作者是谁？", "机械设计基础", "作者", "图书", ("杨可桢",)),
            Question("Who?", "Mars", "full name", "", ("Mars",)),
        ],
    ),
    "tsv": (
        "Question\tSubject\tPredicate\tObject\r\n白蛇的导演？\t白蛇（电影）\t导演\t黄家康\r\nq\tS\tP\r\n",
        [Question("白蛇的导演？", "白蛇", "导演", "电影", ("黄家康",)), Question("q", "S", "P")],
    ),
    "tsv whose first question looks like markup": (
        "<战神>的导演是谁\t战神\t导演\t甲\n",
        [Question("<战神>的导演是谁", "战神", "导演", "", ("甲",))],
    ),
    "nothing": ("", []),
    "white space": (" \n\t\r\n", []),
}


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "BOM"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path, name, mark):
    content, expected = FORMATS[name]
    (tmp_path / "questions").write_bytes((mark + content).encode())
    assert read_questions([tmp_path / "questions"]) == expected


def test_several_files_in_order(tmp_path):
    for name in ("kgclue", "tsv"):
        (tmp_path / name).write_text(FORMATS[name][0], encoding="utf-8")
    both = FORMATS["tsv"][1] + FORMATS["kgclue"][1]
    assert read_questions([str(tmp_path / "tsv"), tmp_path / "kgclue"]) == both
    assert read_questions([]) == []


GOOD = '{"question": "q", "answer": "S ||| P ||| O"}'
BROKEN = {
    "not JSON": "{question: 1}",
    "cut": GOOD[:-4],
    "no answer": '{"question": "q"}',
    "no question": '{"answer": "S ||| P ||| O"}',
    "one part": '{"question": "q", "answer": "S"}',
    "a number as answer": '{"question": "q", "answer": 3}',
    "no predicate": '{"question": "q", "subject": "S", "answer": "O"}',
    "a number as question": '{"question": 7, "subject": "S", "predicate": "P"}',
    "null as predicate": '{"question": "q", "subject": "S", "predicate": null}',
    "null as sense": '{"question": "q", "subject": "S", "predicate": "P", "sense": null}',
    "a list of numbers": '{"question": "q", "subject": "S", "predicate": "P", "answer": [1, 2]}',
    "an array": f"[{GOOD}]",
    "a string": '"q"',
    "nested beyond reason": '{"a":' + "[" * 100_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(tmp_path, name):
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{GOOD}\n\n{BROKEN[name]}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"questions\.jsonl, line 3: .*subject \|\|\| predicate"):
        read_questions([path])


@pytest.mark.parametrize("content", [f"[{GOOD}]", f"[\n  {GOOD}\n]"])
def test_an_array_is_told_to_be_no_json_lines(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="line 1: a question is a JSON object"):
        read_questions([tmp_path / "a.json"])


@pytest.mark.parametrize("line", ["question only", "q\tS", "q\t\tP", " \tS\tP", "q\tS\t "])
def test_a_tab_separated_line_with_too_little_is_named(tmp_path, line):
    path = tmp_path / "q.tsv"
    path.write_text(f"问题\t主语\t谓语\nq\tS\tP\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"q\.tsv, line 3: .*3 or 4 columns"):
        read_questions([path])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no question file"):
        read_questions([tmp_path / "none"])
    with pytest.raises(InputError, match=r"cannot be read: Is a directory\.$"):
        read_questions([tmp_path])
    (tmp_path / "half.jsonl").write_text('{"question": "法国？"}')
    with pytest.raises(InputError, match=r"this one is not: it has no 'answer'\.$"):
        read_questions([tmp_path / "half.jsonl"])
    (tmp_path / "gbk").write_bytes("白蛇的导演".encode("gbk"))
    with pytest.raises(InputError, match="UTF-8"):
        read_questions([tmp_path / "gbk"])


def test_what_json_writes_is_what_is_read(tmp_path):
    nasty = [chr(34) + "\\", "a\tb", "🚀", "a\u2028b", "</question>", "x ||| y"]
    rows = [{"question": text, "subject": "S" + text, "predicate": text, "answer": [text]} for text in nasty]
    (tmp_path / "q").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = read_questions([tmp_path / "q"])
    assert [(q.text, q.subject, q.predicate, q.objects) for q in read] == [(t, "S" + t, t, (t,)) for t in nasty]
