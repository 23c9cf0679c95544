"""Ratings: the folder that was named, or ours; in order of time; what is broken is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from topk_lib.data import EMBEDDED, load_ratings

FILES = {
    "movies": 'movieId,title,genres\n1,"A, film (1990)",Drama|Comedy\n2,N/A,(no genres listed)\n',
    "ratings": "userId,movieId,rating,timestamp\n7,1,4.5,200\n7,2,0.5,100\n8,1,3.0,200\n",
    "tags": "userId,movieId,tag,timestamp\n7,1,null,5\n",
}


def put(folder: Path, **other: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in (FILES | other).items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_the_embedded_set_is_in_order_of_time(capsys: pytest.CaptureFixture[str]) -> None:
    found = load_ratings("embedded")
    assert found.source == EMBEDDED
    assert found.ratings["timestamp"].is_monotonic_increasing
    assert len(found.movies) >= 150
    assert set(found.ratings["movieId"]) <= set(found.movies["movieId"])
    assert capsys.readouterr().out.count("\n") == 1


def test_the_folder_of_sets_is_looked_in_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "ml-latest-small")
    monkeypatch.setenv("TOPK_DATA", str(tmp_path))
    found = load_ratings(quiet=True)
    assert found.source == "the folder ml-latest-small"
    assert found.ratings["movieId"].tolist() == [2, 1, 1]
    assert found.movies["title"].tolist() == ["A, film (1990)", "N/A"]
    assert found.tags["tag"].tolist() == ["null"]  # a word, no gap
    assert load_ratings(tmp_path / "ml-latest-small", quiet=True).ratings.equals(found.ratings)


def test_what_is_not_there_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no ratings\.csv"):
        load_ratings(tmp_path)
    put(tmp_path / "a", ratings="userId,movieId,rating\n1,1,3\n")
    with pytest.raises(ValueError, match=r"timestamp.*unpack it anew"):
        load_ratings(tmp_path / "a")
    put(tmp_path / "b", ratings="userId,movieId,rating,timestamp\n1,x,3,4\n")
    with pytest.raises(ValueError, match="unpack it anew"):
        load_ratings(tmp_path / "b")
    (put(tmp_path / "c") / "tags.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"tags\.csv belongs to the set"):
        load_ratings(tmp_path / "c")
