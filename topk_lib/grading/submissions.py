"""Who handed in what: the students of a folder, whatever system it was downloaded from.

Understood are plain names (``Ann Lee.ipynb``, a folder ``Ann Lee``), Moodle's
(``Ann Lee_1234_assignsubmission_file_...``, in folders or flat), Canvas's
(``leeann_[LATE_]1234_5678_name.ipynb``) and Gradescope's (folders ``submission_1234`` beside a
``submission_metadata.yml``).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import yaml

__all__ = ["LARGEST", "Submission", "find_submissions", "fingerprint", "student_seed"]

LARGEST = 50 * 2**20
"""Bytes of the largest submission that is read; the notebooks of the course hold some ten thousand."""
_KINDS = (".ipynb", ".py", ".zip")
_BESIDE = (".csv", ".yml", ".yaml", ".md", ".html", ".json", ".log")  # what a download or a lecturer adds
_METADATA = "submission_metadata.yml"
_MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?P<what>[a-z]+)(?:_.*)?")
_CANVAS = re.compile(r"(?P<name>[^\W_][^_]*)_(?:LATE_)?(?P<id>\d+)_\d+_.+", re.IGNORECASE)


@dataclass(frozen=True)
class Submission:
    """What one student handed in.

    Attributes:
        student: the name, of which no two students of a folder have the same.
        path: a file or folder.
        trouble: why it cannot be marked, in a sentence; empty where it can.
        at: when it was handed in: Gradescope's word for it, else the (newest) file's date.
    """

    student: str
    path: Path
    trouble: str = ""
    at: datetime | None = None


def student_seed(term: str, student: str) -> int:
    """The seed of a student's inputs, from 0 to 2^32 - 1: other students, other terms, other numbers."""
    name = unicodedata.normalize("NFC", student)
    return int.from_bytes(hashlib.sha256(f"{term}\0{name}".encode()).digest()[:4], "big")


def fingerprint(path: Path) -> str:
    """A hash of a file's bytes, or of a folder's files with their names; of what is too large, its size."""
    digest = hashlib.sha256()
    for file in _files(path):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode(errors="surrogateescape"))
        if size <= LARGEST:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def find_submissions(folder: Path) -> tuple[list[Submission], list[str]]:
    """The submissions in ``folder``, by student's name, and what is to be told about names.

    Of a student with several files none is marked: which one counts is the lecturer's word.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: nothing in it is a submission, or Gradescope's metadata cannot be read.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}: name the folder that holds the submissions")
    exported = folder / _METADATA
    found = list(_of_gradescope(exported) if exported.is_file() else _of_names(folder))
    if not found:
        raise ValueError(
            f"nothing to mark in {folder}: it should hold a .ipynb, .py, .zip or folder for each student"
        )
    told: list[str] = []
    groups: dict[str, list[tuple[str, Submission]]] = defaultdict(list)
    for number, one in found:
        groups[one.student.casefold()].append((number, one))
    kept: list[Submission] = []
    for group in groups.values():
        by_number: dict[str, list[Submission]] = defaultdict(list)
        for number, one in group:
            by_number[number].append(one)
        names = len({number for number in by_number if number}) > 1
        if names:
            told.append(f"{len(by_number)} students are called {group[0][1].student}: their numbers "
                        f"({', '.join(sorted(filter(None, by_number)))}) tell them apart")  # fmt: skip
        for number, several in by_number.items():
            student = f"{several[0].student} {number}" if names and number else several[0].student
            one = replace(several[0], student=student)
            if len(several) > 1:
                files = " and ".join(sorted(each.path.name for each in several))
                one = replace(one, trouble=f"There are several submissions, {files}: leave only the one "
                              "that counts.")  # fmt: skip
            kept.append(one)
    return sorted(kept, key=lambda one: (one.student.casefold(), one.student)), told


def _of_names(folder: Path) -> Iterator[tuple[str, Submission]]:
    """The number that the system gave a student ("" for none), and the submission."""
    for path in sorted(folder.iterdir()):
        ending = path.suffix.lower()
        if path.name.startswith((".", "__")) or (path.is_file() and ending in _BESIDE):
            continue
        stem = path.stem if path.is_file() else path.name
        name, number, what = stem, "", "file"
        if known := _MOODLE.fullmatch(path.name):
            name, number, what = known["name"], known["id"], known["what"]
        elif known := _CANVAS.fullmatch(path.name):
            name, number = known["name"], known["id"]
        if what == "file":  # Moodle puts a text typed in the browser beside the files
            yield number, _submission(name, path)


def _of_gradescope(metadata: Path) -> Iterator[tuple[str, Submission]]:
    try:
        entries = yaml.safe_load(metadata.read_text(encoding="utf-8"))
        for name, entry in sorted(entries.items()):
            who = entry[":submitters"]
            student = " + ".join(str(one.get(":name") or one.get(":email") or name) for one in who) or name
            number = "+".join(str(one[":sid"]) for one in who if one.get(":sid"))
            at = entry.get(":created_at")
            if isinstance(at, datetime) and at.tzinfo is None:  # YAML's reader gives UTC without saying so
                at = at.replace(tzinfo=timezone.utc)
            one = _submission(student, metadata.parent / Path(name).name)
            yield number, replace(one, at=at) if isinstance(at, datetime) else one
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{metadata} cannot be read as Gradescope writes it ({type(error).__name__}: {error}): "
            "download the submissions again, or delete that file to go by the folders' names"
        ) from None


def _submission(name: str, path: Path) -> Submission:
    # A name may come from the student: no path, no formula for a spreadsheet, no markup of a report.
    name = re.sub(r"[\x00-\x1f/\\:*?\"<>|`\[\]]+", " ", unicodedata.normalize("NFC", name))
    name = " ".join(name.split()).lstrip("=+-@. ").rstrip(". ")[:100] or "without a name"
    try:
        files = list(_files(path))
        at = max((file.stat().st_mtime for file in files), default=None)
        trouble = _trouble(path, files)
    except OSError as error:
        at, trouble = None, f"{path.name} cannot be read: {error.strerror}."
    return Submission(name, path, trouble, None if at is None else datetime.fromtimestamp(at, timezone.utc))


def _trouble(path: Path, files: list[Path]) -> str:
    if not path.exists():
        return f"{path.name} is missing."
    if not files:
        return f"The folder {path.name} is empty."
    if path.is_file() and path.suffix.lower() not in _KINDS:
        return f"{path.name} is no .ipynb, .py or .zip: hand in the notebook."
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST:
        return (
            f"{path.name} has {size // 2**20} MB, and at most {LARGEST // 2**20} are read: "
            "clear the notebook's outputs and hand it in again."
        )
    return "" if any(file.stat().st_size for file in files) else f"{path.name} is empty."


def _files(path: Path) -> list[Path]:
    """Regular files only: a link could lead to another student's submission."""
    if path.is_symlink():
        return []
    if not path.is_dir():
        return [path] if path.is_file() else []
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not file.is_symlink() and "__MACOSX" not in file.parts
    )
