"""Milliseconds as a cost: the layers of a model by themselves, a table of them, and what it says between its points."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import adasap
from adasap.errors import BudgetError, RecipeError
from adasap.experiments.latency import latency_table
from adasap.groups import ChannelGroup, prunable, trace_groups, widths
from adasap.models.cifar_resnet import cifar_resnet20
from adasap.profiling import Latency, LatencyTable
from adasap.profiling.agreement import check_prediction, require_agreement
from adasap.profiling.calibration import Bench, _fit, calibrate, cut_copy, prediction_accuracy, random_widths
from adasap.profiling.reading import layer_calls
from adasap.profiling.table import grid_widths
from adasap.profiling.timing import Setting, TimingOptions, measure_layers_, time_models_ms
from adasap.profiling.torch_engine import time_layer_ms
from adasap.pruning import Budget, BudgetOptions, build_cost, solve_knapsack

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


SLOW_NETWORKS = ("mobilenet_v2", "shufflenet_v2_x1_0")


class PaddedFirst(nn.Module):
    """A shortcut whose channels are padded with zeros, as the first summand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        padded = nn.functional.pad(x, (0, 0, 0, 0, 4, 4))
        return self.head((padded + self.wide(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (PaddedFirst, 8),
        pytest.param(cifar_resnet20, 32, marks=pytest.mark.slow),
        pytest.param(torchvision.models.resnet18, 64, marks=pytest.mark.slow),
        *(pytest.param(getattr(torchvision.models, n), 64, marks=pytest.mark.slow) for n in SLOW_NETWORKS),
    ],
)
def test_widths_are_those_of_the_model_that_is_cut(build, size: int) -> None:
    model, x = build().eval(), torch.zeros(1, 3, size, size)
    groups = trace_groups(model, x)
    at = {**widths(groups), **random_widths(groups, seed=3)}
    cut = cut_copy(model, groups, at)
    calls = layer_calls(model, groups, x)
    convolutions = [call for call in calls if call.key.startswith("conv2d")]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert all(len(call.widths) <= 2 for call in calls)
    free = {group.name for group in prunable(groups)}  # some of them have come to their floor in the cut model
    again = [dataclasses.replace(g, frozen=() if g.name in free else g.frozen) for g in trace_groups(cut, x)]
    pairs = list(zip(calls, layer_calls(cut, again, x), strict=True))
    for whole, narrow in pairs:
        if "pad" in whole.key or whole.key.startswith(("cat", "adaptive")):
            continue
        assert whole.where == narrow.where
        assert [width.at(at) for width in whole.widths] == list(narrow.dense), whole.where
    with torch.inference_mode():
        for whole, _ in pairs:
            for point in grid_widths(whole):
                whole.runners(point, CPU, torch.float32, weight_bytes=0)[0]()


class NormedFirst(nn.Module):
    """A width on which a LayerNorm and a depthwise convolution stand, and one that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.each, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=8), nn.LayerNorm(8)
        self.wide, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(self.norm(self.each(self.stem(x)).mean((2, 3)))).relu())


def test_a_frozen_width_is_measured_only_as_it_is() -> None:
    net, x = NormedFirst().eval(), torch.zeros(2, 3, 4, 4)
    calls = layer_calls(net, trace_groups(net, x), x)
    cuttable = {call.where: [width.per_channel for width in call.widths] for call in calls if call.where != "model"}
    kept, free = [], [(("wide", 1.0),)]
    assert cuttable == {"stem": kept, "each": kept, "norm": kept, "wide": free, "head": free}
    measure_layers_(LatencyTable(), calls, Setting(threads=1), QUICK, lambda done, todo: None)


class Normed(nn.Module):
    """Every norm over channels, each on a width that can be cut if it may be inexact."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 40, 1), nn.GroupNorm(4, 40)
        self.wide, self.norm = nn.Linear(40, 48), nn.LayerNorm(48)
        self.last, self.root, self.head = nn.Linear(48, 24), nn.RMSNorm(24), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.wide(self.grouped(self.stem(x)).mean((2, 3))))
        return self.head(self.root(self.last(x.relu())))


def test_norms_over_the_channels_are_priced_at_every_width() -> None:
    net, x = Normed().eval(), torch.zeros(2, 3, 4, 4)
    groups = trace_groups(net, x, allow_inexact=True)
    at = {"stem": 7, "wide": 31, "last": 5}
    norms = [call for call in layer_calls(net, groups, x) if "norm" in call.key]
    assert [width.at({**widths(groups), **at}) for call in norms for width in call.widths] == [28, 31, 5]
    cut = cut_copy(net, groups, {**widths(groups), **at})
    shapes: dict[str, torch.Size] = {}
    for name in ("grouped", "norm", "root"):
        cut.get_submodule(name).register_forward_hook(lambda _, given, out, name=name: shapes.update({name: out.shape}))
    cut(x)
    for call in norms:
        (run, *_) = call.runners([width.at(at) for width in call.widths], CPU, torch.float32, weight_bytes=0)
        assert run().shape == shapes[call.where]


def test_a_table_without_widths_under_norms_is_refused_by_name_and_gone_on_with(tmp_path) -> None:
    net, x, path = Normed().eval(), torch.zeros(1, 3, 4, 4), tmp_path / "net.json"
    budget = {"latency": 0.6, "latency_table": str(path)}
    exact, inexact = (layer_calls(net, trace_groups(net, x, allow_inexact=allowed), x) for allowed in (False, True))
    path.write_text(made_up(exact, sum).to_json())
    with pytest.raises(BudgetError, match=r"without cuts under norms, and so lacks widths of stem.*--allow-inexact"):
        adasap.prune(net, x, "l2", budget, allow_inexact=True)
    path.write_text(made_up([*exact, *inexact], sum).to_json())
    pruned = adasap.prune(net, x, "l2", budget, allow_inexact=True)
    assert pruned.cost_after <= 0.6 * pruned.cost_before
    assert pruned.mask_error < 1e-5


@pytest.mark.slow
def test_the_command_measures_widths_under_norms_on_request(tmp_path) -> None:
    net, path = Normed().eval(), tmp_path / "net.json"
    quick = {"size": 4, "seconds": 0.01, "repeats": 1, "num_plans": 0}
    few = len(latency_table(net, path, **quick).table.points)
    assert len(latency_table(net, path, **quick, allow_inexact=True).table.points) > few


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


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', '{"format": "adasap-latency-table-1"}', "[" * 10**5])
def test_foreign_files_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match=r"the latency table is not (valid JSON|a latency table)"):
        LatencyTable.from_json(text)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scale", -1.0, "scale is '-1.0' instead of a number from 0"),
        ("scale", "inf", "scale is 'inf' instead of a number"),
        ("scale", True, "scale is 'True' instead of a number"),
        ("call_ms", None, "call_ms is 'None' instead of a number"),
        ("call_ms", 10**300, "call_ms is '1000.*' instead of a number"),
        ("alignment", 0, "alignment is '0' instead of a whole number from 1"),
        ("alignment", 8.0, "alignment is '8.0' instead of a whole number"),
        ("points", [], "points is list instead of an object"),
        ("points", {"conv": 3}, "a point of layer 'conv' is '3' instead of"),
        ("points", {"conv": [[]]}, r"a point of layer 'conv' is '\[\]' instead of"),
        ("points", {"conv": [[8, -0.5]]}, "the milliseconds of layer 'conv' is '-0.5' instead of"),
        ("points", {"conv": [[8, "nan"]]}, "the milliseconds of layer 'conv' is 'nan' instead of"),
        ("points", {"conv": [[10**9, 0.5]]}, "a width of layer 'conv' is '1000000000' instead of"),
        ("points", {"conv": [[True, 0.5]]}, "a width of layer 'conv' is 'True' instead of"),
        ("points", {"conv": [[8, 0.5], [8, 0.6]]}, "layer 'conv' has two points at widths"),
        ("points", {"conv": [[8, 0.5], [8, 8, 0.6]]}, "points of unequal length"),
        ("settings", {"batch": 10**9}, "batch is '1000000000' instead of a whole number from 1 to 4,096"),
        ("settings", {"threads": "two"}, "threads is 'two' instead of a whole number"),
        ("settings", {"precision": "int8"}, "settings.precision is 'int8'; float32, bf16, fp16 are known"),
        ("settings", {"error": {"median": -1}}, "error.median is '-1' instead of a number"),
        ("settings", {"device": ["cpu"]}, "settings.device is list instead of text"),
        ("more", 1, "the key 'more' is missing or unknown"),
    ],
)
def test_a_table_that_cannot_be_is_refused(key: str, value: object, words: str) -> None:
    data = {"format": "adasap-latency-table-1", "settings": {}, "alignment": 1, "scale": 1.0, "call_ms": 0.0}
    data |= {"points": {"conv": [[8, 0.5]]}}
    assert LatencyTable.from_json(json.dumps(data)).points == {"conv": {(8,): 0.5}}  # of an earlier version: no digest
    with pytest.raises(BudgetError, match=words):
        LatencyTable.from_json(json.dumps(data | {key: value}))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "1e400"])
def test_numbers_that_are_not_finite_are_refused_as_words_too(word: str) -> None:
    table = LatencyTable(points={"conv": {(8,): 0.5}})
    with pytest.raises(BudgetError, match=f"the number {word} is not finite"):
        LatencyTable.from_json(table.to_json().replace("0.5", word))
    with pytest.raises(BudgetError, match="the latency table was altered or damaged: its digest does not match"):
        LatencyTable.from_json(table.to_json().replace("0.5", "0.25"))


@pytest.mark.slow
def test_a_table_is_used_only_where_it_predicts_the_dense_model() -> None:
    net, groups, x = network()
    here = Setting(threads=1)
    table = made_up(layer_calls(net, groups, x[:1]), lambda widths: 1e6)
    table.settings = {**here.describe(), "batch": 1}
    with pytest.raises(
        BudgetError,
        match=r"t\.json predicts .* ms for the dense model, which takes .* remove it and measure again with "
        r"`adasap profile MODEL --latency-table t\.json --batch 1 --threads 1 --precision float32`",
    ):
        require_agreement(table, Path("t.json"), net, groups, x)
    table.settings["processor"] = "another"
    require_agreement(table, Path("t.json"), net, groups, x)  # nothing can be measured here


def test_a_table_is_measured_again_before_it_is_refused() -> None:
    times = iter([2.0, 1.6, 1.09, 5.0])
    check_prediction(1.0, times.__next__, where="t.json", command="")
    assert list(times) == [5.0]
    busy = iter([2.0, 1.6, 1.2, 3.0, 1.0])
    with pytest.raises(BudgetError, match=r"predicts 1\.00 ms .* takes 1\.20 ms here \(17 % off in the best of 4"):
        check_prediction(1.0, busy.__next__, where="t.json", command="")


def test_calibration_finds_what_a_call_costs_and_what_the_network_adds() -> None:
    sums, num_calls = [10.0, 5.0, 2.0, 3.0], 40
    scale, call_ms = _fit(sums, [1.25 * s + 0.05 * num_calls for s in sums], num_calls)
    assert (scale, call_ms) == pytest.approx((1.25, 0.05))
    assert _fit(sums, [1.25 * s - 1.0 for s in sums], num_calls)[1] == 0.0


def test_a_calibrated_table_adds_its_calls_and_stands_scaled() -> None:
    net, groups, x = network()
    table = made_up(layer_calls(net, groups, x), bilinear)
    raw = Latency(table, net, groups, x)
    fitted = LatencyTable.from_json(dataclasses.replace(table, scale=2.0, call_ms=0.5).to_json())
    cost = Latency(fitted, net, groups, x)
    assert cost.total({"0": 9}) == pytest.approx(2.0 * raw.total({"0": 9}) + 0.5 * raw.num_calls)
    expected = [cost.total({"0": c}) for c in (4, 20)]
    assert cost.along({}, "0", [4, 20]).tolist() == pytest.approx(expected)


def test_whole_models_are_fitted_and_predicted() -> None:
    net, groups, x = network()
    table = LatencyTable()
    measure_layers_(table, layer_calls(net, groups, x), Setting(), QUICK, lambda done, of: None)
    bench = Bench(net, groups, x, Setting(), QUICK)
    fitted = calibrate(table, bench)
    assert fitted.scale > 0
    assert fitted.call_ms >= 0
    accuracy = prediction_accuracy(fitted, bench, num_plans=3)
    dense, plan = accuracy.dense, accuracy.plans[1]
    assert plan.widths == random_widths(groups, seed=1) != accuracy.plans[0].widths
    shares = plan.predicted_ms / dense.predicted_ms, plan.measured_ms / dense.measured_ms
    assert accuracy.errors[1] == pytest.approx(abs(shares[0] - shares[1]))


def test_a_copy_is_cut_to_the_widths_that_are_timed() -> None:
    net, groups, x = network()
    cut = cut_copy(net, groups, {"0": 8, "3": 48})
    assert (cut[0].out_channels, cut[3].in_channels, cut[3].out_channels) == (8, 8, 48)
    assert net[0].out_channels == 32
    assert cut(x).shape == (2, 5)


@pytest.mark.slow
def test_a_compiled_setting_compiles_for_these_shapes() -> None:
    net, _, x = network()
    setting = Setting(compiled=True, threads=1, channels_last=False)
    placed, batch = setting.place(net), setting.batch(x, 3)
    with setting.applied():
        assert torch.get_num_threads() == 1
        times = time_models_ms({"it": placed}, batch, rounds=2, seconds=0.0)
        torch.testing.assert_close(batch.call(placed), batch.call(net), rtol=1e-4, atol=1e-5)
    assert len(times["it"]) == 2
    assert isinstance(placed, torch._dynamo.eval_frame.OptimizedModule)


@pytest.mark.slow
def test_the_layers_of_a_compiled_table_are_compiled_one_by_one() -> None:
    net, groups, x = network()
    calls = {call.key.split()[0]: call for call in layer_calls(net, groups, x)}
    setting = Setting(compiled=True, threads=1)
    with setting.applied():
        for name in ("conv2d", "batch_norm"):
            torch._dynamo.utils.counters.clear()
            half = [width // 2 for width in calls[name].dense]
            assert time_layer_ms(calls[name], half, setting, QUICK, weight_bytes=0) > 0
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"latency": 0.5}, "need latency_table"),
        ({"latency": 2.0, "latency_table": "t.json"}, "milliseconds are latency_ms"),
        ({"macs": 0.5, "latency_table": "t.json"}, "nothing else takes it"),
        ({"latency": 0.5, "latency_ms": 3.0, "latency_table": "t.json"}, "exactly one of"),
        ({"latency_ms": 0.0, "latency_table": "t.json"}, "above 0"),
    ],
)
def test_budgets_of_time_say_what_they_want(budget, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BudgetOptions(**budget)


def test_a_missing_table_names_the_command_that_makes_it(tmp_path) -> None:
    net, groups, x = network()
    options = BudgetOptions(latency=0.5, latency_table=str(tmp_path / "none.json"))
    with pytest.raises(BudgetError, match=r"no latency table .*none.json'; make it .* --latency-table"):
        build_cost(options, net, groups, x[:1])


@pytest.mark.slow
def test_prune_takes_milliseconds(tmp_path) -> None:
    net, groups, x = network()
    table = made_up(layer_calls(net, groups, x), bilinear)
    table.settings["batch"] = len(x)
    path = tmp_path / "table.json"
    path.write_text(table.to_json())
    for selection in ("ranking", "knapsack"):
        pruned = adasap.prune(net, x[:1], "l2", {"latency": 0.6, "latency_table": str(path)}, selection=selection)
        assert pruned.cost.unit == "ms"
        assert pruned.cost_after <= 0.6 * pruned.cost_before
    limit = 0.5 * pruned.cost_before
    pruned = adasap.prune(net, x[:1], "l2", {"latency_ms": limit, "latency_table": str(path)}, selection="knapsack")
    assert pruned.cost_after <= limit < pruned.cost_before
