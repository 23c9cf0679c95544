"""Strategies against forgetting: each part by hand, each whole on a tiny encoder."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel

from topk_lib.data import load_set
from topk_lib.training.continual import (
    EWC,
    Adapters,
    ClassMeans,
    Distillation,
    Examples,
    Learner,
    Replay,
    Schedule,
    Strategy,
    Task,
    average_accuracy,
    backward_transfer,
    class_means,
    diagonal_fisher,
    distillation_loss,
    draw,
    forgetting,
    forward_transfer,
    hardest,
    herding,
    labelled,
    learn,
    nearest_mean,
    quadratic_penalty,
    reservoir,
    right,
    sequence,
)

NAN = math.nan
MATRIX = [[0.9, NAN, NAN], [0.6, 0.8, NAN], [0.5, 0.9, 0.7]]


def learner(seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    return Learner(BertModel(config))


def lean(one: Learner, task: int, biases: list[float]) -> None:
    """Give a head, whose weights are 0, these biases."""
    head = one.heads[task]
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.bias.copy_(torch.tensor(biases))


def texts(seed: int, each: int, classes: int = 4) -> list[tuple[list[int], str]]:
    """Class c says words of its own, 5c to 5c + 4, and so can be told from the others."""
    dice = np.random.default_rng(seed)
    return [
        ([1, *(3 + 5 * c + dice.integers(5, size=dice.integers(2, 6))).tolist(), 2], f"c{c}")
        for c in range(classes)
        for _ in range(each)
    ]


def two_tasks() -> list[Task]:
    return sequence({"a": ["c0", "c1"], "b": ["c2", "c3"]}, texts(0, 16), texts(1, 8))


FAST = Schedule(epochs=6, batch_size=8, learning_rate=3e-3, new_learning_rate=2e-2)


def test_measures_by_hand() -> None:
    assert average_accuracy(MATRIX) == pytest.approx((0.5 + 0.9 + 0.7) / 3)
    # task 0: best 0.9, left 0.5; task 1: best before the last 0.8, left 0.9
    assert forgetting(MATRIX) == pytest.approx((0.4 - 0.1) / 2)
    assert backward_transfer(MATRIX) == pytest.approx((-0.4 + 0.1) / 2)
    # the best need not be the first
    risen = [[0.5, NAN, NAN], [0.8, 0.7, NAN], [0.6, 0.7, 0.9]]
    assert forgetting(risen) == pytest.approx((0.2 + 0.0) / 2)
    assert backward_transfer(risen) == pytest.approx((0.1 + 0.0) / 2)
    assert forward_transfer([0.3, 0.5, 0.9], [0.3, 0.4, 0.6]) == pytest.approx((0.1 + 0.3) / 2)


@pytest.mark.parametrize("measure", [average_accuracy, forgetting, backward_transfer])
def test_measures_of_one_task_get_a_sentence(measure: Any) -> None:
    with pytest.raises(ValueError, match="of a single task nothing can be forgotten"):
        measure([[0.9]])
    with pytest.raises(ValueError, match=r"a row and a column a task, got shape \(2, 3\)"):
        measure([[0.9, 0.1, 0.2], [0.3, 0.4, 0.5]])


def test_transfer_needs_two_of_each() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        forward_transfer([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="got 1 and 1"):
        forward_transfer([0.1], [0.1])


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"a": ["c0", "c1"]}, "two tasks or more to forget, got a: add one"),
        ({}, "got none"),
        ({"a": ["c0"], "b": ["c1", "c2"]}, r"task 'a' has 1 class \(c0\).* give it two or more"),
        ({"a": ["c0", "c0"], "b": ["c1", "c2"]}, "task 'a' has 1 class"),
        ({"a": [], "b": ["c1", "c2"]}, "task 'a' has no class"),
        ({"a": ["c0", "c1"], "b": ["c1", "c2"]}, "class 'c1' is in tasks 'a' and 'b'"),
        ({"a": ["c0", "c1", "c0"], "b": ["c2", "c3"]}, "class 'c0' is in task 'a', twice"),
        ({"a": ["c0", "c9"], "b": ["c1", "c2"]}, "class 'c9' of task 'a' has no train text"),
    ],
)
def test_a_sequence_that_is_none_gets_a_sentence(classes: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sequence(classes, texts(0, 2), texts(1, 2))
    with pytest.raises(ValueError, match="class 'c3' of task 'b' has no test text"):
        sequence({"a": ["c0", "c1"], "b": ["c2", "c3"]}, texts(0, 2), texts(1, 2, classes=3))


def test_labelled_texts_of_a_set(tiny_encoder: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    data = load_set("banking77", "embedded", quiet=True)
    found = labelled(data, tokenizer, each=2, max_length=8)
    assert Counter(name for _, name in found) == dict.fromkeys(data.features["label"].names, 2)
    assert all(len(ids) <= 8 for ids, _ in found)
    first = data.features["label"].int2str(data["label"][0])
    assert (tokenizer(data["text"][0], truncation=True, max_length=8)["input_ids"], first) in found
    assert len(labelled(data, tokenizer)) == len(data)


def test_a_sequence_numbers_classes_through() -> None:
    train = texts(0, 3)
    tasks = sequence({"a": ["c2", "c0"], "b": ["c3", "c1"]}, train, texts(1, 2))
    assert [task.number for task in tasks] == [0, 1]
    for task, labels in zip(tasks, ({"c2": 0, "c0": 1}, {"c3": 2, "c1": 3}), strict=True):
        for row in range(len(task.train)):
            ids, name = train[int(task.train.places[row])]
            assert list(task.train.ids[row]) == ids
            assert task.train.labels[row] == labels[name]
            assert task.train.tasks[row] == task.number
    both = tasks[0].train + tasks[1].train
    assert sorted(both.places.tolist()) == list(range(12))
    with pytest.raises(ValueError, match="two tasks or more, got 1"):
        learn(learner(), tasks[:1], Strategy(), FAST, task_known=True)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        learn(learner(), tasks, Strategy(), Schedule(epochs=0), task_known=True)


def test_the_penalty_is_the_quadratic_form() -> None:
    now, anchor, fisher = (torch.tensor(x) for x in ([1.5, -1.0], [1.0, 1.0], [4.0, 0.5]))
    got = quadratic_penalty({"w": now, "free": now}, {"w": anchor}, {"w": fisher}, 3.0)
    moved = now - anchor
    assert got == pytest.approx(3.0 / 2 * float(moved @ torch.diag(fisher) @ moved))
    assert got == pytest.approx(1.5 * (4.0 * 0.25 + 0.5 * 4.0))


def test_ewc_adds_fishers_up_and_holds_what_mattered() -> None:
    one, tasks = learner(), two_tasks()
    one.grow(2)
    kept = EWC(2.0, n=5, within=True)
    dice = torch.Generator().manual_seed(0)
    assert kept.extra(one, None, torch.empty(0)) == 0.0  # type: ignore[arg-type]
    kept.after(one, tasks[0], dice)
    first = {name: f.clone() for name, f in kept.fisher.items()}
    assert kept.extra(one, None, torch.empty(0)) == 0.0  # type: ignore[arg-type]
    kept.after(one, tasks[0], dice)
    assert all((kept.fisher[name] >= first[name]).all() for name in first)
    assert any((kept.fisher[name] > first[name]).any() for name in first)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.1)
    by_hand = 2.0 / 2 * sum(0.01 * float(f.sum()) for f in kept.fisher.values())
    penalty = torch.as_tensor(kept.extra(one, None, torch.empty(0)))  # type: ignore[arg-type]
    assert penalty.item() == pytest.approx(by_hand, rel=1e-3)
    frozen = {name for name, p in one.named_parameters() if not p.requires_grad}
    assert any("word_embeddings" in name for name in frozen)
    assert not frozen & kept.fisher.keys()
    assert kept.kept_bytes() == 2 * 4 * sum(f.numel() for f in kept.fisher.values())


def test_fisher_of_a_logistic_regression() -> None:
    """Of a head on fixed features x it is p (1 - p) x², whatever the true labels."""
    one, tasks = learner(), two_tasks()
    one.grow(2)
    one.encoder.requires_grad_(False)
    alone = tasks[0].train.take(torch.zeros(300, dtype=torch.int64))
    x = one.features_of(alone.take(torch.tensor([0])))[0]
    for lead, exact in ((0.0, 1e-5), (0.8, 0.2)):  # at p = 1/2 both answers have the same gradient, squared
        lean(one, 0, [lead, 0.0])
        got = diagonal_fisher(one, alone, n=300, within=True, generator=torch.Generator().manual_seed(0))
        p = 1 / (1 + math.exp(-lead))
        assert got.keys() == {"heads.0.weight", "heads.0.bias"}
        assert torch.allclose(got["heads.0.bias"], torch.full((2,), p * (1 - p)), rtol=exact)
        assert torch.allclose(got["heads.0.weight"], (p * (1 - p) * x.square()).expand(2, -1), rtol=exact)


def test_distillation_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(9.0), 0.0]])
    # softened at 2: the teacher says 3 to 1, the student 1 to 1
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert distillation_loss(teacher + 7.0, teacher).item() == pytest.approx(0, abs=1e-6)
    student.requires_grad_(True), teacher.requires_grad_(True)
    torch.autograd.backward(distillation_loss(student, teacher))
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    with pytest.raises(ValueError, match=r"student \(1, 2\) and teacher \(1, 3\)"):
        distillation_loss(student, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        distillation_loss(student, teacher, 0)


def test_herding_by_hand() -> None:
    points = torch.tensor(
        [[0.0], [1.0], [5.0]]
    )  # mean 2: 1 is nearest, then (1 + 5) / 2 = 3 beats (1 + 0) / 2
    assert herding(points, 3).tolist() == [1, 2, 0]
    assert herding(points, 0).tolist() == []
    assert herding(torch.ones(4, 2), 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="k must be at most 3, got 4"):
        herding(points, 4)


def test_herding_follows_the_mean_better_than_chance() -> None:
    points = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    mean = points.mean(0)
    chance = [points[torch.randperm(60)[:6]].mean(0).sub(mean).norm().item() for _ in range(200)]
    assert points[herding(points, 6)].mean(0).sub(mean).norm() < min(chance)


def test_the_hardest_are_a_top_k() -> None:
    assert hardest(torch.tensor([0.1, 2.0, 0.5, 3.0]), 2).tolist() == [1, 3]


def chi_squared(counts: list[int], expected: float) -> float:
    return sum((count - expected) ** 2 / expected for count in counts)


def test_replay_draws_without_favour() -> None:
    """Each of 20 examples is drawn equally often; 4000 draws of 5 give each 1000."""
    examples = two_tasks()[0].train.take(torch.arange(20))
    dice = torch.Generator().manual_seed(0)
    seen: Counter[int] = Counter()
    for _ in range(4000):
        drawn = draw(examples, 5, dice).places.tolist()
        assert len(set(drawn)) == 5
        seen.update(drawn)
    assert len(seen) == 20
    assert chi_squared(list(seen.values()), 1000) < 43.8  # the 99.9% point with 19 degrees of freedom
    assert len(draw(examples, 50, dice)) == 20


def test_a_reservoir_gives_each_the_same_chance() -> None:
    dice = random.Random(0)
    seen: Counter[int] = Counter()
    for _ in range(4000):
        kept = reservoir(iter(range(12)), 3, dice)
        assert len(set(kept)) == 3
        seen.update(kept)
    assert chi_squared([seen[i] for i in range(12)], 1000) < 31.3  # 11 degrees of freedom
    assert reservoir(range(2), 3, dice) == [0, 1]
    assert reservoir([], 3, dice) == reservoir(range(5), 0, dice) == []
    with pytest.raises(ValueError, match="k must be at least 0"):
        reservoir(range(5), -1, dice)


@pytest.mark.parametrize("rule", ["random", "hardest", "herding"])
def test_replay_keeps_k_of_each_class(rule: str) -> None:
    one, tasks = learner(), two_tasks()
    memory, dice = Replay(3, rule), torch.Generator().manual_seed(0)
    assert memory.mix(8, 32, dice) is None
    for task in tasks:
        one.grow(2)
        torch.nn.init.normal_(one.heads[-1].weight)  # type: ignore[arg-type]
        memory.after(one, task, dice)
    assert memory.memory is not None
    assert Counter(memory.memory.labels.tolist()) == {0: 3, 1: 3, 2: 3, 3: 3}
    assert len(set(memory.memory.places.tolist())) == 12
    mixed = memory.mix(8, 32, dice)
    assert mixed is not None
    assert len(mixed) == 8
    assert memory.kept_bytes() == 4 * sum(len(ids) + 1 for ids in memory.memory.ids)
    if rule == "hardest":
        features = one.features_of(tasks[1].train)
        logits = torch.cat([head(features) for head in one.heads], -1)
        losses = torch.nn.functional.cross_entropy(logits, tasks[1].train.labels, reduction="none")
        mine = tasks[1].train.labels == 2
        worst = tasks[1].train.places[mine][losses[mine].topk(3).indices]
        kept = memory.memory.places[memory.memory.labels == 2]
        assert set(worst.tolist()) == set(kept.tolist())


def test_replay_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="rule must be one of random, hardest, herding, got 'best'"):
        Replay(3, "best")
    with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
        Replay(0)


def test_joint_training_mixes_in_proportion() -> None:
    one, tasks = learner(), two_tasks()
    every, dice = Replay(None), torch.Generator().manual_seed(0)
    one.grow(2)
    every.after(one, tasks[0], dice)
    mixed = every.mix(8, 16, dice)  # 32 earlier for 16 of its own: two for each
    assert mixed is not None
    assert len(mixed) == 16


def test_nearest_mean_as_a_head() -> None:
    features, labels = torch.randn(20, 5), torch.tensor([3, 7] * 10)
    classes, means = class_means(features, labels)
    assert classes.tolist() == [3, 7]
    assert torch.allclose(means[1], features[1::2].mean(0))
    weight, bias = nearest_mean(means)
    assert ((features @ weight.T + bias).argmax(-1) == torch.cdist(features, means).argmin(-1)).all()


def test_adapters_begin_as_the_identity_and_leave_earlier_tasks_alone() -> None:
    one, tasks = learner(), two_tasks()
    one.eval()
    ids, mask = tasks[0].test.batch()
    plain = one.features(ids, mask)
    one.grow_adapters(4)
    assert torch.equal(one.features(ids, mask, 0), plain)
    with torch.no_grad():
        for p in one.adapters[0].parameters():
            p.add_(0.3)
    assert not torch.allclose(one.features(ids, mask, 0), plain)
    assert torch.equal(one.features(ids, mask), plain)  # nothing stays in the encoder
    one.grow_adapters(4)
    assert torch.equal(one.features(ids, mask, 1), plain)
    wanted = {name for name, p in one.named_parameters() if p.requires_grad}
    assert wanted == {name for name, _ in one.named_parameters() if name.startswith("adapters.1.")}


def test_the_most_confident_head_answers() -> None:
    one, tasks = learner(), two_tasks()
    one.eval()
    for _ in tasks:
        one.grow(2)
        one.grow_adapters(4)
    lean(one, 0, [50.0, 48.0])  # large logits, and yet unsure
    lean(one, 1, [-9.0, -1.0])
    ids, mask = tasks[0].test.batch()
    logits = one(ids, mask)
    assert (logits.argmax(-1) == 3).all()
    assert torch.allclose(logits[:, :2].exp().sum(-1), torch.ones(len(ids)))
    own = one(ids, mask, tasks[0].test.tasks)
    assert torch.equal(own[:, :2], logits[:, :2])
    assert own[:, 2:].isneginf().all()


def test_within_looks_at_the_own_task_only() -> None:
    one = learner()
    one.grow(2)
    one.grow(3)
    seen = one.within(torch.zeros(2, 5), torch.tensor([1, 0]))
    assert seen.isneginf().tolist() == [[True, True, False, False, False], [False, False, True, True, True]]


def journeys(strategy: Strategy, known: bool, seed: int = 0, within: bool | None = None) -> Any:
    return learn(learner(), two_tasks(), strategy, FAST, task_known=known, within=within, seed=seed)


def test_naive_training_forgets_and_replay_mends_it() -> None:
    naive, replay = journeys(Strategy(), False), journeys(Replay(4), False)
    assert naive.matrix[0][0] > 0.9
    assert naive.matrix[1][1] > 0.9
    assert naive.matrix[1][0] < 0.3
    assert math.isnan(naive.matrix[0][1])
    assert replay.matrix[1][0] > naive.matrix[1][0] + 0.4
    assert replay.summary()["forgetting"] < naive.summary()["forgetting"]
    assert len(naive.answers) == 32
    assert np.mean(list(naive.answers.values())) == pytest.approx(naive.summary()["average_accuracy"])
    # to the bit the same again
    assert journeys(Strategy(), False).matrix[1] == naive.matrix[1]
    assert journeys(Strategy(), False).answers == naive.answers


@pytest.mark.parametrize("known", [False, True])
def test_what_is_frozen_is_not_forgotten(known: bool) -> None:
    adapters = journeys(Adapters(4), known, within=True)
    assert adapters.summary()["forward_transfer"] == 0
    if known:
        assert adapters.matrix[0][0] == adapters.matrix[1][0] > 0.9
        assert adapters.summary()["forgetting"] == 0
    assert adapters.kept_bytes == 4 * 2 * 2 * (2 * 16 * 4 + 4 + 16)
    means = journeys(ClassMeans(), known)
    assert means.trained == 0
    assert means.summary()["average_accuracy"] > 0.5


@pytest.mark.parametrize("within", [False, True])
def test_ewc_holds_the_weights_of_the_first_task(within: bool) -> None:
    class Watched(EWC):
        def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
            super().after(learner, task, generator)
            anchors.append(self.anchor)

    moved = []
    for strength in (0.0, 1e6):
        anchors: list[dict[str, Tensor]] = []
        strategy = Watched(strength, n=8, within=within)
        learn(learner(), two_tasks(), strategy, FAST, task_known=False, within=within)
        first, last = anchors
        moved.append(sum(float((last[name] - first[name]).square().sum()) for name in first))
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("within", [False, True])
def test_distillation_keeps_the_old_answers(within: bool) -> None:
    strayed = []
    for strength in (0.0, 30.0):
        one, strategy = learner(), Distillation(strength, within=within)
        found = learn(one, two_tasks(), strategy, FAST, task_known=False, within=within)
        assert strategy.old is not None
        ids, mask = two_tasks()[1].test.batch()
        one.eval()
        with torch.no_grad():
            strayed.append(float(distillation_loss(one(ids, mask)[:, :2], strategy.old(ids, mask)[:, :2])))
    assert strayed[1] < 0.5 * strayed[0]
    assert found.kept_bytes == 4 * sum(p.numel() for p in learner().encoder.parameters())


def test_the_learners_of_others_are_left_alone() -> None:
    """An old model for distillation is a copy: training goes on without it."""
    one, tasks = learner(), two_tasks()
    one.grow(2)
    one.grow(2)
    taught = Distillation(1.0, within=False)
    taught.before(one, tasks[1])
    before = copy.deepcopy(one.state_dict())
    assert taught.old is not None
    with torch.no_grad():
        for p in one.parameters():
            p.add_(1)
    assert all(torch.equal(v, before[name]) for name, v in taught.old.state_dict().items())


def test_right_knows_what_it_is_told() -> None:
    one, tasks = learner(), two_tasks()
    for _ in tasks:
        one.grow(2)
    lean(one, 0, [1.0, 0.0])
    lean(one, 1, [3.0, 2.0])
    test = tasks[0].test
    assert not right(one, test, task_known=False).any()
    assert torch.equal(right(one, test, task_known=True), test.labels == 0)
    assert isinstance(test, Examples)
    assert isinstance(test.labels, Tensor)
