"""Every format of labelled texts gives the same type; whatever is broken in a file has a name, a place and a count."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys

import pytest

from tianwen.errors import InputError
from tianwen.extract import labelled_files
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.annotation_files import FORMATS, read_annotations
from tianwen.extract.reading_report import KINDS, Report


def read(path, **options) -> tuple[list[Annotation], Report]:
    report = options.pop("report", None) or Report()
    return list(read_annotations(path, report=report, **options)), report


def kinds(report: Report) -> dict[str, int]:
    return {kind: finding.count for kind, finding in report.findings.items()}


@pytest.fixture
def file(tmp_path):
    """Write a file out of records (JSON lines), or of text or bytes as they are."""

    def write(*content, name: str = "file.json"):
        path = tmp_path / name
        if len(content) == 1 and isinstance(content[0], bytes):
            path.write_bytes(content[0])
        else:
            lines = (c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in content)
            path.write_bytes("\n".join(lines).encode("utf-8"))
        return path

    return write


DUIE_1 = {
    "text": "《红》的作者是小红，小红红了",
    "spo_list": [
        {"subject": "小红", "subject_type": "人物", "predicate": "作品", "object": "红", "object_type": "图书作品"}
    ],
}
DUIE_2 = {
    "text": "王雪纯在红楼梦中为晴雯配音",
    "spo_list": [
        {
            "subject": "王雪纯",
            "subject_type": "娱乐人物",
            "predicate": "配音",
            "object": {"@value": "晴雯", "inWork": "红楼梦", "onDate": ""},
            "object_type": {"@value": "人物", "inWork": "影视作品"},
        }
    ],
}
STARRED = {"text": "Alan Bean of Apollo 12", "triple_list": [["Bean", "crew", "12"]]}
TOKENS = {
    "tokens": ["John", "Booth", ",", "killed", "Lincoln"],
    "entities": [{"type": "Peop", "start": 0, "end": 2}, {"type": "Peop", "start": 4, "end": 5}],
    "relations": [{"type": "Kill", "head": 0, "tail": 1}],
    "orig_id": 7,
}
CLUENER = {"text": "浙商银行叶老桂", "label": {"name": {"叶老桂": [[4, 6]]}, "company": {"浙商银行": [[0, 3]]}}}
FEWFC = {
    "id": "x",
    "content": "华为收购豪威",
    "events": [
        {
            "type": "收购",
            "mentions": [
                {"word": "收购", "span": [2, 4], "role": "trigger"},
                {"word": "豪威", "span": [4, 6], "role": "obj"},
            ],
        }
    ],
}
DUEE = {
    "text": "华为收购豪威，华为赢了",
    "id": "y",
    "event_list": [
        {
            "event_type": "收购",
            "trigger": "收购",
            "trigger_start_index": 2,
            "arguments": [{"role": "sub", "argument": "华为", "argument_start_index": 7, "alias": []}],
        }
    ],
}
OURS = {"text": "Ares, son of Zeus", "facts": [{"subject": "Ares", "predicate": "father", "object": "Zeus"}]}
RECORDS = {"duie": DUIE_2, "triples": STARRED, "spert": TOKENS, "cluener": CLUENER, "fewfc": FEWFC, "duee": DUEE,
           "jsonl": OURS}  # fmt: skip


def test_duie_1_gives_typed_facts_at_every_mention(file):
    (annotation,), report = read(file(DUIE_1))
    person, red = "人物", "图书作品"
    assert [annotation.words(m) for m in annotation.entities] == ["小红", "小红", "红", "红", "红", "红"]
    assert {m.label for m in annotation.entities} == {person, red}
    assert len(annotation.relations) == 2 * 4
    assert annotation.triples() == [("小红", "作品", "红")]
    assert (report.facts, report.ambiguous) == (1, 1)
    (first,), _ = read(file(DUIE_1), policy="first")
    assert first.relations == (Relation(Mention(7, 9, person), "作品", Mention(1, 2, red)),)
    assert len(first.entities) == 2
    (nearest,), _ = read(file(DUIE_1), policy="nearest")
    # The last 红 is right behind the second 小红; the 红 inside 小红 is no neighbour.
    assert nearest.relations == (Relation(Mention(10, 12, person), "作品", Mention(12, 13, red)),)
    assert len(nearest.entities) == 6


def test_further_roles_of_duie_2_become_facts_about_the_object(file):
    (annotation,), _ = read(file(DUIE_2))
    assert annotation.triples() == [("王雪纯", "配音", "晴雯"), ("晴雯", "配音/inWork", "红楼梦")]
    assert annotation.relations[1].object.label == "影视作品"


def test_triple_lists_are_read_as_arrays_and_as_lines(file):
    (annotation,), _ = read(file(STARRED))
    bean, twelve = Mention(5, 9), Mention(20, 22)
    assert annotation.relations == (Relation(bean, "crew", twelve),)
    assert annotation.entities == (bean, twelve)
    array = json.dumps([STARRED, {"text": "no fact here", "triple_list": []}, STARRED], indent=4)
    annotations, _ = read(file(array))
    assert [a.text for a in annotations] == [STARRED["text"], "no fact here", STARRED["text"]]
    assert annotations[2].source.endswith("file.json, line 16, record 3")


def test_tokens_become_a_text_with_places(file):
    (annotation,), _ = read(file(json.dumps([TOKENS])))
    assert annotation.text == "John Booth , killed Lincoln"
    john, lincoln = Mention(0, 10, "Peop"), Mention(20, 27, "Peop")
    assert annotation.entities == (john, lincoln)
    assert annotation.relations == (Relation(john, "Kill", lincoln),)


def test_broken_token_labels_are_dropped_by_name(file):
    entities = [
        {"type": "a", "start": 0, "end": 1},
        {"type": "a", "start": 0, "end": 9},
        {"type": "a", "start": 1, "end": 1},
        {"type": "", "start": 0, "end": 1},
        "entity",
    ]
    relations = [
        {"type": "r", "head": 0, "tail": 1},  # the entity that is left out
        {"type": "r", "head": 0, "tail": -1},
        {"type": "r", "head": 0, "tail": 0},
        {"head": 0, "tail": 0},
    ]
    (annotation,), report = read(file({"tokens": ["x", "y"], "entities": entities, "relations": relations}))
    assert len(annotation.entities) == len(annotation.relations) == 1
    assert kinds(report) == {"outside-text": 1, "empty-label": 1, "broken-label": 3, "unknown-mention": 2}
    assert report.dropped == 7


def test_cluener_has_inclusive_ends(file):
    (annotation,), report = read(file(CLUENER))
    assert annotation.entities == (Mention(4, 7, "name"), Mention(0, 4, "company"))
    assert not report.findings


def test_ends_counted_the_other_way_are_noticed_and_put_right(file):
    mixed = {"text": "浙商银行叶老桂", "label": {"name": {"叶老桂": [[4, 7]], "浙商": [[3, 4], [0, 1]]}, "x": 5}}
    (annotation,), report = read(file(mixed))
    assert annotation.entities == (Mention(4, 7, "name"), Mention(0, 2, "name"))
    assert kinds(report) == {"mixed-ends": 1, "other-words": 1, "broken-label": 1}
    ours = {"text": "Ares rules", "entities": [{"start": 0, "end": 3, "label": "god", "text": "Ares"}]}
    (annotation,), report = read(file(ours))
    assert annotation.entities == (Mention(0, 4, "god"),)
    assert "inclusive" in report.findings["mixed-ends"].meaning


def test_offsets_in_utf16_units_are_noticed_and_put_right(file):
    ours = {"text": "😀😀Ares", "entities": [{"start": 4, "end": 8, "label": "god", "text": "Ares"}]}
    (annotation,), report = read(file(ours))
    assert annotation.entities == (Mention(2, 6, "god"),)
    assert kinds(report) == {"utf16-offsets": 1}


def test_events_of_fewfc_and_duee(file):
    (annotation,), _ = read(file(FEWFC))
    assert annotation.events == (
        Event("收购", (Argument("trigger", Mention(2, 4)), Argument("obj", Mention(4, 6)))),
    )  # fmt: skip
    (annotation,), _ = read(file(DUEE))
    assert annotation.events == (
        Event("收购", (Argument("trigger", Mention(2, 4)), Argument("sub", Mention(7, 9)))),
    )  # fmt: skip


def test_events_without_indices_follow_the_policy(file):
    fin = json.loads(json.dumps(DUEE))
    fin["text"] = "华为，说华为收购豪威"
    del fin["event_list"][0]["trigger_start_index"], fin["event_list"][0]["arguments"][0]["argument_start_index"]
    for policy, starts in (("all", [0, 4]), ("first", [0]), ("nearest", [4])):
        (annotation,), _ = read(file(fin), policy=policy)
        found = [a.mention.start for a in annotation.events[0].arguments if a.role == "sub"]
        assert found == starts, policy


def test_our_lines_may_leave_the_places_out(file):
    lines = [
        OURS,
        {"text": "Ares, son of Zeus", "facts": [["Ares", "father", "Zeus"]]},
        {
            "text": "Ares, son of Zeus",
            "facts": [{"subject": {"text": "Ares", "label": "god"}, "predicate": "father", "object": {"text": "Zeus"}}],
            "source": "a page",
        },
        {
            "text": "Ares, son of Zeus",
            "facts": [
                {"subject": {"start": 0, "end": 4}, "predicate": "father", "object": {"start": 13, "end": 17}},
                {"subject": {"start": 0, "end": 4}, "predicate": "father", "object": "Zeus"},
            ],
        },
    ]
    annotations, _ = read(file(*lines))
    assert {tuple(a.triples()) for a in annotations} == {(("Ares", "father", "Zeus"),)}
    assert annotations[2].source == "a page"
    assert annotations[2].entities[0].label == "god"
    assert annotations[0].source.endswith(", line 1")
    assert len(annotations[3].relations) == 1  # the same fact said twice


def test_a_string_has_the_type_that_its_place_was_given_before(file):
    line = {
        "text": "Hermes, son of Zeus. Hermes",
        "entities": [{"start": 0, "end": 6}, {"start": 0, "end": 6, "label": "god"}],
        "facts": [["Hermes", "father", "Zeus"]],
    }
    (annotation,), _ = read(file(line))
    god, again, zeus = Mention(0, 6, "god"), Mention(21, 27), Mention(15, 19)
    assert annotation.relations == (Relation(god, "father", zeus), Relation(again, "father", zeus))
    assert annotation.entities == (Mention(0, 6), god, again, zeus)
    line["facts"] = [{"subject": {"text": "Hermes", "label": "boy"}, "predicate": "father", "object": "Zeus"}]
    (annotation,), _ = read(file(line), policy="first")
    assert [fact.subject.label for fact in annotation.relations] == ["boy"]  # what is given holds


def test_our_events_may_leave_the_places_out(file):
    event = {"type": "war", "arguments": [{"role": "side", "text": "Ares"}, {"role": "trigger", "text": "war"}]}
    (annotation,), _ = read(file({"text": "Ares at home, Ares at war", "events": [event]}), policy="nearest")
    assert annotation.events == (
        Event("war", (Argument("trigger", Mention(22, 25)), Argument("side", Mention(14, 18)))),
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_the_format_is_told_by_the_content_or_given(name, file):
    guessed, report = read(file(RECORDS[name]))
    given, _ = read(file(RECORDS[name]), format=name)
    assert guessed == given
    assert guessed[0].relations or guessed[0].entities or guessed[0].events
    assert report.texts == 1
    assert set(RECORDS) | {"brat"} == set(FORMATS)


def test_the_format_is_told_by_a_later_record_too(file):
    annotations, _ = read(file({"text": "a"}, {"text": "b", "id": 3}, DUIE_1))
    assert [len(a.triples()) for a in annotations] == [0, 0, 1]
    annotations, _ = read(file({"text": "only"}, {"text": "texts"}))
    assert [a.text for a in annotations] == ["only", "texts"]


def test_a_format_that_cannot_be_told_is_a_sentence(file):
    with pytest.raises(InputError, match=r"'sentence', 'ner'.*jsonl, duie"):
        read(file({"sentence": "x", "ner": []}))
    with pytest.raises(InputError, match="allowed are jsonl, duie"):
        read(file(OURS), format="xml")
    with pytest.raises(InputError, match="policy 'last'"):
        read(file(OURS), policy="last")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_compressed_files_are_read_and_damaged_ones_refused(pack, file):
    packed = pack("\n".join([json.dumps(OURS)] * 500).encode())
    assert len(read(file(packed))[0]) == 500
    with pytest.raises(InputError, match="damaged"):
        read(file(packed[: len(packed) // 2]))


def test_standard_input_is_read(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(json.dumps(OURS).encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    (annotation,), _ = read("-")
    assert annotation.source == "standard input, line 1"


def test_byte_order_mark_crlf_and_blank_lines_are_no_problem(file):
    line = json.dumps(OURS).encode()
    annotations, report = read(file(b"\xef\xbb\xbf\r\n" + line + b"\r\n\r\n" + line + b"\r\n"))
    assert [a.source[-6:] for a in annotations] == ["line 2", "line 4"]
    assert not report.findings


LONE = '{"text": "a \\ud83d b", "facts": []}'
BAD_LINES = {
    "broken-line": '{"text": "a", "facts": [',
    "no-text": '{"text": " \\n", "facts": []}',
    "nul": '{"text": "a\\u0000", "facts": []}',
    "lone-surrogate": LONE,
}


@pytest.mark.parametrize("kind", sorted(BAD_LINES))
def test_a_broken_line_is_left_out_and_named(kind, file):
    path = file(OURS, BAD_LINES[kind], OURS)
    annotations, report = read(path)
    assert len(annotations) == report.texts == 2
    assert (report.skipped, kinds(report)) == (1, {kind: 1})
    assert report.findings[kind].where == f"{path}, line 2"
    assert KINDS[kind][1] in report.summary()
    with pytest.raises(InputError, match=r"line 2: .*Repair it.* --strict \(in Python: strict=True\)"):
        read(path, report=Report(strict=True))


@pytest.mark.parametrize(
    "line",
    ["[1, 2]", '"text"', "5", '{"text": 5}', '{"facts": []}', '{"text": "a", "facts": {}}', "[" * 100_000],
)
def test_other_shapes_are_left_out(line, file):
    annotations, report = read(file(OURS, line, OURS))
    assert len(annotations) == 2
    assert report.skipped == 1


def test_bytes_that_are_not_utf8_cost_only_their_line(file):
    good = json.dumps(OURS).encode()
    annotations, report = read(file(good + b'\n{"text": "caf\xe9"}\n' + good))
    assert (len(annotations), kinds(report)) == (2, {"not-utf8": 1})
    in_array = b"[" + good + b', {"text": "caf\xe9", "facts": []}, ' + good + b"]"
    annotations, report = read(file(in_array))
    assert (len(annotations), kinds(report)) == (2, {"not-utf8": 1})
    with pytest.raises(InputError, match="UTF-16"):
        read(file(json.dumps(OURS).encode("utf-16")))


def test_labels_of_wrong_shapes_are_dropped_one_by_one(file):
    facts = [["Ares", "father"], 5, {"subject": "Ares", "predicate": "", "object": "Zeus"}, ["Ares", "x", ""],
             ["Ares", "father", "Hades"], ["Ares", "fa\ud83d", "Zeus"], ["Ares", "father", "Zeus"]]  # fmt: skip
    line = json.dumps({"text": "Ares, son of Zeus", "facts": facts, "entities": [{"start": 5, "end": 3, "label": "x"}]})
    (annotation,), report = read(file(line))
    assert annotation.triples() == [("Ares", "father", "Zeus")]
    assert kinds(report) == {"broken-label": 4, "empty-label": 1, "missing-string": 1, "outside-text": 1}
    assert "'Hades' in 'Ares, son of Zeus'" in report.findings["missing-string"].example
    with pytest.raises(InputError, match="left out"):
        read(file(line), report=Report(strict=True))


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 99), (10**30, 10**31), (3, 1), (True, 2), ("0", 2), (0.0, 2)])
def test_wrong_spans_are_dropped(start, end, file):
    ours = {"text": "Ares", "entities": [{"start": start, "end": end, "label": "x"}]}
    words = {"text": "Ares", "entities": [{"start": start, "end": end, "label": "x", "text": "Are"}]}
    for line in (ours, words):
        (annotation,), report = read(file(line))
        assert not annotation.entities
        assert report.dropped == 1


def test_white_space_at_the_ends_is_no_part_of_a_span(file):
    ours = {
        "text": "a Ares b",
        "entities": [{"start": 1, "end": 7, "label": "x"}, {"start": 1, "end": 2, "label": "x"}],
    }
    (annotation,), report = read(file(ours))
    assert annotation.entities == (Mention(2, 6, "x"),)
    assert kinds(report) == {"trimmed": 1, "white-space": 1}
    (annotation,), report = read(file({"text": "a Ares b", "facts": [["\ufeffAres ", "is", "b\u200b"]]}))
    assert annotation.triples() == [("Ares", "is", "b")]


def test_an_array_that_breaks_off_keeps_what_came_before(file):
    whole = json.dumps([OURS] * 3, indent=1)
    path = file(whole[:-20])
    annotations, report = read(path)
    assert len(annotations) == 2
    assert (kinds(report), report.skipped) == ({"cut-short": 1}, 1)
    assert "record 3" in report.findings["cut-short"].where
    with pytest.raises(InputError, match="breaks off"):
        read(path, report=Report(strict=True))
    assert kinds(read(file('[{"text": "a", "facts": []}, {"text": "b" "c"}, {"text": "d"}]'))[1]) == {"cut-short": 1}


@pytest.mark.parametrize("block", [1, 7, 100])
def test_arrays_are_read_in_blocks_of_any_size(block, file, monkeypatch):
    monkeypatch.setattr(labelled_files, "BLOCK", block)
    records = [{"text": f'{{"{i}\\ 😀é,[]', "facts": [], "source": str(i)} for i in range(20)]
    for text in (json.dumps(records), json.dumps(records, ensure_ascii=False, indent=2)):
        annotations, report = read(file(text))
        assert [a.source for a in annotations] == [str(i) for i in range(20)]
        assert [a.text for a in annotations] == [record["text"] for record in records]
        assert not report.findings


def test_one_record_over_several_lines_is_read(file):
    text = json.dumps(OURS, indent=2)
    assert len(read(file(text + "\n" + text))[0]) == 2


def test_an_overlong_line_is_not_held(file, monkeypatch):
    monkeypatch.setattr(labelled_files, "LINE_LIMIT", 200)
    annotations, report = read(file(OURS, {"text": "a" * 1000}, OURS))
    assert (len(annotations), kinds(report)) == (2, {"broken-line": 1})
    assert annotations[1].source.endswith("line 3")


def test_files_without_anything_to_use_are_refused(file, tmp_path):
    for content in (b"", b"\n \n", b"\xef\xbb\xbf"):
        with pytest.raises(InputError, match="is empty"):
            read(file(content))
    for content in (b"[]", b"nonsense", b'{"text": ""}', b"\0\0\0"):
        with pytest.raises(InputError, match="no text that can be used"):
            read(file(content))
    with pytest.raises(InputError, match="There is no file"):
        read(tmp_path / "none.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"no \.ann file"):
        read(tmp_path / "folder")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path / "folder", format="duie")


def test_reading_is_a_stream(file):
    lines = read_annotations(file(OURS, "broken", *[OURS] * 300))
    assert next(lines).source.endswith("line 1")
    assert next(lines).source.endswith("line 3")
    lines.close()


def test_long_examples_are_shortened_to_one_printable_line(file):
    report = read(file({"text": "x\ny " * 200, "facts": [["Ares", "p", "\x01Zeus"]]}))[1]
    example = report.findings["missing-string"].example
    assert len(example) <= 100
    assert example.isprintable()


ANN = """T1\tgod 0 4\tAres
T2\tgod 13 17\tZeus
T3\twar 21 25\twars
T4\tgod 0 4;13 17\tAres Zeus
T5\tgod 30 99\tNobody
R1\tchild-of Arg1:T1 Arg2:T2
R2\tchild-of Arg1:T1 Arg2:T4
E1\twar:T3 side:T1 side2:T2 cause:E1
#1\tAnnotatorNotes T1\ta note
A1\tFamous T1
nonsense
"""


def test_brat_folders_are_read(tmp_path):
    (tmp_path / "b.txt").write_text("no labels", encoding="utf-8")
    (tmp_path / "b.ann").write_text("", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"Ares, son of Zeus,\r\n wars")
    (tmp_path / "a.ann").write_text(ANN, encoding="utf-8")
    (annotation, plain), report = read(tmp_path)
    ares, zeus, wars = Mention(0, 4, "god"), Mention(13, 17, "god"), Mention(21, 25, "war")
    assert annotation.entities == (ares, zeus)
    assert annotation.relations == (Relation(ares, "child-of", zeus),)
    arguments = (Argument("trigger", wars), Argument("side", ares), Argument("side", zeus))
    assert annotation.events == (Event("war", arguments),)
    assert annotation.source.endswith("a.txt")
    assert plain.text == "no labels"
    assert kinds(report) == {"discontinuous": 1, "outside-text": 1, "unknown-mention": 1, "not-used": 3,
                             "broken-label": 1}  # fmt: skip
    assert report.findings["discontinuous"].where.endswith("a.ann, line 4")
    for name in ("a.ann", "a.txt"):
        assert read(tmp_path / name)[0] == [annotation]


def test_brat_files_come_in_pairs(tmp_path):
    (tmp_path / "a.ann").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="come in pairs"):
        read(tmp_path / "a.ann")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    annotations, report = read(tmp_path)
    assert not annotations
    assert kinds(report) == {"not-utf8": 1}
