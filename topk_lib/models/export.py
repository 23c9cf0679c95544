"""A selecting model as an ONNX file: the choice of tokens is part of the graph."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from topk_lib.models.classifier import TopKForSequenceClassification
from topk_lib.models.loading import errors_only

__all__ = ["export_onnx"]

_OPSET = 18


def export_onnx(
    model: TopKForSequenceClassification, tokenizer: Any, path: str | Path, *, max_length: int | None = None
) -> Path:
    """Write a model as ONNX, to be run without PyTorch.

    The graph takes ``input_ids`` and ``attention_mask``, (batch, length) int64 of any batch and length, and
    ``token_type_ids`` likewise where the encoder tells two texts apart by them; it
    gives ``logits`` (batch, labels) and ``kept`` (batch, k): always k wide, with -1 in spare slots.
    What it keeps is what the model keeps, ties included. It raises nothing: of a text with more
    than k special tokens it keeps the first k of them.

    Beside OUT.onnx it writes OUT.tokenizer.json for ``tokenizers.Tokenizer.from_file``, which pads and cuts
    the texts as they should be; weights over 1.5 GB stand in OUT.onnx.data. All are written in a folder
    beside and then moved: what stood there before stays until the new ones are whole.

    Args:
        model: with a fitted selector; left as it was.
        tokenizer: the model's.
        path: of the file to write; its folder is made if need be.
        max_length: tokens of a text that the selector sees; None: the model's own ``max_length``.

    Raises:
        OSError: nothing can be written there.
        ImportError: onnx and onnxscript are not installed.
        RuntimeError: the selector has not been fitted.
        ValueError: what the model does depends on the batch, or has no form in ONNX.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("export needs onnx and onnxscript: pip install 'topk-lib[onnx]'") from None
    _check(model)
    path = Path(path)
    for taken in (path, path.parent / f"{path.stem}.tokenizer.json"):
        if taken.is_dir():
            raise IsADirectoryError(f"{taken} is a folder: name the file to write, as {taken / 'model.onnx'}")
    max_length = model.config.max_length if max_length is None else max_length
    cut = max_length is not None
    texts = ["Hardly a dull minute.", "Dull."]
    example = tokenizer(texts, padding=True, truncation=cut, max_length=max_length, return_tensors="pt")
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in example and model.reads_token_types:
        names.append("token_type_ids")
    inputs = {name: example[name].to(model.device) for name in names}
    model.select(**inputs)  # a graph raises nothing, such as that the selector is not fitted
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as beside:
            fresh = Path(beside) / path.name
            large = sum(p.numel() * p.element_size() for p in model.parameters()) > 1.5e9
            _graph(model, inputs).save(fresh, external_data=large)
            # It holds the padding and the truncation of its last call, that above.
            fresh.with_suffix(".tokenizer.json").write_text(
                tokenizer.backend_tokenizer.to_str(pretty=True), encoding="utf-8"
            )
            for file in sorted(Path(beside).iterdir(), key=lambda p: p.name == path.name):  # the graph last
                file.replace(path.parent / file.name)
    except OSError as error:
        raise OSError(
            f"could not write {path} ({error.strerror or error}); what was there is as it was: free some "
            "space, or name another file"
        ) from error
    return path


def _graph(model: TopKForSequenceClassification, inputs: dict[str, torch.Tensor]) -> Any:
    # PyTorch would have the graph of tfidf begin at 3 tokens; in ONNX it holds for fewer too.
    any_size = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=3)}
    training = model.training
    model.eval()
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), errors_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, any_size))
            return torch.onnx.export(
                graph,
                output_names=["logits", "kept"],
                dynamic_shapes={key: {0: "batch", 1: "length"} for key in inputs},  # their names
                custom_translation_table={torch.ops.topk_lib.choose.default: _choose},
                opset_version=_OPSET,
                verbose=False,
            )
    except RuntimeError as error:
        raise ValueError(
            f"a {type(model.encoder).__name__} with the {model.selector.name} selector has no form in ONNX: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    finally:
        log.setLevel(level)
        model.train(training)


def _check(model: TopKForSequenceClassification) -> None:
    if not isinstance(model, TopKForSequenceClassification):
        raise TypeError(f"model must be a TopKForSequenceClassification, got {type(model).__name__}")
    if model.config.spend == "batch":
        raise ValueError(
            'with spend="batch" what is kept of a text depends on its batch: ONNX export needs spend="text"'
        )
    if model.config.keep_after:
        raise ValueError("a model with keep_after, which drops tokens inside the encoder, has no ONNX export")


def _choose(
    flat: Any, width: int, per_row: Any = None, ok: Any = None, largest: bool = True
) -> tuple[Any, Any]:
    """The operator ``topk_lib::choose`` in ONNX; scores are float32, and none is NaN.

    ONNX's TopK gives the lower index first where values are equal, as our choice does.
    """
    from onnxscript import opset18 as op

    if not largest:
        flat = op.Neg(flat)
    if ok is not None:  # a real score of -inf stays above padding
        lowest = op.Constant(value_float=torch.finfo(torch.float32).min)
        flat = op.Where(ok, op.Max(flat, lowest), op.Constant(value_float=-torch.inf))
    k = op.Constant(value_ints=[width])
    _, ranked = op.TopK(flat, k)
    used = op.Greater(op.GatherElements(flat, ranked, axis=1), op.Constant(value_float=-torch.inf))
    if per_row is not None:
        rank = op.Constant(value_ints=list(range(width)))
        used = op.And(used, op.Less(rank, op.Unsqueeze(per_row, op.Constant(value_ints=[1]))))
    spare = op.Shape(flat, start=1, end=2)  # beyond every index, so that it is sorted last
    places, _ = op.TopK(op.Where(used, ranked, spare), k, largest=0)
    indices = op.Where(op.Less(places, spare), places, op.Constant(value_ints=[-1]))
    nothing = op.Expand(op.Constant(value_ints=[0]), op.Shape(flat))
    mask = op.ScatterElements(nothing, ranked, op.Cast(used, to=7), axis=1)  # 7: int64
    return indices, op.Cast(mask, to=9)  # 9: bool
