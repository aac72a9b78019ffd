"""The knowledge base: build, open, ask, add, remove, compact; against a list of facts as the truth."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tianwen.ask import open_folder as module
from tianwen.ask.fact_files import Report, read_facts
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import (
    InputError,
    KnowledgeBaseNotFound,
    WrongTokenizer,
)
from tianwen.text import Tokenizer

from .few_facts import FACTS, TOKENIZER, agree, answers


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.build(FACTS, tmp_path / "test.kb", tokenizer=TOKENIZER) as kb:
        yield kb


# Building and opening


def test_what_was_built_is_answered_from_memory_and_after_opening(kb):
    agree(kb.snapshot(), FACTS)
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), FACTS)
        assert again.tokenizer.fingerprint == TOKENIZER.fingerprint


def test_names_that_differ_only_in_case_share_a_key_and_keep_their_spelling(kb):
    assert answers(kb.snapshot(), "Nasa", "FOUNDED") == FACTS[5:]
    assert kb.snapshot().find("nasa") == [FACTS[6]]


def test_exact_duplicates_are_merged_and_counted(tmp_path):
    report = Report()
    other_source = Fact("火星", "卫星", "火卫一", source="a book")
    with KnowledgeBase.build(
        [*FACTS, FACTS[0], other_source, FACTS[1]], tmp_path / "k", tokenizer=TOKENIZER, report=report
    ) as kb:
        assert len(kb) == len(FACTS) + 1
        assert (report.merged, kb.info()["duplicates"]) == (2, 2)
        assert kb.add([FACTS[0], FACTS[2]]) == 0
        assert kb.info()["duplicates"] == 4
        assert answers(kb.snapshot(), "火星", "卫星") == [FACTS[0], FACTS[1], other_source]


def test_build_from_files_notes_sources_and_bad_lines(tmp_path):
    (tmp_path / "a.tsv").write_text("白蛇（电影）\t导演\t黄家康\nbroken\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("主语,谓语,宾语,来源\n火星,卫星,火卫一,x\n", encoding="utf-8")
    report, stages = Report(), []
    with KnowledgeBase.build(
        [tmp_path / "a.tsv", str(tmp_path / "b.csv")],
        tmp_path / "k",
        tokenizer=TOKENIZER,
        report=report,
        progress=lambda done, total, stage: stages.append((done, total, stage)),
    ) as kb:
        agree(kb.snapshot(), [Fact("白蛇", "导演", "黄家康", "电影"), Fact("火星", "卫星", "火卫一", "", "x")])
        sources = kb.info()["sources"]
        assert [(Path(s["name"]).name, s["facts"], s["skipped"]) for s in sources] == [("a.tsv", 1, 1), ("b.csv", 1, 0)]
    assert [(problem.line, problem.reason) for problem in report.problems] == [(2, "1 column, 3 to 5 are allowed")]
    assert stages[0][2] == "reading"
    assert (0, 2, "indexing") in stages
    assert stages[-1] == (2, 2, "writing")
    with pytest.raises(InputError, match="line 2"):
        KnowledgeBase.build(tmp_path / "a.tsv", tmp_path / "strict", tokenizer=TOKENIZER, strict=True)
    assert not (tmp_path / "strict").exists()


def test_build_takes_the_frames_that_read_facts_yields(tmp_path):
    (tmp_path / "a.txt").write_text("a,b,c\n")
    frames = read_facts(tmp_path / "a.txt", format="csv")
    with KnowledgeBase.build(frames, tmp_path / "k", tokenizer=TOKENIZER) as kb:
        agree(kb.snapshot(), [Fact("a", "b", "c")])
        assert kb.add(pl.DataFrame({"subject": ["d（e）"], "predicate": ["p"], "object": ["o"]})) == 1
        assert kb.snapshot().find("d") == [Fact("d", "p", "o", "e")]


def test_a_source_without_facts_makes_no_knowledge_base(tmp_path):
    (tmp_path / "a.tsv").write_text("no fact here\n")
    with pytest.raises(InputError, match=r"no fact to build .* 1 line left out"):
        KnowledgeBase.build(tmp_path / "a.tsv", tmp_path / "k", tokenizer=TOKENIZER)
    (tmp_path / "wide.csv").write_text("name,price,colour,size,made in,stock\nshirt,$19,white,L,Ningbo,3\n")
    with pytest.raises(InputError, match=r"a line for each thing .* has to be turned first"):
        KnowledgeBase.build(tmp_path / "wide.csv", tmp_path / "k", tokenizer=TOKENIZER)
    (tmp_path / "two.tsv").write_text("one\ttwo\n")
    with pytest.raises(InputError, match=r"2 columns, 3 to 5 are allowed\)\.$"):
        KnowledgeBase.build(tmp_path / "two.tsv", tmp_path / "k", tokenizer=TOKENIZER)
    with pytest.raises(InputError, match="none of them"):
        KnowledgeBase.build(5, tmp_path / "k", tokenizer=TOKENIZER)  # pyright: ignore[reportArgumentType]
    assert sorted(os.listdir(tmp_path)) == ["a.tsv", "two.tsv", "wide.csv"]


def test_an_empty_knowledge_base_can_be_opened_asked_and_filled(tmp_path):
    with KnowledgeBase.build([], tmp_path / "k", tokenizer=TOKENIZER) as kb:
        agree(kb.snapshot(), [])
        kb.add(FACTS)
        agree(kb.snapshot(), FACTS)
        assert kb.remove(None, None, None, sense="") == 4
        assert [kb.remove(subject) for subject in ("火星", "白蛇")] == [1, 2]
        agree(kb.snapshot(), [])
        kb.compact()
        agree(kb.snapshot(), [])
    with KnowledgeBase.open(tmp_path / "k") as kb:
        agree(kb.snapshot(), [])


def test_an_existing_knowledge_base_is_replaced_only_when_asked(kb, tmp_path):
    with pytest.raises(InputError, match="knowledge base already"):
        KnowledgeBase.build([], kb.folder, tokenizer=TOKENIZER)
    other = Tokenizer.train(["另一个词表"], min_count=1)
    before = kb.snapshot()
    with KnowledgeBase.build(FACTS[:2], kb.folder, tokenizer=other, overwrite=True) as new:
        assert len(new) == 2
        assert new.info()["duplicates"] == 0
    agree(before, FACTS)
    with pytest.raises(WrongTokenizer):
        kb.snapshot()
    assert len(list(kb.folder.glob("tokenizer-*.json"))) == 1


def test_other_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter").write_text("dear")
    for target in ("letters", "letters/letter"):
        with pytest.raises(InputError, match="Choose another name"):
            KnowledgeBase.build(FACTS, tmp_path / target, tokenizer=TOKENIZER, overwrite=True)
    assert (tmp_path / "letters" / "letter").read_text() == "dear"


def test_a_damaged_knowledge_base_can_be_built_over(tmp_path):
    KnowledgeBase.build(FACTS, tmp_path / "k", tokenizer=TOKENIZER).close()
    (tmp_path / "k" / "catalogue.sqlite").write_bytes(b"nonsense")
    with KnowledgeBase.build(FACTS[:1], tmp_path / "k", tokenizer=TOKENIZER, overwrite=True) as kb:
        agree(kb.snapshot(), FACTS[:1])
    assert os.listdir(tmp_path) == ["k"]


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(KnowledgeBaseNotFound, match="tianwen build"):
        KnowledgeBase.open(tmp_path / "none")


def test_another_tokenizer_is_refused_by_name(kb):
    other = Tokenizer.train(["另一个词表"], min_count=1)
    with pytest.raises(WrongTokenizer, match=f"{TOKENIZER.fingerprint}.*{other.fingerprint}.*build"):
        KnowledgeBase.open(kb.folder, tokenizer=other)
    with pytest.raises(WrongTokenizer):
        kb.snapshot().require_tokenizer(other)
    kb.snapshot().require_tokenizer(TOKENIZER)


def test_info_counts_what_is_there(kb):
    kb.add([Fact("木星", "卫星", "木卫一")])
    kb.remove("火星", "质量")
    info = kb.info()
    expected = {"facts": 7, "subjects": 5, "predicates": 3, "senses": 2, "segments": 1, "added": 1, "removed": 1}
    assert expected.items() <= info.items()
    assert info["tokenizer"] == TOKENIZER.fingerprint
    assert info["bytes"] > 1000


# Changing


def test_changes_are_seen_at_once_here_and_elsewhere_and_snapshots_stay(kb):
    with KnowledgeBase.open(kb.folder) as reader:
        before = reader.snapshot()
        assert reader.snapshot() is before
        new = Fact("火星", "卫星", "火卫三")
        assert kb.add([new, ("木星（行星）", "卫星", "木卫一")]) == 2
        assert kb.remove("火星", "卫星", "火卫一") == 1
        truth = [*FACTS[1:], new, Fact("木星", "卫星", "木卫一", "行星")]
        for each in (kb, reader):
            agree(each.snapshot(), truth)
        assert answers(reader.snapshot(), "火星", "卫星") == [FACTS[1], new]
        kb.compact()
        agree(reader.snapshot(), truth)
        agree(before, FACTS)
        assert os.listdir(kb.folder / "segments") == ["0003"]


def test_remove_matches_exact_texts_only(kb):
    assert kb.remove("火") == 0
    assert kb.remove("NASA", "founded", "29 July 1958") == 0
    assert kb.remove("白蛇", sense="") == 0
    assert kb.remove("白蛇", sense="电影") == 1
    assert kb.remove(None, "卫星") == 2
    agree(kb.snapshot(), [FACTS[2], *FACTS[4:]])
    with pytest.raises(InputError, match="Say what to remove"):
        kb.remove(None)
    with pytest.raises(InputError, match="must be a text"):
        kb.remove(5)  # pyright: ignore[reportArgumentType]


def test_a_removed_fact_can_be_added_again(kb):
    for _ in range(2):
        assert kb.remove("NASA") == 1
        assert kb.add([FACTS[5]]) == 1
        assert kb.add([FACTS[5]]) == 0
    agree(kb.snapshot(), [*FACTS[:5], FACTS[6], FACTS[5]])


def test_many_additions_become_a_segment_on_disk(kb, monkeypatch):
    monkeypatch.setattr(module, "MOST_ADDED", 10)
    more = [Fact(f"s{i}", "p", f"o{i}") for i in range(25)]
    for start in range(0, 25, 4):
        kb.add(more[start : start + 4])
    kb.remove("s7")
    truth = [*FACTS, *(fact for fact in more if fact.subject != "s7")]
    agree(kb.snapshot(), truth)
    assert kb.info()["segments"] == 3
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), truth)
    assert sorted(os.listdir(kb.folder / "segments")) == ["0001", "0002", "0003"]


def test_bad_facts_are_refused_before_anything_is_written(kb):
    with pytest.raises(InputError, match="number 2"):
        kb.add([Fact("a", "b", "c"), Fact("a", "", "c")])
    agree(kb.snapshot(), FACTS)


def test_find_and_frames(kb):
    snapshot = kb.snapshot()
    assert snapshot.find("火星", "卫星") == FACTS[:2]
    assert snapshot.find(object="黄家康") == [FACTS[3]]
    assert snapshot.find(sense="电视剧") == [FACTS[4]]
    assert len(snapshot.find()) == len(FACTS)
    assert snapshot.find("\ud83d") == snapshot.find("火星", object="\ud83d") == []
    assert pl.concat(snapshot.frames()).columns == ["subject", "predicate", "object", "sense", "source"]


def test_a_knowledge_base_can_be_sent_to_another_process(kb):
    with pickle.loads(pickle.dumps(kb)) as other:
        agree(other.snapshot(), FACTS)


class AgainstAList(RuleBasedStateMachine):
    """Any sequence of changes, through two open knowledge bases at once, agrees with a plain list."""

    made = Bundle("facts")

    @initialize()
    def start(self) -> None:
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(_temporary())) / "k"
        self.truth: list[Fact] = []
        self.bases = [
            self.stack.enter_context(KnowledgeBase.build([], folder, tokenizer=TOKENIZER)),
            self.stack.enter_context(KnowledgeBase.open(folder)),
        ]
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(module, "MOST_ADDED", 5)

    _names = st.sampled_from(["火星", "火", "A", "a", "木星"])

    @rule(
        which=st.integers(0, 1),
        facts=st.lists(
            st.builds(Fact, _names, _names, st.sampled_from("xyz"), st.sampled_from(["", "火"])), min_size=1, max_size=4
        ),
    )
    def add(self, which: int, facts: list[Fact]) -> None:
        new = [fact for fact in dict.fromkeys(facts) if fact not in self.truth]
        assert self.bases[which].add(facts) == len(new)
        self.truth += new

    @rule(which=st.integers(0, 1), subject=_names, predicate=st.none() | _names)
    def remove(self, which: int, subject: str, predicate: str | None) -> None:
        kept = [f for f in self.truth if f.subject != subject or predicate not in (None, f.predicate)]
        assert self.bases[which].remove(subject, predicate) == len(self.truth) - len(kept)
        self.truth = kept

    @rule(which=st.integers(0, 1))
    def compact(self, which: int) -> None:
        self.bases[which].compact()

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.bases[which].close()
        self.bases[which] = self.stack.enter_context(KnowledgeBase.open(self.bases[0].folder))

    @invariant()
    def both_agree(self) -> None:
        for kb in getattr(self, "bases", ()):
            agree(kb.snapshot(), self.truth)

    def teardown(self) -> None:
        self.stack.close()


AgainstAList.TestCase.settings = settings(
    max_examples=4, stateful_step_count=10, suppress_health_check=list(HealthCheck)
)
test_any_changes_agree_with_a_list = AgainstAList.TestCase


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield folder
