"""Learning tasks one after another: a growing learner, strategies against forgetting, and measures of it."""

from topk_lib.training.continual.learner import Learner, class_means, nearest_mean
from topk_lib.training.continual.learning import Journey, Schedule, learn, right
from topk_lib.training.continual.measures import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
)
from topk_lib.training.continual.replay import RULES, Replay, draw, hardest, herding, reservoir
from topk_lib.training.continual.strategies import (
    EWC,
    Adapters,
    Batch,
    ClassMeans,
    Distillation,
    Strategy,
    diagonal_fisher,
    distillation_loss,
    quadratic_penalty,
)
from topk_lib.training.continual.tasks import Examples, Labelled, Task, labelled, sequence

__all__ = [
    "EWC",
    "RULES",
    "Adapters",
    "Batch",
    "ClassMeans",
    "Distillation",
    "Examples",
    "Journey",
    "Labelled",
    "Learner",
    "Replay",
    "Schedule",
    "Strategy",
    "Task",
    "average_accuracy",
    "backward_transfer",
    "class_means",
    "diagonal_fisher",
    "distillation_loss",
    "draw",
    "forgetting",
    "forward_transfer",
    "hardest",
    "herding",
    "labelled",
    "learn",
    "nearest_mean",
    "quadratic_penalty",
    "reservoir",
    "right",
    "sequence",
]
