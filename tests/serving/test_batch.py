"""Files of texts in, files of answers out: every row once, whatever happens on the way."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from topk_lib.serving import Predictor, predict_file
from topk_lib.serving.rows import read_rows
from topk_lib.training import predict

TEXTS = [f"A {'good' if i % 3 else 'bad'} film, number {i}." for i in range(1300)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row.fields or {"fault": row.fault} for row in read_rows(path)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("source", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".jsonl", ".parquet"])
def test_every_kind_to_every_kind(trained: Path, tmp_path: Path, source: str, target: str) -> None:
    given = write(tmp_path / f"in{source}", [{"id": i, "text": t} for i, t in enumerate(TEXTS[:40])])
    summary = predict_file(trained, given, tmp_path / f"out{target}")
    found = rows_of(tmp_path / f"out{target}")
    assert (summary.rows, summary.answered, summary.unread) == (40, 40, 0)
    assert [row["text"] for row in found] == TEXTS[:40]
    assert [int(row["id"]) for row in found] == list(range(40))
    right: list[Any] = predict(trained, TEXTS[:40])
    for row, p in zip(found, right, strict=True):
        assert float(row["probability_positive"]) == pytest.approx(p, abs=5e-3)
        assert row["prediction"] == ("positive" if p > 0.5 else "negative") or abs(p - 0.5) < 5e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([given.name, f"out{target}"])


def test_parquet_keeps_its_types(trained: Path, tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS[:5], "stars": pa.array([1, 2, None, 4, 5], pa.int8())})
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(trained, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.field("stars").type == pa.int8()
    assert out["stars"].to_pylist() == [1, 2, None, 4, 5]
    assert out.schema.field("probability_negative").type == pa.float64()


def test_rows_of_a_jsonl_file_may_have_other_keys(trained: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", [{"text": "a"}, {"text": "b", "more": {"x": [1]}}])
    predict_file(trained, given, tmp_path / "out.csv")
    assert [row["more"] for row in rows_of(tmp_path / "out.csv")] == ["", '{"x": [1]}']


@pytest.mark.parametrize("target", [".csv", ".jsonl", ".parquet"])
def test_columns_that_change_their_kind_or_hold_half_a_character(
    trained: Path, tmp_path: Path, target: str
) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "one", "score": 1.5, "id": "ok"},
        {"text": "two", "score": "n/a", "id": "\ud800"},
    ]
    predict_file(trained, write(tmp_path / "in.jsonl", rows), tmp_path / f"out{target}")
    found = rows_of(tmp_path / f"out{target}")
    assert [str(row["score"]) for row in found] == ["1.5", "n/a"]
    assert found[0]["id"] == "ok"
    assert found[1]["id"] in ("\\ud800", "\ud800")


def test_what_cannot_be_read_is_kept_apart_with_its_reason(trained: Path, tmp_path: Path) -> None:
    lines = [b'{"text": "good"}', b'{"text": ', b'["text"]', b'{"text": "\xff"}', b'{"other": "x"}',
             b'{"text": 7}', b'{"text": "  "}', b'{"text": "bad", "id": 1}']  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    summary = predict_file(trained, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (summary.rows, summary.answered, summary.unread) == (8, 2, 6)
    assert [row["text"] for row in rows_of(tmp_path / "out.jsonl")] == ["good", "bad"]
    assert summary.unread_file is not None
    apart = [json.loads(line) for line in Path(summary.unread_file).read_text().splitlines()]
    assert [row["row"] for row in apart] == [2, 3, 4, 5, 6, 7]
    for said, row in zip(
        ("JSON", "no object", "UTF-8", "no column", "no text", "no text"), apart, strict=True
    ):
        assert said in row["fault"]


def test_a_broken_line_of_a_csv_file_costs_no_other(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(
        b'id,text\r\n1,good\r\n2,a,b\r\n3,"two\nlines"\r\n4,\xe4\r\n\r\n5,bad\r\n6,"open\r\n'
    )
    summary = predict_file(trained, tmp_path / "in.csv", tmp_path / "out.csv")
    assert [row["id"] for row in rows_of(tmp_path / "out.csv")] == ["1", "3", "5"]
    assert summary.unread == 3


def test_packed_files_are_read(trained: Path, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "in.csv.gz", "wt") as file:
        file.write("text\ngood\nbad\n")
    assert predict_file(trained, tmp_path / "in.csv.gz", tmp_path / "out.csv").answered == 2


def test_killed_and_called_again_it_loses_and_doubles_no_row(trained: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in enumerate(TEXTS)])
    whole = predict_file(trained, given, tmp_path / "whole.jsonl")
    paths = ", ".join(repr(str(path)) for path in (trained, given, tmp_path / "out.jsonl"))
    program = f"from topk_lib.serving import predict_file; predict_file({paths})"
    part = tmp_path / "out.jsonl.part"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        while process.poll() is None and not (part.exists() and part.stat().st_size > 10_000):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert part.exists(), "it was too fast to be killed: give it more texts"
    with part.open("ab") as file:
        file.write(b'{"row": 99')  # as a line that was cut while it was written
    done = sum(b'"row"' in line and line.endswith(b"}\n") for line in part.read_bytes().splitlines(True))
    assert 0 < done < len(TEXTS)
    again = predict_file(trained, given, tmp_path / "out.jsonl")
    assert again.answered == whole.answered == len(TEXTS)
    assert [row["id"] for row in rows_of(tmp_path / "out.jsonl")] == list(range(len(TEXTS)))
    for one, other in zip(rows_of(tmp_path / "out.jsonl"), rows_of(tmp_path / "whole.jsonl"), strict=True):
        assert one["probability_positive"] == pytest.approx(other["probability_positive"], abs=2e-4)


def test_a_part_of_another_input_is_refused(trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"text": "a"}])
    (tmp_path / "out.jsonl.part").write_text('{"source": [1, 2]}\n')
    with pytest.raises(ValueError, match="belongs to a call with another input"):
        predict_file(trained, tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_memory_does_not_grow_with_the_file(trained: Path, tmp_path: Path) -> None:
    def peak(copies: int) -> int:
        path = tmp_path / f"{copies}.csv"
        path.write_text("text\n" + "a fine film that nobody saw\n" * copies)
        rows = iter(read_rows(path))
        next(rows)
        tracemalloc.start()
        for _ in rows:
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(40_000) < 2 * peak(2_000) + 100_000


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("in.txt", "x", {}, r"ends in \.csv, \.tsv, \.jsonl, \.parquet"),
        ("in.csv", "text\n", {}, "has no rows"),
        ("in.csv", "words\nx\n", {}, "no column 'text' .it has words.: name the column"),
        ("in.csv", "text,text\nx,y\n", {}, "name the columns, each once"),
        ("in.csv", "text,prediction\nx,y\n", {}, "rename it"),
        ("in.parquet", "PAR1", {}, "damaged or cut off"),
        ("in.csv", "text\nx\n", {"target": "out.xls"}, "file to write that ends in"),
        ("in.csv", "text\nx\n", {"target": "in.csv"}, "exists already"),
        ("in.csv", "text\nx\n", {"target": "no/out.csv"}, "no folder"),
    ],
)
def test_bad_input_gets_a_sentence(
    trained: Path, tmp_path: Path, name: str, content: str, options: dict[str, str], said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises((OSError, ValueError), match=said):
        predict_file(trained, tmp_path / name, tmp_path / options.get("target", "out.csv"))
    assert not list(tmp_path.glob("*.part"))


def test_another_command_at_the_same_file_is_refused(trained: Path, tmp_path: Path) -> None:
    from topk_lib.serving.batch import _alone

    write(tmp_path / "in.jsonl", [{"text": "a"}])
    with _alone(tmp_path / "out.csv.part"), pytest.raises(RuntimeError, match="another command is writing"):
        predict_file(trained, tmp_path / "in.jsonl", tmp_path / "out.csv")


def test_a_full_disk_leaves_what_is_done(trained: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    write(tmp_path / "in.jsonl", [{"text": "a"}])
    predict_file(trained, tmp_path / "in.jsonl", tmp_path / "first.jsonl")
    os.symlink("/dev/full", tmp_path / "out.jsonl.tmp")
    with pytest.raises(OSError, match="No space left"):
        predict_file(trained, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl.part").exists()
    (tmp_path / "out.jsonl.tmp").unlink()
    assert predict_file(trained, tmp_path / "in.jsonl", tmp_path / "out.jsonl").answered == 1


def test_a_predictor_answers_alone_as_in_company(trained: Path) -> None:
    predictor = Predictor(trained, batch_size=7)
    together = predictor(TEXTS[:30])
    for text, answer in zip(TEXTS[:30], together, strict=True):
        assert predictor([text])[0] == pytest.approx(answer, abs=1e-5)
        assert sum(answer.values()) == pytest.approx(1.0)
    assert predictor([]) == []
    with pytest.raises(ValueError, match="as many pairs"):
        predictor(["a", "b"], ["c"])
    with pytest.raises(TypeError, match="not a string"):
        predictor(["a", 3])  # type: ignore[list-item]
