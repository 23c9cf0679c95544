"""What the products remember, in one SQLite file: a versioned schema, one writer, any number of readers."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Event", "Store"]

_OURS = 0x746F706B  # "topk": tells our files from any other program's
_SECONDS = 30.0  # that a writer waits for one in another process

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT NOT NULL, kind TEXT NOT NULL, "
        "at REAL NOT NULL, fields TEXT NOT NULL)",
        "CREATE INDEX events_by_kind ON events (app, kind, id)",
    ),
)
"""The n-th brings a file from version n to n + 1; a step that was published is never changed."""


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        id: ascending in the order of writing, and never given twice.
        app: "support", "monitor" or "recommend".
        kind: what it was, such as "asked" or "alarm".
        at: seconds since 1970, UTC.
        fields: whatever was told of it.
    """

    id: int
    app: str
    kind: str
    at: float
    fields: dict[str, Any]


class Store:
    """Events of the products, kept in a file that outlives a crash.

    The file is in SQLite's write-ahead mode: who reads sees the last whole state and waits for nobody, and
    one writes at a time, in this process by a lock and among processes by SQLite's own. An event that
    :meth:`add` has returned survives ``kill -9`` and, as far as the disk keeps its word, a power cut
    (``synchronous = FULL``). May be used from any thread.

    Args:
        path: of the file; made if need be.
        keep_texts: keep what people wrote and what they were answered. Otherwise only the bare facts are
            kept (when, how sure, answered or not).

    Raises:
        OSError: the file cannot be opened or written.
        ValueError: it is another program's file, damaged, or of a later version.
    """

    def __init__(self, path: str | Path, *, keep_texts: bool = False) -> None:
        if not str(path).strip():
            raise ValueError("the store needs the name of a file, such as desk.sqlite")
        self.path, self.keep_texts = Path(path).expanduser().absolute(), keep_texts
        self._lock, self._local = threading.Lock(), threading.local()
        self._open: list[sqlite3.Connection] = []
        try:
            with self._said():
                self._writer = self._connect()
                self._writer.execute("PRAGMA synchronous = FULL")
                self._writer.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
                self._upgrade()
                self._writer.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            self.close()
            raise

    def add(
        self, app: str, kind: str, fields: Mapping[str, Any], *, texts: Mapping[str, str | None] | None = None
    ) -> int:
        """Write an event, and return its id once it is safe.

        Args:
            app, kind: see :class:`Event`.
            fields: what can be written as JSON; always kept.
            texts: what people wrote or were answered; dropped unless the store was told to keep it.

        Raises:
            OSError: the disk is full, or another process writes for longer than half a minute.
            ValueError: a field is no JSON, or stands in both.
        """
        told = dict(fields)
        if texts and (both := told.keys() & texts.keys()):
            raise ValueError(f"{sorted(both)[0]!r} is both a field and a text: name one of them otherwise")
        if self.keep_texts:
            told |= texts or {}
        try:
            written = json.dumps(told, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"an event's fields must be JSON: {error}") from None
        with self._writing() as writer:
            row = writer.execute(
                "INSERT INTO events (app, kind, at, fields) VALUES (?, ?, ?, ?)",
                (app, kind, time.time(), written),
            )
            assert row.lastrowid is not None
            return row.lastrowid

    def read(
        self, app: str, kind: str | None = None, *, after: int = 0, limit: int | None = None
    ) -> list[Event]:
        """The events of an application, in the order of writing.

        Args:
            app: whose.
            kind: only these; None: all.
            after: only those with a higher id.
            limit: at most so many, the first of them; None: all.
        """
        with self._said():
            rows = self._reader().execute(
                "SELECT id, app, kind, at, fields FROM events WHERE app = ? AND (? IS NULL OR kind = ?) "
                "AND id > ? ORDER BY id LIMIT ?",
                (app, kind, kind, after, -1 if limit is None else limit),
            )
            return [Event(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

    def counts(self, app: str) -> dict[str, int]:
        """How many events of each kind an application has."""
        with self._said():
            rows = self._reader().execute(
                "SELECT kind, COUNT(*) FROM events WHERE app = ? GROUP BY kind ORDER BY kind", (app,)
            )
            return {str(kind): int(count) for kind, count in rows}

    def forget(self, app: str, *, before: float, kind: str | None = None) -> int:
        """Delete the events of an application from before a time (seconds since 1970); overwrites them.

        Returns:
            How many they were.
        """
        with self._writing() as writer:
            gone = writer.execute(
                "DELETE FROM events WHERE app = ? AND at < ? AND (? IS NULL OR kind = ?)",
                (app, before, kind, kind),
            ).rowcount
        with self._lock, self._said():  # the log still holds them
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def close(self) -> None:
        """Close every connection; the last one of all processes folds the log into the file."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(self.path, timeout=_SECONDS, isolation_level=None, check_same_thread=False)
        self._open.append(made)
        return made

    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection, which cannot write."""
        found: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if found is None:
            found = self._local.reader = self._connect()
            found.execute("PRAGMA query_only = ON")
        return found

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is kept whole or not at all."""
        with self._lock, self._said():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _upgrade(self) -> None:
        """Bring the file to this version, in one transaction."""
        with self._writing() as writer:
            ours, version, tables = (
                writer.execute(question).fetchone()[0]
                for question in (
                    "PRAGMA application_id", "PRAGMA user_version", "SELECT COUNT(*) FROM sqlite_master"
                )
            )  # fmt: skip
            if tables and ours != _OURS:
                raise ValueError(f"{self.path} is another program's file: name a new one")
            if version > len(_STEPS):
                raise ValueError(
                    f"{self.path} is of version {version}, and this topk-lib knows up to {len(_STEPS)}: "
                    "install a later topk-lib, or name a new file"
                )
            for statement in (one for step in _STEPS[version:] for one in step):
                writer.execute(statement)
            writer.execute(f"PRAGMA application_id = {_OURS}")
            writer.execute(f"PRAGMA user_version = {len(_STEPS)}")

    @contextmanager
    def _said(self) -> Iterator[None]:
        """SQLite's errors as those of this library, in a sentence."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"the store {self.path} cannot be used ({error}): check the folder, the room on its disk, "
                "and that no other program holds it"
            ) from error
        except sqlite3.ProgrammingError as error:
            raise OSError(f"the store {self.path} is closed ({error}): open it anew") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is no SQLite file, or a damaged one ({error}): name a new file"
            ) from error
