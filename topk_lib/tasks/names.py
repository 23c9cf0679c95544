"""Names, judged: what a tagger found against what is there, and two taggers that need no encoder.

Tags are BIO: "O", "B-person" where a name begins, "I-person" where it goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

__all__ = ["entity_scores", "forms", "lexicon_tags", "linear_tags", "spans"]

Texts = Sequence[Sequence[str]]
"""Of each post its words, or its tags, one a word."""


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The names of a post: kind, first word, last word. A name may begin with "I-", as in conlleval.

    Raises:
        ImportError: seqeval is not installed.
    """
    return [(kind, first, last) for kind, first, last in _seqeval().get_entities(list(tags))]


def _seqeval() -> Any:
    try:
        from seqeval.metrics import sequence_labeling
    except ImportError:
        raise ImportError("names are judged by seqeval: pip install --use-pep517 seqeval") from None
    return sequence_labeling


def _form(words: Sequence[str], first: int, last: int) -> str:
    return " ".join(words[first : last + 1]).casefold()


def forms(words: Texts, tags: Texts) -> set[str]:
    """The surface forms of all names, in small letters: those that a training on these posts has seen."""
    return {
        _form(post, first, last)
        for post, row in zip(words, tags, strict=True)
        for _, first, last in spans(row)
    }


def entity_scores(words: Texts, truth: Texts, said: Texts, seen: Collection[str] = ()) -> dict[str, Any]:
    """What was found of the names. A name is right when its kind and both ends are.

    Args:
        words: of each post.
        truth: its tags.
        said: those of a tagger.
        seen: surface forms that were in the training (:func:`forms`).

    Returns:
        ``precision``, ``recall``, ``f1`` over all names (seqeval's, micro-averaged, in its default mode,
        which agrees with conlleval: a name may begin with "I-"); ``f1_strict``, where such a one is none
        (seqeval's strict mode for IOB2, the form of tags here); ``f1_unseen`` and ``recall_unseen``, for
        which names of a form in ``seen`` are taken out of both sides; ``f1_surface``, over the set of
        different pairs of form and kind, after the second measure of the shared task (Derczynski et al.,
        2017); ``kinds``, the F1 of each; ``names`` and ``names_unseen``, how many there are.

    Raises:
        ImportError: seqeval is not installed.
        ValueError: rows of different lengths.
    """
    sizes = [[len(row) for row in side] for side in (words, truth, said)]
    if not sizes[0] == sizes[1] == sizes[2]:
        raise ValueError("words, truth and said must have one tag a word: their rows differ in length")
    seen, judge = set(seen), _seqeval()
    from seqeval.scheme import IOB2  # there, since the line above found its home

    rows = [list(map(list, side)) for side in (truth, said)]
    precision, recall, f1, names = _prf(truth, said)
    strict = judge.f1_score(*rows, mode="strict", scheme=IOB2, zero_division=0) if names else 0.0
    rare = _prf(_without(words, truth, seen), _without(words, said, seen))
    true, found = (
        {
            (_form(post, first, last), kind)
            for post, row in zip(words, side, strict=True)
            for kind, first, last in spans(row)
        }
        for side in (truth, said)
    )
    report = judge.classification_report(*rows, output_dict=True, zero_division=0) if names else {}
    return {
        "precision": precision, "recall": recall, "f1": f1, "f1_strict": float(strict), "f1_unseen": rare[2],
        "recall_unseen": rare[1],
        "f1_surface": 2 * len(true & found) / max(1, len(true) + len(found)),
        "kinds": {kind: float(row["f1-score"]) for kind, row in report.items() if not kind.endswith(" avg")},
        "names": names, "names_unseen": rare[3],
    }  # fmt: skip


def _prf(truth: Texts, said: Texts) -> tuple[float, float, float, int]:
    """Precision, recall, F1, names there are."""
    precision, recall, f1, count = _seqeval().precision_recall_fscore_support(
        list(map(list, truth)), list(map(list, said)), average="micro", zero_division=0
    )
    return float(precision), float(recall), float(f1), int(count)


def _without(words: Texts, tags: Texts, seen: set[str]) -> list[list[str]]:
    """The tags, with "O" in place of names of these forms."""
    found = [list(row) for row in tags]
    for post, row in zip(words, found, strict=True):
        for _, first, last in spans(row):
            if _form(post, first, last) in seen:
                row[first : last + 1] = ["O"] * (last + 1 - first)
    return found


def lexicon_tags(words: Texts, tags: Texts, others: Texts) -> list[list[str]]:
    """Tag what was a name in the training, with its commonest kind: no unseen name is found.

    Of names that begin at the same word the longest is taken.

    Args:
        words: of the training posts.
        tags: theirs.
        others: words of the posts to tag.
    """
    kinds: dict[str, Counter[str]] = {}
    longest = 0
    for post, row in zip(words, tags, strict=True):
        for kind, first, last in spans(row):
            kinds.setdefault(_form(post, first, last), Counter())[kind] += 1
            longest = max(longest, last + 1 - first)
    found = []
    for post in others:
        row, at = ["O"] * len(post), 0
        while at < len(post):
            ends = range(min(at + longest, len(post)) - 1, at - 1, -1)
            last = next((end for end in ends if _form(post, at, end) in kinds), -1)
            if last < 0:
                at += 1
                continue
            kind = kinds[_form(post, at, last)].most_common(1)[0][0]
            row[at : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - at)]
            at = last + 1
        found.append(row)
    return found


def linear_tags(words: Texts, tags: Texts, others: Texts, *, c: float = 1.0) -> list[list[str]]:
    """Tag each word alone, by logistic regression over what it and its neighbours look like.

    It sees the word, its first and last three letters, its shape (capitals, digits, signs) and the words
    beside it with theirs.

    Args:
        words: of the training posts.
        tags: theirs, of two kinds at least.
        others: words of the posts to tag.
        c: inverse of the penalty, as in scikit-learn.
    """
    vectors = DictVectorizer()
    rows = vectors.fit_transform([_looks(post, at) for post in words for at in range(len(post))])
    model = LogisticRegression(C=c, max_iter=200).fit(rows, [tag for post in tags for tag in post])
    asked = [_looks(post, at) for post in others for at in range(len(post))]
    said = iter(model.predict(vectors.transform(asked)).tolist() if asked else [])
    return [[next(said) for _ in post] for post in others]


def _looks(post: Sequence[str], at: int) -> dict[str, bool]:
    """What is true of a word and of those beside it."""
    found = {"first": at == 0}
    for step in (-1, 0, 1):
        if not 0 <= at + step < len(post):
            found[f"{step}:none"] = True
            continue
        word = post[at + step]
        low = word.casefold()
        found |= {f"{step}:word={low}": True, f"{step}:shape={_shape(word)}": True}
        if step == 0:
            found |= {f"begins={low[:3]}": True, f"ends={low[-3:]}": True}
    return found


def _shape(word: str) -> str:
    """ "Xx" of "Anna", "x0x0" of "b2b4", with runs of a kind written once."""
    kinds = ["X" if c.isupper() else "x" if c.isalpha() else "0" if c.isdigit() else c for c in word]
    return "".join(c for i, c in enumerate(kinds) if i == 0 or c != kinds[i - 1])
