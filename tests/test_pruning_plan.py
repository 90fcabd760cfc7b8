"""Plans are data: they compose, and come back from JSON as they were."""

from __future__ import annotations

import json
import random

import pytest
import torch

from adasap.errors import PlanError
from adasap.groups.group import fingerprint
from adasap.pruning import PruningPlan, apply_plan_
from criteria_nets import plain_groups, plain_net


def example() -> PruningPlan:
    return PruningPlan.of(plain_groups(), {"conv1": [5, 0, 2], "conv2": [1]})


def same(one: PruningPlan, other: PruningPlan) -> bool:
    return one.to_json() == other.to_json()


def test_a_plan_covers_the_groups_that_can_be_pruned() -> None:
    plan = PruningPlan.of(plain_groups(), {"conv1": [5, 0, 2]})
    assert plan.kept["conv1"].tolist() == [0, 2, 5]
    assert plan.widths() == {"conv1": 3, "conv2": 4}
    assert plan.num_channels == {"conv1": 6, "conv2": 4}
    assert plan.fingerprint == fingerprint(plain_groups())
    assert not plan.keeps_all
    assert PruningPlan.of(plain_groups()).keeps_all


def test_json_brings_it_back() -> None:
    plan = example()
    back = PruningPlan.from_json(plan.to_json())
    assert same(back, plan)
    assert all(indices.dtype == torch.int64 for indices in back.kept.values())
    assert same(PruningPlan.from_json(json.loads(plan.to_json())), plan)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), "{", "the pruning plan is not valid JSON"),
        ((), '{"format": "adasap-plan-1", "format": "adasap-plan-1"}', "the key 'format' is given twice"),
        ((), "[" * 100_000, "nested too deeply"),
        ((), "[]", "wanted a JSON object"),
        (("format",), "other", "format is 'other'"),
        (("fingerprint",), 3, "fingerprint"),
        (("groups",), [], "groups"),
        (("groups", "conv1"), 3, "'conv1'"),
        (("groups", "conv1", "kept"), [], "at least one"),
        (("groups", "conv1", "kept"), [0, 0], "without repeats"),
        (("groups", "conv1", "kept"), [2, 1], "ascend"),
        (("groups", "conv1", "kept"), [-1], "within 0 to 5"),
        (("groups", "conv1", "kept"), [6], "within 0 to 5"),
        (("groups", "conv1", "kept"), [10**400], "within 0 to 5"),
        (("groups", "conv1", "kept"), [-(10**30)], "within 0 to 5"),
        (("groups", "conv1", "kept"), [1.5], "list of integers"),
        (("groups", "conv1", "kept"), [True], "list of integers"),
        (("groups", "conv1", "num_channels"), "6", "integer num_channels"),
        (("groups", "conv1", "num_channels"), True, "integer num_channels"),
        (("groups", "conv1", "num_channels"), 10**9, "has num_channels 1000000000 .* wanted 1 to 10,000,000"),
        (("groups", "conv1", "num_channels"), 0, "has num_channels 0"),
        (("groups", "conv1", "more"), 0, "the keys num_channels, kept, more"),
        (("more",), 0, "found format, fingerprint, groups, more"),
    ],
)
def test_altered_json_is_refused(path: tuple[str, ...], value: object, message: str) -> None:
    data = json.loads(example().to_json())
    del data["sha256"]  # as somebody writes a plan by hand
    if not path:
        data = value
    else:
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_json(data)


def test_a_plan_that_is_not_what_its_digest_says_is_refused() -> None:
    data = json.loads(example().to_json())
    data["groups"]["conv1"]["kept"] = [0, 1]
    for altered in (data, json.dumps(data)):
        with pytest.raises(PlanError, match="the pruning plan was altered or damaged: its digest does not match"):
            PruningPlan.from_json(altered)


@pytest.mark.parametrize("with_digest", [True, False])
def test_mutated_json_is_refused_or_says_the_same(with_digest: bool) -> None:
    plan, draws = example(), random.Random(0)
    data = json.loads(plan.to_json())
    text = json.dumps(data if with_digest else {key: value for key, value in data.items() if key != "sha256"})
    words = ("", "NaN", "1e400", "-1", "null", "true", "[]", "{", '"', "9" * 5000, "\0", ",", "\ud800", "1" * 300)
    refused = 0
    for _ in range(1000):
        start = draws.randrange(len(text))
        mutated = text[:start] + draws.choice(words) + text[start + draws.randrange(12) :]
        try:
            back = PruningPlan.from_json(mutated)
        except PlanError:
            refused += 1
            continue
        assert not with_digest or same(back, plan)
    assert refused > 500


def test_frozen_and_unknown_groups_are_refused() -> None:
    with pytest.raises(PlanError, match="frozen: its channels are an output"):
        PruningPlan.of(plain_groups(), {"fc": [0]})
    with pytest.raises(PlanError, match="known: conv1, conv2"):
        PruningPlan.of(plain_groups(), {"conv9": [0]})
    with pytest.raises(PlanError, match="only one of kept and num_channels"):
        PruningPlan({"conv1": torch.tensor([0])}, {}, "")


def test_two_plans_after_another_are_one() -> None:
    step_by_step, groups = plain_net()
    first = PruningPlan.of(groups, {"conv1": [0, 2, 3, 5], "conv2": [1, 2, 3]})
    between = apply_plan_(step_by_step, groups, first)
    second = PruningPlan.of(between, {"conv1": [1, 3], "conv2": [0]})
    apply_plan_(step_by_step, between, second)

    composed = first.then(second)
    assert composed.kept["conv1"].tolist() == [2, 5]
    assert composed.kept["conv2"].tolist() == [1]
    at_once, _ = plain_net()
    apply_plan_(at_once, groups, composed)
    assert all(torch.equal(a, b) for a, b in zip(step_by_step.parameters(), at_once.parameters(), strict=True))


def test_composition_is_associative_and_keeps_all_is_neutral() -> None:
    plan = example()
    later = PruningPlan.of(plain_groups(3, 1), {"conv1": [0, 2]})
    last = PruningPlan.of(plain_groups(2, 1), {"conv1": [1]})
    assert same(plan.then(later).then(last), plan.then(later.then(last)))
    assert same(plan.then(PruningPlan.of(plain_groups(3, 1))), plan)
    assert same(PruningPlan.of(plain_groups()).then(plan), plan)


def test_plans_of_other_widths_do_not_follow() -> None:
    with pytest.raises(PlanError, match="leaves 3 channels of group 'conv1', the second starts from 6"):
        example().then(example())


def test_the_summary_names_what_goes() -> None:
    assert example().summary().splitlines() == [
        "conv1: 3 of 6 channels",
        "conv2: 1 of 4 channels",
        "all groups: 4 of 10 channels (40.0 %)",
    ]
