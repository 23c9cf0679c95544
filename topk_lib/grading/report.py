"""What marks look like: a table, a report for each student, and what the class got wrong."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from topk_lib.grading.late import Lateness
from topk_lib.grading.marks import Marked, Outcome, number

__all__ = ["Form", "board_table", "class_report", "marks_table", "student_report", "told_outcomes"]

_LONGEST = 600  # characters of a sentence
_NUMBERS = re.compile(r"(?<![A-Za-z_])[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)\b")
_LISTS = re.compile(r"[\[(][\[\](){}#, .]*[\])]")


@dataclass(frozen=True)
class Form:
    """What the reports need to know of an assignment: its title, and its questions' points in order."""

    title: str
    questions: Mapping[str, int]


def marks_table(form: Form, marked: Sequence[Marked], late: Mapping[str, Lateness]) -> str:
    """CSV: student, points of each question, days late, those covered by the budget, total, note.

    What is not marked yet is empty, and the total with it.
    """
    rows = [["student", *form.questions, "days_late", "days_covered", "total", "note"]]
    for one in marked:
        days = late.get(one.student, Lateness())
        done = {question: bool(one.trouble) or question in one.questions for question in form.questions}
        each = [number(one.points(question)) if ready else "" for question, ready in done.items()]
        total = number(one.total * days.share) if all(done.values()) else ""
        rows.append([one.student, *each, str(days.days), str(days.covered), total, one.trouble])
    return _csv(rows)


def board_table(marked: Sequence[Marked]) -> str:
    """CSV of who is on the leaderboard, the best of the first column above; "" where there is none."""
    listed = [one for one in marked if one.board]
    if not listed:
        return ""
    columns = list(listed[0].board)
    listed.sort(key=lambda one: (-one.board.get(columns[0], float("-inf")), one.student))
    rows = [[one.student, *(f"{one.board.get(c, float('nan')):.4g}" for c in columns)] for one in listed]
    return _csv([["student", *columns], *rows])


def student_report(form: Form, one: Marked, late: Lateness, *, after_deadline: bool) -> str:
    """Markdown for one student; before the deadline hidden checks tell no more than the kind of fault."""
    possible = sum(form.questions.values())
    lines = [f"# {form.title}: {one.student}", ""]
    lines += [f"**{number(one.total * late.share)} of {possible} points.**", *_late_lines(one, late), ""]
    if one.trouble:
        return "\n".join([*lines, _safe(one.trouble), ""])
    if one.notes:
        lines += ["What was found in your notebook:", "", *(f"- {_safe(note)}" for note in one.notes), ""]
    if not after_deadline:
        lines += ["Until the deadline a hidden check tells only the kind of fault.", ""]
    for question, points in form.questions.items():
        lines += [f"## {question}: {number(one.points(question))} of {points} points", ""]
        outcomes = one.questions.get(question)
        if outcomes is None:
            lines += ["Not marked yet.", ""]
            continue
        for name, outcome, early, full in told_outcomes(outcomes):
            lines.append(f"- {name} ({_worth(outcome.points)}): {full if after_deadline else early}")
        lines.append("")
    if one.board:
        values = ", ".join(f"{name} {value:.4g}" for name, value in one.board.items())
        lines += ["## Leaderboard", "", f"{values}.", ""]
    elif one.off_board:
        lines += ["## Leaderboard", "", f"Not listed: {_safe(one.off_board)}", ""]
    return "\n".join(lines)


def told_outcomes(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Outcome, str, str]]:
    """Each outcome with its name, and with what it tells before the deadline and after it.

    A hidden check's name before the deadline is its number: its own would say what it tests.
    """
    counts = {public: sum(one.public == public for one in outcomes) for public in (True, False)}
    seen = {True: 0, False: 0}
    for one in outcomes:
        seen[one.public] += 1
        kind = "public" if one.public else "hidden"
        name = f"{kind} check {seen[one.public]} of {counts[one.public]}"
        fault = one.kind + (f": {_safe(one.sentence)}" if one.sentence else "")
        if one.public:
            yield name, one, fault or "passed", fault or "passed"
        else:
            rule = f"{one.about}: {_safe(one.rule)}" if one.rule else one.about
            yield name, one, one.kind or "passed", f"{fault or 'passed'} ({rule})"


def class_report(form: Form, marked: Sequence[Marked], told: Sequence[str]) -> str:
    """Markdown for the lecturer: how each question went, which checks were lost, the commonest faults."""
    read = [one for one in marked if one.questions]
    lines = [f"# {form.title}: how the class did", ""]
    lines += [f"{len(read)} of {len(marked)} submissions were marked."]
    lines += [f"- {_safe(one.student)}: {_safe(one.trouble)}" for one in marked if one.trouble]
    lines += [f"- {_safe(sentence)}" for sentence in told]
    lines += [
        f"- Look at {_safe(one.student)}: {_safe(', '.join(one.doubtful))} is what honest work seldom needs."
        for one in marked
        if one.doubtful
    ]
    if not read:
        return "\n".join([*lines, ""])
    totals = sorted(one.total for one in read)
    middle = (totals[(len(totals) - 1) // 2] + totals[len(totals) // 2]) / 2
    lines += ["", f"Points before late days: mean {number(_mean(totals))}, median {number(middle)}, "
              f"from {number(totals[0])} to {number(totals[-1])}.", ""]  # fmt: skip
    lines += ["| question | points | mean | all points | no points |", "|---|---|---|---|---|"]
    remarks = []
    for question, points in form.questions.items():
        each = [one.points(question) for one in read]
        full, none = sum(got == points for got in each), sum(got == 0 for got in each)
        lines.append(f"| {question} | {points} | {number(_mean(each))} | {full} | {none} |")
        if not full:
            remarks.append(f"Nobody got all points of {question}: read its contract and its checks again.")
        elif full == len(read):
            remarks.append(f"Everybody got all points of {question}.")
    lines += ["", *remarks, *[""] * bool(remarks)]
    for question in form.questions:
        lines += _question_lines(question, read)
    return "\n".join(lines)


def _question_lines(question: str, read: Sequence[Marked]) -> list[str]:
    lost: Counter[str] = Counter()
    about: dict[str, Outcome] = {}
    faults: Counter[str] = Counter()
    example: dict[str, str] = {}
    for one in read:
        seen = set()
        for outcome in one.questions.get(question, []):
            about.setdefault(outcome.check, outcome)
            if outcome.passed:
                continue
            lost[outcome.check] += 1
            kind = _pattern(f"{outcome.kind}: {outcome.sentence}")
            example.setdefault(kind, outcome.sentence or outcome.kind)
            seen.add(kind)
        faults.update(seen)
    lines = [f"## {question}", "", "| check | points | lost by | what it tests |", "|---|---|---|---|"]
    for check, outcome in about.items():
        what = "what students can run themselves" if outcome.public else outcome.rule or outcome.about
        lines.append(f"| {check} | {number(outcome.points)} | {lost[check]} | {_safe(what)} |")
    if faults:
        lines += ["", "The commonest faults, each with one student's numbers:", ""]
        common = sorted(faults.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
        lines += [f"- {count} of {len(read)}: {_safe(example[kind])}" for kind, count in common]
    return [*lines, ""]


def _late_lines(one: Marked, late: Lateness) -> list[str]:
    if not late.days:
        return []
    lost = number((1 - late.share) * 100)
    days = "1 day" if late.days == 1 else f"{late.days} days"
    return ["", f"Handed in {days} late, of which your late days cover {late.covered}; the others cost "
            f"{lost}% of {number(one.total)} points."]  # fmt: skip


def _pattern(sentence: str) -> str:
    """A sentence without the numbers of one student, so that the same fault counts as the same."""
    return _LISTS.sub("[...]", _NUMBERS.sub("#", sentence))


def _safe(text: str) -> str:
    """One line that is no markup, whatever a student's error message holds."""
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."
    return re.sub(r"([<|`!]|\[(?=[^\]]*\]\())", r"\\\1", line)


def _worth(points: Fraction) -> str:
    return f"{number(points)} point{'' if points == 1 else 's'}"


def _mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
