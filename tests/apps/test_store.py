"""The store: nothing lost by a crash, nobody kept waiting, no text kept that was not to be kept."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from topk_lib.apps import store as module
from topk_lib.apps.store import Store

WRITER = (
    "import sys; from topk_lib.apps.store import Store\n"
    "with Store(sys.argv[1]) as store:\n"
    "    for i in range(int(sys.argv[2])):\n"
    "        print(store.add('support', 'asked', {'i': i, 'who': sys.argv[3]}), flush=True)\n"
)


def start(path: Path, count: int, who: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(count), who]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def everything(path: Path) -> bytes:
    """What stands in the file and in those beside it."""
    return b"".join(one.read_bytes() for one in path.parent.glob(f"{path.name}*"))


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    before = time.time()
    with Store(tmp_path / "a.sqlite") as store:
        ids = [store.add("support", "asked", {"i": i, "text": "é 问"}) for i in range(3)]
        other = store.add("monitor", "alarm", {"day": 3})
        last = store.add("support", "taught", {})
        assert [*ids, other, last] == sorted({*ids, other, last})
        found = store.read("support")
        assert [(one.id, one.kind) for one in found] == [*((i, "asked") for i in ids), (last, "taught")]
        assert found[1].fields == {"i": 1, "text": "é 问"}
        assert before <= found[0].at <= found[-1].at <= time.time()
        assert [one.id for one in store.read("support", "asked", after=ids[0], limit=1)] == [ids[1]]
        assert store.counts("support") == {"asked": 3, "taught": 1}
        assert store.read("recommend") == []
    with Store(tmp_path / "a.sqlite") as again:
        assert [one.id for one in again.read("support")] == [*ids, last]


def test_texts_are_kept_only_where_told(tmp_path: Path) -> None:
    for keep in (False, True):
        path = tmp_path / f"{keep}.sqlite"
        with Store(path, keep_texts=keep) as store:
            store.add("support", "asked", {"sure": 0.5}, texts={"question": "a pelican's secret"})
            wanted = {"sure": 0.5, "question": "a pelican's secret"} if keep else {"sure": 0.5}
            assert store.read("support")[0].fields == wanted
            assert (b"pelican" in everything(path)) is keep
        assert (b"pelican" in everything(path)) is keep


def test_what_is_forgotten_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Store(path, keep_texts=True) as store:
        for i in range(40):
            store.add("support", "asked", {}, texts={"question": f"pelican number {i}"})
        store.add("support", "taught", {"question": "heron"})
        now = time.time() + 1
        assert store.forget("support", before=0) == 0
        assert store.forget("monitor", before=now) == 0
        assert b"pelican" in everything(path)
        assert store.forget("support", before=now, kind="asked") == 40
        assert store.counts("support") == {"taught": 1}
        assert b"pelican" not in everything(path)
        assert b"heron" in everything(path)
        assert store.add("support", "asked", {}) == 42, "an id is never given twice"


def test_a_killed_writer_loses_nothing_it_had_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    process = start(path, 1_000_000, "a")
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    with Store(path) as store:
        found = [one.id for one in store.read("support")]
        assert set(told) <= set(found)
        assert len(found) - len(told) in (0, 1), "at most the one that was about to be told"
        assert store.add("support", "asked", {}) == found[-1] + 1
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_many_write_and_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with Store(path) as store:
        processes = [start(path, 60, who) for who in "ab"]
        seen: list[list[int]] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append([one.id for one in store.read("support")])

        reader = threading.Thread(target=read)
        reader.start()
        with ThreadPoolExecutor(4) as pool:
            mine = list(pool.map(lambda i: store.add("support", "asked", {"i": i, "who": "c"}), range(60)))
        told = [int(line) for one in processes for line in one.communicate()[0].splitlines()]
        done.set()
        reader.join()
        assert [one.returncode for one in processes] == [0, 0]
        found = store.read("support")
        assert sorted([*mine, *told]) == [one.id for one in found] == list(range(1, 181))
        for who in "abc":
            assert sorted(one.fields["i"] for one in found if one.fields["who"] == who) == list(range(60))
        # Whoever reads sees a whole state: what was there before, and nothing missing in between.
        for ids in seen:
            assert ids == list(range(1, len(ids) + 1))


def test_who_reads_waits_for_nobody(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as store:
        store.add("support", "asked", {})
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM events")
        assert store.counts("support") == {"asked": 1}
        other.execute("ROLLBACK")
        other.close()


def test_an_earlier_file_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.sqlite"
    with Store(path) as store:
        store.add("support", "asked", {"i": 1})
    more = ("ALTER TABLE events ADD COLUMN place TEXT", "UPDATE events SET place = 'here'")
    monkeypatch.setattr(module, "_STEPS", (*module._STEPS, (*more, "SELECT nonsense")))
    with pytest.raises(OSError, match="cannot be used"):
        Store(path)
    with sqlite3.connect(path) as plain:  # the step that failed left nothing behind
        assert plain.execute("PRAGMA user_version").fetchone() == (1,)
        assert "place" not in str(plain.execute("SELECT sql FROM sqlite_master").fetchall())
    monkeypatch.setattr(module, "_STEPS", (module._STEPS[0], more))
    with Store(path) as store:
        assert [one.fields for one in store.read("support")] == [{"i": 1}]
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT place FROM events").fetchall() == [("here",)]
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"of version 2, and this topk-lib knows up to 1: install a later"):
        Store(path)


def test_what_is_refused_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no data base, but a text that is long enough to be one " * 20)
    with pytest.raises(ValueError, match=r"is no SQLite file, or a damaged one .*: name a new file"):
        Store(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(ValueError, match="is another program's file: name a new one"):
        Store(tmp_path / "other")
    with pytest.raises(OSError, match=r"cannot be used .*check the folder"):
        Store(tmp_path / "nowhere" / "a.sqlite")
    with pytest.raises(ValueError, match="needs the name of a file"):
        Store(" ")
    with Store(tmp_path / "a.sqlite") as store:
        for bad in ({"x": float("nan")}, {"x": object()}):
            with pytest.raises(ValueError, match="an event's fields must be JSON"):
                store.add("support", "asked", bad)
        with pytest.raises(ValueError, match="'x' is both a field and a text"):
            store.add("support", "asked", {"x": 1}, texts={"x": "y"})
        assert store.read("support") == []
    with pytest.raises(OSError, match="is closed"):
        store.add("support", "asked", {})
