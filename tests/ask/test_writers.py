"""Several readers and writers at once, and places that cannot be written: read-only folders and full disks."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tianwen.ask.durable import SharedFile, WriteLock
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import InputError, KnowledgeBaseDamaged, KnowledgeBaseError, KnowledgeBaseLocked

from .few_facts import FACTS, TOKENIZER, agree


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.build(FACTS, tmp_path / "test.kb", tokenizer=TOKENIZER) as kb:
        yield kb


def test_a_second_writer_waits_and_then_is_told(kb):
    kb.lock_timeout = 0.05
    with WriteLock(kb.folder / "write.lock", timeout=1):
        replace = lambda: kb.replace([Fact("a", "b", "c")])  # noqa: E731
        for change in (lambda: kb.add([Fact("a", "b", "c")]), lambda: kb.remove("火星"), replace, kb.compact):
            with pytest.raises(KnowledgeBaseLocked, match="being written by another process"):
                change()
        agree(kb.snapshot(), FACTS)
    kb.lock_timeout = 30.0
    lock = WriteLock(kb.folder / "write.lock", timeout=1)
    lock.__enter__()
    threading.Timer(0.1, lock.__exit__).start()
    assert kb.add([Fact("a", "b", "c")]) == 1


def test_writers_without_a_pause_do_not_starve_each_other(kb):
    """Each of three goes on within its patience, while a merge comes by itself; every change is there afterwards."""
    failed: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with KnowledgeBase.open(kb.folder) as writer:
                for number in range(12):
                    writer.replace([Fact(name, "p", str(number)), Fact(name, "q", str(number))])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    kb.compact()
    for thread in threads:
        thread.join()
    assert not failed
    agree(kb.snapshot(), [*FACTS, *(Fact(name, predicate, "11") for name in "abc" for predicate in "pq")])


@pytest.mark.parametrize("stage", ["reading", "indexing", "writing"])
def test_ctrl_c_during_a_build_leaves_what_was_there(kb, tmp_path, stage):
    def interrupted(done: int, total: int | None, what: str) -> None:
        if what == stage:
            raise KeyboardInterrupt

    for folder in (kb.folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            KnowledgeBase.build(
                [Fact("a", "b", "c")], folder, tokenizer=TOKENIZER, overwrite=True, progress=interrupted
            )
    agree(kb.snapshot(), FACTS)
    assert kb.add([Fact("a", "b", "c")]) == 1
    assert sorted(os.listdir(tmp_path)) == [kb.folder.name]
    assert os.listdir(kb.folder / "segments") == ["0001"]


def test_readers_see_whole_commits_while_a_writer_works(kb):
    """Each commit replaces one pair of facts by another: no view ever has half a pair."""
    stop, torn = threading.Event(), []

    def read() -> None:
        with KnowledgeBase.open(kb.folder) as reader:
            while not stop.is_set():
                found = [fact.object for fact in reader.snapshot().find("pair")]
                if len(found) not in (0, 2) or len(set(found)) > 1:
                    torn.append(found)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(8):
        kb.add([Fact("pair", "left", str(number)), Fact("pair", "right", str(number))])
        if number % 5 == 4:
            kb.compact()
        kb.remove("pair")
    stop.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_a_read_only_folder_is_answered_from_and_refuses_changes(kb):
    kb.add([Fact("木星", "卫星", "木卫一")])
    kb.close()
    folder = kb.folder
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = sorted(os.listdir(folder))
        with KnowledgeBase.open(folder) as reader:
            agree(reader.snapshot(), [*FACTS, Fact("木星", "卫星", "木卫一")])
            add, replace = (lambda do=do: do([Fact("a", "b", "c")]) for do in (reader.add, reader.replace))
            for change in (add, replace, lambda: reader.remove("火星"), reader.compact):
                with pytest.raises(KnowledgeBaseError, match=r"read-only.*chmod"):
                    change()
        assert sorted(os.listdir(folder)) == before
    finally:
        for path in paths:
            path.chmod(0o755)


def test_a_read_only_copy_with_an_unmerged_log_shows_the_last_commit(kb, tmp_path):
    with _holding_the_log(kb.folder):
        kb.add([Fact("木星", "卫星", "木卫一")])
        assert (kb.folder / "catalogue.sqlite-wal").stat().st_size
        copy = Path(shutil.copytree(kb.folder, tmp_path / "copy"))
    copy.chmod(0o555)
    try:
        with KnowledgeBase.open(copy) as reader:
            agree(reader.snapshot(), [*FACTS, Fact("木星", "卫星", "木卫一")])
    finally:
        copy.chmod(0o755)


@contextlib.contextmanager
def _holding_the_log(folder: Path) -> Iterator[None]:
    """A reader in the middle of a transaction: the log cannot be merged meanwhile."""
    connection = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM settings").fetchall()
    try:
        yield
    finally:
        connection.close()


@contextlib.contextmanager
def _limited_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, for this process only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 200, 40_000])
def test_a_full_disk_loses_nothing_and_is_told(kb, size):
    big = [Fact(f"s{i}", "p", "x" * 4000) for i in range(50)]
    with _limited_files(size):
        with pytest.raises(KnowledgeBaseError, match=r"no room|Nothing (that was )?stored is lost"):
            kb.add(big)
        with pytest.raises(KnowledgeBaseError, match=r"no room|Nothing (that was )?stored is lost"):
            kb.replace(big, subject="火星")
        agree(kb.snapshot(), FACTS)
        with pytest.raises((KnowledgeBaseError, InputError), match=r"no room|Nothing (that was )?stored is lost"):
            KnowledgeBase.build(big, kb.folder.with_name("other"), tokenizer=TOKENIZER)
    assert kb.add(big) == 50
    with _limited_files(size), pytest.raises(KnowledgeBaseError, match=r"no room|Nothing (that was )?stored is lost"):
        kb.compact()
    agree(kb.snapshot(), [*FACTS, *big])
    kb.close()
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), [*FACTS, *big])
        again.compact()
    assert os.listdir(kb.folder.parent) == [kb.folder.name]


def test_a_descriptor_is_shared_until_its_last_user_in_the_process_lets_go(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    first, second = SharedFile(path), SharedFile(path)
    first.close()
    assert b"".join(second.chunks()) == b"abc"
    descriptor = second._descriptor
    assert descriptor is not None
    second.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_closed_knowledge_base_says_so(kb):
    snapshot = kb.snapshot()
    kb.close()
    kb.close()
    agree(snapshot, FACTS)
    for use in (kb.snapshot, lambda: kb.add([Fact("a", "b", "c")])):
        with pytest.raises(KnowledgeBaseError, match=r"was closed\. Open it again"):
            use()


def test_a_verified_knowledge_base_says_nothing_and_a_damaged_one_does(kb):
    kb.verify()
    victim = next((kb.folder / "segments").rglob("values.arrow"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    with pytest.raises(KnowledgeBaseDamaged, match=r"values\.arrow"):
        kb.verify()
