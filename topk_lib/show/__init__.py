"""Pictures and coloured text for the chapters."""

from topk_lib.show.attention import attention
from topk_lib.show.budget import CHOICES, SIZES, Cost, cost, cost_change, cost_of_choice
from topk_lib.show.continual import accuracy_matrix, fate_of_a_task
from topk_lib.show.explore import Explorer, explore
from topk_lib.show.figures import accuracy_by_k, accuracy_by_speed, accuracy_ranked, style, token_weights
from topk_lib.show.hard import bits_deciding, counted_work
from topk_lib.show.learning import by_epoch, learning
from topk_lib.show.narrowing import narrowing
from topk_lib.show.palette import DROPPED, KEPT, SOFT
from topk_lib.show.predicting import next_token, surprise, token_name
from topk_lib.show.pretraining import by_stage, guessing
from topk_lib.show.prompts import as_it_reads
from topk_lib.show.reading import reading
from topk_lib.show.relaxation import curves, jacobian, threshold_curve
from topk_lib.show.roofline import CARDS, bytes_moved, share_of_bandwidth, time_limits
from topk_lib.show.rotation import turned_pair
from topk_lib.show.routing import expert_loads, expert_tastes, routing_choices
from topk_lib.show.scaling import step_costs, step_costs_in_words
from topk_lib.show.text import kept_text
from topk_lib.show.threshold import threshold_crossing
from topk_lib.show.writing import looping, may_come

__all__ = [
    "CARDS",
    "CHOICES",
    "DROPPED",
    "KEPT",
    "SIZES",
    "SOFT",
    "Cost",
    "Explorer",
    "accuracy_by_k",
    "accuracy_by_speed",
    "accuracy_matrix",
    "accuracy_ranked",
    "as_it_reads",
    "attention",
    "bits_deciding",
    "by_epoch",
    "by_stage",
    "bytes_moved",
    "cost",
    "cost_change",
    "cost_of_choice",
    "counted_work",
    "curves",
    "expert_loads",
    "expert_tastes",
    "explore",
    "fate_of_a_task",
    "guessing",
    "jacobian",
    "kept_text",
    "learning",
    "looping",
    "may_come",
    "narrowing",
    "next_token",
    "reading",
    "routing_choices",
    "share_of_bandwidth",
    "step_costs",
    "step_costs_in_words",
    "style",
    "surprise",
    "threshold_crossing",
    "threshold_curve",
    "time_limits",
    "token_name",
    "token_weights",
    "turned_pair",
]
