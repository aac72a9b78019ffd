"""`catalogue.sqlite`: the store of record of a knowledge base - its segments, edits, sources and settings.

Post: 8802

| table    | a row is                                                                                  |
|----------|-------------------------------------------------------------------------------------------|
| settings | format, created, tokenizer, commit_number, epoch, totals of the tables below, and `guard` |
| segments | an immutable folder `segments/NNNN` and its manifest's checksum                           |
| sources  | one reading of a file: its name, facts kept, lines left out, when                         |
| added    | a fact that is in no segment yet; never changed, only ever appended                       |
| removed  | a fact that is gone: (segment, row), where segment 0 is the table `added`                 |

What is true is what the last committed transaction says. Every commit raises `commit_number`; `epoch` changes when a
merge takes rows out of `added` or `removed`, so that a reader which knows (epoch, last ids) reads only what is new.
Segments are numbered by age, and no number is used twice (`next_segment`).

Damage. SQLite itself does not notice a flipped byte. So every row of `added` and `removed` carries its CRC-32, the
settings carry their numbers and sums, and `guard` covers settings, segments and sources. Beside the database lies
`catalogue.seal`, written after each commit: the commit number, and size and CRC-32 of the whole database file once its
write-ahead log is merged. An older commit than the seal's, or the same with another checksum, is refused. After a
crash between commit and seal the rows' checksums and SQLite's own integrity check stand in.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tianwen.ask.durable import SharedFile, checksum_of, damaged, is_read_only, write_atomically
from tianwen.ask.facts import Fact
from tianwen.ask.seal import SEAL, read_seal, seal_line
from tianwen.errors import KnowledgeBaseError, KnowledgeBaseLocked, KnowledgeBaseNotFound

FORMAT = 1
FILE = "catalogue.sqlite"

_SCHEMA = """
CREATE TABLE settings(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments(number INTEGER PRIMARY KEY, facts INTEGER NOT NULL, manifest INTEGER NOT NULL);
CREATE TABLE sources(number INTEGER PRIMARY KEY, name TEXT NOT NULL, facts INTEGER NOT NULL, skipped INTEGER NOT NULL,
    time TEXT NOT NULL);
CREATE TABLE added(id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, predicate TEXT NOT NULL,
    object TEXT NOT NULL, sense TEXT NOT NULL, source TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE removed(id INTEGER PRIMARY KEY AUTOINCREMENT, segment INTEGER NOT NULL, row INTEGER NOT NULL,
    crc INTEGER NOT NULL, UNIQUE(segment, row));
"""
_NO_ROOM = ("unable to open", "full", "i/o")
_TOTALS = ("added_rows", "added_sum", "removed_rows", "removed_sum")


@dataclass(frozen=True, slots=True)
class State:
    """What one committed transaction says, without the rows of edits."""

    settings: dict[str, str]
    segments: tuple[tuple[int, int, int], ...]  # number, facts, checksum of the manifest
    sources: tuple[tuple[int, str, int, int, str], ...]

    @property
    def commit(self) -> int:
        return int(self.settings["commit_number"])

    @property
    def epoch(self) -> int:
        return int(self.settings["epoch"])

    @property
    def next_segment(self) -> int:
        """The number of the next segment: above all that ever were."""
        above = 1 + max((number for number, _, _ in self.segments), default=0)
        return max(above, int(self.settings.get("next_segment", "1")))


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a reader has read: rows of `added` and `removed` up to these ids, and the totals at that point."""

    epoch: int = -1
    added_id: int = 0
    removed_id: int = 0
    totals: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Changes:
    """A state, and the edits since `Seen` (all of them when the epoch is another)."""

    state: State
    seen: Seen
    added: list[tuple[int, Fact]] = field(default_factory=list)
    removed: list[tuple[int, int]] = field(default_factory=list)  # segment, row


class Catalogue:
    """One open catalogue. Reads are consistent and never wait for a writer; usable from several threads."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        self.path = folder / FILE
        if not create and not self.path.is_file():
            raise KnowledgeBaseNotFound(
                f"There is no knowledge base at {folder} (no {FILE} in it). "
                f"Build one: tianwen build FACTS --kb {folder}"
            )
        self.read_only = not create and (is_read_only(folder) or is_read_only(self.path))
        self._lock = threading.RLock()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if create:
            self.path.touch()
        self._file = SharedFile(self.path)
        try:
            self._connection = self._connect()
        except BaseException:
            self._file.close()
            raise

    # Opening and closing

    def _connect(self) -> sqlite3.Connection:
        path, options = self.path.absolute(), ""
        if self.read_only:
            log = self.path.with_name(FILE + "-wal")
            if log.exists() and log.stat().st_size:
                path = self._copied(log)  # SQLite could not merge the log here, and would not see what it holds
            else:
                options = "?mode=ro&immutable=1"
        with self._telling("opening"):
            connection = sqlite3.connect(
                path.as_uri() + options, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False
            )
            if not self.read_only and not self._can_use_the_log(connection):
                connection.close()
                self.read_only = True
                return self._connect()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cell_size_check=ON")
        return connection

    def _can_use_the_log(self, connection: sqlite3.Connection) -> bool:
        """SQLite needs a little room beside the database even to read: none is left on a full disk."""
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            return not any(sign in str(error).lower() for sign in _NO_ROOM)
        except sqlite3.Error:
            pass  # damage is told by who reads
        return True

    def _copied(self, log: Path) -> Path:
        self._copy = tempfile.TemporaryDirectory(prefix="tianwen-")
        target = Path(self._copy.name) / FILE
        with target.open("wb") as file:
            file.writelines(self._file.chunks())
        shutil.copyfile(log, target.with_name(log.name))
        return target

    def close(self) -> None:
        """Let go of the database; the last to close merges its log."""
        with self._lock:
            self._disconnect()
            self._file.close()

    def _disconnect(self) -> None:
        self._connection.close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()

    def create(self, settings: dict[str, str]) -> None:
        """Write the tables of a new catalogue at commit 0; no other process may know the folder yet."""
        with self._telling("writing"):
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(_SCHEMA)
            start = {"format": str(FORMAT), "commit_number": "0", "epoch": "0", "duplicates": "0"}
            start |= dict.fromkeys(_TOTALS, "0")
            _set(self._connection, start | settings)
            _set(self._connection, {"guard": str(_guard(_read_state(self._connection)))})
        self._seal(0)

    # Reading

    def state(self) -> State:
        """What the last commit says. Raises KnowledgeBaseDamaged when it contradicts its guard."""
        with self._reading() as connection:
            return _checked_state(connection, self.path)

    def changes(self, seen: Seen) -> Changes:
        """The state and what was edited since `seen`, as one consistent view."""
        with self._reading() as connection:
            state = _checked_state(connection, self.path)
            if state.epoch != seen.epoch:
                seen = Seen(epoch=state.epoch)
            return _read_changes(connection, state, seen, self.path)

    def commit_number(self) -> int:
        """The number of the last commit, quickly (about 20 microseconds)."""
        with self._reading() as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = 'commit_number'").fetchone()
            if row is None or not row[0].isdecimal():
                raise damaged(self.path, "the commit number is missing")
            return int(row[0])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._telling("reading"):
            if self.read_only:  # an immutable or copied database is looked at afresh each time
                self._disconnect()
                self._connection = self._connect()
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    # Writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block is committed and on disk when it ends, or nothing of it.

        The caller holds the write lock. Raises KnowledgeBaseError with the reason (no room, read-only, locked).
        """
        with self._lock:
            self._require_seal()
            with self._telling("writing"):
                connection = self._connection
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    number = _read_state(connection).commit + 1
                    _set(connection, {"commit_number": str(number)})
                    _set(connection, {"guard": str(_guard(_read_state(connection)))})
                    connection.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise
            # From here on the commit is durable. Without its seal it is only less well guarded, until the next one.
            with contextlib.suppress(OSError, sqlite3.Error):
                self._seal(number)

    def _require_seal(self) -> None:
        """Seal a commit that a crash or a full disk left without one: the seal is never two commits behind."""
        number = self.commit_number()
        if read_seal(self.folder)[0] != number:
            try:
                self._seal(number)
            except OSError as error:
                raise KnowledgeBaseError(
                    f"{self.folder} cannot be written: {error.strerror or error}. Nothing stored is lost."
                ) from error

    def _seal(self, number: int) -> None:
        """Merge the log into the database file and record its checksum; without one while a reader holds the log."""
        self._connection.execute("PRAGMA busy_timeout=1000")
        try:
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            busy = 1
        finally:
            self._connection.execute("PRAGMA busy_timeout=5000")
        size, crc = (0, "-")
        if not busy:
            size, value = checksum_of(self._file.chunks())
            crc = f"{value:08x}"
        write_atomically(self.folder / SEAL, seal_line(number, size, crc))

    # Checking

    def verify(self) -> State:
        """Check the database against its seal; raises KnowledgeBaseDamaged, returns the state when all is well."""
        for attempt in range(3):
            before = read_seal(self.folder)
            with self._reading() as connection:
                state = _checked_state(connection, self.path)
                seal = read_seal(self.folder)
                if state.commit < before[0]:
                    raise damaged(
                        self.path, f"it ends at commit {state.commit}, but commit {before[0]} was acknowledged"
                    )
                if seal[0] == state.commit and seal[2] != "-":
                    size, crc = checksum_of(self._file.chunks())
                    if (size, f"{crc:08x}") == seal[1:]:
                        return state
                elif seal[0] <= state.commit <= seal[0] + 1 or attempt == 2:
                    _require_integrity(connection, self.path)
                    return state
            time.sleep(0.02 * attempt)  # a writer may be between its commit and its seal
        raise damaged(self.path, "its checksum differs from the one recorded")

    @contextlib.contextmanager
    def _telling(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _explained(error, self.path, doing) from error
        except (UnicodeDecodeError, OverflowError) as error:
            raise damaged(self.path, str(error)) from error


# Rows


def insert_facts(connection: sqlite3.Connection, facts: Iterable[Fact]) -> None:
    """Append facts to `added`."""
    total, count = 0, 0
    next_id = _next_id(connection, "added")
    for fact in facts:
        row = (next_id + count, fact.subject, fact.predicate, fact.object, fact.sense, fact.source)
        connection.execute("INSERT INTO added VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, crc := _row_crc(row)))
        total, count = total + crc, count + 1
    _raise_totals(connection, "added", count, total)


def insert_removed(connection: sqlite3.Connection, rows: Iterable[tuple[int, int]]) -> None:
    """Note facts as gone; (segment, row), segment 0 for rows of `added`."""
    total, count = 0, 0
    next_id = _next_id(connection, "removed")
    for segment, at in rows:
        row = (next_id + count, segment, at)
        connection.execute("INSERT INTO removed VALUES (?, ?, ?, ?)", (*row, crc := _row_crc(row)))
        total, count = total + crc, count + 1
    _raise_totals(connection, "removed", count, total)


def forget_added(connection: sqlite3.Connection) -> None:
    """Empty `added`, whose facts have become a segment or are replaced. A new epoch."""
    connection.execute("DELETE FROM added")
    connection.execute("DELETE FROM removed WHERE segment = 0")
    _begin_epoch(connection)


def forget_segments(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Take segments out, with what was removed from them. A new epoch."""
    for number in numbers:
        connection.execute("DELETE FROM segments WHERE number = ?", (number,))
        connection.execute("DELETE FROM removed WHERE segment = ?", (number,))
    _begin_epoch(connection)


def _begin_epoch(connection: sqlite3.Connection) -> None:
    totals = {}
    for table in ("added", "removed"):
        count, total = connection.execute(f"SELECT count(*), coalesce(sum(crc), 0) FROM {table}").fetchone()
        totals |= {f"{table}_rows": str(count), f"{table}_sum": str(total)}
    _set(connection, totals | {"epoch": str(_read_state(connection).epoch + 1)})


def insert_segment(connection: sqlite3.Connection, number: int, facts: int, manifest: int) -> None:
    """Make a written segment part of the knowledge base."""
    connection.execute("INSERT INTO segments VALUES (?, ?, ?)", (number, facts, manifest))
    reserve_number(connection, number)


def reserve_number(connection: sqlite3.Connection, number: int) -> None:
    """Let no later segment have this number or a smaller one."""
    _set(connection, {"next_segment": str(max(_read_state(connection).next_segment, number + 1))})


def insert_source(connection: sqlite3.Connection, name: str, facts: int, skipped: int) -> None:
    """Note that a file was read."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    connection.execute(
        "INSERT INTO sources(name, facts, skipped, time) VALUES (?, ?, ?, ?)", (name, facts, skipped, moment)
    )


def forget_sources(connection: sqlite3.Connection) -> None:
    """Forget what was read so far, when other facts take the place of all."""
    connection.execute("DELETE FROM sources")
    _set(connection, {"duplicates": "0"})


def change_settings(connection: sqlite3.Connection, settings: dict[str, str], *, duplicates: int = 0) -> None:
    """Set settings, and raise the number of duplicates merged so far."""
    known = int(_read_state(connection).settings["duplicates"])
    _set(connection, settings | {"duplicates": str(known + duplicates)})


def _set(connection: sqlite3.Connection, settings: dict[str, str]) -> None:
    connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings.items())


def _next_id(connection: sqlite3.Connection, table: str) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return (row[0] if row else 0) + 1


def _raise_totals(connection: sqlite3.Connection, table: str, count: int, total: int) -> None:
    settings = _read_state(connection).settings
    rows, known = int(settings[f"{table}_rows"]), int(settings[f"{table}_sum"])
    _set(connection, {f"{table}_rows": str(rows + count), f"{table}_sum": str(known + total)})


def _row_crc(row: tuple[object, ...]) -> int:
    return zlib.crc32(json.dumps(row, ensure_ascii=False).encode())


def _guard(state: State) -> int:
    settings = sorted((name, value) for name, value in state.settings.items() if name != "guard")
    return zlib.crc32(json.dumps([settings, state.segments, state.sources], ensure_ascii=False).encode())


def _read_state(connection: sqlite3.Connection) -> State:
    settings = dict(connection.execute("SELECT name, value FROM settings"))
    segments = tuple(connection.execute("SELECT number, facts, manifest FROM segments ORDER BY number"))
    sources = tuple(connection.execute("SELECT number, name, facts, skipped, time FROM sources ORDER BY number"))
    return State(settings, segments, sources)


def _checked_state(connection: sqlite3.Connection, path: Path) -> State:
    try:
        state = _read_state(connection)
        if state.settings.get("format", "1") != str(FORMAT) and str(_guard(state)) == state.settings.get("guard"):
            raise KnowledgeBaseError(
                f"{path.parent} has format {state.settings['format']}; this version of Tianwen reads {FORMAT}. "
                "Use the version that wrote it, or build the knowledge base again."
            )
        sound = str(_guard(state)) == state.settings.get("guard")
    except (TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if not sound:
        raise damaged(path, "its settings do not match their checksum")
    return state


def _read_changes(connection: sqlite3.Connection, state: State, seen: Seen, path: Path) -> Changes:
    added, removed, totals = [], [], list(seen.totals)
    added_id, removed_id = seen.added_id, seen.removed_id
    for *row, crc in connection.execute("SELECT * FROM added WHERE id > ? ORDER BY id", (seen.added_id,)):
        if _row_crc(tuple(row)) != crc:
            raise damaged(path, f"row {row[0]} of added does not match its checksum")
        added_id, totals[0], totals[1] = row[0], totals[0] + 1, totals[1] + crc
        added.append((row[0], Fact(*row[1:])))
    for *row, crc in connection.execute("SELECT * FROM removed WHERE id > ? ORDER BY id", (seen.removed_id,)):
        if _row_crc(tuple(row)) != crc:
            raise damaged(path, f"row {row[0]} of removed does not match its checksum")
        removed_id, totals[2], totals[3] = row[0], totals[2] + 1, totals[3] + crc
        removed.append((row[1], row[2]))
    if totals != [int(state.settings[name]) for name in _TOTALS]:
        raise damaged(path, "rows of added or removed facts are missing")
    now = Seen(state.epoch, added_id, removed_id, (totals[0], totals[1], totals[2], totals[3]))
    return Changes(state, now, added, removed)


# Errors


def _require_integrity(connection: sqlite3.Connection, path: Path) -> None:
    problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise damaged(path, str(problem))


def _explained(error: sqlite3.Error, path: Path, doing: str) -> KnowledgeBaseError:
    text = str(error).lower()
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in text:
        return KnowledgeBaseError(f"{path.parent} was closed. Open it again: KnowledgeBase.open({str(path.parent)!r})")
    if "locked" in text or "busy" in text:
        return KnowledgeBaseLocked(f"{path} is locked by another process ({error}). Wait a moment and try again.")
    if "readonly" in text or "read-only" in text:
        return KnowledgeBaseError(
            f"{path.parent} is read-only: it can be asked, not changed. Change its rights or copy the folder."
        )
    if doing == "writing" and any(sign in text for sign in _NO_ROOM):
        return KnowledgeBaseError(
            f"{path} cannot be written ({error}): no room or no right to write. Nothing stored is lost; "
            "free some space and try again."
        )
    return damaged(path, f"{doing} failed ({error})")
