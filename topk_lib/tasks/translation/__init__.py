"""Translation: one tokenizer for two languages, a small encoder-decoder, k target types a sentence."""

from topk_lib.tasks.translation.decoding import OutputRows, translate
from topk_lib.tasks.translation.lexicon import Lexicon, alignment, candidates, coverage, learn_lexicon
from topk_lib.tasks.translation.measures import compared
from topk_lib.tasks.translation.model import (
    TranslatorSettings,
    load_translator,
    new_translator,
    train_translator,
)
from topk_lib.tasks.translation.pairs import (
    RULES,
    Pairs,
    kept_places,
    make_pairs,
    shared_tokenizer,
    shorten,
    texts_of,
)

__all__ = [
    "RULES",
    "Lexicon",
    "OutputRows",
    "Pairs",
    "TranslatorSettings",
    "alignment",
    "candidates",
    "compared",
    "coverage",
    "kept_places",
    "learn_lexicon",
    "load_translator",
    "make_pairs",
    "new_translator",
    "shared_tokenizer",
    "shorten",
    "texts_of",
    "train_translator",
    "translate",
]
