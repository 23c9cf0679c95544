"""Files as people have them: packed, in parts, of other systems, cut off, with commas in the wrong place."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from topk_lib.data import load_reviews
from topk_lib.data.files import files_of_splits

CSV = "text,label\ngood,1\nbad,0\n"
LINES = '{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n'


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", ".").replace("_of_", "-of-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def texts(folder: Path, split: str = "train") -> list[str]:
    return list(load_reviews(folder, split=split, quiet=True)["text"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", CSV.encode()),
        ("train.csv", b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode()),
        ("train.csv", CSV.replace("\n", "\r").encode()),
        ("train.csv", b"id,label,text\n7,1,good\n\n8,0,bad"),
        ("train.csv", b"\n\n" + CSV.encode()),
        ("train.tsv", CSV.replace(",", "\t").encode()),
        ("train.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("train.jsonl", LINES.encode()),
        ("train.ndjson", LINES.replace("\n", "\r\n").encode()),
        ("train.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("train.jsonl.bz2", bz2.compress(LINES.encode())),
        ("train.json.xz", lzma.compress(LINES.encode())),
        ("train.json", json.dumps([json.loads(line) for line in LINES.splitlines()], indent=1).encode()),
        ("some reviews.csv", CSV.encode()),
        ("train/part-1.csv", CSV.encode()),
        ("default/train-00000-of-00001.csv", CSV.encode()),
    ],
)
def test_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    data = load_reviews(tmp_path, quiet=True)
    assert (list(data["text"]), list(data["label"])) == (["good", "bad"], [1, 0])


def test_parquet_and_what_datasets_saves(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0], "extra": [None, None]})
    (tmp_path / "a").mkdir()
    data.to_parquet(tmp_path / "a" / "train.parquet")
    DatasetDict({"train": data, "validation": data.select([0])}).save_to_disk(tmp_path / "b")
    data.save_to_disk(tmp_path / "c")
    pq.write_table(pa.table({"text": pa.array(["good", "bad"]).dictionary_encode(), "label": [1, 0]}),
                   (tmp_path / "a" / "test.parquet"))  # fmt: skip
    for folder in ("a", "b", "c"):
        assert texts(tmp_path / folder) == ["good", "bad"]
    assert texts(tmp_path / "a", "test") == ["good", "bad"]
    assert texts(tmp_path / "b", "dev") == ["good"]


@pytest.mark.parametrize("word", ["null", "NA", "None", "nan", "N/A", "", "1", "1.5", "true", " x ", "a\0b"])
def test_any_word_is_a_text(tmp_path: Path, word: str) -> None:
    assert texts(write(tmp_path, train__csv=f"text,label\n{word},1\nbad,0\n")) == [word, "bad"]


def test_long_and_quoted_texts(tmp_path: Path) -> None:
    long = "many words " * 50_000
    rows = f'text,label\n"{long}",1\n"a, ""b""\nc",0\n'
    assert texts(write(tmp_path, train__csv=rows)) == [long, 'a, "b"\nc']
    odd = "line\u2028separator\x0btab\x85"
    assert texts(write(tmp_path, train__csv=f"text,label\n{odd},1\n")) == [odd]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train__csv": "text,label\ncaf\xe9,1\n".encode("latin-1")}, "line 2: byte 0xe9 is not UTF-8"),
        ({"train__csv": CSV.encode("utf-16")}, "line 1: byte 0xff is not UTF-8: save"),
        ({"train__csv": ""}, "train.csv is empty: at least one review"),
        ({"train__jsonl": "\n \n"}, "train.jsonl is empty"),
        ({"train__jsonl": '{"text": "a", "label": 1}\n{"text": "b'}, "train.jsonl, line 2 is no JSON"),
        ({"train__json": '[{"text": "a",\n "label": 1},\n {'}, "train.json, line 3 is no JSON"),
        ({"train__csv": 'text,label\n"good,1\nbad,0\n'}, "line 3: unexpected end of data .a quote is open"),
        ({"train__csv": 'text,label\n"good" film,1\n'}, "line 2: .*a quote is open, or stands in the"),
        ({"train__csv": "text,label\nfine\ngood, really,1\n"}, "line 2: 1 fields, where the first line"),
        ({"train__csv": "text,label\ngood, really,1\n"}, "3 fields, .* 2: put a text that holds a comma"),
        ({"train__tsv": "text\tlabel\na\tb\t1\n"}, "line 2: 3 fields, .* that holds a tab in quotes"),
        ({"train__csv": "text,text,label\na,b,1\n"}, "has more than one column 'text'"),
        ({"train__csv": "text;label\na;1\n"}, "has no column 'text' .it has text;label."),
        ({"train__csv__gz": gzip.compress(CSV.encode(), mtime=0)[:-9]}, "train.csv.gz is damaged or cut off"),
        ({"train__csv__gz": CSV}, "train.csv.gz is damaged or cut off"),
        ({"train__csv__bz2": CSV}, "train.csv.bz2 is damaged or cut off"),
        ({"train__parquet": b"PAR1" + b"x" * 40 + b"\x09\0\0\0PAR1"}, "train.parquet is damaged or cut off"),
        ({"train__json__xz": CSV}, "train.json.xz is damaged or cut off"),
        ({"train__parquet": b"PAR1 and no more PAR1"}, "train.parquet is damaged or cut off"),
        ({"train__arrow": b"nothing"}, "train.arrow is damaged or cut off"),
        ({"train-1__csv": CSV, "train-2__csv": b""}, "train-2.csv is empty"),
        ({"train__csv": CSV, "train__jsonl": LINES}, r"train.csv and /.*train.jsonl look like the same"),
        ({"a/train__csv": CSV, "b/train__csv": CSV}, r"/a/train.csv and /.*/b/train.csv look like the same"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(ValueError, match=message) as error:
        load_reviews(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_parts_may_have_other_columns(tmp_path: Path) -> None:
    write(tmp_path, **{"test-1__csv": CSV, "test-2__csv": "text,label,x\nfine,1,y\n"})
    assert texts(tmp_path, "test") == ["good", "bad", "fine"]


def test_brackets_in_a_path(tmp_path: Path) -> None:
    write(tmp_path / "imdb1", train__csv="text,label\nother,1\n")
    for name in ("imdb[1]", "*", "{a,b}", "a b?"):
        write(tmp_path / name, train__csv=CSV)
        assert texts(tmp_path / name) == ["good", "bad"]


def test_which_file_is_of_which_split(tmp_path: Path) -> None:
    names = {
        "x/train-00000-of-00001__csv", "x/unsupervised-00000-of-00001__csv", "x/latest_contest__csv",
        "x/my_Validation2__csv", "test/part__csv", "x/__hidden/train__csv", "x/train__txt",
    }  # fmt: skip
    write(tmp_path, **dict.fromkeys(names, CSV))
    write(tmp_path, **{".git/train__csv": CSV, "x/dataset_info__json": "{}", "train_test__csv": CSV})
    write(tmp_path, **{"run/a/config__json": "{}", "run/b/config__json": "{}"})
    found = {split: [path.name for path in paths] for split, paths in files_of_splits(tmp_path).items()}
    assert found == {
        "train": ["train-00000-of-00001.csv"],
        "unsupervised": ["unsupervised-00000-of-00001.csv"],
        "latest_contest": ["latest_contest.csv"],
        "dev": ["my_Validation2.csv"],
        "test": ["part.csv"],
        "train_test": ["train_test.csv"],
        "config": ["config.json", "config.json"],
    }


def test_the_card_of_a_set_tells(tmp_path: Path) -> None:
    card = """---
configs:
- config_name: small
  data_files: small.csv
- config_name: large
  default: true
  data_files:
  - split: train
    path: ["a*.csv", "b.csv"]
  - split: validation
    path: c.csv
dataset_info:
  features:
  - name: label
    dtype: {class_label: {names: {'0': fine, '1': awful}}}
---
"""
    for name in ("small", "a1", "a2", "b", "c"):
        write(tmp_path, **{f"{name}__csv": f"text,label\n{name},1\n"})
    write(tmp_path, README__md=card)
    assert texts(tmp_path) == ["a1", "a2", "b"]
    data = load_reviews(tmp_path, split="dev", quiet=True)
    assert (data["text"][0], data.features["label"].names) == ("c", ["fine", "awful"])
    write(tmp_path, README__md=card.replace("  default: true\n", ""))
    with pytest.raises(ValueError, match=r"holds several sets .small, large.: name the subfolder"):
        load_reviews(tmp_path)
    write(tmp_path, README__md="---\n: [ no yaml\n---\n")
    assert sorted(texts(tmp_path)) == ["a1", "a2", "b", "c", "small"]


def test_other_ways_to_write_a_card(tmp_path: Path) -> None:
    card = """---
configs:
- data_files: {train: a.csv, test: b.csv}
dataset_info:
  features: [{name: label, dtype: {class_label: {names: [fine, awful]}}}]
---
"""
    write(tmp_path, README__md=card, a__csv=CSV, b__csv=CSV)
    assert files_of_splits(tmp_path) == {"train": [tmp_path / "a.csv"], "test": [tmp_path / "b.csv"]}
    assert load_reviews(tmp_path, quiet=True).features["label"].names == ["fine", "awful"]


@pytest.mark.parametrize("path", ["/somewhere/a.csv", "''", "a**.csv"])
def test_a_card_that_names_no_file(tmp_path: Path, path: str) -> None:
    write(tmp_path, README__md=f"---\nconfigs:\n- data_files: {path}\n---\n", a__csv=CSV)
    with pytest.raises(ValueError, match=r"README.md: .* names no file in the folder"):
        load_reviews(tmp_path)
