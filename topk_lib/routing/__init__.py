"""Choosing which part of a model a token uses: experts that take tokens, tokens that take experts."""

from topk_lib.routing.by_expert import ExpertChoice, Gap, MixtureOfDepths
from topk_lib.routing.by_token import TokenChoice, balance_loss
from topk_lib.routing.choice import Taken, capacities, expert_choice, token_choice
from topk_lib.routing.experts import ACTIVATIONS, Experts
from topk_lib.routing.layers import Routed, Stats, routing_loss, routing_stats
from topk_lib.routing.parallel import gather_experts, shard_experts
from topk_lib.routing.upcycling import KINDS, upcycle

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "ExpertChoice",
    "Experts",
    "Gap",
    "MixtureOfDepths",
    "Routed",
    "Stats",
    "Taken",
    "TokenChoice",
    "balance_loss",
    "capacities",
    "expert_choice",
    "gather_experts",
    "routing_loss",
    "routing_stats",
    "shard_experts",
    "token_choice",
    "upcycle",
]
