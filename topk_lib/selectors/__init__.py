"""Token scorers behind one protocol: each gives every token of a text a score, high is kept."""

from topk_lib.selectors.base import (
    Selector,
    choose,
    ids_to_batch,
    is_special,
    make_selector,
    select_tokens,
    selector_names,
    shorten,
)
from topk_lib.selectors.budget import row_budgets
from topk_lib.selectors.contextual import ContextualSelector
from topk_lib.selectors.corpus import (
    Chi2Selector,
    CorpusTfidfSelector,
    FrequencySelector,
    LinearSelector,
    MutualInformationSelector,
    TfidfSelector,
)
from topk_lib.selectors.embedding import EmbeddingSelector
from topk_lib.selectors.gate import DistilledSelector, GateSelector, HistorySelector, TaughtSelector
from topk_lib.selectors.interaction import DistinctSelector, KeepNegationSelector
from topk_lib.selectors.position import FirstSelector, HeadTailSelector, LastSelector, RandomSelector

__all__ = [
    "Chi2Selector",
    "ContextualSelector",
    "CorpusTfidfSelector",
    "DistilledSelector",
    "DistinctSelector",
    "EmbeddingSelector",
    "FirstSelector",
    "FrequencySelector",
    "GateSelector",
    "HeadTailSelector",
    "HistorySelector",
    "KeepNegationSelector",
    "LastSelector",
    "LinearSelector",
    "MutualInformationSelector",
    "RandomSelector",
    "Selector",
    "TaughtSelector",
    "TfidfSelector",
    "choose",
    "ids_to_batch",
    "is_special",
    "make_selector",
    "row_budgets",
    "select_tokens",
    "selector_names",
    "shorten",
]
