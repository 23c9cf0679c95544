"""Instant checks of exercises: each says what is right, or what is wrong and how to see it."""

from topk_lib.checks.a_few_parameters import (
    check_bitfit,
    check_lora_forward,
    check_lora_learns,
    check_lora_merge,
    check_lora_size,
)
from topk_lib.checks.finetuning import (
    check_beats,
    check_evaluate,
    check_rate,
    check_step,
    check_steps,
    check_train,
)
from topk_lib.checks.five_ways import (
    check_cheaper,
    check_encoder_flops,
    check_expert_choice,
    check_left_out,
    check_sampling_probabilities,
)
from topk_lib.checks.gpu import check_bytes, check_limit, check_mask_kernel
from topk_lib.checks.hard_selection import (
    check_chi_squared,
    check_common_beats_rare,
    check_distinct,
    check_keep_negation,
)
from topk_lib.checks.hard_topk import (
    check_best_block,
    check_key_to_float,
    check_never_nan,
    check_rows_mask,
    check_tie_mask,
)
from topk_lib.checks.how_few_tokens import (
    check_mcnemar,
    check_shared_level,
    check_smallest_k,
    check_staged_flops,
)
from topk_lib.checks.inside_a_transformer import (
    check_head,
    check_layer_cost,
    check_padding,
    check_prefix,
    check_rms_norm,
)
from topk_lib.checks.learning_on import (
    check_forgetting,
    check_herding,
    check_memory,
    check_penalty,
    check_reservoir,
)
from topk_lib.checks.mathematics import (
    check_exp_threshold,
    check_soft_gradient,
    check_two_token_jacobian,
    check_weight_gradient,
)
from topk_lib.checks.must_it_read_it_all import check_f1, check_middle_scores, check_recall_accuracy
from topk_lib.checks.next_token import (
    check_acceptance,
    check_may_come,
    check_rejected,
    check_repeated,
    check_writing_rule,
)
from topk_lib.checks.pretraining import (
    check_hidden,
    check_merge_step,
    check_next_labels,
    check_pretrained,
    check_unigram_entropy,
)
from topk_lib.checks.prompts import (
    check_agreement,
    check_best_in_order,
    check_calibration,
    check_few_shot,
    check_word_score,
)
from topk_lib.checks.soft_selection import (
    check_chance,
    check_corrected,
    check_presence,
    check_score_gradient,
    check_share_budgets,
)
from topk_lib.checks.soft_topk import (
    check_clip_threshold,
    check_softmax_limit,
    check_straight_through,
    check_threshold_search,
)
from topk_lib.checks.vocabulary import check_coverage, check_merge_parts, check_pieces, check_share_after
from topk_lib.checks.what_it_predicts import (
    check_bits_per_character,
    check_character_model,
    check_next_probabilities,
    check_perplexity,
    check_top_next,
)
from topk_lib.checks.whole_picture import check_again, check_order, check_saving, check_where

__all__ = [
    "check_acceptance",
    "check_again",
    "check_agreement",
    "check_beats",
    "check_best_block",
    "check_best_in_order",
    "check_bitfit",
    "check_bits_per_character",
    "check_bytes",
    "check_calibration",
    "check_chance",
    "check_character_model",
    "check_cheaper",
    "check_chi_squared",
    "check_clip_threshold",
    "check_common_beats_rare",
    "check_corrected",
    "check_coverage",
    "check_distinct",
    "check_encoder_flops",
    "check_evaluate",
    "check_exp_threshold",
    "check_expert_choice",
    "check_f1",
    "check_few_shot",
    "check_forgetting",
    "check_head",
    "check_herding",
    "check_hidden",
    "check_keep_negation",
    "check_key_to_float",
    "check_layer_cost",
    "check_left_out",
    "check_limit",
    "check_lora_forward",
    "check_lora_learns",
    "check_lora_merge",
    "check_lora_size",
    "check_mask_kernel",
    "check_may_come",
    "check_mcnemar",
    "check_memory",
    "check_merge_parts",
    "check_merge_step",
    "check_middle_scores",
    "check_never_nan",
    "check_next_labels",
    "check_next_probabilities",
    "check_order",
    "check_padding",
    "check_penalty",
    "check_perplexity",
    "check_pieces",
    "check_prefix",
    "check_presence",
    "check_pretrained",
    "check_rate",
    "check_recall_accuracy",
    "check_rejected",
    "check_repeated",
    "check_reservoir",
    "check_rms_norm",
    "check_rows_mask",
    "check_sampling_probabilities",
    "check_saving",
    "check_score_gradient",
    "check_share_after",
    "check_share_budgets",
    "check_shared_level",
    "check_smallest_k",
    "check_soft_gradient",
    "check_softmax_limit",
    "check_staged_flops",
    "check_step",
    "check_steps",
    "check_straight_through",
    "check_threshold_search",
    "check_tie_mask",
    "check_top_next",
    "check_train",
    "check_two_token_jacobian",
    "check_unigram_entropy",
    "check_weight_gradient",
    "check_where",
    "check_word_score",
    "check_writing_rule",
]
