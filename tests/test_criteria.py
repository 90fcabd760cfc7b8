"""What every criterion of the registry must do, and what each of them computes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from adasap.criteria import (
    CRITERIA,
    Criterion,
    Evidence,
    GatheringCriterion,
    GradientCriterion,
    build_criterion,
    score,
    validate_criterion,
)
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Slot
from criteria_nets import Plain, each, norm_slots, permuted, plain_groups, plain_net, twins

NAMES = sorted(CRITERIA)
DRAWN = ("random", "hutchinson")
SECOND_ORDER = ("fisher", "taylor2")


def with_gradients(net: Plain, seed: int = 1) -> Plain:
    torch.manual_seed(seed)
    net.zero_grad()
    net(torch.randn(4, 3, 5, 5)).square().sum().backward()
    return net


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(4, 3, 5, 5, generator=generator) for _ in range(count)]


def squares(model: nn.Module, images: Tensor) -> Tensor:
    return model(images.to(next(model.parameters()).dtype)).square().sum()  # type: ignore[no-any-return]


def scores_of(name: str, net: Plain, groups: tuple[ChannelGroup, ...]) -> dict[str, Tensor]:
    criterion = build_criterion(name)
    if not criterion.needs:
        return criterion.score(net, groups, None)
    if isinstance(criterion, GatheringCriterion):
        return criterion.score(net, groups, criterion.gather(net, groups, batches(criterion.num_batches), squares))
    assert isinstance(criterion, GradientCriterion)
    evidence = Evidence()
    evidence.add(criterion.batch_evidence(net, groups))
    return criterion.score(net, groups, evidence.mean())


# The contract


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_every_group_gets_finite_scores_that_are_not_negative(self, name: str) -> None:
        net, groups = plain_net()
        scores = scores_of(name, with_gradients(net), groups)
        assert list(scores) == ["conv1", "conv2", "fc"]
        for group in groups:
            values = scores[group.name]
            assert values.shape == (group.num_channels,)
            assert values.dtype == torch.float32
            assert values.isfinite().all()
            assert (values >= 0).all()

    def test_scores_follow_a_permutation_of_the_channels(self, name: str) -> None:
        if name in DRAWN:
            pytest.skip("draws belong to places, not to weights")
        net, groups = plain_net()
        before = scores_of(name, with_gradients(net), groups)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        after = scores_of(name, permuted(net, groups[0], order), groups)
        torch.testing.assert_close(after["conv1"], before["conv1"][order])
        torch.testing.assert_close(after["conv2"], before["conv2"])
        assert not torch.allclose(after["conv1"], before["conv1"])

    def test_channels_that_are_equal_score_equal(self, name: str) -> None:
        if name in DRAWN:
            pytest.skip("draws belong to places, not to weights")
        net, groups = plain_net()
        scores = scores_of(name, with_gradients(twins(net, groups[0], 1, 4)), groups)["conv1"]
        torch.testing.assert_close(scores[1], scores[4], rtol=1e-5, atol=0)
        assert len(scores.unique()) > 2

    def test_the_model_is_left_alone(self, name: str) -> None:
        net, groups = plain_net()
        with_gradients(net)
        net.conv2.eval()
        modes, hooks = [m.training for m in net.modules()], [dict(m._forward_pre_hooks) for m in net.modules()]
        state, generator = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        scores_of(name, net, groups)
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
        assert all(torch.equal(a, p.grad) for a, p in zip(gradients, net.parameters(), strict=True))  # type: ignore[arg-type]
        assert torch.equal(generator, torch.get_rng_state())
        assert modes == [m.training for m in net.modules()]
        assert hooks == [dict(m._forward_pre_hooks) for m in net.modules()]

    def test_zero_weights_score_equal_and_finite(self, name: str) -> None:
        net, groups = plain_net()
        with_gradients(net)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        for values in scores_of(name, net, groups).values():
            assert values.isfinite().all()
            if name != "random":
                assert (values == values[0]).all()

    def test_a_group_of_one_channel(self, name: str) -> None:
        net, groups = plain_net(first=1, second=1)
        scores = scores_of(name, with_gradients(net), groups)
        assert scores["conv1"].shape == (1,)
        assert scores["conv1"].isfinite().all()

    def test_frozen_parameters_are_scored(self, name: str) -> None:
        net, groups = plain_net()
        net.conv1.requires_grad_(False)
        scores = scores_of(name, with_gradients(net), groups)
        assert scores["conv1"].isfinite().all()

    def test_scores_carry_no_graph(self, name: str) -> None:
        net, groups = plain_net()
        assert not any(values.requires_grad for values in scores_of(name, with_gradients(net), groups).values())

    def test_half_precision_weights(self, name: str) -> None:
        net, groups = plain_net()
        expected = scores_of(name, with_gradients(net), groups)
        gradients = [p.grad for p in net.parameters()]
        net.bfloat16()
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.bfloat16()
        found = scores_of(name, net, groups)
        torch.testing.assert_close(found["conv2"].float(), expected["conv2"], rtol=0.1, atol=0.5)

    def test_the_same_call_gives_the_same_scores(self, name: str) -> None:
        net, groups = plain_net()
        with_gradients(net)
        first, second = scores_of(name, net, groups), scores_of(name, net, groups)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_a_compiled_model_is_looked_through(self, name: str) -> None:
        net, groups = plain_net()
        plain = scores_of(name, with_gradients(net), groups)
        compiled = scores_of(name, torch.compile(net, backend="eager"), groups)  # type: ignore[arg-type]
        assert all(torch.equal(plain[key], compiled[key]) for key in plain)

    def test_it_has_a_row_in_the_documentation(self, name: str, pytestconfig: pytest.Config) -> None:
        assert f"| `{name}` |" in (pytestconfig.rootpath / "docs" / "criteria.md").read_text()


@pytest.mark.parametrize("name", [n for n in NAMES if build_criterion(n).needs])
class TestEvidenceContract:
    def test_missing_evidence_is_an_error(self, name: str) -> None:
        net, groups = plain_net()
        wanted = r"evidence\.add" if "gradients" in build_criterion(name).needs else r"criterion\.gather"
        with pytest.raises(ValueError, match=wanted):
            score(name, net, groups)

    def test_evidence_of_other_widths_is_an_error(self, name: str) -> None:
        net, groups = plain_net()
        evidence = {group.name: torch.ones(group.num_channels + 1) for group in groups}
        with pytest.raises(ValueError, match="conv1"):
            score(name, net, groups, evidence)


@pytest.mark.parametrize("name", [n for n in NAMES if "gradients" in build_criterion(n).needs])
class TestGradientContract:
    def test_missing_gradients_are_an_error(self, name: str) -> None:
        net, groups = plain_net()
        with pytest.raises(ValueError, match="call backward"):
            build_criterion(name).batch_evidence(net, groups)  # type: ignore[attr-defined]

    def test_it_scales_with_the_loss_and_the_scale_divides_out(self, name: str) -> None:
        if name in SECOND_ORDER:
            pytest.skip("grows with the square of the loss: training divides the gradients by the scale instead")
        net, groups = plain_net()
        criterion = build_criterion(name)
        assert isinstance(criterion, GradientCriterion)
        plain, scaled = Evidence(), Evidence()
        plain.add(criterion.batch_evidence(with_gradients(net), groups))
        for parameter in net.parameters():
            parameter.grad *= 1024.0
        scaled.add(criterion.batch_evidence(net, groups), scale=1024.0)
        assert all(torch.equal(plain.mean()[key], scaled.mean()[key]) for key in plain.mean())

    def test_opposite_batches_do_not_cancel(self, name: str) -> None:
        net, groups = plain_net()
        criterion = build_criterion(name)
        assert isinstance(criterion, GradientCriterion)
        evidence = Evidence()
        evidence.add(criterion.batch_evidence(with_gradients(net), groups))
        once = evidence.mean()["conv1"]
        for parameter in net.parameters():
            parameter.grad.neg_()  # type: ignore[union-attr]
        evidence.add(criterion.batch_evidence(net, groups))
        if name == "taylor2":  # slope and curvature add up in one of the two batches
            assert (evidence.mean()["conv1"] >= scores_of("taylor", net, groups)["conv1"] * (1 - 1e-6)).all()
        else:
            torch.testing.assert_close(evidence.mean()["conv1"], once)


# What each computes


def test_l2_is_the_norm_over_the_root_mean_square() -> None:
    net, groups = plain_net()
    norms = torch.stack([row.norm() for row in net.conv1.weight.detach()])
    expected = norms / norms.square().mean().sqrt()
    torch.testing.assert_close(score("l2", net, groups)["conv1"], expected)


def test_l1_is_the_sum_over_the_mean() -> None:
    net, groups = plain_net()
    sums = torch.stack([row.abs().sum() for row in net.conv1.weight.detach()])
    torch.testing.assert_close(score("l1", net, groups)["conv1"], sums / sums.mean())


def test_all_producers_of_a_group_count_together_wherever_their_channels_stand() -> None:
    net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ConvTranspose2d(2, 3, 1, bias=False))
    places = torch.tensor([[0, 3], [2, 1]])
    slots = (Slot("0.weight", 0, "producer", places), Slot("1.weight", 0, "producer", each(2).flip(0)))
    linear, transposed = net[0].weight.detach(), net[1].weight.detach().flatten(1)
    expected = torch.stack(
        [
            torch.cat([linear[[0, 3]].flatten(), transposed[1]]),
            torch.cat([linear[[2, 1]].flatten(), transposed[0]]),
        ]
    ).norm(dim=1)
    found = score("l2", net, (ChannelGroup("g", 2, slots),))["g"]
    torch.testing.assert_close(found, expected / expected.square().mean().sqrt())


def test_l2_and_l1_ignore_the_scale_of_a_group() -> None:
    net, groups = plain_net()
    before = {name: score(name, net, groups) for name in ("l1", "l2")}
    with torch.no_grad():
        net.conv1.weight *= 1e-6
    for name, scores in before.items():
        torch.testing.assert_close(score(name, net, groups)["conv1"], scores["conv1"])


def spread_rows() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor]:
    """Two producers whose channels own several rows at odd places; and the joined rows, by loops, in float64."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(2, 6, bias=False), nn.ConvTranspose2d(4, 3, 2, bias=False))
    places = torch.tensor([[0, 3], [2, 1], [5, 4]])
    slots = (Slot("0.weight", 0, "producer", places), Slot("1.weight", 1, "producer", each(3).flip(0)))
    linear, transposed = net[0].weight.tolist(), net[1].weight.tolist()
    rows = [
        [x for place in places[channel].tolist() for x in linear[place]]
        + [x for into in transposed for line in into[2 - channel] for x in line]
        for channel in range(3)
    ]
    return net, (ChannelGroup("g", 3, slots),), torch.tensor(rows, dtype=torch.float64)


def test_fpgm_is_the_sum_of_distances_over_its_mean() -> None:
    net, groups, rows = spread_rows()
    sums = [sum(math.dist(one.tolist(), other.tolist()) for other in rows) for one in rows]
    expected = torch.tensor([value / (sum(sums) / 3) for value in sums])
    torch.testing.assert_close(score("fpgm", net, groups)["g"], expected)


def test_fpgm_gives_equal_rows_no_distance_and_does_not_look_at_size() -> None:
    net, groups = plain_net()
    wide = nn.Linear(2003, 37, bias=False)
    with torch.no_grad():
        net.conv1.weight.copy_(net.conv1.weight[:1].expand_as(net.conv1.weight))
        wide.weight.copy_(torch.randn(2003).expand_as(wide.weight))
    assert score("fpgm", net, groups)["conv1"].tolist() == [0.0] * 6
    whole = ChannelGroup("g", 37, (Slot("weight", 0, "producer", each(37)),))
    assert score("fpgm", wide, (whole,))["g"].tolist() == [0.0] * 37
    with torch.no_grad():  # an odd small filter among large equal ones is what cannot be replaced
        net.conv1.weight[2].zero_()
    scores = score("fpgm", net, groups)["conv1"]
    assert scores.argmax() == 2
    assert score("l2", net, groups)["conv1"].argmin() == 2


def test_lamp_is_the_share_of_what_would_be_left() -> None:
    net, groups, rows = spread_rows()
    squares = [sum(float(x) ** 2 for x in row) for row in rows]
    expected = [value / sum(other for other in squares if other >= value) for value in squares]
    torch.testing.assert_close(score("lamp", net, groups)["g"], torch.tensor(expected))


def test_lamp_orders_as_l2_and_keeps_one_channel_of_each_group_to_the_last() -> None:
    net, groups = plain_net()
    lamp, l2 = score("lamp", net, groups), score("l2", net, groups)
    for group in groups:
        assert lamp[group.name].argsort().tolist() == l2[group.name].argsort().tolist()
        assert lamp[group.name].max() == 1
    with torch.no_grad():
        net.conv1.weight *= 1e-3
    torch.testing.assert_close(score("lamp", net, groups)["conv1"], lamp["conv1"])


def test_fisher_is_half_the_squared_products_over_the_batches() -> None:
    net, groups = plain_net()
    evidence, total = Evidence(), torch.zeros(6, dtype=torch.float64)
    criterion = build_criterion("fisher")
    assert isinstance(criterion, GradientCriterion)
    for seed in (1, 2, 3):
        with_gradients(net, seed)
        evidence.add(criterion.batch_evidence(net, groups))
        weight, gradient = net.conv1.weight.detach().flatten(1), net.conv1.weight.grad.flatten(1)  # type: ignore[union-attr]
        for channel in range(6):
            for w, g in zip(weight[channel].tolist(), gradient[channel].tolist(), strict=True):
                total[channel] += 0.5 * (w * g) ** 2 / 3
    torch.testing.assert_close(criterion.score(net, groups, evidence.mean())["conv1"], total.float())


def test_second_order_taylor_is_exact_on_a_quadratic_whose_curvature_is_its_squared_slope() -> None:
    """L = g.w + 1/2 * sum of (g_k * w_k)^2 changes by -L when all of a channel's rows become zero."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2, bias=False)
    slope = torch.randn(2, 3)
    group = ChannelGroup("g", 2, (Slot("weight", 0, "producer", each(2)),))
    net.weight.grad = slope
    products = (slope * net.weight.detach()).double()
    for curvature in (0.0, 1.0, 32.0):
        criterion = build_criterion("taylor2", curvature=curvature)
        assert isinstance(criterion, GradientCriterion)
        change = [abs(sum(-float(p) + curvature / 2 * float(p) ** 2 for p in row)) for row in products]
        torch.testing.assert_close(criterion.batch_evidence(net, (group,))["g"], torch.tensor(change))
    with pytest.raises(RecipeError, match=r"curvature is -1"):
        build_criterion("taylor2", curvature=-1)


def test_taylor_is_the_derivative_along_removal() -> None:
    net, groups = plain_net()
    net.double().eval()
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)

    def loss(gate: Tensor) -> Tensor:
        gated = {"conv1.weight": net.conv1.weight * gate.view(-1, 1, 1, 1)}
        return torch.func.functional_call(net, gated, (images,)).square().sum()

    expected = torch.func.grad(loss)(torch.ones(6, dtype=torch.float64)).abs()
    net.zero_grad()
    net(images).square().sum().backward()
    torch.testing.assert_close(scores_of("taylor", net, groups)["conv1"], expected.detach())


def test_taylor_norm_is_the_gate_behind_the_norm() -> None:
    net, groups = plain_net()
    net.double().eval()
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)

    def loss(gate: Tensor) -> Tensor:
        gated = {"bn1.weight": net.bn1.weight * gate, "bn1.bias": net.bn1.bias * gate}
        return torch.func.functional_call(net, gated, (images,)).square().sum()

    expected = torch.func.grad(loss)(torch.ones(6, dtype=torch.float64)).abs()
    net.zero_grad()
    net(images).square().sum().backward()
    torch.testing.assert_close(scores_of("taylor_norm", net, groups)["conv1"], expected.detach())


def test_norm_scale_is_the_mean_over_the_norms() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]))
        net[1].weight.copy_(torch.tensor([3.0, 0.0]))
    group = ChannelGroup("g", 2, (*norm_slots("0", 2), *norm_slots("1", 2)))
    assert score("norm_scale", net, (group,))["g"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("name", ["norm_scale", "taylor_norm"])
def test_groups_without_norms_are_refused_before_training(name: str) -> None:
    net, groups = plain_net()
    bare = tuple(
        ChannelGroup(g.name, g.num_channels, tuple(g.with_role("producer", "consumer")), frozen=g.frozen)
        for g in groups
    )
    validate_criterion(build_criterion(name), net, groups)
    with pytest.raises(ValueError, match="conv1, conv2; use"):
        validate_criterion(build_criterion(name), net, bare)


def test_random_depends_on_seed_and_widths_only() -> None:
    net, groups = plain_net()
    first = build_criterion("random", seed=1).score(net, groups, None)["conv1"]
    other_net, _ = plain_net(seed=5)
    assert torch.equal(first, build_criterion("random", seed=1).score(other_net, groups, None)["conv1"])
    assert not torch.equal(first, build_criterion("random", seed=2).score(net, groups, None)["conv1"])
    narrower = build_criterion("random", seed=1).score(net, plain_groups(second=3), None)["conv1"]
    assert not torch.equal(first, narrower)


def test_groups_of_another_model_are_refused() -> None:
    net, _ = plain_net()
    with pytest.raises(ValueError, match=r"conv1\.weight has 6 entries"):
        score("l2", net, plain_groups(first=7))


def test_a_criterion_without_the_methods_of_its_needs_is_refused() -> None:
    net, groups = plain_net()

    class Incomplete:
        needs = frozenset({"batches"})

        def score(self, model: nn.Module, groups: object, evidence: object) -> dict[str, Tensor]:
            return {}

    with pytest.raises(RecipeError, match="has no gather and num_batches"):
        validate_criterion(Incomplete(), net, groups)  # type: ignore[arg-type]
    Incomplete.needs = frozenset({"gradients"})
    with pytest.raises(RecipeError, match="has no batch_evidence"):
        validate_criterion(Incomplete(), net, groups)  # type: ignore[arg-type]
    Incomplete.needs = frozenset({"labels"})
    with pytest.raises(RecipeError, match="needs gradients or batches, not 'labels'"):
        validate_criterion(Incomplete(), net, groups)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="num_batches of at least 1"):
        validate_criterion(build_criterion("apoz", num_batches=0), net, groups)


# The registry


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'taylor'"):
        build_criterion("tailor")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="there is a criterion 'l2' already"):
        CRITERIA.register("l2", lambda: build_criterion("l1"))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(RecipeError, match="sed"):
        build_criterion("random", sed=1)
    with pytest.raises(RecipeError, match="built already"):
        build_criterion(build_criterion("l2"), seed=1)
    with pytest.raises(RecipeError, match="not 3"):
        build_criterion(3)  # type: ignore[arg-type]


def test_a_function_is_a_criterion() -> None:
    net, groups = plain_net()

    def by_place(model: nn.Module, groups: tuple[ChannelGroup, ...]) -> dict[str, Tensor]:
        return {group.name: torch.arange(float(group.num_channels)) for group in groups}

    criterion = build_criterion(by_place)  # type: ignore[arg-type]
    assert isinstance(criterion, Criterion)
    assert not criterion.needs
    assert criterion.score(net, groups, None)["fc"].tolist() == [0.0, 1.0, 2.0]
    assert build_criterion(criterion) is criterion


def test_a_function_that_scores_wrongly_is_named() -> None:
    net, groups = plain_net()
    with pytest.raises(ValueError, match=r"lambda.*'conv2' with shape \(4,\), gave nothing"):
        score(lambda model, groups: {"conv1": torch.ones(6)}, net, groups)
    with pytest.raises(ValueError, match="below zero"):
        score(lambda model, groups: {g.name: -torch.ones(g.num_channels) for g in groups}, net, groups)
