"""What marks look like, whatever a student's sentences hold."""

from __future__ import annotations

from fractions import Fraction

import pytest

from topk_lib.grading.late import Lateness
from topk_lib.grading.marks import Marked, Outcome, number
from topk_lib.grading.report import Form, board_table, class_report, marks_table, student_report

FORM = Form("Two questions", {"one": 60, "two": 40})


def outcome(
    check: str, points: int, fault: str = "", public: bool = False, kind: str = "wrong result"
) -> Outcome:
    words = ("", "") if public else ("ties", "The lowest wins.")
    return Outcome(check, public, Fraction(points), not fault, kind if fault else "", fault, *words)


def marked(student: str, *faults: str, **other: object) -> Marked:
    """One question with a public check and one hidden, the other with one hidden; faults of the three."""
    a, b, c = (*faults, "", "", "")[:3]
    questions = {
        "one": [outcome("public 1", 20, a, public=True), outcome("ties", 40, b)],
        "two": [outcome("limits", 40, c)],
    }
    return Marked(student, "x", "y", questions=questions, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("100", "100"),
        ("15/2", "7.5"),
        ("1/3", "0.33"),
        ("2/3", "0.67"),
        ("1/200", "0.01"),
        ("70", "70"),
    ],
)
def test_numbers(value: str, text: str) -> None:
    assert number(Fraction(value)) == text


def test_thirds_add_up() -> None:
    share = Fraction(10, 3)
    one = Marked("Ann", questions={"one": [Outcome(f"public {n}", True, share, True) for n in range(3)]})
    assert number(one.total) == "10"
    assert Marked.from_json(one.to_json()) == one


def test_the_table() -> None:
    late = {"Bo": Lateness(3, 1, Fraction(8, 10))}
    rows = [
        marked("Ann, jun"),
        marked("Bo", "", "no"),
        Marked("Cy", "x", "y", "Cy.py is empty."),
        Marked("Di"),
    ]
    assert marks_table(FORM, rows, late).splitlines() == [
        "student,one,two,days_late,days_covered,total,note",
        '"Ann, jun",60,40,0,0,100,',
        "Bo,20,40,3,1,48,",
        "Cy,0,0,0,0,0,Cy.py is empty.",
        "Di,,,0,0,,",
    ]


def test_a_hidden_check_has_no_name_and_no_sentence_before_the_deadline() -> None:
    one = marked("Ann", "for 1 it is 2, yours 3", "for [5, 5] it is 0, yours 1")
    early = student_report(FORM, one, Lateness(), after_deadline=False)
    assert "**40 of 100 points.**" in early
    assert "- public check 1 of 1 (20 points): wrong result: for 1 it is 2, yours 3\n" in early
    assert "- hidden check 1 of 1 (40 points): wrong result\n" in early
    assert "## two: 40 of 40 points" in early
    for secret in ("ties", "limits", "lowest", "[5, 5]"):
        assert secret not in early
    late = student_report(FORM, one, Lateness(), after_deadline=True)
    assert "(40 points): wrong result: for [5, 5] it is 0, yours 1 (ties: The lowest wins.)\n" in late


def test_late_days_are_explained() -> None:
    text = student_report(FORM, marked("Ann"), Lateness(1, 0, Fraction(9, 10)), after_deadline=False)
    assert "**90 of 100 points.**" in text
    assert "Handed in 1 day late, of which your late days cover 0; the others cost 10% of 100 points." in text


@pytest.mark.parametrize(
    "said",
    ["<script>alert(1)</script>", "a\n# Points: 100\n**100 of 100 points.**", "[click](http://x)", "a | b",
     "`x`", "![](http://x/y.png)", "x" * 5000],
)  # fmt: skip
def test_what_a_student_prints_is_no_markup(said: str) -> None:
    one = marked("Ann", said, notes=[said])
    for text in (student_report(FORM, one, Lateness(), after_deadline=True), class_report(FORM, [one], [])):
        assert "\n# Points" not in text
        assert "\n**100" not in text
        for markup in ("<script", "[click](", "![]("):
            assert markup not in text.replace("\\" + markup[0], "")
        assert max(map(len, text.splitlines())) < 800


def test_the_class_counts_the_same_fault_once() -> None:
    """Sentences that differ in one student's numbers are one fault."""
    rows = [marked(f"S{n}", "", f"for [{n}, {n}] it is 0, yours {n}") for n in range(3)]
    text = class_report(FORM, [*rows, marked("Zoe")], ["two"])
    assert "4 of 4 submissions were marked." in text
    assert "\n- two\n" in text
    assert "| one | 60 | 30 | 1 | 0 |" in text
    assert "| ties | 40 | 3 | The lowest wins. |" in text
    assert "- 3 of 4: for [0, 0] it is 0, yours 0" in text
    assert "Everybody got all points of two." in text
    assert "mean 70, median 60, from 60 to 100" in text


def test_a_question_that_nobody_solved_is_told() -> None:
    text = class_report(FORM, [marked("Ann", "", "no"), marked("Bo", "", "no")], [])
    assert "Nobody got all points of one: read its contract and its checks again." in text
    assert class_report(FORM, [Marked("Cy", "x", "y", "Cy.py is empty.")], []).startswith(
        "# Two questions: how the class did\n\n0 of 1 submissions were marked.\n- Cy: Cy.py is empty."
    )


def test_doubtful_names_are_for_the_lecturer() -> None:
    one = marked("Ann", doubtful=["_getframe"])
    assert "Look at Ann: _getframe" in class_report(FORM, [one], [])
    assert "_getframe" not in student_report(FORM, one, Lateness(), after_deadline=True)


def test_the_leaderboard() -> None:
    assert board_table([marked("Ann")]) == ""
    rows = [marked("Ann", board={"accuracy": 0.5, "seconds": 1.0}), marked("Bo"),
            marked("Cy", board={"accuracy": 0.91234567, "seconds": 2.0}),
            marked("Di", board={"accuracy": 0.5, "seconds": 3.0})]  # fmt: skip
    assert board_table(rows) == "student,accuracy,seconds\nCy,0.9123,2\nAnn,0.5,1\nDi,0.5,3\n"
    assert "accuracy 0.9123" in student_report(FORM, rows[2], Lateness(), after_deadline=False)
    off = marked("Ed", off_board="no values came of it (too slow)")
    assert "Not listed: no values" in student_report(FORM, off, Lateness(), after_deadline=False)
