"""The ``topk-lib`` command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from topk_lib import studies
from topk_lib.selectors import selector_names

app = typer.Typer(
    help="Top-k token selection in large language models.",
    no_args_is_help=True,
    add_completion=False,
)

SelectorName = Enum("SelectorName", {name: name for name in selector_names()}, type=str)  # type: ignore[misc]
FIRST = SelectorName("first")
Source = Annotated[
    str | None,
    typer.Option(help='A folder of reviews, "hub" or "embedded". [default: TOPK_IMDB, the hub, embedded]'),
]
Folder = Annotated[Path, typer.Argument(help="The output folder of topk-lib finetune.")]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts; without any, one a line from stdin.")]


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn the library's errors into one line on stderr and exit code 2."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        if os.environ.get("TOPK_TRACEBACK"):
            raise
        typer.secho(f"topk-lib: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


@app.command()
def finetune(
    output: Annotated[Path, typer.Argument(help="Folder for the model. The same command resumes.")],
    model: Annotated[
        str | None,
        typer.Option(help="A hub name (bert-base-cased) or a folder. [default: embedded MiniLM]"),
    ] = None,
    source: Source = None,
    selector: Annotated[SelectorName, typer.Option(help="Which tokens to read.")] = FIRST,
    k: Annotated[int, typer.Option(help="Tokens read of each review, [CLS] and [SEP] included.")] = 256,
    max_length: Annotated[int | None, typer.Option(help="Tokens the selector sees. [default: all]")] = None,
    epochs: float = 1.0,
    learning_rate: float = 5e-5,
    batch_size: Annotated[int, typer.Option(help="Over all processes.")] = 32,
    seed: int = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    share: Annotated[
        float | None, typer.Option(help="Read this share of each text, at most k tokens.")
    ] = None,
    spend: Annotated[str, typer.Option(help="text: each has its budget; batch: a batch shares.")] = "text",
    positions: Annotated[str, typer.Option(help="Of the tokens read: compact or original.")] = "compact",
    selector_learning_rate: Annotated[float, typer.Option(help="Where the selector is trained.")] = 1e-3,
    start_temperature: Annotated[float, typer.Option(help="Of such a selector's soft weights.")] = 0.3,
    final_temperature: Annotated[float, typer.Option(help="It cools down to this.")] = 0.03,
    teacher: Annotated[
        str | None,
        typer.Option(help="For taught and distilled: the folder of a fine-tuned model."),
    ] = None,
    keep_after: Annotated[
        str | None, typer.Option(help='Drop tokens inside the encoder: "2:48,4:16" is layer:tokens.')
    ] = None,
    n_train: Annotated[int | None, typer.Option(help="Draw so many reviews. [default: all]")] = None,
    n_eval: Annotated[int | None, typer.Option(help="Draw so many reviews. [default: all]")] = None,
    evaluate_on: Annotated[str, typer.Option(help="test, or dev to choose settings.")] = "test",
    search: Annotated[
        int | None,
        typer.Option(help="First so many trials on the dev split, to choose learning rate and batch size."),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(help="Write results/EXPERIMENT/RUN.DEVICE.json: give EXPERIMENT/RUN."),
    ] = None,
    quiet: bool = False,
) -> None:
    """Fine-tune an encoder on the k tokens of each review that a selector keeps."""
    from topk_lib import records, training

    options: dict[str, Any] = {
        "model": model,
        "source": source,
        "selector": selector.value,
        "k": k,
        "max_length": max_length,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "share": share,
        "spend": spend,
        "positions": positions,
        "selector_learning_rate": selector_learning_rate,
        "start_temperature": start_temperature,
        "final_temperature": final_temperature,
        "teacher": teacher,
        "keep_after": keep_after,
        "n_train": n_train,
        "n_eval": n_eval,
        "evaluate_on": evaluate_on,
        "quiet": quiet,
    }
    with _one_sentence():
        if record:
            if record.count("/") != 1:
                raise ValueError(f"--record must look like EXPERIMENT/RUN, got {record!r}")
            records.results_folder()
        if search is not None:
            best = training.search(output, search, **options)
            print("best on dev: " + ", ".join(f"{name} {value:.3g}" for name, value in best.items()))
            options |= best
        result = training.finetune(output, **options)
        if int(os.environ.get("RANK", "0")):
            return
        _report(result.metrics)
        print(f"model, tokenizer and selector are in {output}")
        if record:
            experiment, run = record.split("/")
            path = records.write(
                experiment,
                run,
                metrics=result.metrics | {"seconds": result.seconds},
                settings=result.settings,
                data=result.data,
                seconds=sum(result.seconds.values()),
                command=" ".join(["topk-lib", *sys.argv[1:]]),
            )
            print(f"recorded in results/{path.parent.name}/{path.name}")


@app.command()
def evaluate(
    folder: Folder,
    source: Source = None,
    split: str = "test",
    n: Annotated[int | None, typer.Option(help="Draw so many reviews. [default: all]")] = None,
    quiet: bool = False,
) -> None:
    """Measure a fine-tuned model on labelled reviews."""
    from topk_lib import training

    with _one_sentence():
        _report(training.evaluate(folder, source=source, split=split, n=n, quiet=quiet))


@app.command()
def predict(folder: Folder, texts: Texts = None) -> None:
    """Print each text's probability of being positive, one JSON object a line."""
    from topk_lib import training

    with _one_sentence():
        lines = list(_lines(texts))
        for text, probability in zip(lines, training.predict(folder, lines), strict=True):
            label = "positive" if probability >= 0.5 else "negative"
            print(json.dumps({"label": label, "positive": round(probability, 4), "text": text}))


@app.command()
def explain(folder: Folder, texts: Texts = None) -> None:
    """Print each text with what the model read of it marked: [like this] where there is no terminal."""
    from rich.console import Console
    from rich.text import Text

    from topk_lib import training

    with _one_sentence():
        model, tokenizer, max_length = training.load_model(folder)
        console = Console(highlight=False, markup=False, soft_wrap=True)
        for text in _lines(texts):
            found = training.explain(model, tokenizer, text, max_length=max_length)
            answer = f"{found.label} {found.probability:.1%}, {found.read} of {found.tokens} tokens read"
            if console.color_system is None:  # a terminal that cannot show styles is none either
                print(answer, found.marked(), sep="\n", end="\n\n", flush=True)
                continue
            shown = Text(text)
            for start, stop in found.spans:
                shown.stylize("bold reverse green", start, stop)
            console.print(answer, style="bold")
            console.print(shown, end="\n\n")


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The ONNX file; OUTPUT.tokenizer.json goes beside it.")],
) -> None:
    """Write a fine-tuned model, with its choice of tokens, as ONNX."""
    from topk_lib import models, training

    with _one_sentence():
        model, tokenizer, max_length = training.load_model(folder)
        path = models.export_onnx(model, tokenizer, output, max_length=max_length)
        print(f"wrote {path} and {path.with_suffix('.tokenizer.json').name}")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help=f"Which study: {', '.join(studies.names())}.")],
    only: Annotated[str, typer.Option(help="Only runs whose experiment/run contains this.")] = "",
    list_only: Annotated[bool, typer.Option("--list", help="Say what lacks a record; run nothing.")] = False,
    n_train: Annotated[
        int | None,
        typer.Option("--train", help="Training reviews a run, for imdb. [default: 4,000; on a GPU all]"),
    ] = None,
) -> None:
    """Make the runs of a study that have no record yet; the same command goes on."""
    with _one_sentence():
        failed = studies.run(name, only=only, list_only=list_only, n_train=n_train)
    if failed:
        typer.secho(f"topk-lib: {len(failed)} runs failed: {', '.join(failed)}", fg="red", err=True)
        raise typer.Exit(1)


def _lines(texts: list[str] | None) -> Iterator[str]:
    yield from texts if texts else (line.rstrip("\n") for line in sys.stdin if line.strip())


def _report(m: dict[str, Any]) -> None:
    print(f"accuracy {m['accuracy']:.2%} (95% interval {m['accuracy_low']:.2%} to {m['accuracy_high']:.2%})")
    print(f"{'':10}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}")
    for i, name in enumerate(("negative", "positive")):
        print(
            f"{name:10}{m['precision'][i]:10.3f}{m['recall'][i]:10.3f}{m['f1'][i]:10.3f}{m['support'][i]:10,}"
        )
    print(f"confusion (rows: label, columns: prediction): {m['confusion']}")


if __name__ == "__main__":
    app()
