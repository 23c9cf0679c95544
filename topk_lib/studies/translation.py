"""Captions from English into German, each written with k types of the vocabulary; and sources cut short."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from topk_lib import records
from topk_lib.data import fingerprint, load_set, source_of
from topk_lib.studies.base import Made, Row, Run, check_public, in_turns
from topk_lib.tasks.translation import (
    RULES,
    Lexicon,
    Pairs,
    TranslatorSettings,
    alignment,
    candidates,
    compared,
    coverage,
    kept_places,
    learn_lexicon,
    load_translator,
    make_pairs,
    shared_tokenizer,
    shorten,
    texts_of,
    train_translator,
    translate,
)

__all__ = ["KS", "SHARES", "WAYS", "chosen_common", "chosen_search", "runs", "translator"]

KS = (32, 64, 128, 256, 512, 1024, 2048)
"""Target types that a sentence may be written with; above them come those of the training, and all."""

WAYS = ("both", "lexicon", "commonest", "random")
"""By which the k types are chosen: some of the commonest and what the lexicon expects, either alone, any."""

SHARES = (0.9, 0.75, 0.5)
"""Of the tokens of a source that are read."""

_SEEDS = range(3)
_VOCABULARY = 8192
_COMMON = (0.0, 0.125, 0.25, 0.5, 0.75)  # the share of k that is for the commonest
_AT = 256  # the k at which that share is chosen
_BEAMS, _ALPHAS = 5, (0.6, 1.0, 1.4)
_ITERATIONS = (1, 5)
_SPEED = {"batch": 1, "sentences": 100}, {"batch": 64, "sentences": 512}
_SPEED_KS = (64, 256, 1024)
_ROUNDS = 3
_SHORT = ("rare", 0.75)  # by which a model is trained on shortened sources
_ROOT = Path("runs") / "translation"


def runs(*, gpu: bool) -> Iterator[Run]:
    """What needs no model comes first, then one model and all of it, then the others."""

    def run(name: str, measure: Callable[..., Made], *given: Any) -> Run:
        return Run("translation", name, partial(measure, *given))

    yield run("coverage", _coverage)
    for seed in _SEEDS:
        yield run(f"model-s{seed}", _model, seed)
        yield run(f"k-s{seed}", _by_k, seed)
        if not seed:
            yield run("speed", _speed)
        yield run(f"source-s{seed}", _sources, seed)
    yield run("short-s0", _short)


class _Data(NamedTuple):
    tokenizer: Any
    train: Pairs
    dev: Pairs
    test: Pairs
    about: dict[str, Any]


@cache
def _data() -> _Data:
    """The captions, in one tokenizer, which is made once and kept beside the models that know it."""
    parts = {name: load_set("multi30k", split=name, quiet=True) for name in ("train", "dev", "test")}
    check_public(source_of(parts["train"]))
    folder, train = _ROOT / "tokenizer", parts["train"]
    if not (folder / "tokenizer.json").is_file():
        fresh = folder.with_name(".tokenizer")
        shutil.rmtree(fresh, ignore_errors=True)
        shared_tokenizer([*train["en"], *train["de"]], _VOCABULARY).save_pretrained(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    about: dict[str, Any] = {"source": source_of(train)}
    for name, part in parts.items():
        about |= {f"n_{name}": len(part), f"{name}_fingerprint": _fingerprint(part)}
    pairs = {name: make_pairs(tokenizer, list(part["en"]), list(part["de"])) for name, part in parts.items()}
    return _Data(tokenizer, pairs["train"], pairs["dev"], pairs["test"], about)


def _fingerprint(part: Dataset) -> str:
    return fingerprint(part.rename_columns({"en": "text", "de": "label"}))


@cache
def _lexicon(iterations: int = 5) -> Lexicon:
    data = _data()
    return learn_lexicon(data.train.sources, data.train.targets, len(data.tokenizer), iterations=iterations)


@cache
def translator(seed: int) -> tuple[Any, Any]:
    """The model of a seed and its tokenizer; ``topk-lib study translation`` trains it.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    model, tokenizer = load_translator(_ROOT / f"s{seed}")
    return model.to(records.device_kind()), tokenizer


def _found(run: str, key: str) -> Any:
    if not records.path_of("translation", run).is_file():
        raise ValueError(
            f"{key} is chosen on the dev captions first: make that with topk-lib study translation "
            f"--only translation/{run}"
        )
    return records.load("translation", run)["metrics"][key]


def chosen_common() -> float:
    """The share of k that is for the commonest types where there is one, chosen on the dev captions.

    Raises:
        ValueError: that was not measured yet.
    """
    return float(_found("coverage", "common"))


def chosen_search(seed: int) -> dict[str, Any]:
    """``alpha`` of beam search, chosen on the dev captions, and ``beams``.

    Raises:
        ValueError: that was not measured yet.
    """
    return {"beams": _BEAMS, "alpha": float(_found(f"model-s{seed}", "alpha"))}


def _ks() -> list[int]:
    return [k for k in KS if k < len(_data().tokenizer)]


def _types(way: str, k: int, sources: Sequence[Sequence[int]], seed: int = 0) -> list[Tensor]:
    """For each sentence the k types that it may be written with."""
    lexicon, end = _lexicon(), _data().tokenizer.eos_token_id
    if way == "random":
        dice, others = np.random.default_rng([seed, k]), np.flatnonzero(lexicon.counts)
        size = min(k - 1, len(others))
        drawn = (dice.choice(others, size, replace=False) for _ in sources)
        return [torch.from_numpy(np.union1d(one, [end])) for one in drawn]
    if way == "commonest":
        same = torch.from_numpy(np.union1d(np.argsort(lexicon.rank)[: k - 1], [end]))
        return [same] * len(sources)
    common = int(chosen_common() * k) if way == "both" else 0
    return [candidates(lexicon, source, k, common=common, pinned=(end,)) for source in sources]


def _seen() -> Tensor:
    """The types that stand in any German caption of the training: what one may leave out for nothing."""
    return torch.from_numpy(np.union1d(np.flatnonzero(_lexicon().counts), [_data().tokenizer.eos_token_id]))


def _coverage() -> Made:
    """Which share of the words that people wrote is among the k types; the share of the commonest, on dev."""
    data, begun = _data(), time.perf_counter()
    lexicon = _lexicon()
    learning = time.perf_counter() - begun
    end = data.tokenizer.eos_token_id

    def covered(pairs: Pairs, k: int, share: float, table: Lexicon = lexicon) -> Row:
        common = int(share * k)
        types = [candidates(table, s, k, common=common, pinned=(end,)) for s in pairs.sources]
        tokens, sentences = coverage(pairs.targets, types)
        return {"tokens": tokens, "sentences": sentences}

    dev = {f"{share:g}": covered(data.dev, _AT, share) for share in _COMMON}
    common = max(filter(None, _COMMON), key=lambda share: float(dev[f"{share:g}"]["tokens"]))  # 0: "lexicon"
    iterations = {str(n): covered(data.dev, _AT, common, _lexicon(n)) for n in _ITERATIONS}
    test: dict[str, Any] = {way: {} for way in WAYS}
    for k in _ks():
        test["both"][str(k)] = covered(data.test, k, common)
        test["lexicon"][str(k)] = covered(data.test, k, 0.0)
        for way in ("commonest", "random"):
            tokens, sentences = coverage(data.test.targets, _types(way, k, data.test.sources))
            test[way][str(k)] = {"tokens": tokens, "sentences": sentences}
    seen = coverage(data.test.targets, [_seen()] * len(data.test.targets))
    metrics = {
        "common": common, "dev": dev, "iterations": iterations, "test": test, "seen_types": len(_seen()),
        "seen": {"tokens": seen[0], "sentences": seen[1]}, "types": len(data.tokenizer),
        "entries": len(lexicon.targets), "seconds_to_learn": learning,
        "types_of_a_translation": float(np.mean([len(set(t)) for t in data.test.targets])),
    }  # fmt: skip
    settings = {"seed": 0, "vocabulary": _VOCABULARY, "iterations": 5, "chosen_at": _AT}
    return Made(metrics, settings, data.about)


def _written(
    seed: int, pairs: Pairs, sources: Sequence[Sequence[int]] | None = None, **how: Any
) -> list[str]:
    model, tokenizer = translator(seed)
    return texts_of(tokenizer, translate(model, pairs.sources if sources is None else sources, **how))


def _model(seed: int) -> Made:
    """Train; choose alpha on dev; greedy and beam search on test; and captions of our own, to be shown."""
    data, settings = _data(), TranslatorSettings(seed=seed)
    trained = train_translator(
        _ROOT / f"s{seed}", data.tokenizer, data.train, data.dev, settings=settings, quiet=True
    )
    print(f"{trained['epochs']} epochs, dev loss {min(trained['dev_loss']):.3f}", flush=True)
    dev = {
        f"{alpha:g}": compared(
            {"beam": _written(seed, data.dev, beams=_BEAMS, alpha=alpha)}, data.dev.written
        )["beam"]["bleu"]
        for alpha in _ALPHAS
    }
    best = max(_ALPHAS, key=lambda alpha: float(dev[f"{alpha:g}"]))
    greedy = _written(seed, data.test)
    beam = _written(seed, data.test, beams=_BEAMS, alpha=best)
    test = compared({"greedy": greedy, "beam": beam, "copied": data.test.read}, data.test.written)
    print(f"BLEU {test['greedy']['bleu']:.1f}, beam {test['beam']['bleu']:.1f}", flush=True)
    ours = load_set("multi30k", "embedded", split="test", quiet=True)
    own = make_pairs(data.tokenizer, list(ours["en"]), list(ours["de"]))
    examples = [
        {"read": read, "written": text, "reference": reference}
        for read, text, reference in zip(own.read, _written(seed, own), own.written, strict=True)
    ]
    metrics = {**trained, "dev": dev, "alpha": best, "test": test, "examples": examples}
    given = {"seed": seed, "vocabulary": len(data.tokenizer), "beams": _BEAMS} | vars(settings)
    return Made(metrics, given, data.about, float(trained["seconds"]))


def _by_k(seed: int) -> Made:
    """BLEU against k, by every way; on test, and on dev, where a k may be chosen."""
    data, (_, tokenizer) = _data(), translator(seed)
    search, seen = chosen_search(seed), _seen()

    def systems(pairs: Pairs, ways: Sequence[str], **how: Any) -> dict[str, list[str]]:
        found = {"all": _written(seed, pairs, **how)}
        found["seen"] = _written(seed, pairs, chosen=[seen] * len(pairs.sources), **how)
        for way in ways:
            for k in _ks():
                types = _types(way, k, pairs.sources, seed)
                found[f"{way}-{k}"] = _written(seed, pairs, chosen=types, **how)
        return found

    dev = compared(systems(data.dev, ("both",)), data.dev.written)
    texts = systems(data.test, WAYS)
    beams = systems(data.test, ("both",), **search)
    same = {
        name: float(np.mean([a == b for a, b in zip(some, texts["all"], strict=True)]))
        for name, some in texts.items()
    }
    ours = load_set("multi30k", "embedded", split="test", quiet=True)
    own = make_pairs(data.tokenizer, list(ours["en"]), list(ours["de"]))
    examples = {
        name: _written(seed, own, chosen=None if k is None else _types("both", k, own.sources))
        for name, k in {"all": None, **{str(k): k for k in _ks()}}.items()
    }
    whole = dev["all"]["bleu"]
    enough = [k for k in _ks() if dev[f"both-{k}"]["bleu"] >= whole - 0.1]
    metrics = {
        "greedy": compared(texts, data.test.written), "beam": compared(beams, data.test.written),
        "dev": dev, "same": same, "enough": enough[0] if enough else None, "examples": examples,
    }  # fmt: skip
    settings = {"seed": seed, "common": chosen_common(), "types": len(tokenizer), "seen": len(seen), **search}
    return Made(metrics, settings, data.about)


def _speed() -> Made:
    """Captions a second by k, one at a time and 64 at a time; and which part takes how much of it."""
    data, (model, tokenizer) = _data(), translator(0)
    metrics = {
        f"batch-{size['batch']}-beams-{beams}": _raced(
            model, data.test.sources[: size["sentences"]], beams, size["batch"]
        )
        for beams in (1, _BEAMS)
        for size in _SPEED
    }
    settings = {
        "seed": 0, "rounds": _ROUNDS, "sizes": [dict(size) for size in _SPEED], "types": len(tokenizer),
        "hidden_size": model.config.d_model, "layers": model.config.decoder_layers,
        "threads": torch.get_num_threads(), "dtype": "float32",
    }  # fmt: skip
    return Made(metrics, settings, data.about)


def _raced(model: Any, sources: Sequence[Sequence[int]], beams: int, batch: int) -> dict[str, Row]:
    """Each k in turns with all types; choosing the types counts."""
    calls: dict[str, tuple[int | None, bool]] = {"all": (None, False)}
    for k in (k for k in _SPEED_KS if k in _ks()):
        calls[str(k)] = (k, False)
        if batch > 1:
            calls[f"{k} shared"] = (k, True)

    def write(k: int | None, shared: bool, spent: dict[str, float]) -> None:
        begun = time.perf_counter()
        types = None if k is None else _types("both", k, sources)
        spent["choosing"] = time.perf_counter() - begun
        translate(model, sources, beams=beams, chosen=types, shared=shared, batch_size=batch, spent=spent)
        spent["whole"] = time.perf_counter() - begun

    write(None, False, {})  # the first call is slower
    times = in_turns({name: partial(write, *given, {}) for name, given in calls.items()}, _ROUNDS)
    found: dict[str, Row] = {}
    for name, given in calls.items():
        spent: dict[str, float] = {}
        write(*given, spent)
        whole, median = spent.pop("whole"), float(np.median(times[name]))
        found[name] = {
            "seconds": times[name], "per_second": len(sources) / median,
            "times_faster": float(np.median(times["all"])) / median,
            "shares": {part: value / whole for part, value in spent.items()},
        }  # fmt: skip
    return found


def _read_counts() -> np.ndarray:
    data = _data()
    return np.bincount(np.concatenate(data.train.sources), minlength=len(data.tokenizer))


def _cut(sources: Sequence[Sequence[int]], share: float, rule: str, seed: int) -> list[list[int]]:
    counts = _read_counts()
    return [shorten(source, share, rule, counts, seed=seed) for source in sources]


def _sources(seed: int) -> Made:
    """Sources cut short by every rule: BLEU, time, and how many words had lost what they come from."""
    data, counts = _data(), _read_counts()
    systems = {"all": _written(seed, data.test)}
    seconds: dict[str, float] = {}
    for rule in RULES:
        for share in SHARES:
            name, short = f"{rule}-{share:g}", _cut(data.test.sources, share, rule, seed)
            begun = time.perf_counter()
            systems[name] = _written(seed, data.test, short)
            seconds[name] = time.perf_counter() - begun
    begun = time.perf_counter()
    systems["all"] = _written(seed, data.test)
    seconds["all"] = time.perf_counter() - begun
    metrics = {
        "test": compared(systems, data.test.written), "seconds": seconds,
        "orphans": {name: _orphans(name, counts, seed) for name in systems if name != "all"},
    }  # fmt: skip
    return Made(metrics, {"seed": seed, "shares": list(SHARES), "rules": list(RULES)}, data.about)


def _orphans(name: str, counts: np.ndarray, seed: int) -> float:
    """The share of the words that people wrote whose likeliest origin was dropped from the source."""
    lexicon, pairs = _lexicon(), _data().test
    rule, share = name.rsplit("-", 1)
    lost = total = 0
    for source, target in zip(pairs.sources, pairs.targets, strict=True):
        kept = {-1, *kept_places(source, float(share), rule, counts, seed=seed)}
        lost += sum(place not in kept for place in alignment(lexicon, source, target))
        total += len(target)
    return lost / total


def _short() -> Made:
    """A model that was trained on shortened sources, so that it has met such texts."""
    data, settings = _data(), TranslatorSettings()
    rule, share = _SHORT
    cut = {
        name: pairs._replace(sources=_cut(pairs.sources, share, rule, 0))
        for name, pairs in (("train", data.train), ("dev", data.dev), ("test", data.test))
    }
    folder = _ROOT / "short-s0"
    trained = train_translator(
        folder, data.tokenizer, cut["train"], cut["dev"], settings=settings, quiet=True
    )
    model, tokenizer = load_translator(folder)
    model = model.to(records.device_kind())
    texts = {
        "all": _written(0, data.test), "untrained": _written(0, data.test, cut["test"].sources),
        "trained": texts_of(tokenizer, translate(model, cut["test"].sources)),
    }  # fmt: skip
    metrics = {**trained, "test": compared(texts, data.test.written)}
    given = {"seed": 0, "rule": rule, "share": share} | vars(settings)
    return Made(metrics, given, data.about, float(trained["seconds"]))
