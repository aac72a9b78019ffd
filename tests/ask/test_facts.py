"""Facts: which are allowed, and how files of every kind - sound and broken - become facts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask import fact_lines, fact_report
from tianwen.ask.fact_files import Report, facts_of, read_facts
from tianwen.ask.facts import NAME_LIMIT, Fact, as_facts, problem_of, split_sense
from tianwen.ask.ntriples import local_name, unescape
from tianwen.errors import InputError


def read(tmp_path: Path, content: str | bytes, name: str, **options) -> tuple[list[Fact], Report]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    report = Report()
    facts = [fact for frame in read_facts(path, report=report, **options) for fact in facts_of(frame)]
    return facts, report


def left_out(report: Report) -> list[tuple[int, str]]:
    return [(problem.line, problem.reason) for problem in report.problems]


# The sense


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("白蛇（电影）", ("白蛇", "电影")),
        ("白蛇", ("白蛇", "")),
        ("白蛇（电影", ("白蛇（电影", "")),
        ("白蛇电影）", ("白蛇电影）", "")),
        ("（电影）", ("（电影）", "")),
        ("白蛇（）", ("白蛇（）", "")),
        ("白蛇(电影)", ("白蛇(电影)", "")),
        ("中国香港（地区）商会", ("中国香港（地区）商会", "")),
        ("甲（乙）（丙）", ("甲（乙）", "丙")),
        ("甲（乙（丙））", ("甲", "乙（丙）")),
        ("甲（（乙）丙）", ("甲", "（乙）丙")),
        (" 白蛇 （ 电影 ） ", ("白蛇", "电影")),
        ("）", ("）", "")),
        ("", ("", "")),
    ],
)
def test_sense_is_the_trailing_full_width_bracket(subject, expected):
    assert split_sense(subject) == expected


@settings(max_examples=25)
@given(st.text("甲乙（） (a", max_size=12))
def test_bulk_split_equals_the_exact_one(subject):
    raw = {"line": [1], "subject": [subject], "predicate": ["p"], "object": ["o"], "sense": [None], "source": [None]}
    frame = Report().keep(pl.DataFrame(raw, schema=fact_report.RAW_SCHEMA), "test")
    assert [(fact.subject, fact.sense) for fact in facts_of(frame)] == [split_sense(subject)] * bool(subject.strip())


# Facts from a program


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (Fact("", "p", "o"), "the subject is empty"),
        (Fact("s", " \t", "o"), "the predicate is empty"),
        (Fact("s", "p", ""), "the object is empty"),
        (Fact("s", "p", "a\0b"), "NUL"),
        (Fact("s", "p", "o", "\ud83d"), "surrogate"),
        (Fact("s" * (NAME_LIMIT + 1), "p", "o"), "4,097 characters"),
        (Fact("s", "p", 5), "int, not text"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_facts_that_cannot_be_kept_are_refused_with_the_reason(fact, reason):
    assert reason in str(problem_of(fact))
    with pytest.raises(InputError, match=r"Fact number 2 \(.* → .*\) cannot be kept"):
        as_facts([Fact("s", "p", "o"), fact])


def test_a_single_fact_that_cannot_be_kept_is_shown_as_people_write_it():
    with pytest.raises(InputError) as refused:
        as_facts([Fact("", "b\n\ud83d", "c" * 99)])
    assert str(refused.value) == f'The fact ("" → b \\xd83d → {"c" * 60}…) cannot be kept: the subject is empty.'
    with pytest.raises(InputError, match="Fact number 8 "):
        as_facts([Fact("", "b", "c")], start=7)


def test_tuples_are_read_as_lines_of_a_file_and_facts_as_given():
    given = [("白蛇（电影）", "导演", "黄家康"), Fact("白蛇（电影）", "导演", "黄家康"), ("s", "p", "o", "https://x")]
    assert as_facts(given) == [
        Fact("白蛇", "导演", "黄家康", "电影"),
        Fact("白蛇（电影）", "导演", "黄家康"),
        Fact("s", "p", "o", "", "https://x"),
    ]
    with pytest.raises(InputError, match="allowed are Fact"):
        as_facts([("s", "p")])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="in a list"):
        as_facts(Fact("s", "p", "o"))  # pyright: ignore[reportArgumentType]


# TSV


def test_tsv_takes_three_to_five_columns(tmp_path):
    facts, report = read(tmp_path, "白蛇（电影）\t导演\t黄\na\tb\tc\tsrc\nd（x）\te\tf\tm\tsrc\n", "f.tsv")
    assert facts == [
        Fact("白蛇", "导演", "黄", "电影"),
        Fact("a", "b", "c", "", "src"),
        Fact("d（x）", "e", "f", "m", "src"),
    ]
    assert (report.rows, report.skipped) == (3, 0)


@pytest.mark.parametrize("header", ["source\tobject\tid\tsubject\tpredicate", "来源\t宾语\t编号\t主语\t谓语"])
def test_tsv_header_gives_the_columns_any_order(tmp_path, header):
    facts, report = read(tmp_path, f"{header}\nu\to\t7\ts（m）\tp\nu\to\t7\n", "f.tsv")
    assert facts == [Fact("s", "p", "o", "m", "u")]
    assert left_out(report) == [(3, "3 columns, 5 are needed")]


def test_a_sense_column_leaves_the_subject_whole(tmp_path):
    facts, _ = read(tmp_path, "subject\tpredicate\tobject\tsense\n甲（乙）\tp\to\t\n甲\tp\to\t丙\n", "f.tsv")
    assert facts == [Fact("甲（乙）", "p", "o"), Fact("甲", "p", "o", "丙")]


def test_two_named_columns_are_a_glossary(tmp_path):
    assert read(tmp_path, "术语\t定义\n火星\t行星\n", "f.tsv")[0] == [Fact("火星", "定义", "行星")]


def test_broken_tsv_lines_are_reported_by_number_and_the_others_read(tmp_path):
    lines = [
        b"\xef\xbb\xbfa\tb\tc\r",  # a byte-order mark, CRLF
        b"",
        b"only\ttwo",
        b"\tp\to",
        b"s\t\to",
        b"s\tp\t ",
        b"s\tp\to\xff",
        b"s\tp\to\0o",
        b"1\t2\t3\t4\t5\t6",
        "s（\tp\t）".encode(),
        b"s" * (NAME_LIMIT + 1) + b"\tp\to",
        b"last\tp\to",
    ]
    facts, report = read(tmp_path, b"\n".join(lines), "f.tsv")
    assert facts == [Fact("a", "b", "c"), Fact("s（", "p", "）"), Fact("last", "p", "o")]
    assert dict(left_out(report)) == {
        3: "2 columns, 3 to 5 are allowed",
        4: "the subject is empty",
        5: "the predicate is empty",
        6: "the object is empty",
        7: "not UTF-8 at byte 6 of the line",
        8: "the object holds a NUL character",
        9: "6 columns, 3 to 5 are allowed",
        11: "the subject has more than 4,096 characters",
    }
    assert report.skipped == sum(report.reasons.values()) == 8
    assert "3 facts read; 8 lines left out" in report.summary()


@pytest.mark.parametrize(
    ("content", "line"), [("a\tb\tc\n\te\tf\nd\te\n", 2), ("a\tb\tc\n\tp\to\n", 2), (b"a\tb\tc\nd\te\t\xff\n", 2)]
)
def test_strict_refuses_at_the_first_bad_line(tmp_path, content, line):
    with pytest.raises(
        InputError, match=rf"f.tsv, line {line}: .*Repair the line.* --strict \(in Python: strict=True\)"
    ):
        read(tmp_path, content, "f.tsv", strict=True)


def test_lines_of_ten_megabytes_are_reported_and_the_others_read(tmp_path):
    content = b"a\tb\t" + b"x" * 10_000_000 + b"\n" + b"y" * 10_000_000 + b"\nc\td\te\n"
    facts, report = read(tmp_path, content, "f.tsv")
    assert facts == [Fact("c", "d", "e")]
    assert left_out(report) == [
        (1, "the object has more than 1,048,576 characters"),
        (2, "1 column, 3 to 5 are allowed"),
    ]


def test_a_line_beyond_the_limit_is_skipped_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(fact_lines, "BLOCK_BYTES", 64)
    monkeypatch.setattr(fact_lines, "LINE_LIMIT", 200)
    content = "a\tb\tc\n" + "x" * 1000 + "\nd\te\tf\n" + "y" * 700
    facts, report = read(tmp_path, content, "f.tsv")
    assert facts == [Fact("a", "b", "c"), Fact("d", "e", "f")]
    assert left_out(report) == [(2, "the line is longer than 200 bytes"), (4, "the line is longer than 200 bytes")]


@settings(max_examples=25)
@given(lines=st.lists(st.text("a甲\t\r é", max_size=8), max_size=12), block=st.integers(1, 40))
def test_blocks_of_any_size_give_the_same_lines(lines, block):
    content = "\n".join(lines).encode()
    whole = content.decode().split("\n")
    expected = [line.removesuffix("\r") for line in (whole[:-1] if whole[-1] == "" else whole)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fact_lines, "BLOCK_BYTES", block)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), newline=""))
        blocks = list(fact_lines.line_blocks(fact_lines.FactStream("-"), Report()))
    assert [line for _, part in blocks for line in part] == expected
    starts = [number for number, _ in blocks]
    assert starts == [1 + sum(len(part) for _, part in blocks[:at]) for at in range(len(blocks))]


# CSV


def test_csv_with_quotes_newlines_and_chinese_header(tmp_path):
    content = '主语,谓语,宾语,义项,来源\n"甲,乙","说""p""","一\n二",m,s\n丙,p,o,,\n'
    facts, _ = read(tmp_path, content, "f.csv")
    assert facts == [Fact("甲,乙", '说"p"', "一\n二", "m", "s"), Fact("丙", "p", "o")]


def test_broken_csv_records_are_reported_and_reading_goes_on(tmp_path):
    content = 'subject,predicate,object\na,b,c\n"x"y,p,o\nd,"e",f\ng,h\n,"p",o\n"open,p,o\nq,p,o\n'
    facts, report = read(tmp_path, content, "f.csv")
    assert facts == [Fact("a", "b", "c"), Fact("d", "e", "f"), Fact("q", "p", "o")]
    reasons = dict(left_out(report))
    assert reasons[3].startswith("not CSV")
    assert reasons[5] == "2 columns, 3 are needed"
    assert reasons[6] == "the subject is empty"
    assert reasons[7].startswith("not CSV")
    assert 8 not in reasons


_CELL = st.text('a甲,"\n ', min_size=1, max_size=5).filter(str.strip)


@settings(max_examples=25)
@given(st.lists(st.lists(_CELL, min_size=3, max_size=4), min_size=1, max_size=8))
def test_csv_gives_what_was_written(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.getvalue().encode()), newline=""))
        facts = [fact for frame in read_facts("-", format="csv", strict=True) for fact in facts_of(frame)]
    assert facts == [Fact(*(cell.strip() for cell in row[:3]), "", *(cell.strip() for cell in row[3:])) for row in rows]


# JSON lines


def test_jsonl_objects_arrays_lists_and_numbers(tmp_path):
    lines = [
        '{"subject": "白蛇（电影）", "predicate": "年份", "object": [2021, "二〇二一", 1.50], "source": "s"}',
        '["甲", "p", "o"]',
        '{"主语": "甲（乙）", "谓语": "p", "宾语": "o", "义项": ""}',
        '{"subject": "\\ud83d\\ude80", "predicate": "p", "object": "a\\tb"}',
    ]
    facts, report = read(tmp_path, "\n".join(lines), "f.jsonl")
    assert facts == [
        *(Fact("白蛇", "年份", year, "电影", "s") for year in ("2021", "二〇二一", "1.50")),
        Fact("甲", "p", "o"),
        Fact("甲（乙）", "p", "o"),
        Fact("🚀", "p", "a\tb"),
    ]
    assert not report.skipped


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("12", "neither an object nor an array"),
        ('["s", "p"]', "an array of 2"),
        ('{"subject": "s", "object": "o"}', "the predicate is empty"),
        ('{"subject": "s", "predicate": "p", "object": true}', "the object is bool"),
        ('{"subject": ["s"], "predicate": "p", "object": "o"}', "the subject is list"),
        ('{"subject": "\\ud800", "predicate": "p", "object": "o"}', "surrogate"),
        ('{"subject": "a\\u0000", "predicate": "p", "object": "o"}', "NUL"),
        ('{"subject": "s", "predicate": "p", "object": []}', None),
    ],
)
def test_broken_json_lines_are_reported(tmp_path, line, reason):
    facts, report = read(tmp_path, f'{line}\n["s", "p", "o"]\n', "f.jsonl")
    assert facts == [Fact("s", "p", "o")]
    if reason:
        assert [problem.line for problem in report.problems] == [1]
        assert reason in report.problems[0].reason


# Parquet


def test_parquet_by_header_names(tmp_path):
    frame = pl.DataFrame(
        {"id": [1, 2, 3], "宾语": [5, None, 7], "主语": ["甲（乙）", "b", "c"], "谓语": ["p", "p", "p"]}
    )
    frame.write_parquet(tmp_path / "f.parquet")
    report = Report()
    facts = [fact for part in read_facts(tmp_path / "f.parquet", report=report) for fact in facts_of(part)]
    assert facts == [Fact("甲", "p", "5", "乙"), Fact("c", "p", "7")]
    assert left_out(report) == [(2, "the object is empty")]


def test_parquet_that_is_broken_or_has_other_columns_is_refused(tmp_path):
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(InputError, match="has the columns x; needed are"):
        list(read_facts(tmp_path / "f.parquet"))
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read(tmp_path, b"PAR1 and then nothing", "g.parquet")


# N-Triples


def test_ntriples_names_labels_and_literals(tmp_path):
    content = r"""
# a comment
<http://x.org/r/Ares_I-X> <http://x.org/o/launchSite> <http://x.org/r/KSC> . # another
<http://x.org/r/KSC> <http://www.w3.org/2000/01/rdf-schema#label> "Kennedy Space Center"@en .
<http://x.org/r/KSC> <http://www.w3.org/2000/01/rdf-schema#label> "\u80AF\u5C3C\u8FEA"@zh-Hans .
<http://x.org/r/%E7%81%AB%E6%98%9F> <http://x.org/o#radius> "3389.5"^^<http://w3.org/double> <http://src.org/1> .
_:b0 <http://x.org/o/said> "\"a\\b\"\t\U0001F680" .
<http://x.org/r/a> <http://x.org/o/p> "\ud800" .
<http://x.org/r/a> <http://x.org/o/p> "no end
<http://x.org/r/a> "p" <http://x.org/o/p> .
"""
    facts, report = read(tmp_path, content, "f.nt")
    assert facts == [
        Fact("Ares I-X", "launch site", "肯尼迪"),
        Fact("火星", "radius", "3389.5", "", "http://src.org/1"),
        Fact("_:b0", "said", '"a\\b"\t🚀'),
    ]
    assert sorted(left_out(report)) == [
        (8, "the literal holds an escape that is not allowed"),
        (9, "not a triple `<subject> <predicate> object .`"),
        (10, "not a triple `<subject> <predicate> object .`"),
    ]


def test_identifiers_without_a_last_part_stay_whole():
    assert local_name("http://x.org/") == "x.org"
    assert local_name("urn:isbn:1") == "urn:isbn:1"
    assert local_name("///") == "///"
    assert unescape(r"\u12") is None


# Where facts come from


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    ("content", "suffix"),
    [("a\tb\tc\n", "tsv"), ('["a", "b", "c"]\n', "jsonl"), ("<x:/a> <x:/b> <x:/c> .\n", "nt")],
)
def test_compressed_files_are_read_as_they_are(tmp_path, pack, content, suffix):
    assert read(tmp_path, pack(content.encode()), f"f.{suffix}.packed", format=None)[0] == [Fact("a", "b", "c")]


def test_a_truncated_compressed_file_is_refused(tmp_path):
    packed = gzip.compress(b"".join(b"s\tp\t%d\n" % i for i in range(5000)))
    with pytest.raises(InputError, match="compressed and damaged"):
        read(tmp_path, packed[:-20], "f.tsv.gz")


@pytest.mark.parametrize(("end", "kind"), [(".gz", "gzip"), (".XZ", "xz"), (".bz2", "bzip2")])
@pytest.mark.parametrize("content", [b"a\tb\tc\n", b"<html>not found</html>\n", b""])
def test_a_file_named_as_compressed_that_is_not_is_refused(tmp_path, content, end, kind):
    with pytest.raises(InputError, match=rf"f\.tsv{end} is named {end} and is not {kind}\. .* off its name"):
        read(tmp_path, content, f"f.tsv{end}")


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ("a\tb\tc\n", None),
        ("a,b,c\n", None),
        ('["a", "b", "c"]', None),
        ("<x:/a> <x:/b> <x:/c> .", None),
        ("a,b,c\n", "csv"),
    ],
)
def test_standard_input_with_a_format_or_a_guess(monkeypatch, content, format):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    facts = [fact for frame in read_facts("-", format=format) for fact in facts_of(frame)]
    assert facts == [Fact("a", "b", "c")]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("f.dat", "just words", {}, "cannot be told"),
        ("f.tsv", "a\tb\tc", {"format": "xml"}, "allowed are tsv, csv"),
        ("f.tsv", "a\tb\tc".encode("utf-16"), {}, "UTF-16"),
    ],
)
def test_sources_that_cannot_be_read_are_refused_with_a_sentence(tmp_path, name, content, options, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content, name, **options)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        list(read_facts(tmp_path / "none.tsv"))
    with pytest.raises(InputError, match="is a folder"):
        list(read_facts(tmp_path))


@pytest.mark.parametrize("format", ["tsv", "csv", "jsonl", "ntriples"])
@settings(max_examples=20)
@given(content=st.binary(max_size=60) | st.text('甲\t,"\n{}[]:<>.\\ (（）', max_size=60).map(str.encode))
def test_no_bytes_crash_a_reader(format, content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        try:
            facts = [fact for frame in read_facts("-", format=format) for fact in facts_of(frame)]
        except InputError:
            return
    assert all(problem_of(fact) is None for fact in facts)


def test_problems_are_kept_up_to_a_limit_and_all_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(fact_report, "PROBLEMS_KEPT", 3)
    _, report = read(tmp_path, "\tp\to\n" * 10 + json.dumps("x") + "\n", "f.tsv")
    assert (len(report.problems), report.skipped, report.reasons["the subject is empty"]) == (3, 11, 10)
