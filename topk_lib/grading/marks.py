"""Marks as data: what each check of each question gave one student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

__all__ = ["Marked", "Outcome", "number"]


@dataclass(frozen=True)
class Outcome:
    """What one check gave: all of its points, or none.

    Attributes:
        check: its name; of a public one "public 1" and so on.
        public: whether students have the check.
        points: what it is worth (the public points of a question are shared evenly by its public checks).
        passed: whether they are given.
        kind: what went wrong in a word or two; empty where nothing did.
        sentence: what went wrong, on which small input.
        about: the property that a hidden check tests, in a word or two.
        rule: the same in a sentence.
    """

    check: str
    public: bool
    points: Fraction
    passed: bool
    kind: str = ""
    sentence: str = ""
    about: str = ""
    rule: str = ""

    @property
    def got(self) -> Fraction:
        return self.points if self.passed else Fraction(0)


@dataclass
class Marked:
    """What one student's submission gave so far.

    Attributes:
        student: the name.
        submission: the fingerprint of what was handed in.
        checks: the fingerprint of all that it was marked with.
        trouble: why nothing could be marked; empty where something could.
        notes: what the collector mended or left out.
        doubtful: names in the student's code that an honest answer seldom needs.
        questions: outcomes by question; a question that is not in it is still to be marked.
        board: values for the leaderboard; empty where there is none.
        off_board: why a student is not on it.
    """

    student: str
    submission: str = ""
    checks: str = ""
    trouble: str = ""
    notes: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    questions: dict[str, list[Outcome]] = field(default_factory=dict)
    board: dict[str, float] = field(default_factory=dict)
    off_board: str = ""

    def points(self, question: str) -> Fraction:
        return sum((one.got for one in self.questions.get(question, [])), Fraction(0))

    @property
    def total(self) -> Fraction:
        return sum((self.points(question) for question in self.questions), Fraction(0))

    def to_json(self) -> dict[str, Any]:
        told = asdict(self)
        for outcomes in told["questions"].values():
            for one in outcomes:
                one["points"] = str(one["points"])
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Marked:
        questions = {
            question: [Outcome(**one | {"points": Fraction(one["points"])}) for one in outcomes]
            for question, outcomes in told["questions"].items()
        }
        return cls(**{**told, "questions": questions})


def number(value: Fraction) -> str:
    """With two decimals at most, rounded half up: 12, 7.5, 0.33."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    text = str(exact.quantize(Decimal("0.01"), ROUND_HALF_UP))
    return text.rstrip("0").rstrip(".")
