"""Milliseconds as a cost: the layers of a model by themselves, a table of them, and what it says between its points."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from adasap.errors import BudgetError
from adasap.groups import ChannelGroup, prunable, trace_groups
from adasap.pruning import Budget, solve_knapsack
from adasap.pruning.latency import Latency, LatencyTable
from adasap.pruning.layers import layer_calls
from adasap.pruning.timing import Setting, TimingOptions, measure_layers_

CPU = torch.device("cpu")
QUICK = TimingOptions(repeats=1, milliseconds=0.0, rounds=2, seconds=0.0)


def network() -> tuple[nn.Module, tuple[ChannelGroup, ...], torch.Tensor]:
    features = (nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 48, 1))
    net = nn.Sequential(*features, nn.Flatten(), nn.Linear(48 * 64, 5)).eval()
    x = torch.zeros(2, 3, 8, 8)
    return net, trace_groups(net, x), x


def made_up(calls, of) -> LatencyTable:
    """A table whose times are a known function of the widths."""
    table = LatencyTable()
    for call, point in table.missing(calls):
        table.points.setdefault(call.key, {})[point] = of(point)
    return table


def bilinear(point) -> float:
    return 1.0 + point[0] * 0.5 if len(point) < 2 else 2.0 + point[0] + 0.25 * point[0] * point[1]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnext50_32x4d", "densenet121", "shufflenet_v2_x1_0"])
def test_every_layer_runs_by_itself_at_half_of_its_widths(name: str) -> None:
    model, x = getattr(torchvision.models, name)().eval(), torch.zeros(1, 3, 64, 64)
    calls = layer_calls(model, trace_groups(model, x), x)
    convolutions = [call for call in calls if call.key.startswith("conv2d")]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    with torch.inference_mode():
        for call in {call.key: call for call in calls}.values():
            assert len(call.widths) <= 2, call.key
            half = [max(1.0, width // 2) for width in call.dense]
            call.runners(half, CPU, torch.float32, weight_bytes=0)[0]()


def test_convolutions_follow_the_widths_of_their_groups() -> None:
    net, groups, x = network()
    first, second = (c for c in layer_calls(net, groups, x) if c.key.startswith("conv2d"))
    assert [w.at({"0": 8, "3": 12, "5": 5}) for w in second.widths] == [8, 12]
    assert second.dense == (32, 48)
    assert second.runners([8, 12], CPU, torch.float32, weight_bytes=0)[0]().shape == (2, 12, 8, 8)
    assert [w.at({"0": 8, "3": 12, "5": 5}) for w in first.widths] == [8]


def test_times_between_the_points_are_linear_in_each_width() -> None:
    net, groups, x = network()
    calls = layer_calls(net, groups, x)
    cost = Latency(made_up(calls, bilinear), net, groups, x)
    for at in ({}, {"0": 16}, {"0": 24, "3": 40}, {"0": 32, "3": 17}):
        widths = {"0": 32, "3": 48, "5": 5, **at}
        expected = sum(bilinear([w.at(widths) for w in call.widths]) for call in calls)
        assert cost.total(at) == pytest.approx(expected)
    assert cost.dense == cost.total({})


def test_costs_along_a_group_are_the_totals() -> None:
    net, groups, x = network()
    cost = Latency(made_up(layer_calls(net, groups, x), bilinear), net, groups, x)
    expected = [cost.total({"0": c, "3": 40}) for c in (16, 20, 32)]
    assert cost.along({"3": 40}, "0", [16, 20, 32]).tolist() == pytest.approx(expected)


def test_output_channels_are_rounded_up_to_what_the_kernels_work_in() -> None:
    net, groups, x = network()
    table = made_up(layer_calls(net, groups, x), bilinear)
    table.alignment = 16
    cost = Latency(table, net, groups, x)
    alone = [c for c in layer_calls(net, groups, x) if c.key.startswith("conv2d")][1]
    place = cost._calls.index(next(c for c in cost._calls if c.key == alone.key))
    assert cost._grids[place].at([32, 17]) == cost._grids[place].at([32, 32]) == pytest.approx(bilinear((32, 32)))
    assert cost.total({"3": 17}) < cost.total({"3": 33})


def test_a_measured_table_is_resumed_kept_as_json_and_spent_by_the_knapsack() -> None:
    net, groups, x = network()
    calls, table, seen = layer_calls(net, groups, x), LatencyTable(settings={"device": "cpu"}), []
    wanted = len(table.missing(calls))

    class Stop(Exception):
        pass

    def stop_half_way(done: int, of: int) -> None:
        if done == of // 2:
            raise Stop

    with pytest.raises(Stop):
        measure_layers_(table, calls, Setting(), QUICK, stop_half_way)
    with pytest.raises(BudgetError, match=r"lacks \d+ points of this model's layers"):
        Latency(table, net, groups, x)
    measure_layers_(table, calls, Setting(), QUICK, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (wanted - wanted // 2,) * 2
    again = LatencyTable.from_json(table.to_json())
    assert again.points == table.points
    assert again.settings == {"device": "cpu"}
    cost = Latency(again, net, groups, x)
    scores = {g.name: torch.arange(1.0, g.num_channels + 1) for g in prunable(groups)}
    smallest = cost.total({g.name: 1 for g in prunable(groups)})
    budget = Budget(cost, limit=(cost.dense + smallest) / 2)
    if smallest < cost.dense:  # one run of a layer of microseconds is noise
        assert solve_knapsack(groups, scores, budget).cost <= budget.limit


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', '{"format": "adasap-latency-table-1"}'])
def test_foreign_files_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="no latency table"):
        LatencyTable.from_json(text)
