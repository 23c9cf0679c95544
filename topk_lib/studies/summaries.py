"""Abstracts in a sentence: the k best of their own, by a rule or a gate; or what a language model writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from topk_lib import records
from topk_lib.claims.summaries import MEASURES, drawn, interval
from topk_lib.data import fingerprint, load_set, source_of
from topk_lib.models import load_encoder, load_language_model
from topk_lib.studies.base import Made, Run, check_public
from topk_lib.tasks.compression import compress
from topk_lib.tasks.summaries import (
    ASKS,
    PLAIN,
    TARGETS,
    Padded,
    SentenceGate,
    best_sentences,
    fit_gate,
    new_words,
    oracle,
    pad,
    plain_scores,
    rouge,
    sentence_vectors,
    write_summaries,
)

__all__ = ["GATES", "RULES", "chosen_ask", "chosen_gate", "runs", "verdict_of"]

RULES = (*PLAIN, "gate", "oracle")
GATES: dict[str, dict[str, Any]] = {
    f"{target}-h{hidden}-lr{rate}": {"target": target, "hidden": hidden, "learning_rate": rate}
    for target in TARGETS
    for hidden in (0, 64)
    for rate in (1e-3, 3e-3)
}
"""Settings of the gate, of which one is chosen on dev abstracts."""

_SEEDS = range(3)
_DRAWN = ("random", "gate")  # what depends on a seed
_KS = (1, 2, 3)
_ASKED, _ASKED_DEV = 100, 40  # abstracts that the language model sums up: that takes by far most of the time
_TOKENS = (64, 32)
_MOST = 60  # tokens that it may write


def runs(*, gpu: bool) -> Iterator[Run]:
    """The choices on dev abstracts come first: what follows rests on them."""

    def run(name: str, measure: Any, *given: Any) -> Run:
        return Run("summaries", name, partial(measure, *given))

    def seeded(kind: str, measure: Any, rule: str, k: int) -> Iterator[Run]:
        for seed in _SEEDS if rule in _DRAWN else (0,):
            yield run(f"{kind}-{rule}-k{k}-s{seed}", measure, rule, k, seed)

    yield run("dev-gate", _dev_gate)
    yield run("dev-ask", _dev_ask)
    for rule in RULES:
        yield from seeded("extract", _extract, rule, 1)
    yield run("write-all", _write, "all", 0, 0)
    for k in (3, 1, 2):
        yield from seeded("write", _write, "gate", k)
    for k in _TOKENS:
        yield run(f"tokens-surprise-k{k}-s0", _tokens, "surprise", k, 0)
    for k in _KS[1:]:
        for rule in RULES:
            yield from seeded("extract", _extract, rule, k)
    for rule, k in (("lead", 3), ("random", 3), ("lead", 1)):
        yield from seeded("write", _write, rule, k)
    for k in _TOKENS:
        yield run(f"tokens-first-k{k}-s0", _tokens, "first", k, 0)
    yield from seeded("tokens", _tokens, "random", _TOKENS[0])


@cache
def _encoder() -> tuple[Any, Any]:
    model, tokenizer = load_encoder()
    return model.base_model.to(records.device_kind()).eval(), tokenizer


class _Part(NamedTuple):
    """Some abstracts: their sentences, their references, the sentences' vectors, and what a record says."""

    abstracts: list[list[str]]
    references: list[list[str]]
    vectors: list[Tensor]
    data: dict[str, Any]

    def some(self, n: int) -> list[int]:
        """At most n abstracts, drawn once and for all."""
        return drawn(len(self.abstracts), n)


@cache
def _part(split: str) -> _Part:
    found = load_set("scitldr", split=split, quiet=True)
    check_public(source_of(found))
    abstracts = [[one.strip() for one in source if one.strip()] for source in found["source"]]
    references = [list(some) for some in found["target"]]
    as_texts = Dataset.from_dict(
        {"text": [" ".join(a) for a in abstracts], "label": ["\n".join(r) for r in references]}
    )
    vectors = sentence_vectors(*_encoder(), abstracts)
    told = {"source": source_of(found), "n_eval": len(abstracts), "eval_fingerprint": fingerprint(as_texts)}
    return _Part(abstracts, references, vectors, told)


@cache
def _padded(split: str, k: int) -> Padded:
    part = _part(split)
    return pad(part.vectors, part.abstracts, part.references, k)


@cache
def _model() -> tuple[Any, Any]:
    model, tokenizer = load_language_model(dtype=torch.bfloat16)
    return model.to(records.device_kind()), tokenizer


def _recorded(name: str) -> dict[str, Any]:
    if not records.path_of("summaries", name).is_file():
        raise ValueError(
            f"that rests on a choice on dev abstracts: make it first with topk-lib study summaries --only "
            f"summaries/{name}"
        )
    found: dict[str, Any] = records.load("summaries", name)["metrics"]
    return found


def chosen_gate() -> str:
    """The name in :data:`GATES` of the settings that gained most on dev abstracts, the mean of the seeds.

    Raises:
        ValueError: that was not measured yet.
    """
    found = _recorded("dev-gate")
    return max(GATES, key=lambda name: float(found[name]["gain"]))


def chosen_ask() -> str:
    """The name in :data:`~topk_lib.tasks.summaries.ASKS` of the prompt with the highest ROUGE-1 on dev.

    Raises:
        ValueError: that was not measured yet.
    """
    found = _recorded("dev-ask")
    return max(ASKS, key=lambda name: float(found[name]["rouge1"]["mean"]))


def _dev_gate() -> Made:
    """What the sentence that each gate keeps gains on dev abstracts, k = 1."""
    train, dev = _padded("train", 1), _padded("dev", 1)
    metrics: dict[str, Any] = {}
    for name, settings in GATES.items():
        told = [fit_gate(train, dev, 1, **settings, seed=seed)[1] for seed in _SEEDS]
        best = [max(each) for each in told]
        metrics[name] = {
            "gain": float(np.mean(best)), "of_each_seed": best, "by_epoch": told[0],
            "epochs": [each.index(max(each)) + 1 for each in told],
        }  # fmt: skip
        print(f"{name}: {metrics[name]['gain']:.3f}", flush=True)
    first = _part("train")
    size = {"n_fit": len(first.abstracts), "train_fingerprint": first.data["eval_fingerprint"]}
    return Made(metrics, {"seeds": list(_SEEDS), "gates": GATES, "k": 1}, _part("dev").data | size)


def _dev_ask() -> Made:
    """Every prompt, with the whole abstract, on the same dev abstracts."""
    part = _part("dev")
    rows = part.some(_ASKED_DEV)
    texts = [" ".join(part.abstracts[i]) for i in rows]
    metrics = {}
    for name, ask in ASKS.items():
        said, seconds = _written(texts, ask)
        metrics[name] = _told(part, rows, said) | {"seconds": seconds, "prompt": ask, "said": said[:4]}
        print(f"{name}: {metrics[name]['rouge1']['mean']:.3f}", flush=True)
    return Made(metrics, {"seed": 0, "most": _MOST}, part.data | {"n_eval": len(rows)})


@cache
def _gate(k: int, seed: int) -> SentenceGate:
    settings = GATES[chosen_gate()]  # first, as it may be missing, and what follows takes minutes
    return fit_gate(_padded("train", k), _padded("dev", k), k, **settings, seed=seed)[0]


def _kept(rule: str, k: int, seed: int, rows: Sequence[int]) -> list[str]:
    """The k best sentences of test abstracts, as one text each."""
    part = _part("test")
    texts = []
    for i in rows:
        sentences, vectors = part.abstracts[i], part.vectors[i]
        if rule == "gate":
            scores = _gate(k, seed).scores(vectors)
        elif rule == "oracle":
            scores = oracle(sentences, part.references[i], k).float()
        else:
            scores = plain_scores(rule, vectors, [seed, i])
        texts.append(" ".join(best_sentences(sentences, scores, k)))
    return texts


def _told(part: _Part, rows: Sequence[int], summaries: Sequence[str]) -> dict[str, Any]:
    """ROUGE with its interval, and of ``each`` abstract; words of a summary, and those that are new."""
    found = rouge(summaries, [part.references[i] for i in rows])
    sources = [" ".join(part.abstracts[i]) for i in rows]
    new = [new_words(said, source) for said, source in zip(summaries, sources, strict=True)]
    metrics: dict[str, Any] = {
        name: dict(zip(("mean", "low", "high"), interval(found[:, at]), strict=True))
        for at, name in enumerate(MEASURES)
    }
    return metrics | {
        "each": {name: found[:, at].round(4).tolist() for at, name in enumerate(MEASURES)},
        "words": float(np.mean([len(said.split()) for said in summaries])),
        "new_words": float(np.mean([len(words) for words in new])),
        "with_a_new_number": float(np.mean([any(w[0].isdigit() for w in words) for words in new])),
        "empty": sum(not said for said in summaries),
    }


def _extract(rule: str, k: int, seed: int) -> Made:
    part = _part("test")
    everyone = range(len(part.abstracts))
    metrics = _told(part, everyone, _kept(rule, k, seed, everyone))
    settings: dict[str, Any] = {"seed": seed, "rule": rule, "k": k}
    if rule == "gate":
        settings["gate"] = chosen_gate()
    return Made(metrics, settings, part.data)


def _written(texts: Sequence[str | Sequence[int]], ask: str) -> tuple[list[str], float]:
    """What the language model says, and the seconds a text."""
    start = time.perf_counter()
    said = write_summaries(*_model(), texts, ask, most=_MOST)
    return said, (time.perf_counter() - start) / len(texts)


def _of_reading(
    rows: Sequence[int], texts: Sequence[str | Sequence[int]], settings: dict[str, Any], choosing: float
) -> Made:
    part, name, tokenizer = _part("test"), chosen_ask(), _model()[1]
    said, seconds = _written(texts, ASKS[name])
    read = [len(tokenizer(one)["input_ids"] if isinstance(one, str) else one) for one in texts]
    metrics = _told(part, rows, said) | {
        "tokens": float(np.mean(read)), "seconds": seconds, "seconds_choosing": choosing / len(rows),
        "said": said[:4],
    }  # fmt: skip
    settings |= {"ask": name, "most": _MOST, "dtype": "bfloat16", "threads": torch.get_num_threads()}
    return Made(metrics, settings, part.data | {"n_eval": len(rows)})


def _write(rule: str, k: int, seed: int) -> Made:
    """The language model's sentence from all sentences, or from the k that a rule keeps."""
    part = _part("test")
    rows = part.some(_ASKED)
    if rule == "gate":
        _gate(k, seed)  # trained before the clock starts
    start = time.perf_counter()
    if rule in ("gate", "centroid"):  # the vectors are there already, but they are what the choice costs
        sentence_vectors(*_encoder(), [part.abstracts[i] for i in rows])
    whole = [" ".join(part.abstracts[i]) for i in rows]
    texts = whole if rule == "all" else _kept(rule, k, seed, rows)
    choosing = time.perf_counter() - start
    settings: dict[str, Any] = {"seed": seed, "rule": rule, "k": k, "unit": "sentences"}
    return _of_reading(rows, texts, settings, choosing)


def _tokens(rule: str, k: int, seed: int) -> Made:
    """The language model's sentence from k tokens of each abstract."""
    part, (model, tokenizer) = _part("test"), _model()
    rows = part.some(_ASKED)
    ids = [tokenizer(" " + " ".join(part.abstracts[i]))["input_ids"] for i in rows]
    start = time.perf_counter()
    if rule == "surprise":
        kept = compress(model, ids, k)
    elif rule == "first":
        kept = [one[:k] for one in ids]
    else:
        dice = np.random.default_rng(seed)
        places = [np.sort(dice.permutation(len(one))[:k]).tolist() for one in ids]
        kept = [[one[i] for i in some] for one, some in zip(ids, places, strict=True)]
    choosing = time.perf_counter() - start
    return _of_reading(rows, kept, {"seed": seed, "rule": rule, "k": k, "unit": "tokens"}, choosing)


_READ = {
    (
        "The main finding of the study is that jumping spiders plan detours around obstacles, but it is "
        "not known how long they keep a goal in mind."
    ): "false: the open question is told as the finding",
    (
        "The main finding is that sodium ions are too large to be held by the layered oxide, and that the"
        " replacement of every ninth manganese atom by magnesium is a significant reduction in the "
        "capacity of the material."
    ): "false: the oxide holds them, and the capacity lasts longer",
    (
        "The main finding is that a protein that was originally designed to be a chaperone can be pulled "
        "apart and reassembled in a fraction of a second, revealing a previously unknown mechanism of "
        "protein folding."
    ): "false: the chaperone helps the protein, and is not the protein",
    (
        "The main finding of the study is that the brain's planning of speech is not just a matter of "
        "memorization but also a deliberate process of error correction."
    ): "adds: neither memory nor correction is in the text",
    (
        "The main finding is that a single insecticide-treated bed net can reduce malaria cases by 39%, "
        "while a second insecticide-treated bed net reduces malaria cases by 39% compared to a bed net "
        "without the second insecticide."
    ): "false: there is one fall of 39 per cent, and the second substance made it",
    (
        "The main finding is that the model suggests that short pulses can be used to create a model of "
        "resistance to antibiotics, which is not supported by the model of antibiotic resistance."
    ): "false: the model is of why pulses work, and nothing speaks against it",
    (
        "The main finding is that after thirty minutes of a prey image, the spiders found a scent that "
        "was not present, but after the end of the prey image, they found a scent that was not present."
    ): "false: a scent that remained helped the spiders",
    (
        "The main finding is that the layered oxide in which every ninth manganese atom is replaced with "
        "magnesium has a significant capacity loss of 88 per cent against 52 per cent without it."
    ): "false: 88 per cent is what remains",
    (
        "The main finding of the study is that the knot in a chain of protein is not just a random "
        "occurrence but is actually a mechanism that allows the protein to be made."
    ): "false: the knot is tied while the chain is made, and does not make it",
    (
        "The main finding of the study is that the tongue's tendency to make incorrect sounds can be "
        "missed by the ear, which is a common phenomenon in many fields, including psychology and "
        "linguistics."
    ): "adds: the first half is right, the many fields are invented",
    (
        "The main finding is that the use of insecticide-treated nets in a trial with insecticide-"
        "carrying nets can reduce mosquito populations, but the effectiveness of the treatment is limited"
        " by the presence of a second substance on the roof panel."
    ): "false: the second substance helps, and nobody counted mosquitoes",
    (
        "The main finding is that the bacteria grew in 960 chambers under 960 pulses of 2 hours every two"
        " hours, which is a significant reduction in the number of chambers compared to the original 117 "
        "chambers."
    ): "false: resistance appeared in 3 chambers instead of 117",
}
"""Sentences that the embedded language model wrote of embedded abstracts, each read once against its whole
abstract, by another and far larger language model that helped to write the course."""


def verdict_of(sentence: str) -> str:
    """Whether a sentence of the chapter is "faithful", "adds" something or is "false", and why, in a few
    words; a dash for one that was not read."""
    return _READ.get(sentence, "–")  # noqa: RUF001
