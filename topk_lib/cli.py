"""The ``topk-lib`` command."""

from __future__ import annotations

import json
import os
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import topk_lib
from topk_lib import cli_apps, cli_course, cli_serving, studies
from topk_lib.cli_base import AsJson, Folder, Source, Texts, lines_of, one_sentence

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # it would take what stands in [brackets] for a style
)

# Of selector_names(); to ask for them would import PyTorch, which takes seconds before any help is shown.
SELECTORS = (
    "first", "last", "head_tail", "random", "tfidf", "frequency", "tfidf_corpus", "chi2",
    "mutual_information", "linear", "distinct", "keep_negation", "embedding", "gate", "taught",
    "distilled", "contextual", "history",
)  # fmt: skip
SelectorName = Enum("SelectorName", {name: name for name in SELECTORS}, type=str)  # type: ignore[misc]
FIRST = SelectorName("first")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"topk-lib {topk_lib.__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Top-k token selection in large language models."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@app.command()
def finetune(
    output: Annotated[str, typer.Argument(help="Folder for the model. The same command resumes.")],
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
        typer.Option(help="For taught, distilled and contextual: the folder of a fine-tuned model."),
    ] = None,
    marks: Annotated[
        str, typer.Option(help="Of the teacher: slopes; pieces, which it reads whole; or left_out (dear).")
    ] = "slopes",
    once: Annotated[
        bool, typer.Option("--once", help="With a teacher: copies of a token come last.")
    ] = False,
    keep_after: Annotated[
        str | None, typer.Option(help='Drop tokens inside the encoder: "2:48,4:16" is layer:tokens.')
    ] = None,
    n_train: Annotated[int | None, typer.Option(help="Draw so many reviews. [default: all]")] = None,
    n_eval: Annotated[int | None, typer.Option(help="Draw so many reviews. [default: all]")] = None,
    evaluate_on: Annotated[str, typer.Option(help="test, or dev to choose settings.")] = "test",
    lora: Annotated[
        int | None, typer.Option(help="Train only products of this rank beside the weights (and the head).")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop when so many checkpoints in a row were no better on dev.")
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(help="First so many trials on the dev split, to choose learning rate and batch size."),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(help="Write results/EXPERIMENT/RUN.DEVICE.json: give EXPERIMENT/RUN."),
    ] = None,
    quiet: bool = False,
    as_json: AsJson = False,
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
        "marks": marks,
        "once": once,
        "keep_after": keep_after,
        "n_train": n_train,
        "n_eval": n_eval,
        "evaluate_on": evaluate_on,
        "lora": lora,
        "patience": patience,
        "quiet": quiet or as_json,
    }
    with one_sentence():
        if record is not None:
            if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.=-]*", record):
                raise ValueError(f"--record must look like EXPERIMENT/RUN, got {record!r}")
            records.results_folder()
        if search is not None:
            best = training.search(output, search, **options)
            options |= best
            if not as_json:
                print("best on dev: " + ", ".join(f"{name} {value:.3g}" for name, value in best.items()))
        result = training.finetune(output, **options)
        if int(os.environ.get("RANK", "0")):
            return
        path = None
        if record is not None:
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
        if as_json:
            told = {"folder": str(output), "settings": result.settings, "data": result.data}
            print(json.dumps(result.metrics | told | {"seconds": result.seconds}))
            return
        print(training.as_text(result.metrics))
        print(f"model, tokenizer and selector are in {output}")
        if path:
            print(f"recorded in results/{path.parent.name}/{path.name}")


@app.command()
def pretrain(
    output: Annotated[str, typer.Argument(help="Folder for the run. The same command resumes.")],
    source: Annotated[
        str | None,
        typer.Option(
            help='Texts: a folder, a .txt file with a text on each line, "hub" or "embedded". '
            "[default: TOPK_IMDB, the hub, embedded]"
        ),
    ] = None,
    splits: Annotated[
        str | None, typer.Option(help='As "train,unsupervised". [default: all but test and dev]')
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Folder for the token ids, to share. [default: in OUTPUT]")
    ] = None,
    objective: Annotated[str, typer.Option(help="masked, or causal.")] = "masked",
    start: Annotated[str | None, typer.Option(help="A model to train further: hub name or folder.")] = None,
    steps: Annotated[int | None, typer.Option(help="How long: steps,")] = None,
    minutes: Annotated[float | None, typer.Option(help="or minutes of processor time.")] = None,
    snapshots: Annotated[str | None, typer.Option(help='Save a model there, too: "0,1,3".')] = None,
    vocabulary: Annotated[int, typer.Option(help="Types of the tokenizer that is trained first.")] = 8192,
    hidden_size: int = 96,
    layers: int = 2,
    heads: int = 3,
    length: Annotated[int, typer.Option(help="Tokens of a block.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Blocks of a step, over all processes.")] = 16,
    learning_rate: float = 2e-3,
    warmup: Annotated[int, typer.Option(help="Steps over which the learning rate rises.")] = 100,
    decay: Annotated[float, typer.Option(help="Share of a run over which it falls.")] = 0.2,
    mask_rate: float = 0.15,
    held_out: Annotated[int, typer.Option(help="Texts to measure on.")] = 1000,
    seed: int = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    shard: Annotated[bool, typer.Option("--shard", help="Processes share the model (FSDP).")] = False,
    quiet: bool = False,
    as_json: AsJson = False,
) -> None:
    """Pretrain a small model from nothing on texts without labels, or an encoder further."""
    from topk_lib import training

    options: dict[str, Any] = {
        "objective": objective,
        "start": start,
        "steps": steps,
        "minutes": minutes,
        "snapshots": snapshots,
        "vocabulary": vocabulary,
        "hidden_size": hidden_size,
        "layers": layers,
        "heads": heads,
        "length": length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "decay": decay,
        "mask_rate": mask_rate,
        "held_out": held_out,
        "seed": seed,
        "precision": precision,
        "shard": shard,
    }
    with one_sentence():
        result = training.pretrain(
            output,
            source=source,
            splits=None if splits is None else tuple(part.strip() for part in splits.split(",")),
            corpus=corpus,
            quiet=quiet or as_json,
            **options,
        )
        if int(os.environ.get("RANK", "0")):
            return
        if as_json:
            told = {"folder": str(result.folder), "settings": result.settings, "data": result.data}
            print(json.dumps(result.metrics | told))
            return
        m = result.metrics
        print(f"held-out loss {m['loss']:.3f} after {m['steps']:,} steps and {m['tokens']:,} tokens")
        print(f"model and tokenizer are in {result.folder}")


@app.command()
def evaluate(
    folder: Folder,
    source: Source = None,
    split: str = "test",
    n: Annotated[int | None, typer.Option(help="Draw so many reviews. [default: all]")] = None,
    quiet: bool = False,
    as_json: AsJson = False,
) -> None:
    """Measure a fine-tuned model on labelled reviews."""
    from topk_lib import training

    with one_sentence():
        metrics = training.evaluate(folder, source=source, split=split, n=n, quiet=quiet or as_json)
        if as_json:
            print(json.dumps(metrics))
        else:
            print(training.as_text(metrics))


app.command()(cli_serving.predict)
app.command()(cli_serving.serve)


@app.command()
def explain(folder: Folder, texts: Texts = None) -> None:
    """Print each text with what the model read of it marked: [like this] where there is no terminal."""
    from rich.console import Console
    from rich.text import Text

    from topk_lib import training

    with one_sentence():
        model, tokenizer, max_length = training.load_model(folder)
        console = Console(highlight=False, markup=False, soft_wrap=True)
        for text in lines_of(texts):
            found = training.explain(model, tokenizer, text, max_length=max_length)
            answer = f"{found.answer}, {found.read} of {found.tokens} tokens read"
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
    output: Annotated[str, typer.Argument(help="The ONNX file; OUTPUT.tokenizer.json goes beside it.")],
) -> None:
    """Write a fine-tuned model, with its choice of tokens, as ONNX."""
    with one_sentence():
        _check_target(output)  # before what takes long
        from topk_lib import models, training

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
    with one_sentence():
        failed = studies.run(name, only=only, list_only=list_only, n_train=n_train)
    if failed:
        typer.secho(f"topk-lib: {len(failed)} runs failed: {', '.join(failed)}", fg="red", err=True)
        raise typer.Exit(1)


app.command()(cli_course.grade)
app.command()(cli_course.coursework)
app.add_typer(cli_apps.apps, name="app")


def _check_target(output: str) -> None:
    path = Path(output)
    if not output.strip() or path.is_dir():
        raise ValueError(f"{output!r} is no name for a file: name the ONNX file, such as model.onnx")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"nothing can be written to {above}: name another place for the ONNX file")


if __name__ == "__main__":
    app()
