"""A learned selector that reads a whole text, if shallowly, before it chooses."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModel

from topk_lib.selectors.base import Selector, register, whole
from topk_lib.selectors.gate import DistilledSelector

__all__ = ["ContextualSelector"]

_BLOCKS = 64  # read at once


@register
class ContextualSelector(DistilledSelector):
    """A distilled gate on what the encoder's first layers make of the text, each token type once.

    The other gates see a token's embedding and two neighbours on either side. This one has its own copy of
    the encoder's first layers, as they are when it is attached (pretrained, that is), and never trains
    them: x_i is what they make of token i in its block of the text. Blocks bound the cost: it grows as the
    length, and a layer on all n tokens costs about as much as the whole encoder of L layers on n / L.
    Later copies of a type come last.

    Args:
        layers: of the encoder that are copied.
        block: tokens that are read together, as far as the encoder has positions for them.
        once: whether copies come last.
        hidden, context: of the gate.
    """

    name: ClassVar[str] = "contextual"
    rule: ClassVar[str] = "contextual gate"

    def __init__(
        self,
        seed: int = 0,
        vocabulary: int | None = None,
        *,
        layers: int = 1,
        block: int = 128,
        once: bool = True,
        hidden: int = 64,
        context: int = 5,
    ) -> None:
        super().__init__(seed, vocabulary, once=once, hidden=hidden, context=context)
        self.layers, self.block = whole("layers", layers, 1), whole("block", block, 1)
        self.reader: Any = None
        self._most = self.block

    def attach_encoder(self, encoder: Any) -> Selector:
        """Copy the first layers.

        Args:
            encoder: of transformers.

        Raises:
            ValueError: it has too few layers, or its first ones cannot be had alone.
        """
        config = copy.deepcopy(encoder.config)
        if not self.layers <= int(config.num_hidden_layers):
            raise ValueError(
                f"layers must be at most the encoder's {config.num_hidden_layers}, got {self.layers}"
            )
        config.num_hidden_layers = self.layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: self.layers]
        with torch.random.fork_rng(devices=[]):  # all that is drawn is replaced
            reader = AutoModel.from_config(config)
        missing = reader.load_state_dict(encoder.base_model.state_dict(), strict=False).missing_keys
        if lost := [name for name in missing if "pooler" not in name]:
            raise ValueError(
                f"the first layers of {type(encoder).__name__} cannot be had alone ({lost[0]} is missing): "
                "choose the distilled selector"
            )
        if (most := getattr(config, "max_position_embeddings", None) or -1) > 2:
            self._most = min(self.block, most - 2)  # RoBERTa and its kin leave out the first two
        width = encoder.get_input_embeddings().embedding_dim
        reader.set_input_embeddings(nn.Embedding(1, width))  # it is given vectors
        if hasattr(reader, "pooler"):
            reader.pooler = None
        device = encoder.get_input_embeddings().weight.device
        self.reader = reader.float().to(device).eval().requires_grad_(False)
        return super().attach_encoder(encoder)

    def train(self, mode: bool = True) -> ContextualSelector:
        """As of any module, but the copied layers never drop anything out."""
        super().train(mode)
        if self.reader is not None:
            self.reader.eval()
        return self

    def project(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if self.reader is None:
            raise RuntimeError(f"the {self.name} selector reads with layers: call attach_encoder(model)")
        assert self.net is not None
        batch, length = input_ids.shape
        # Blocks are counted from the first token, on whatever side of the text its padding stands.
        place = torch.arange(length, device=input_ids.device)
        first = attention_mask.long().cumsum(-1).eq(0).sum(-1, keepdim=True)
        turn = (place + first).remainder(max(length, 1))
        block = self._most if torch.compiler.is_exporting() else max(1, min(self._most, length))
        more = (0, -length % block)
        ids, real = (
            nn.functional.pad(x.gather(-1, turn), more).reshape(-1, block)
            for x in (input_ids, attention_mask)
        )
        read = real.bool().any(-1).nonzero()[:, 0]  # not what is padding alone
        table = self.embedding.weight.detach()
        parts = []
        for some in torch.split(read, _BLOCKS):
            states = self.reader(inputs_embeds=table[ids[some]].float(), attention_mask=real[some])
            parts.append(self.net["project"](self.net["norm"](states.last_hidden_state)))
        channels = self.hidden or 1
        found = table.new_zeros((len(ids), block, channels), dtype=torch.float32)
        if parts:
            found = found.index_copy(0, read, torch.cat(parts))
        back = (place - first).remainder(max(length, 1)).unsqueeze(-1).expand(-1, -1, channels)
        turned: Tensor = found.reshape(batch, -1, channels)[:, :length]
        return turned.gather(1, back)

    def options(self) -> dict[str, Any]:
        return {"layers": self.layers, "block": self.block} | super().options()
