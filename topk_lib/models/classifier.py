"""A selector and an encoder in one model: only k tokens of each text enter the encoder."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from topk_lib.models.loading import load_encoder
from topk_lib.models.presence import presence_mask
from topk_lib.models.pruning import TokenPruner
from topk_lib.ops import Selection, SoftTopK, soft_topk
from topk_lib.selectors import Selector, choose, is_special, make_selector, row_budgets
from topk_lib.selectors.gate import HistorySelector
from topk_lib.selectors.position import token_positions

__all__ = ["TopKConfig", "TopKForSequenceClassification", "TopKOutput"]

POSITIONS = ("compact", "original")
_OPTIONS = (
    "share", "spend", "positions", "link", "start_temperature", "final_temperature", "keep_after", "keep_by",
)  # fmt: skip


class TopKConfig(PreTrainedConfig):  # type: ignore[misc]
    """What :class:`TopKForSequenceClassification` is made of; see there."""

    model_type = "topk"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        selector: dict[str, Any] | None = None,
        k: int = 64,
        share: float | None = None,
        spend: str = "text",
        positions: str = "compact",
        link: str = "sigmoid",
        start_temperature: float = 0.3,
        final_temperature: float = 0.03,
        special_ids: Sequence[int] = (),
        keep_after: dict[str, int] | None = None,
        keep_by: str = "attention",
        **kwargs: Any,
    ) -> None:
        if encoder is None:
            encoder = {"model_type": "bert"}
        inner: Any = AutoConfig.for_model(**encoder) if isinstance(encoder, dict) else encoder
        self.encoder = inner
        self.selector = selector or {"name": "first"}
        self.k, self.share, self.spend, self.positions = k, share, spend, positions
        self.link, self.start_temperature, self.final_temperature = link, start_temperature, final_temperature
        self.special_ids = list(special_ids)
        self.keep_after = keep_after or {}  # JSON has strings for keys
        self.keep_by = keep_by
        kwargs.setdefault("num_labels", inner.num_labels)
        kwargs.setdefault("pad_token_id", inner.pad_token_id)
        super().__init__(**kwargs)


@dataclass
class TopKOutput(SequenceClassifierOutput):  # type: ignore[misc]
    """As ``SequenceClassifierOutput``, and what was read.

    Attributes:
        kept: (batch, k) int64, the positions of the tokens that the encoder read, ascending; -1 in
            spare slots.
    """

    kept: Tensor | None = None


class Reading(NamedTuple):
    """What the encoder is to read: all (batch, k)."""

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    weights: Tensor | None
    chosen: Selection
    token_type_ids: Tensor | None = None


class TopKForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """A text classifier that reads k tokens of each text, those that its selector scores highest.

    The texts are given whole, of any length. The selector scores their tokens; the k best (the
    special tokens always among them) are gathered, and the encoder runs on sequences of length k.
    Nothing is masked away: what is not chosen is not computed.

    A trainable selector (the gate) is trained through :func:`~topk_lib.ops.soft_topk`, straight-through:
    how far each chosen token is there (:func:`~topk_lib.models.presence.presence_mask`) has the value
    1 and the gradient of the soft weight. Noise of Gumbel's distribution, times the temperature, is added
    to the scores in training so that tokens near the edge get their chance. :meth:`anneal` cools the
    temperature. At inference the choice is hard and without noise.

    Build one with :meth:`from_encoder`; ``save_pretrained``, ``from_pretrained``, ``push_to_hub`` and
    ``pipeline("text-classification")`` work as usual (after ``import topk_lib.models``).
    """

    config_class = TopKConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is the mean of its batch
    _keep_in_fp32_modules_strict = ("selector",)
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: TopKConfig) -> None:
        super().__init__(config)
        self.encoder = AutoModelForSequenceClassification.from_config(config.encoder)
        self._build()
        self.post_init()

    def _build(self) -> None:
        config = self.config
        if config.positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {config.positions!r}")
        if config.k < 1:
            raise ValueError(f"k must be at least 1, got {config.k}")
        limit = self._most
        if limit is not None and config.k > limit:
            raise ValueError(f"k = {config.k} is more than the encoder reads: choose k <= {limit}")
        embedding = self.encoder.get_input_embeddings()
        self.selector = make_selector(**{"vocabulary": embedding.num_embeddings} | config.selector)
        self.selector.attach(embedding)
        self.soft = SoftTopK(
            config.k, config.start_temperature, final_temperature=config.final_temperature, link=config.link
        )
        self.pruner = (
            TokenPruner(self.encoder, {int(at): k for at, k in config.keep_after.items()}, by=config.keep_by)
            if config.keep_after
            else None
        )
        self._learns = False  # until presence was seen to work in this encoder
        self._takes = frozenset(inspect.signature(self.encoder.forward).parameters)
        if config.positions == "original" and "position_ids" not in self._takes:
            raise ValueError(
                f'{type(self.encoder).__name__} takes no position_ids: choose positions="compact"'
            )

    def _init_weights(self, module: Any) -> None:
        """All parts have drawn their own weights."""

    @classmethod
    def from_encoder(
        cls,
        name: str | Path | None = None,
        selector: str | Selector = "first",
        k: int = 64,
        *,
        seed: int = 0,
        attention_dropout: float | None = None,
        **options: Any,
    ) -> tuple[TopKForSequenceClassification, Any]:
        """Put a selector before a pretrained encoder.

        Args:
            name: hub name or folder of the encoder; None for the embedded default. Of a model of this
                class, its encoder is taken.
            selector: its name (``model.selector.fit`` comes next where it learns from texts), or
                a fitted one.
            k: tokens the encoder reads of each text, special tokens included.
            seed: of the selector.
            attention_dropout: see :func:`~topk_lib.models.load_encoder`.
            **options: further fields of the configuration:

                - ``share``, ``spend``: see :func:`~topk_lib.selectors.row_budgets`;
                - ``positions``: "compact" numbers the chosen tokens from 0; "original" leaves
                  each its place in the text (a text longer than the encoder's positions has
                  its places squeezed into them);
                - ``link``, ``start_temperature``, ``final_temperature``: of the soft weights;
                - ``keep_after``, ``keep_by``: drop tokens inside the encoder too, see
                  :class:`~topk_lib.models.TokenPruner`.

        Returns:
            The model and the tokenizer.

        Raises:
            OSError: no such encoder.
            ValueError, TypeError: an option that is none, or out of its range.
        """
        encoder, tokenizer = load_encoder(name, attention_dropout=attention_dropout)
        if isinstance(encoder, TopKForSequenceClassification):
            encoder = encoder.encoder
        if isinstance(selector, str):
            selector = make_selector(selector, seed=seed, vocabulary=encoder.config.vocab_size)
        for option in options:
            if option not in _OPTIONS:
                raise TypeError(f"no option {option!r}: choose from {', '.join(_OPTIONS)}")
        if keep := options.get("keep_after"):
            options["keep_after"] = {str(layer): int(size) for layer, size in keep.items()}
        config = TopKConfig(
            encoder=encoder.config,
            selector={"name": selector.name, "seed": selector.seed, **selector.options()},
            k=k,
            # Those around every text; an unknown character's [UNK] has to earn its place.
            special_ids=sorted(set(tokenizer("")["input_ids"])),
            id2label=encoder.config.id2label,
            label2id=encoder.config.label2id,
            **options,
        )
        model = cls(config)
        model.encoder.load_state_dict(encoder.state_dict())
        if selector.state_dict():
            model.selector = selector.attach(model.encoder.get_input_embeddings())
        return model, tokenizer

    def get_input_embeddings(self) -> Any:
        return self.encoder.get_input_embeddings()

    @property
    def _offset(self) -> int:
        """Where the positions of the encoder begin: RoBERTa and its kin leave out the first ones."""
        table = getattr(getattr(self.encoder.base_model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    @property
    def _most(self) -> int | None:
        most = getattr(self.config.encoder, "max_position_embeddings", None)
        return None if most is None else int(most) - self._offset

    def select(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Reading:
        """Choose what the encoder reads.

        Args:
            input_ids: (batch, length) int64.
            attention_mask: (batch, length), 1 for tokens; None: all.
            token_type_ids: (batch, length) int64, which of two texts a token is of; None: there is one.
        """
        config = self.config
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        learning = self.training and self.selector.trainable and torch.is_grad_enabled()
        real = attention_mask.bool()
        pinned = is_special(input_ids, config.special_ids) & real
        # Who types [SEP] sixty times into a text must not stop the batch.
        pinned &= pinned.cumsum(-1) <= max(config.k, len(config.special_ids))
        with torch.set_grad_enabled(learning):
            scores = self.selector.scores(input_ids, attention_mask)
            ranked = scores
            if learning:
                noise = -torch.empty_like(scores).exponential_().log()
                ranked = scores + self.soft.temperature * noise
            k = row_budgets(
                ranked.detach(), real, pinned, config.k,
                share=config.share, spend=config.spend, most=self._most,
            )  # fmt: skip
            chosen = choose(ranked.detach(), real, pinned, k, width=config.k)
            weights = self._weights(ranked, chosen, real & ~pinned) if learning else None
        filled = chosen.indices >= 0
        places = chosen.indices.clamp(min=0)
        ids = input_ids.gather(-1, places).masked_fill(~filled, config.pad_token_id or 0)
        types = None if token_type_ids is None else token_type_ids.gather(-1, places).masked_fill(~filled, 0)
        positions = self._positions(places, real)
        return Reading(ids, filled.to(attention_mask.dtype), positions, weights, chosen, types)

    def _weights(self, scores: Tensor, chosen: Selection, free: Tensor) -> Tensor:
        """(batch, k): of value 1, with the gradient of the soft weights."""
        slots = (chosen.mask & free).sum(-1)
        weights = soft_topk(
            scores, slots, self.soft.temperature, link=self.config.link, valid=free, hard=True
        )
        return weights.masked_fill(~free, 1.0).gather(-1, chosen.indices.clamp(min=0))

    def _positions(self, places: Tensor, real: Tensor) -> Tensor:
        if self.config.positions == "compact":
            places = torch.arange(places.shape[-1], device=places.device).expand_as(places)
            return places + self._offset
        places = token_positions(real).gather(-1, places)
        if (limit := self._most) is not None:
            length = real.sum(-1, keepdim=True)
            squeezed = (places * (limit - 1)).div((length - 1).clamp(min=1), rounding_mode="floor")
            places = torch.where(length > limit, squeezed, places)
        return places + self._offset

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool = True,
        **more: Any,
    ) -> TopKOutput | tuple[Tensor, ...]:
        """Classify.

        Args:
            input_ids: (batch, length) int64, the whole texts.
            attention_mask: (batch, length), 1 for tokens and 0 for padding; None: all are tokens.
            labels: (batch,) int64, for the loss.
            token_type_ids: (batch, length) int64, which of two texts a token is of; None: there is one.
            return_dict: False for a tuple.
            **more: ``output_hidden_states`` and ``output_attentions``, of the k tokens that are read.

        Returns:
            ``loss`` (where labels are given), ``logits`` (batch, labels) and ``kept`` (batch, k).

        Raises:
            TypeError: an argument that is none of these.
        """
        output = self.read(self.select(input_ids, attention_mask, token_type_ids), labels, **more)
        return output if return_dict else output.to_tuple()

    def read(
        self,
        reading: Reading,
        labels: Tensor | None = None,
        *,
        presence: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TopKOutput:
        """Run the encoder on what :meth:`select` chose.

        Args:
            reading: of :meth:`select`.
            labels: (batch,) int64, for the loss.
            presence: (batch, k) float, how far each token is there, see
                :func:`~topk_lib.models.presence.presence_mask`; None: the weights of ``reading``.
            output_hidden_states, output_attentions: give those of the encoder, too.

        Returns:
            What :meth:`forward` returns.

        Raises:
            ValueError: the encoder cannot have tokens that are there in part.
        """
        presence = reading.weights if presence is None else presence
        more: dict[str, Any] = {"labels": labels} if labels is not None else {}
        more |= {"output_hidden_states": True} if output_hidden_states else {}
        more |= {"output_attentions": True} if output_attentions else {}
        if presence is None:
            return self._answer(reading, reading.attention_mask, **more)
        if not self._learns:
            self._check_presence(reading)
            self._learns = True
        if isinstance(self.selector, HistorySelector) and reading.weights is not None:
            reading.weights.register_hook(lambda g: self._observe(reading, g))  # type: ignore[no-untyped-call]
        return self._answer(reading, self._mask(presence, reading), **more)

    def _mask(self, presence: Tensor, reading: Reading) -> Tensor:
        dtype = self.get_input_embeddings().weight.dtype
        return presence_mask(presence, reading.attention_mask, self.encoder.config, dtype)

    def _answer(self, reading: Reading, mask: Tensor, **options: Any) -> TopKOutput:
        if "position_ids" in self._takes:
            options["position_ids"] = reading.positions
        if reading.token_type_ids is not None and "token_type_ids" in self._takes:
            options["token_type_ids"] = reading.token_type_ids
        output = self.encoder(input_ids=reading.input_ids, attention_mask=mask, **options)
        return TopKOutput(
            loss=output.loss, logits=output.logits, kept=reading.chosen.indices,
            hidden_states=output.hidden_states, attentions=output.attentions,
        )  # fmt: skip

    @torch.enable_grad()
    def _check_presence(self, reading: Reading) -> None:
        """Some encoders take such a mask for something else, or hide it from gradients."""
        presence = torch.ones(reading.input_ids.shape, device=self.device, requires_grad=True)
        modes = {module: module.training for module in self.encoder.modules()}
        self.encoder.eval()  # dropout would tell the two apart
        usual = self._answer(reading, reading.attention_mask).logits.detach()
        logits = self._answer(reading, self._mask(presence, reading)).logits
        for module, mode in modes.items():
            module.training = mode
        (slope,) = torch.autograd.grad(logits.sum(), presence, allow_unused=True)
        if slope is None or (logits - usual).norm() > 0.1 * usual.norm():
            raise ValueError(
                f"{type(self.encoder).__name__} cannot have tokens that are there in part, which a gate and "
                "attributions need: choose BERT, RoBERTa, ELECTRA or DistilBERT, or a selector that does "
                "not learn along"
            )

    def _observe(self, reading: Reading, gradient: Tensor) -> None:
        assert isinstance(self.selector, HistorySelector)
        # The loss is the mean over the batch; a contribution is that of one text.
        real = reading.attention_mask.bool() & ~is_special(reading.input_ids, self.config.special_ids)
        self.selector.observe(reading.input_ids[real], -len(gradient) * gradient[real])

    def anneal(self, progress: float) -> None:
        """Cool the temperature to that of this share of training, 0 to 1."""
        self.soft.anneal(progress)


AutoConfig.register("topk", TopKConfig)
AutoModelForSequenceClassification.register(TopKConfig, TopKForSequenceClassification)
