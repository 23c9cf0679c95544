"""Vocabulary selection: keep the k most useful token types of a model and of its tokenizer."""

from __future__ import annotations

import copy
import json
import string
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from transformers import PreTrainedModel

from topk_lib.models.loading import errors_only
from topk_lib.ops import hard_topk
from topk_lib.selectors.base import whole

__all__ = ["SelectedVocabulary", "Sizes", "select_vocabulary", "sizes"]

_ASCII = string.ascii_letters + string.digits + string.punctuation
_ONE_ID = ("_token_id", "_token_index")  # how the configurations' names of a token id end
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_SEQUENCES = ("bad_words_ids", "force_words_ids", "sequence_bias")


class Sizes(NamedTuple):
    """How large a model is; weights that are shared count once.

    Attributes:
        parameters: all parameters.
        embedding: those of the input embedding and, where it has its own weight, of the output head.
        bytes: of all weights: in memory, and in the saved file but for its header of some kilobytes.
    """

    parameters: int
    embedding: int
    bytes: int


class SelectedVocabulary(NamedTuple):
    """What :func:`select_vocabulary` returns.

    Attributes:
        model: a copy of the model, with k token types or, with ``rest="freeze"``, k trainable ones.
        tokenizer: a copy of the tokenizer that goes with it.
        kept: (k,) int64 on the CPU, ascending: the old id of each new id.
        before: the size of the model that was given.
        after: the size of the model that is returned.
    """

    model: Any
    tokenizer: Any
    kept: Tensor
    before: Sizes
    after: Sizes


def sizes(model: Any) -> Sizes:
    """Count the parameters and the bytes of a ``PreTrainedModel``."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {id(end.weight): end.weight for end in ends if end is not None}
    stored = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return Sizes(
        parameters=sum(weight.numel() for weight in model.parameters()),
        embedding=sum(weight.numel() for weight in tables.values()),
        bytes=sum(tensor.nbytes for tensor in stored.values()),
    )


def select_vocabulary(
    model: Any, tokenizer: Any, usefulness: Tensor, k: int, *, rest: str = "drop"
) -> SelectedVocabulary:
    """Keep the k most useful token types; drop or freeze the rest.

    With ``rest="drop"`` the copy has k token types: the rows of the input embedding, the weight
    and bias of the output head, every token id in the configurations and the tokenizer are cut
    and renumbered together, in the old order. A text all of whose tokens are kept (for WordPiece:
    none of them unknown) is split as before and gives the same logits; any other text is split
    into smaller pieces. Both copies can be saved and loaded as usual.

    Some types are kept whatever their usefulness, within the k: special and added tokens, ids
    that a configuration names, and

    - for WordPiece, the ASCII letters, digits and punctuation marks that stand in the vocabulary,
      with their continuing forms: no word of them turns into the unknown token, unless it already
      was. Other characters compete by usefulness.
    - for byte-level BPE, the 256 bytes: every text is split without loss. A token is merged from
      two parts, which must be kept with it (if merges differ, all their parts), so a part ranks
      as high as the best token it helps to make; only merges of kept tokens remain. The last
      slots may hold parts of the next token in line. The shorter of two equally useful tokens wins.

    With ``rest="freeze"`` the copy keeps all token types, but only the rows of the chosen k, in the
    input embedding and the output head alike, can be trained. The gradient of the other rows is set
    to zero, and since weight decay would move them all the same, they are put back after every step
    of any ``torch.optim`` optimizer that holds them, which needs a second copy of these rows. This
    lasts as long as the returned model: a saved or copied one has all its rows free again.

    Args:
        model: a ``PreTrainedModel`` with one input embedding; it stays as it is.
        tokenizer: its fast tokenizer, WordPiece or byte-level BPE; it stays as it is.
        usefulness: (vocabulary,) real: a score per row of the model's embedding, the higher the
            more useful, such as the counts of a corpus. Rows beyond the tokenizer are never kept.
        k: how many token types to keep.
        rest: "drop" or "freeze".

    Raises:
        TypeError: ``model`` is not a ``PreTrainedModel``, ``usefulness`` not a real tensor, ``k``
            not an int.
        ValueError: ``usefulness`` has the wrong shape or holds NaN, ``k`` is too small or too large
            (the message says the least and the largest k), an unknown ``rest``, another kind of
            tokenizer, or a model and a tokenizer that do not fit.

    Source: Abdaoui et al. (2020), "Load what you need", cut a multilingual model's embedding to the
    token types of one language in this way.
    """
    size, k = _check(model, usefulness, rest), whole("k", k)
    state = _tokenizer_state(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values()) >= size:
        raise ValueError(
            f"the tokenizer has the id {max(vocabulary.values())}, but the model only {size} rows: "
            "call model.resize_token_embeddings(len(tokenizer)) first"
        )
    pinned = _pinned(model, tokenizer, state, vocabulary)
    kept = _choose(state, vocabulary, pinned, usefulness, k)
    before = sizes(model)
    model, tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
    if rest == "freeze":
        _freeze_rows(model, kept)
    else:
        new_id = {old: new for new, old in enumerate(kept.tolist())}
        _shrink_model(model, kept, new_id)
        _shrink_tokenizer(tokenizer, state, new_id)
    return SelectedVocabulary(model, tokenizer, kept, before, sizes(model))


def _check(model: Any, usefulness: Tensor, rest: str) -> int:
    """Return the number of rows of the model's embedding."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a PreTrainedModel, got {type(model).__name__}")
    size = int(model.get_input_embeddings().weight.shape[0])
    stated = getattr(model.config.get_text_config(), "vocab_size", None)
    if stated != size:
        raise ValueError(
            f"the model's embedding has {size} rows, but its config.vocab_size is {stated}: where a model "
            "wraps another, select the vocabulary of that one first, then wrap it"
        )
    if rest not in ("drop", "freeze"):
        raise ValueError(f'rest must be "drop" or "freeze", got {rest!r}')
    if not isinstance(usefulness, Tensor) or usefulness.is_complex() or usefulness.dtype == torch.bool:
        got = usefulness.dtype if isinstance(usefulness, Tensor) else type(usefulness).__name__
        raise TypeError(f"usefulness must be a tensor of real numbers, got {got}")
    if usefulness.shape != (size,):
        raise ValueError(
            f"usefulness must have the shape ({size},), one score per row of the model's embedding, "
            f"got {tuple(usefulness.shape)}"
        )
    if usefulness.isnan().any():
        raise ValueError(f"usefulness is NaN for {int(usefulness.isnan().sum())} token types")
    return size


def _tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer's JSON, if it is of a kind that can be shrunk."""
    kind = "slow"
    if getattr(tokenizer, "is_fast", False):
        state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        kind, model = state["model"]["type"], state["model"]
        affixes = (model.get(x) for x in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"))
        bytewise = '"ByteLevel"' in json.dumps(state["pre_tokenizer"]) and not any(affixes)
        if kind == "WordPiece" or (kind == "BPE" and bytewise):
            return state
    raise ValueError(
        "vocabulary selection works with fast tokenizers of two kinds, WordPiece and byte-level BPE; "
        f"{type(tokenizer).__name__} is {kind}{' without bytes' if kind == 'BPE' else ''}"
    )


def _pinned(model: Any, tokenizer: Any, state: dict[str, Any], vocabulary: dict[str, int]) -> set[int]:
    """The ids that are kept whatever their usefulness."""
    if state["model"]["type"] == "BPE":
        tokens = ByteLevel.alphabet()
    else:
        prefix = state["model"]["continuing_subword_prefix"]
        tokens = [*_ASCII, *(prefix + character for character in _ASCII)]
    pinned = {vocabulary[token] for token in [*tokens, state["model"]["unk_token"]] if token in vocabulary}
    pinned |= {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    pinned |= {place[key] for place, key in _ids_in(state)}
    for config in _configs(model):
        for name, value in vars(config).items():
            if name.endswith(_ONE_ID) and value is not None:
                pinned |= set(value if isinstance(value, list) else [value])
    words = model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            pinned.add(module.padding_idx)
            if module.weight is not words:  # RoBERTa counts positions from the padding id: it must stay
                pinned |= set(range(module.padding_idx))
    return pinned & set(vocabulary.values())


def _choose(
    state: dict[str, Any], vocabulary: dict[str, int], pinned: set[int], usefulness: Tensor, k: int
) -> Tensor:
    """The ids to keep, (k,) int64, ascending: the pinned ones and the most useful of the others."""
    types = set(vocabulary.values())
    scores = usefulness.detach().to("cpu", torch.float64).tolist()
    rank = list(range(len(scores)))  # the order in which ties are broken
    if state["model"]["type"] == "BPE":
        length = dict.fromkeys(rank, 0) | {i: len(token) for token, i in vocabulary.items()}
        rank.sort(key=length.__getitem__)  # parts come before what is made of them
        merges = [(vocabulary[a + b], vocabulary[a], vocabulary[b]) for a, b in state["model"]["merges"]]
        for whole, *parts in sorted(merges, key=lambda merge: -length[merge[0]]):
            for part in parts:
                scores[part] = max(scores[part], scores[whole])
            if whole in pinned:
                pinned = pinned.union(parts)
    if not max(len(pinned), 1) <= k <= len(types):
        raise ValueError(
            f"k must lie in {max(len(pinned), 1)}..{len(types)}, got {k}: the least k holds what every "
            "text may need (special tokens, characters or bytes), the largest all the tokenizer's types"
        )
    order = torch.tensor(rank)
    free = torch.zeros(len(scores), dtype=torch.bool)
    free[list(types - pinned)] = True
    best = hard_topk(
        torch.tensor(scores, dtype=torch.float64)[order], k - len(pinned), valid=free[order]
    ).indices
    return torch.cat([order[best], torch.tensor(sorted(pinned), dtype=torch.int64)]).sort().values


def _configs(model: Any) -> list[Any]:
    """The configurations that name token ids, each once."""
    found = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    return list({id(config): config for config in found if config is not None}.values())


def _ids_in(state: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Where token ids stand in a tokenizer's JSON, apart from its vocabulary: (container, key)."""
    if state["padding"]:
        yield state["padding"], "pad_id"
    processors = [state["post_processor"]] if state["post_processor"] else []
    for processor in processors:
        processors += processor.get("processors", [])  # Sequence
        for name in ("sep", "cls"):  # BertProcessing, RobertaProcessing
            if name in processor:
                yield processor[name], 1
        for special in processor.get("special_tokens", {}).values():  # TemplateProcessing
            yield from ((special["ids"], i) for i in range(len(special["ids"])))


def _by_token_type(model: Any) -> dict[str, tuple[Tensor, int]]:
    """The parameters and buffers with an entry per token type, and the dimension of these entries.

    They are those that are one longer in a model without weights whose vocabulary is one larger.
    """
    config = copy.deepcopy(model.config)
    size = config.get_text_config().vocab_size
    config.get_text_config().vocab_size = size + 1
    with errors_only(), torch.device("meta"):
        larger = {name: tensor.shape for name, tensor in type(model)(config).state_dict().items()}
    return {
        name: (tensor, dim)
        for name, tensor in model.state_dict(keep_vars=True).items()
        for dim, length in enumerate(larger.get(name, ()))
        if length == size + 1 and tensor.shape[dim] == size
    }


def _shrink_model(model: Any, kept: Tensor, new_id: dict[int, int]) -> None:
    """Cut every tensor with an entry per token type down to ``kept``, and renumber ids, in place."""
    old_size = model.config.get_text_config().vocab_size
    shrunk: dict[int, Tensor] = {}  # by the identity of the old one: what is shared stays shared
    for name, (old, dim) in _by_token_type(model).items():
        if id(old) not in shrunk:
            new = old.detach().index_select(dim, kept.to(old.device))
            shrunk[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, attribute, shrunk[id(old)])
        for length in ("num_embeddings", "out_features"):
            if getattr(module, length, None) == old_size:
                setattr(module, length, len(kept))
    for module in model.modules():
        if getattr(module, "vocab_size", None) == old_size:
            module.vocab_size = len(kept)
        if getattr(module, "padding_idx", None) is not None:
            module.padding_idx = new_id.get(module.padding_idx, module.padding_idx)
    for config in _configs(model):
        _renumber(config, new_id)
    model.config.get_text_config().vocab_size = len(kept)


def _renumber(config: Any, new_id: dict[int, int]) -> None:
    """Give a configuration the new ids; an id that names no token of the tokenizer is unset."""
    for name, value in list(vars(config).items()):
        if name in _SEQUENCES and value is not None:
            raise ValueError(
                f"{type(config).__name__}.{name} spells out token ids, which may be gone: "
                "set it to None, and set it again with the new tokenizer"
            )
        if value is None or not (name.endswith(_ONE_ID) or name in _SUPPRESSED):
            continue
        new = [new_id[i] for i in value if i in new_id] if isinstance(value, list) else new_id.get(value)
        setattr(config, name, new)


def _shrink_tokenizer(tokenizer: Any, state: dict[str, Any], new_id: dict[int, int]) -> None:
    """Give the tokenizer the vocabulary, merges and ids of the kept types, in place."""
    expected = {token: new_id[i] for token, i in tokenizer.get_vocab().items() if i in new_id}
    model = state["model"]
    model["vocab"] = {token: new_id[i] for token, i in model["vocab"].items() if i in new_id}
    if "merges" in model:
        model["merges"] = [[a, b] for a, b in model["merges"] if {a, b, a + b} <= model["vocab"].keys()]
    for added in state["added_tokens"]:
        added["id"] = new_id[added["id"]]
    for place, key in _ids_in(state):
        place[key] = new_id[place[key]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    if tokenizer.get_vocab() != expected:
        raise ValueError(f"the added tokens of this {type(tokenizer).__name__} cannot be renumbered")
    # What the Python class remembers of its making would bring the old vocabulary back.
    for remembered in (vars(tokenizer), tokenizer.init_kwargs):
        remembered.update({name: model[name[1:]] for name in ("_vocab", "_merges") if name in remembered})
        for name in ("vocab", "merges", "vocab_file", "merges_file", "tokenizer_file"):
            remembered.pop(name, None)
    if "added_tokens_decoder" in tokenizer.init_kwargs:
        tokenizer.init_kwargs["added_tokens_decoder"] = tokenizer.added_tokens_decoder


def _freeze_rows(model: Any, kept: Tensor) -> None:
    """Let training change only the rows ``kept`` of the parameters with a row per token type."""
    free = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool)
    free[kept] = True
    rest = (~free).nonzero().squeeze(-1)
    each = {id(tensor): (tensor, dim) for tensor, dim in _by_token_type(model).values()}
    for parameter, dim in each.values():
        if parameter.requires_grad:
            _freeze(parameter, dim, rest)


def _freeze(parameter: Tensor, dim: int, rest: Tensor) -> None:
    rows = parameter.detach().index_select(dim, rest.to(parameter.device))
    parameter.register_hook(  # type: ignore[no-untyped-call]
        lambda grad: grad.index_fill(dim, rest.to(grad.device), 0)
    )
    alive = weakref.ref(parameter)

    def put_back(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        held = alive()
        if held is not None and any(held is p for group in optimizer.param_groups for p in group["params"]):
            with torch.no_grad():
                held.index_copy_(dim, rest.to(held.device), rows.to(held))

    weakref.finalize(parameter, register_optimizer_step_post_hook(put_back).remove)
