"""A selector and an encoder in one model: only k tokens of each text enter the encoder."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from topk_lib.models.config import TopKConfig
from topk_lib.models.loading import load_encoder
from topk_lib.models.presence import check_presence, run_with_presence
from topk_lib.models.pruning import TokenPruner
from topk_lib.models.reading import Reading, cut_texts, numbered, special_tokens
from topk_lib.ops import Selection, SoftTopK, soft_topk
from topk_lib.selectors import Selector, choose, is_special, make_selector, row_budgets
from topk_lib.selectors.base import whole
from topk_lib.selectors.gate import HistorySelector

__all__ = ["TopKForSequenceClassification", "TopKOutput"]

_OPTIONS = (
    "share", "spend", "positions", "link", "start_temperature", "final_temperature", "keep_after", "keep_by",
)  # fmt: skip


@dataclass
class TopKOutput(SequenceClassifierOutput):  # type: ignore[misc]
    """As ``SequenceClassifierOutput``, and what was read.

    Attributes:
        kept: (batch, k) int64, the positions of the tokens that the encoder read, ascending; -1 in
            spare slots. Of a text longer than ``max_length``, they are those in the text as it is cut.
    """

    kept: Tensor | None = None


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
    ``pipeline("text-classification")`` work as usual, after ``import topk_lib.models`` or with
    ``trust_remote_code=True``: the page that ``save_pretrained`` writes beside the weights says so.

    The answer is one of several classes, a number, or several labels at once, as ``problem_type`` says;
    where it is None the first labels decide, as for any classifier of transformers.
    """

    config_class = TopKConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is the mean of its batch
    _keep_in_fp32_modules_strict = ("selector",)
    supports_gradient_checkpointing = True  # where the encoder has it
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: TopKConfig) -> None:
        super().__init__(config)
        config.check()  # fields may have been set since it was made
        self.encoder = AutoModelForSequenceClassification.from_config(config.encoder)
        if (limit := self._most) is not None and config.k > limit:
            raise ValueError(f"k = {config.k} is more than the encoder reads: choose k <= {limit}")
        size = self.encoder.get_input_embeddings().num_embeddings
        self.selector = make_selector(**{"vocabulary": size} | config.selector).attach_encoder(self.encoder)
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
            name = type(self.encoder).__name__
            raise ValueError(f'{name} takes no position_ids: choose positions="compact"')
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """All parts draw their own weights."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Nothing to do: ``save_pretrained`` writes what makes a folder load."""

    @classmethod
    def from_encoder(
        cls,
        name: str | Path | None = None,
        selector: str | Selector = "first",
        k: int = 64,
        *,
        seed: int = 0,
        attention_dropout: float | None = None,
        labels: Sequence[str] | None = None,
        problem_type: str | None = None,
        max_length: int | None = None,
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
            attention_dropout, labels, problem_type: see :func:`~topk_lib.models.load_encoder`.
            max_length: tokens of a text that the selector sees, special tokens included; None: all.
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
            ValueError, TypeError: an option that is none, or out of its range; a selector that learns
                before an encoder that it cannot learn with.
        """
        encoder, tokenizer = load_encoder(
            name, attention_dropout=attention_dropout, labels=labels, problem_type=problem_type
        )
        if isinstance(encoder, TopKForSequenceClassification):
            encoder = encoder.encoder
        if isinstance(selector, str):
            more = {"seed": seed, "vocabulary": encoder.config.vocab_size, "tokenizer": tokenizer}
            selector = make_selector(selector, **more)
        for option in options:
            if option not in _OPTIONS:
                raise TypeError(f"no option {option!r}: choose from {', '.join(_OPTIONS)}")
        if keep := options.get("keep_after"):
            options["keep_after"] = {str(whole("layer", at)): whole("k", size) for at, size in keep.items()}
        tokenizer.model_max_length = max_length or int(1e30)  # the selector shortens what is longer
        if tokenizer.pad_token is None:  # decoders have none
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if encoder.config.pad_token_id is None:
            encoder.config.pad_token_id = tokenizer.pad_token_id
        special_ids, around, closing = special_tokens(tokenizer)
        config = TopKConfig(
            encoder=encoder.config,
            selector={"name": selector.name, "seed": selector.seed, **selector.options()},
            k=k,
            # Those around every text; an unknown character's [UNK] has to earn its place.
            special_ids=special_ids,
            max_length=max_length,
            closing=closing,
            **options,
        )
        if max_length is not None and max_length <= around:
            raise ValueError(
                f"max_length = {max_length} leaves no token beside the {around} special ones of a text: "
                f"choose max_length > {around}, or None for whole texts"
            )
        model = cls(config)
        model.encoder.load_state_dict(encoder.state_dict())
        model.selector.attach_encoder(model.encoder)  # now with its weights
        if selector.state_dict():
            model.selector = selector.attach(model.encoder.get_input_embeddings())
        if model.selector.trainable:
            batch = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
            ids = batch["input_ids"].clamp(max=encoder.config.vocab_size - 1)
            with torch.no_grad():
                model._check_presence(model.select(ids, batch["attention_mask"]))
        return model, tokenizer

    def get_input_embeddings(self) -> Any:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        self.encoder.set_input_embeddings(value)
        self.selector.attach(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As of any model of transformers; the selector is fitted to the new vocabulary."""
        embedding = self.encoder.resize_token_embeddings(*args, **kwargs)
        self.selector.attach(embedding)
        return embedding

    @property
    def reads_token_types(self) -> bool:
        """Whether the encoder tells two texts apart by their token types."""
        kinds: int = getattr(self.config.encoder, "type_vocab_size", 2)
        return "token_type_ids" in self._takes and kinds > 1

    @property
    def _offset(self) -> int:
        """Where the positions of the encoder begin: RoBERTa and its kin leave out the first ones."""
        table = getattr(getattr(self.encoder.base_model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    @property
    def _most(self) -> int | None:
        most = getattr(self.config.encoder, "max_position_embeddings", None)
        return None if most is None or most < 0 else int(most) - self._offset  # XLNet has -1: any length

    def select(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Reading:
        """Choose what the encoder reads.

        Args:
            input_ids: (batch, length) int64.
            attention_mask: (batch, length), 1 for tokens; None: all.
            token_type_ids: (batch, length) int64, which of two texts a token is of; None: there is one.

        Raises:
            ValueError: no text of the batch has a token; or one has more special tokens than k.
        """
        config = self.config
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if not torch.compiler.is_exporting() and not input_ids.shape[-1]:
            raise ValueError("there is no token to read: give a text that is not empty")
        if config.max_length is not None:
            input_ids, attention_mask, token_type_ids = cut_texts(
                input_ids, attention_mask, token_type_ids, config.max_length, config.closing
            )
        learning = self.training and torch.is_grad_enabled() and self._selector_learns
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
        positions = self._offset + numbered(places, real, config.positions, self._most)
        return Reading(ids, filled.to(attention_mask.dtype), positions, weights, chosen, types)

    @property
    def _selector_learns(self) -> bool:
        return self.selector.trainable and any(p.requires_grad for p in self.selector.parameters())

    def _weights(self, scores: Tensor, chosen: Selection, free: Tensor) -> Tensor:
        """(batch, k): of value 1, with the gradient of the soft weights."""
        slots = (chosen.mask & free).sum(-1)
        weights = soft_topk(
            scores, slots, self.soft.temperature, link=self.config.link, valid=free, hard=True
        )
        return weights.masked_fill(~free, 1.0).gather(-1, chosen.indices.clamp(min=0))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **more: Any,
    ) -> TopKOutput | tuple[Tensor, ...]:
        """Classify. An argument that is None is no argument.

        Args:
            input_ids: (batch, length) int64, the whole texts.
            attention_mask: (batch, length), 1 for tokens and 0 for padding; None: all are tokens.
            labels: (batch,) int64 for one of several classes, (batch,) float for one number,
                (batch, labels) of 0 and 1 for several labels at once; for the loss.
            token_type_ids: (batch, length) int64, which of two texts a token is of; None: there is one.
            return_dict: False for a tuple.
            **more: ``output_hidden_states`` and ``output_attentions``, of the k tokens that are read.

        Returns:
            ``loss`` (where labels are given), ``logits`` (batch, labels) and ``kept`` (batch, k).

        Raises:
            TypeError: an argument that is none of these.
        """
        more = {name: value for name, value in more.items() if value is not None}
        strange = more.keys() - {"output_hidden_states", "output_attentions"}
        if input_ids is None or strange:
            raise TypeError(
                f"a model that selects tokens reads input_ids, and takes no {', '.join(strange) or 'others'}"
            )
        output = self.read(self.select(input_ids, attention_mask, token_type_ids), labels, **more)
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    def read(
        self,
        reading: Reading,
        labels: Tensor | None = None,
        *,
        presence: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> TopKOutput:
        """Run the encoder on what :meth:`select` chose.

        Args:
            reading: of :meth:`select`.
            labels: see :meth:`forward`.
            presence: (batch, k) float, how far each token is there, see
                :func:`~topk_lib.models.presence.presence_mask`; None: the weights of ``reading``.
            output_hidden_states, output_attentions: give those of the encoder, too; None: as the
                configuration says.

        Returns:
            What :meth:`forward` returns.

        Raises:
            ValueError: the encoder cannot have tokens that are there in part.
        """
        presence = reading.weights if presence is None else presence
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        more = {
            name: True for name, on in asked.items() if (getattr(self.config, name) if on is None else on)
        }
        if presence is not None:
            if not self._learns:
                self._check_presence(reading)
                self._learns = True
            if isinstance(self.selector, HistorySelector) and reading.weights is not None:
                reading.weights.register_hook(lambda g: self._observe(reading, g))  # type: ignore[no-untyped-call]
        output = self._answer(reading, presence, **more)
        return TopKOutput(
            loss=None if labels is None else self._loss(output.logits, labels), logits=output.logits,
            kept=reading.chosen.indices, hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )  # fmt: skip

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        config = self.config
        if config.problem_type is None:
            one = labels.dim() == 1 and not labels.is_floating_point()
            config.problem_type = f"{'single' if one else 'multi'}_label_classification"
        if config.problem_type != "single_label_classification":
            labels = labels.to(logits.dtype)
        loss: Tensor = self.loss_function(labels=labels, pooled_logits=logits, config=config)
        return loss

    def _answer(self, reading: Reading, presence: Tensor | None, **options: Any) -> Any:
        given = {
            "position_ids": reading.positions, "token_type_ids": reading.token_type_ids, "use_cache": False,
        }  # fmt: skip
        options |= {name: x for name, x in given.items() if x is not None and name in self._takes}
        options |= {"input_ids": reading.input_ids}
        if presence is None:
            return self.encoder(attention_mask=reading.attention_mask, **options)
        return run_with_presence(self.encoder, presence, reading.attention_mask, **options)

    def _check_presence(self, reading: Reading) -> None:
        texts = reading.attention_mask.any(-1)
        check_presence(
            self.encoder, reading.input_ids.shape, lambda u: self._answer(reading, u).logits[texts]
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
