"""The article's eighteen claims, each with its experiment, and the one verdict that all pages quote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from topk_lib import records
from topk_lib.claims import adaptation, continual, prompting, rules, uses
from topk_lib.claims.compare import Missing, Results
from topk_lib.claims.rules import Finding

__all__ = ["CLAIMS", "Claim", "judge", "markdown", "table", "verdict"]


@dataclass(frozen=True)
class Claim:
    """One claim of the article.

    Attributes:
        name: C1 to C18.
        says: the claim in one line of our own.
        term: its key term in Chinese.
        experiment: what is compared with what.
        rule: from the results to a finding.
        command: what makes the records.
    """

    name: str
    says: str
    term: str
    experiment: str
    rule: Callable[[Results], Finding]
    command: str = "topk-lib study imdb"


CLAIMS = (
    Claim("C1", "Hard selection is simple and cheap to compute", "硬选择",
          "How long each hard rule takes to fit, beside training the encoder, and to choose, beside reading "
          "what was chosen.", rules.cheap, "topk-lib study speed"),
    Claim("C2", "Hard selection speeds up inference", "推理",
          "Texts a second with the linear rule and with the full model, in turns on the same reviews; the "
          "slowest round of the one must beat the fastest of the other.", rules.faster,
          "topk-lib study speed --only study_speed/inference"),
    Claim("C3", "Hard selection is fixed and cannot adapt to the task", "硬选择",
          "A hard rule fitted on labels, `linear`, against those that count without labels, at equal k.",
          rules.fixed),
    Claim("C4", "Hard selection can drop key information and hurt quality", "信息丢失",
          "Every hard rule at every k against the full model.", rules.hurts),
    Claim("C5", "Soft selection adapts to the task and generalises better", "软选择",
          "The learned gates against every hard rule at equal k, on unseen reviews.", rules.soft_wins),
    Claim("C6", "Soft selection uses more context", "上下文",
          "The gate, which sees a token's neighbours, against the linear rule, which sees the token alone, "
          "on the fifth of the reviews with the most negations.", rules.context),
    Claim("C7", "Soft selection costs more compute, data and training time", "训练成本",
          "Texts a second in training with the gate and with the linear rule, in turns on the same reviews.",
          rules.dearer, "topk-lib study speed --only study_speed/training"),
    Claim("C8", "A well-chosen top-k keeps the pretrained knowledge at much lower complexity", "预训练",
          "The linear rule and the gate at every k up to 128: the upper confidence bound of their loss to "
          "the full model must be below one point; where only the loss itself is, the verdict says so.",
          rules.keeps),
    Claim("C9", "TF-IDF or word frequency finds the relevant tokens", "词频",
          "The rules that count without labels against random tokens, at equal k.", rules.counts_find),
    Claim("C10", "Distance between embeddings finds related words", "嵌入距离",
          "The ten nearest words of each of 40 words of opinion: whether another of them is there, oftener "
          "than by chance, and whether the nearest one is on the same side.", rules.distance_finds,
          "topk-lib study neighbours"),
    Claim("C11", "Adjusting by historical performance helps", "历史表现",
          "The gate with a history of each token type against the gate alone, at equal k.",
          rules.helps),
    Claim("C12", "Selection improves generalisation", "泛化",
          "Every selector at every k against the full model, on unseen reviews.", rules.generalises),
    Claim("C13", "Selection improves interpretability", "可解释性",
          "Keep and retrain: how often a model that reads only the chosen tokens gives the full model's "
          "answer, against one that reads as many random tokens.", rules.explains),
    Claim("C14", "Fine-tuning as in the article reaches the F1 of 96.3% that its table reports for IMDB",
          "微调",
          "Arithmetic on the reported table, and the best accuracy measured here, with a small encoder.",
          rules.reaches, "topk-lib study rules"),
    Claim("C15", "The gains carry over to generation, question answering, translation, summarisation and "
          "named-entity recognition", "词元选择",
          "In each of five tasks and three products some choice of k (sentences, tokens, types of the "
          "vocabulary, tokens in the upper layers) beside the whole: it must take less time, and lose less "
          "than a point of the task's own measure (the upper confidence bound; where only the loss itself "
          "is, the verdict says so). A recommender reads no long texts: there soft top-k as the loss must be "
          "better than softmax, beyond luck.", uses.carry_over,
          "topk-lib study summaries|answers|translation|entities|products"),
    Claim("C16", "Parameter-efficient fine-tuning keeps quality with few parameters and less overfitting",
          "参数高效微调",
          "LoRA, adapters, BitFit and prompt tuning beside full fine-tuning, with 200 and with 4,000 labels: "
          "the upper confidence bound of what a method loses must be below one point (where only the loss "
          "itself is, the verdict says so), and its accuracy must fall less from the reviews that it learned "
          "from to unseen ones.", adaptation.few_parameters, "topk-lib study adaptation"),
    Claim("C17", "Prompts allow zero- and few-shot use without updates", "提示学习",
          "A frozen language model of 135 million parameters is asked about IMDB reviews, in a wording "
          "chosen on dev reviews: without examples against a coin; with 2, 4 and 8 examples, three draws of "
          "each, against none; and in twelve wordings.", prompting.prompts_do, "topk-lib study prompting"),
    Claim("C18", "The four families of continual learning prevent forgetting", "持续学习",
          "EWC, replay, an adapter a task and distillation against naive training, on a bank's intents that "
          "come in seven tasks (the task unknown at test) and on four domains (the task known): each must be "
          "better at the end, and the upper bound of what it forgets below five points.",
          continual.prevents, "topk-lib study continual"),
)  # fmt: skip
"""All claims, in the order of the article."""


def judge(claim: Claim, results: Results) -> Finding:
    """What the results say of a claim; where records are missing, "not yet measured" with the command."""
    try:
        return claim.rule(results)
    except Missing as missing:
        return Finding(f"not yet measured: no {missing}; `{claim.command}` makes the records")


def verdict(name: str, results: Results | None = None) -> str:
    """The verdict on a claim, in the words that every page quotes.

    Args:
        name: C1 to C18.
        results: from :func:`topk_lib.records.load_results`; None: that.

    Raises:
        ValueError: there is no such claim.
    """
    return judge(_named(name), records.load_results() if results is None else results).verdict


def table(*names: str, results: Results | None = None) -> list[dict[str, str]]:
    """Claims with their verdicts, a row each: "claim", "the article says" and "verdict"."""
    results = records.load_results() if results is None else results
    return [
        {"claim": name, "the article says": _named(name).says, "verdict": verdict(name, results)}
        for name in names
    ]


def _named(name: str) -> Claim:
    for claim in CLAIMS:
        if claim.name == name:
            return claim
    raise ValueError(f"there is no claim {name!r}: they are called C1 to C{len(CLAIMS)}")


def markdown(results: Results) -> str:
    """All claims as MyST: a table of verdicts, then each with its experiment and evidence."""
    table = ["| | claim | verdict |", "|---|---|---|"]
    parts = []
    for claim in CLAIMS:
        found = judge(claim, results)
        label, title = f"claim-{claim.name.lower()}", f"{claim.says} ({claim.term})"
        table.append(f"| [{claim.name}](#{label}) | {title} | {found.short} |")
        parts += ["", f"({label})=", f"## {claim.name}. {title}", "", f"**Experiment.** {claim.experiment}"]
        parts += ["", f"**Verdict: {found.verdict}.**", "", *(f"- {line}" for line in found.evidence)]
    return "\n".join(table + parts) + "\n"
