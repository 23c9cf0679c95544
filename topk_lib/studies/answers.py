"""Questions on paragraphs: which k sentences or tokens keep the answer, and who still finds it there.

No article is both learned from and asked about. The encoder's makers taught it on
the training questions of SQuAD, among others; those of XQuAD are of SQuAD's other part.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from topk_lib import records
from topk_lib.data import load_set, source_of
from topk_lib.models import load_encoder, load_language_model
from topk_lib.studies.base import Made, Row, Rows, Run, check_public, packed
from topk_lib.tasks.answers import PROMPTS, Kept, judge, narrow, prompt_ids, read_answers
from topk_lib.tasks.pieces import Piece, Question, answer_still_there, cut_down, questions_of, sentences
from topk_lib.tasks.relevance import RULES, UNITS, Encoder, Random, Scorer, Trained, first, oracle, scorers
from topk_lib.tasks.spans import SpanReader, train_reader

__all__ = ["KS", "WAYS", "chosen", "runs"]

KS = {"sentences": (1, 2, 3), "tokens": (32, 96)}
"""What the language model reads of a paragraph."""

WAYS = {"en": ("shot", "plain", "chat", "phrase"), "zh": ("shot_zh", "plain", "chat")}
"""The prompts among which dev questions choose."""

_SEEDS = range(3)
_MORE = {"sentences": (1, 2, 3, 4, 5), "tokens": (16, 32, 64, 96, 128, 192)}  # where nobody has to read
_ZH = {"sentences": (1,)}  # in three times as many tokens as English
_DEV = {"en": 40, "zh": 12}
_ASKED = {("en", "sentences"): 28, ("en", "tokens"): 20, ("zh", "sentences"): 8}
_MOST = {"en": 16, "zh": 24}  # tokens of an answer
_SPANS, _EPOCHS, _SHOWN = 200, 5, 2  # test questions; epochs; sentences of a training paragraph


def runs(*, gpu: bool) -> Iterator[Run]:
    """The prompt is chosen on dev questions before any test question is asked; English comes first."""

    def run(name: str, measure: Callable[..., Made], *given: Any) -> Run:
        return Run("answers", name, partial(measure, *given))

    yield run("dev-en", _dev, "en")
    yield run("kept-en", _kept, "en")
    for seed in _SEEDS:
        yield run(f"sentences-en-s{seed}", _asked, "en", "sentences", seed)
    for seed in _SEEDS:
        yield run(f"spans-en-s{seed}", _spans, seed)
    for seed in _SEEDS:
        yield run(f"tokens-en-s{seed}", _asked, "en", "tokens", seed)
    yield run("kept-zh", _kept, "zh")
    yield run("dev-zh", _dev, "zh")
    for seed in _SEEDS:
        yield run(f"sentences-zh-s{seed}", _asked, "zh", "sentences", seed)


@cache
def _model() -> tuple[Any, Any]:
    model, tokenizer = load_language_model(dtype=torch.bfloat16)
    return model.to(records.device_kind()), tokenizer


@cache
def _encoder() -> tuple[Any, Any]:
    model, tokenizer = load_encoder()
    return model.to(records.device_kind()), tokenizer


def _load(language: str, split: str, n: int | None = None) -> tuple[list[Question], Dataset]:
    rows = load_set("xquad", config=language, split=split, n=n, quiet=True)
    check_public(source_of(rows))
    return questions_of(rows), rows


def _drawn(language: str, n: int, seed: int) -> tuple[list[Question], Dataset]:
    """At most n test questions; the draws of two seeds have none in common, so that they can be pooled."""
    _, rows = _load(language, "test")
    n = min(n, len(rows) // len(_SEEDS))
    order = np.random.default_rng(0).permutation(len(rows))[seed * n : (seed + 1) * n]
    drawn = rows.select(order)
    return questions_of(drawn), drawn


def _of(rows: Dataset, **more: Any) -> dict[str, Any]:
    """What a record says of its data."""
    return {"source": source_of(rows), "n_eval": len(rows), "eval_fingerprint": _digest(list(rows))} | more


def _digest(rows: Sequence[Any]) -> str:
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _rules(language: str, unit: str) -> dict[str, Scorer]:
    train, dev = (_load(language, split)[0] for split in ("train", "dev"))
    return scorers(unit, train, dev, tokenizer=_model()[1], encoder=_encoder())


def _fitted(language: str, unit: str) -> dict[str, Any]:
    """How the trained rule was chosen."""
    trained = _rules(language, unit)["trained"]
    assert isinstance(trained, Trained)
    return {"strength": trained.strength, "dev_there": {str(c): x for c, x in trained.judged.items()}}


def chosen(language: str) -> str:
    """The prompt that had the best F1 on the dev questions.

    Raises:
        ValueError: that was not measured yet.
    """
    if not records.path_of("answers", f"dev-{language}").is_file():
        raise ValueError(
            "the prompt is chosen on dev questions first: make that with topk-lib study answers "
            f"--only answers/dev-{language}"
        )
    found = records.load("answers", f"dev-{language}")["metrics"]
    return max(WAYS[language], key=lambda name: float(found[name]["f1"]))


def _dev(language: str) -> Made:
    """Every prompt on the same dev questions, with the whole paragraph."""
    (model, tokenizer), (questions, rows) = _model(), _load(language, "dev", _DEV[language])
    ids = [narrow(question, first, None, tokenizer).ids for question in questions]
    metrics = {}
    for name in WAYS[language]:
        said = read_answers(model, tokenizer, PROMPTS[name], questions, ids, most=_MOST[language])
        metrics[name] = judge(said, questions) | {"prompt": PROMPTS[name], "said": said[:5]}
        print(f"{name}: F1 {metrics[name]['f1']:.1%}", flush=True)
    settings = {"seed": 0, "language": language, "most": _MOST[language], "dtype": "bfloat16"}
    return Made(metrics, settings, _of(rows))


def _there(questions: Sequence[Question], kept: Sequence[Kept]) -> np.ndarray:
    """(questions,) bool."""
    return np.array([answer_still_there(q, one.pieces) for q, one in zip(questions, kept, strict=True)])


def _kept(language: str) -> Made:
    """How often the answer is still there, on all test questions; ``random`` is the mean of three draws."""
    (_, tokenizer), (questions, rows) = _model(), _load(language, "test")
    metrics: dict[str, Any] = {}
    for unit in UNITS:
        found: dict[str, Row] = {}
        whole = [narrow(question, first, None, tokenizer) for question in questions]
        found["all"] = {"tokens": float(np.mean([len(one.ids) for one in whole]))}
        found["all"]["pieces"] = float(
            np.mean([len(sentences(q.context)) for q in questions])
            if unit == "sentences"
            else found["all"]["tokens"]
        )
        rules: dict[str, Scorer] = {**_rules(language, unit), "oracle": oracle}
        for rule, scorer in rules.items():
            draws = [_once(one) for one in (map(Random, _SEEDS) if rule == "random" else [scorer])]
            for k in _MORE[unit]:
                kept = [[narrow(q, one, k, tokenizer, unit) for q in questions] for one in draws]
                there = [_there(questions, some) for some in kept]
                found[f"{rule}-k{k}"] = {
                    "there": float(np.mean(there)), "by_draw": [float(one.mean()) for one in there],
                    "missing": packed(~there[0]),
                    "tokens": float(np.mean([len(one.ids) for some in kept for one in some])),
                }  # fmt: skip
        metrics[unit] = found | {"trained": _fitted(language, unit)}
    settings = {"seed": 0, "language": language, "ks": {unit: list(ks) for unit, ks in _MORE.items()}}
    return Made(metrics, settings, _of(rows, **_train_size(language)))


def _once(scorer: Scorer) -> Scorer:
    """The same scorer, which scores the pieces of a question once for every k."""
    found: dict[Question, torch.Tensor] = {}

    def scored(question: Question, pieces: Sequence[Piece]) -> torch.Tensor:
        if question not in found:
            found[question] = scorer(question, pieces)
        return found[question]

    return scored


def _train_size(language: str) -> dict[str, int]:
    return {"n_fit": len(_load(language, "train")[0]), "n_dev": len(_load(language, "dev")[0])}


def _asked(language: str, unit: str, seed: int) -> Made:
    """Drawn test questions to the language model, with k pieces of each paragraph by every rule; for
    sentences also with nothing, with everything, and with the sentence that holds the answer."""
    (model, tokenizer), name = _model(), chosen(language)
    questions, drawn = _drawn(language, _ASKED[language, unit], seed)
    rules: dict[str, Scorer] = {**_rules(language, unit), "random": Random(seed)}
    ks = (KS if language == "en" else _ZH)[unit]
    settings = {
        "seed": seed, "language": language, "unit": unit, "ks": list(ks), "prompt": name,
        "most": _MOST[language], "dtype": "bfloat16", "threads": torch.get_num_threads(),
    }  # fmt: skip
    data = _of(drawn, **_train_size(language))
    folder = Path("runs") / "answers" / f"{unit}-{language}-s{seed}"
    rows = Rows(folder / "rows.json", settings | data)
    template = PROMPTS[name]
    read_answers(model, tokenizer, template, questions[:1], [[]], most=2)  # the first call is slow

    def ask(scorer: Scorer, k: int | None) -> Row:
        encoder = rules["encoder"]
        assert isinstance(encoder, Encoder)
        encoder.forget()
        start = time.perf_counter()
        kept = [narrow(question, scorer, k, tokenizer, unit) for question in questions]
        chosen_after = time.perf_counter()
        ids = [one.ids for one in kept]
        said = read_answers(model, tokenizer, template, questions, ids, most=_MOST[language])
        done = time.perf_counter()
        prompts = [
            len(prompt_ids(tokenizer, template, q.question, some))
            for q, some in zip(questions, ids, strict=True)
        ]
        there = _there(questions, kept)
        return judge(said, questions) | {
            "there": float(there.mean()), "missing": packed(~there),
            "tokens": float(np.mean([len(some) for some in ids])), "prompt_tokens": float(np.mean(prompts)),
            "select_seconds": (chosen_after - start) / len(questions),
            "seconds": (done - start) / len(questions), "said": said[:3],
        }  # fmt: skip

    plan: dict[str, tuple[Scorer, int | None]] = {}
    if unit == "sentences":
        plan |= {"all": (first, None), "none": (first, 0), "oracle-k1": (oracle, 1)}
    plan |= {f"{rule}-k{k}": (rules[rule], k) for k in ks for rule in RULES}
    for key, (scorer, k) in plan.items():
        row = rows.measure(key, partial(ask, scorer, k))
        print(f"{key}: F1 {row['f1']:.1%}, there {row['there']:.1%}, {row['seconds']:.2f} s", flush=True)
    # Rows of an earlier sitting come in its order.
    return Made({key: rows.found[key] for key in plan}, settings | _fitted(language, unit), data)


def _spans(seed: int) -> Made:
    """The encoder, fine-tuned to point at the answer, reads the k best sentences by the trained rule.

    It learns on training paragraphs cut to two sentences, one of them with the answer, which is cheaper
    than to learn on all; the epoch is chosen on whole dev paragraphs. Beside it stands the best sentence
    itself as the answer.
    """
    train, dev = (_load("en", split)[0] for split in ("train", "dev"))
    questions, drawn = _drawn("en", _SPANS, seed)
    tokenizer, rules = _model()[1], _rules("en", "sentences")

    def cut(question: Question, scorer: Scorer, k: int | None) -> Question:
        return cut_down(question, narrow(question, scorer, k, tokenizer).pieces)

    def with_answer(question: Question, pieces: Any) -> torch.Tensor:
        return rules["overlap"](question, pieces) + 2 * oracle(question, pieces)  # an overlap is 1 at most

    short = [one for one in (cut(question, with_answer, _SHOWN) for question in train) if one.answers]
    start = time.perf_counter()
    reader, epochs = train_reader(
        short, dev, epochs=_EPOCHS, seed=seed, device=records.device_kind(),
        progress=lambda row: print(f"epoch {row['epoch']}: dev F1 {row['f1']:.1%}", flush=True),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    plan: dict[str, tuple[Scorer, int | None]] = {"all": (first, None), "oracle-k1": (oracle, 1)}
    plan |= {f"{rule}-k{k}": (rules[rule], k) for rule in ("trained", "first") for k in KS["sentences"]}
    metrics: dict[str, Any] = {
        key: _pointed(reader, questions, [cut(question, *how) for question in questions])
        for key, how in plan.items()
    }
    best = [cut(question, rules["trained"], 1).context for question in questions]
    metrics["sentence"] = judge(best, questions)
    metrics |= {"epochs": epochs, "train_seconds": seconds}
    settings = {
        "seed": seed, "epochs": _EPOCHS, "sentences": _SHOWN, "length": reader.length, "most": reader.most,
        "encoder": "all-MiniLM-L6-v2", "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Made(
        metrics, settings, _of(drawn, n_train=len(short), train_fingerprint=_digest(short), n_dev=len(dev))
    )


def _pointed(reader: SpanReader, questions: Sequence[Question], short: Sequence[Question]) -> Row:
    start = time.perf_counter()
    said = [span.text for span in reader.read(short)]
    seconds = (time.perf_counter() - start) / len(short)
    ids = reader.tokenizer([one.context for one in short], add_special_tokens=False, verbose=False)
    return judge(said, questions) | {
        "there": float(np.mean([bool(one.answers) for one in short])), "seconds": seconds,
        "tokens": float(np.mean([len(some) for some in ids["input_ids"]])), "said": said[:3],
    }  # fmt: skip
