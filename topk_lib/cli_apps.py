"""The commands of the three products: ``topk-lib app support``, ``monitor``, ``recommend`` and ``serve``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topk_lib.cli_base import AsJson, Texts, lines_of, one_sentence

if TYPE_CHECKING:
    from topk_lib.apps.recommend import Recommender
    from topk_lib.apps.store import Store

__all__ = ["apps"]

apps = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Three small products: support desk, monitor, recommender.",
)

Sets = Annotated[
    str | None,
    typer.Option(
        "--source",
        help='A folder that holds the sets, "hub" or "embedded". [default: TOPK_DATA, the hub, embedded]',
    ),
]
Tokens = Annotated[
    int | None, typer.Option(help="Tokens read of each text, special ones too. [default: all]")
]
Selector = Annotated[str, typer.Option(help="Which tokens, where not all are read.")]
Kept = Annotated[str | None, typer.Option("--store", help="An SQLite file for what happens.")]
KeepTexts = Annotated[
    bool, typer.Option("--keep-texts", help="Keep there, too, what people write and are answered.")
]


@apps.command()
def support(
    asked: Texts = None,
    source: Sets = None,
    head: Annotated[str, typer.Option(help="logistic, prototype, nearest, words or finetuned.")] = "logistic",
    examples: Annotated[
        int | None, typer.Option(help="Questions of each intent to learn from. [default: all]")
    ] = None,
    tokens: Tokens = None,
    selector: Selector = "tfidf",
    near: Annotated[int, typer.Option(help="Similar questions that are shown; they vote with nearest.")] = 3,
    wrong: Annotated[
        float, typer.Option(help="Of the answers given, at most this share may be wrong.")
    ] = 0.05,
    sure: Annotated[
        float | None, typer.Option(help="Guarantee that share with this probability. [default: no guarantee]")
    ] = None,
    seed: int = 0,
    folder: Annotated[str | None, typer.Option(help="For the model of the head finetuned.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure on the test questions instead.")
    ] = False,
    store: Kept = None,
    keep_texts: KeepTexts = False,
    as_json: AsJson = False,
) -> None:
    """Answer a bank's customers, or say that a person will; questions from arguments, or a line each."""
    with one_sentence():
        from topk_lib.apps.support import Desk, DeskSettings

        settings = DeskSettings(
            head=head, examples=examples, tokens=tokens, selector=selector, near=near, wrong=wrong, sure=sure,
            seed=seed,
        )  # fmt: skip
        desk = Desk(
            settings=settings, source=source, folder=folder, store=_store(store, keep_texts), quiet=as_json
        )
        if measure:
            found = desk.measure()
            _tell(found | {"data": desk.asked.told}, as_json, [
                f"accuracy {found['accuracy']:.1%} (the commonest intent {found['commonest']:.1%})",
                f"answers {found['answered']:.1%} of the questions that are its own, and hands on "
                f"{_share(found['outside_recall'])} of the others",
                f"wrong among its answers: {_share(found['wrong'])}",
                f"{found['milliseconds']:.1f} ms a question, {found['tokens']:.1f} tokens read of it",
            ])  # fmt: skip
            return
        for line in lines_of(asked):
            reply = desk([line])[0]
            _tell(reply._asdict() | {"question": line}, as_json, [reply.answer])


@apps.command()
def monitor(
    sentences: Annotated[
        list[str] | None, typer.Argument(help="Sentences to read; without any, a stream is replayed.")
    ] = None,
    source: Sets = None,
    head: Annotated[str, typer.Option(help="vectors or words.")] = "vectors",
    topics: Annotated[int, typer.Option(help="How many.")] = 5,
    tokens: Tokens = None,
    selector: Selector = "tfidf",
    rule: Annotated[str, typer.Option(help="e-detector, cusum or window.")] = "e-detector",
    false_alarm: Annotated[
        float, typer.Option(help="How probable an alarm may be while all is calm.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the replay.")] = 0,
    calm: Annotated[bool, typer.Option("--calm", help="Plant no surge.")] = False,
    replays: Annotated[
        int | None, typer.Option(help="Measure all rules on so many replays, and as many calm ones.")
    ] = None,
    store: Kept = None,
    as_json: AsJson = False,
) -> None:
    """Read financial news, or watch a stream of it in which a surge of bad news is planted."""
    with one_sentence():
        from topk_lib.apps.monitor import Monitor, MonitorSettings

        settings = MonitorSettings(head=head, topics=topics, tokens=tokens, selector=selector)
        found = Monitor(source, settings, quiet=as_json)
        for text, opinion in zip(sentences or [], found(sentences or []), strict=True):
            words = found.topic_names[opinion.topic]
            told = f"{opinion.polarity} ({opinion.probability:.0%}), of {', '.join(words)}: {text}"
            _tell(opinion._asdict() | {"words": words, "sentence": text}, as_json, [told])
        if replays is not None:
            rules = found.replays(replays, false_alarm=false_alarm)
            _tell(rules, as_json, [
                f"{name}: {one['false_alarms']:.1%} of the calm replays ring; {one['found']:.1%} of the "
                f"surges are found, the median after {_days(one['delay_days'])}"
                for name, one in rules.items()
            ])  # fmt: skip
        if sentences or replays is not None:
            return
        stream = found.replay(seed, surge=not calm)
        seen = found.watch(stream, rule, false_alarm=false_alarm)
        kept = _store(store, False)
        lines = [f"{len(stream.rows):,} sentences over {settings.days} days"]
        if stream.topic is not None:
            words = found.topic_names[stream.topic]
            lines.append(f"planted from day {stream.days[stream.start]} on: bad news of {', '.join(words)}")
        alarms: list[dict[str, Any]] = []
        for topic, place in seen.alarms.items():
            day, words = int(stream.days[place]), found.topic_names[topic]
            alarms.append({"day": day, "topic": topic, "words": words})
            lines.append(f"alarm on day {day}: {', '.join(words)}")
            lines += [f"  {text} ({p:.0%})" for text, p in found.evidence(stream, topic, place)]
            if kept is not None:
                kept.add("monitor", "alarm", {"seed": seed, "rule": rule, "day": day, "topic": topic})
        surge = None if stream.topic is None else {
            "topic": stream.topic, "day": int(stream.days[stream.start])
        }  # fmt: skip
        _tell({"surge": surge, "alarms": alarms}, as_json, lines if alarms else [*lines, "nothing rang"])


@apps.command()
def recommend(
    films: Annotated[
        list[str] | None, typer.Argument(help='Titles with stars, the latest last: "Some film (1999)=4.5".')
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help='A folder with ratings.csv, or "embedded". [default: TOPK_DATA, embedded]'),
    ] = None,
    way: Annotated[str, typer.Option(help="popular, neighbours, vectors, text, ids or both.")] = "both",
    k: Annotated[int, typer.Option("-k", help="How many to offer.")] = 10,
    seed: int = 0,
    folder: Annotated[
        str | None, typer.Option(help="Keep the recommender there, or take the one that is there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Offer films to who rated some; a title without stars counts as five."""
    with one_sentence():
        maker = _recommender(source, way, seed, folder, as_json)
        offers = maker.recommend([_rated(film) for film in films or []], k)
        told = [{"film": one.film, "title": one.title, "because": one.because} for one in offers]
        _tell({"offers": told}, as_json, [one.title for one in offers])


@apps.command()
def serve(
    names: Annotated[
        list[str] | None, typer.Argument(help="support, monitor, recommend. [default: all]")
    ] = None,
    source: Sets = None,
    ratings: Annotated[
        str | None, typer.Option(help='Of the recommender, a folder or "embedded". [default: as --source]')
    ] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    store: Kept = None,
    keep_texts: KeepTexts = False,
) -> None:
    """Show the products in a browser, from this machine alone."""
    with one_sentence():
        try:
            from topk_lib.apps.web import make_app
            from topk_lib.apps.web import serve as run
        except ImportError:
            raise ImportError("app serve needs FastAPI and others: pip install 'topk-lib[serve]'") from None
        wanted = names or ["support", "monitor", "recommend"]
        if unknown := [name for name in wanted if name not in ("support", "monitor", "recommend")]:
            raise ValueError(f"there is no product {unknown[0]!r}: choose of support, monitor, recommend")
        from topk_lib.apps.monitor import Monitor
        from topk_lib.apps.support import Desk

        kept = _store(store, keep_texts)
        films = ratings or (None if source == "hub" else source)
        makers: dict[str, Callable[[], Any]] = {
            "support": lambda: Desk(source=source, store=kept, quiet=False),
            "monitor": lambda: Monitor(source, quiet=False),
            "recommend": lambda: _recommender(films, "both", 0, None, False),
        }
        made: dict[str, Any] = {}
        for name in wanted:
            print(f"{name}: learning (minutes, on a whole public set)", file=sys.stderr, flush=True)
            made[name] = makers[name]()
        app = make_app(
            desk=made.get("support"),
            monitor=made.get("monitor"),
            recommender=made.get("recommend"),
            store=kept,
        )
        run(app, host=host, port=port)


def _tell(found: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    print(json.dumps(found) if as_json else "\n".join(lines), flush=True)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _days(value: float | None) -> str:
    return "no time, for there is none" if value is None else f"{value:g} days"


def _store(path: str | None, keep_texts: bool) -> Store | None:
    from topk_lib.apps.store import Store

    if path is None and keep_texts:
        raise ValueError("--keep-texts says what the store keeps: name it with --store FILE")
    return None if path is None else Store(path, keep_texts=keep_texts)


def _recommender(source: str | None, way: str, seed: int, folder: str | None, quiet: bool) -> Recommender:
    from topk_lib.apps.recommend import Recommender, fit
    from topk_lib.data import load_ratings

    if folder is not None and Path(folder).is_dir() and any(Path(folder).iterdir()):
        return Recommender.load(folder)
    made = fit(load_ratings(source, quiet=quiet), way, seed=seed)
    if folder is not None:
        made.save(folder)
    return made


def _rated(film: str) -> tuple[str, float]:
    title, equals, stars = film.rpartition("=")
    try:
        return (title, float(stars)) if equals else (film, 5.0)
    except ValueError:
        return film, 5.0  # a title may hold one
