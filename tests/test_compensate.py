"""Compensation: refitted layers are those of a brute-force least squares, and folding loses no copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.errors import ArgumentError, CheckpointError, ModelError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.groups import ChannelGroup, cut_, mask_, trace_groups
from adasap.groups.bare import unwrap
from adasap.groups.fake_model import copied
from adasap.groups.norms_behind import norms_behind
from adasap.models import open_model
from adasap.pruning import Compensation, PruningOptions, compensate_, prune
from adasap.pruning.least_squares import MAX_ROWS, RIDGE
from adasap.pruning.lockstep import in_lockstep
from adasap.report.panels.run import _layer_errors
from adasap.report.records import PruneRecord, Record, as_dict
from adasap.training import CompressionRun
from adasap.training.fingerprint import _options
from adasap.training.options import Compression
from adasap.training.start import require_same_run


def unfolded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Rows [positions, D]: what the layer gives if its filters are the unit vectors."""
    units: Any = copy.deepcopy(layer)
    size = layer.get_parameter("weight")[0].numel()
    units.weight = nn.Parameter(torch.eye(size).double().view(size, *layer.get_parameter("weight").shape[1:]))
    units.bias = None
    found = units(inputs)
    return found.flatten(0, -2) if isinstance(layer, nn.Linear) else found.movedim(1, -1).flatten(0, -2)


def brute_force(layer: nn.Module, inputs: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight [O, k...] and bias by `lstsq` over explicit rows: ridge rows below, a column of ones for the bias."""
    weight = layer.get_parameter("weight").detach()
    entries = weight[0, 0].numel()
    rows, wide = unfolded(layer, inputs), torch.zeros(weight.shape[1], dtype=torch.bool).index_fill(0, kept, True)
    columns = wide.repeat_interleave(entries)
    target, some = rows @ weight.flatten(1).T, rows[:, columns]
    biased = layer.bias is not None
    around = some - some.mean(0) if biased else some
    ridge = (len(rows) * RIDGE * around.square().mean()) ** 0.5
    left = torch.cat([some, ridge * torch.eye(int(columns.sum())).double()])
    right = torch.cat([target, ridge * weight.flatten(1)[:, columns].T])
    if biased:
        ones = torch.cat([torch.ones(len(rows)), torch.zeros(len(left) - len(rows))]).double()
        left = torch.cat([left, ones[:, None]], 1)
    found = torch.linalg.lstsq(left, right).solution.T
    shape = (len(weight), len(kept), *weight.shape[2:])
    return found[:, : int(columns.sum())].reshape(shape), (
        found[:, -1] + layer.get_parameter("bias").detach() if biased else None
    )


def compensated(
    net: nn.Module,
    kept: dict[str, Tensor],
    batches: list[Any],
    how: Any = "least_squares",
    inputs: Tensor | None = None,
) -> tuple[nn.Module, Compensation]:
    example = batches[0][:1] if inputs is None else inputs
    groups, cut = trace_groups(net, example), copied(net)
    cut_(cut, groups, kept)
    norms = norms_behind(net, example)
    return cut, compensate_(copied(net), cut, groups, kept, how, norms=norms, batches=batches)


def images(*shape: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(4, *shape, generator=generator).double() for _ in range(count)]


READERS: dict[str, Callable[[], nn.Module]] = {
    "3x3": lambda: nn.Conv2d(6, 5, 3, padding=1),
    "1x1, no bias": lambda: nn.Conv2d(6, 5, 1, bias=False),
    "stride and dilation": lambda: nn.Conv2d(6, 5, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False),
    "reflected": lambda: nn.Conv2d(6, 5, 3, padding=(2, 1), padding_mode="reflect"),
    "same, even": lambda: nn.Conv2d(6, 5, (2, 3), padding="same"),
    "circular": lambda: nn.Conv2d(6, 5, 3, padding="same", padding_mode="circular"),
    "1d": lambda: nn.Conv1d(6, 5, 3, stride=2, padding=1),
    "3d": lambda: nn.Conv3d(6, 5, 2, padding=1, dilation=2),
    "linear": lambda: nn.Linear(6, 5),
    "linear, no bias": lambda: nn.Linear(6, 5, bias=False),
}


@pytest.mark.parametrize("reader", list(READERS))
def test_a_layer_is_that_of_a_brute_force_least_squares(reader: str) -> None:
    torch.manual_seed(0)
    layer = READERS[reader]()
    rank = layer.get_parameter("weight").ndim - 2
    first: nn.Module = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank](3, 6, *([1] if rank else []))
    net = nn.Sequential(first, nn.ReLU(), layer).double().eval()
    batches = images(*((7, 3) if not rank else (3, *[6] * rank)))
    kept = {"0": torch.tensor([0, 2, 3])}
    cut, found = compensated(net, kept, batches)
    weight, bias = brute_force(layer, net[:2](torch.cat(batches)), kept["0"])
    torch.testing.assert_close(cut.get_parameter("2.weight").data, weight, rtol=1e-7, atol=1e-9)
    if bias is not None:
        torch.testing.assert_close(cut.get_parameter("2.bias").data, bias, rtol=1e-7, atol=1e-9)
    error = found.layers["2"]
    assert 0 < error.after < error.before
    true, dense = cut(torch.cat(batches)), net(torch.cat(batches))
    rows = dense - (0 if layer.bias is None else net.get_parameter("2.bias").view(-1, *[1] * rank))
    measured = ((true - dense).square().mean() / rows.square().mean()).item()
    assert error.after == pytest.approx(measured, rel=1e-6), "the recorded error is the layer's on the batches"


def test_layers_are_taken_in_order_and_see_those_before_refitted() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).double()
    batches, kept = images(3, 7, 7), {"0": torch.tensor([1, 2, 5]), "2": torch.tensor([0, 3, 4])}
    cut, found = compensated(net, kept, batches)
    masked, x = copied(net), torch.cat(batches)
    for place in (2, 4):
        layer: Any = masked[place]
        keeps = kept[str(place - 2)]
        weight, bias = brute_force(layer, masked[:place](x), keeps)
        layer.weight.data.zero_()[:, keeps] = weight
        layer.bias.data = bias
    assert list(found.layers) == ["2", "4"]
    torch.testing.assert_close(cut(x), masked(x), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(cut.get_parameter("2.weight"), masked[2].weight[kept["2"]][:, kept["0"]])


def test_a_batch_norm_takes_the_mean_as_a_bias_would() -> None:
    torch.manual_seed(2)
    body = [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*body, nn.Conv2d(8, 2, 1)).double()
    net(torch.cat(images(3, 6, 6)))
    biased = copied(net)
    biased[2] = nn.Conv2d(8, 8, 3).double()
    biased[2].weight.data, biased[2].bias.data = net[2].weight.data.clone(), torch.zeros(8).double()
    kept = {"0": torch.tensor([0, 1, 4]), "2": torch.tensor([1, 2, 3, 6])}
    batches = images(3, 6, 6)
    one, other = (compensated(each.eval(), kept, batches)[0] for each in (net, biased))
    torch.testing.assert_close(one(batches[0]), other(batches[0]))
    assert not torch.equal(one.get_buffer("3.running_mean"), net.get_buffer("3.running_mean")[kept["2"]])


class Block(nn.Module):
    """Heads, an MLP and a stream that both write."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.block = nn.TransformerEncoderLayer(8, 4, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.block(self.embed(x)).mean(1))
        return found


@pytest.mark.slow
def test_heads_and_the_hidden_layer_of_a_transformer() -> None:
    torch.manual_seed(3)
    net, batches = Block().double().eval(), images(9, 3)
    groups = trace_groups(net, batches[0][:1])
    kept = {g.name: torch.arange(0, g.num_channels, 2) for g in groups if not g.frozen}
    cut, found = compensated(net, kept, batches)
    assert set(found.layers) == {"block.self_attn.out_proj", "block.linear2"}
    assert not found.left
    assert all(error.after < 0.9 * error.before for error in found.layers.values())
    x = net.block.norm1(net.embed(batches[0]) + net.block.self_attn(*[net.embed(batches[0])] * 3)[0])
    assert x.isfinite().all()
    bare = copied(net)
    cut_(bare, groups, kept)
    with torch.no_grad():
        ours, theirs = ((model(batches[0]) - net(batches[0])).norm() for model in (cut, bare))
    assert ours < theirs
    # the out-projection against brute force: its inputs are the heads' outputs, [positions, 8]
    seen: list[Tensor] = []
    from adasap.groups.heads import fit_heads_

    whole = copied(net)
    fit_heads_(whole, whole=True)
    whole.block.self_attn.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    whole(torch.cat(batches))
    heads = next(g for g in groups if g.num_channels == 4)
    columns = next(s for s in heads.with_role("consumer")).positions[kept[heads.name]].flatten()
    weight, bias = brute_force(net.block.self_attn.out_proj, seen[0].detach(), columns)
    torch.testing.assert_close(cut.get_parameter("block.self_attn.out_proj.weight").data, weight)
    torch.testing.assert_close(cut.get_parameter("block.self_attn.out_proj.bias").data, bias)


class Odd(nn.Module):
    """Readers of one group that cannot be refitted, each for its own reason, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.up = nn.ConvTranspose2d(6, 2, 1)
        self.twice = nn.Conv2d(6, 2, 1)
        self.plain = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        found: Tensor = self.up(x) + self.twice(x) * self.twice(x.sin()) + self.plain(x)
        return found


def test_what_cannot_be_refitted_is_left_and_named() -> None:
    torch.manual_seed(4)
    net, kept = Odd().double().eval(), {"first": torch.tensor([0, 1, 2])}
    cut, found = compensated(net, kept, images(3, 4, 4))
    assert found.left == {
        "up": "a ConvTranspose2d is not a convolution with groups=1 or a linear layer",
        "twice": "it is called 2 times in a forward",
    }
    assert list(found.layers) == ["plain"]
    assert "1 layers refitted, mean error" in str(found)
    assert "not refitted: up (a ConvTranspose2d" in str(found)
    for name, columns in (("up.weight", net.up.weight[:3]), ("twice.weight", net.twice.weight[:, :3])):
        assert torch.equal(cut.get_parameter(name), columns)


@pytest.mark.parametrize("filled", [0.0, float("nan")])
def test_a_layer_that_would_get_worse_keeps_its_weights(filled: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    kept = {"0": torch.tensor([0, 4])}
    cut, found = compensated(
        net, kept, [torch.full((2, 3, 4, 4), filled).double()], inputs=torch.zeros(1, 3, 4, 4).double()
    )
    assert found.layers["2"].grew
    assert found.changed == ()
    assert found.as_they_were == {"2": "its error would have grown"}
    assert torch.equal(cut.get_parameter("2.weight"), net[2].weight[:, kept["0"]])


def test_a_draw_of_positions_is_seeded_and_close_to_all() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 3)).eval()
    batches, kept = [torch.randn(4, 3, 120, 120)], {"0": torch.tensor([0, 1, 4])}
    assert MAX_ROWS < 4 * 118**2
    first, again = (compensated(net, kept, batches)[0].get_parameter("2.weight") for _ in range(2))
    assert torch.equal(first, again)
    weight, _ = brute_force(net[2].double(), net[:2].double()(batches[0].double()), kept["0"])
    torch.testing.assert_close(first.double().detach(), weight, rtol=0, atol=0.02)


def separable() -> nn.Sequential:
    """Filter, norm, depthwise filter, norm, reader; channel 1 is a copy of 0, and 4 is 2, but four times as large."""
    torch.manual_seed(6)
    layers: list[Any] = [nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6)]
    net = nn.Sequential(*layers, nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)).double()
    for place in (1, 4):
        norm: Any = net[place]
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    for tensor in net.state_dict().values():
        if tensor.ndim and len(tensor) == 6:
            tensor[1] = tensor[0]
            tensor[4] = tensor[2]
    net[1].weight.data[4] *= 2
    net[1].bias.data[4] *= 2
    net[3].weight.data[4] *= 2
    net[3].bias.data[4] *= 4
    net[4].running_mean[4] *= 4
    return net.eval()


def test_folding_loses_no_copy() -> None:
    net, kept = separable(), {"0": torch.tensor([0, 2, 3, 5])}
    x = images(3, 6, 6)[0]
    cut, found = compensated(net, kept, [x], "fold")
    assert found.changed == ("6.weight",)
    torch.testing.assert_close(cut(x), net(x))
    bare = copied(net)
    cut_(bare, trace_groups(net, x[:1]), kept)
    assert (bare(x) - net(x)).abs().max() > 0.01


def test_folding_heads_and_a_stream() -> None:
    torch.manual_seed(7)
    net, batches = Block().double().eval(), images(9, 3)
    attention, hidden = net.block.self_attn, net.block
    for tensor in (attention.in_proj_weight.data, attention.in_proj_bias.data):
        for part in tensor.view(3, 4, 2, -1):
            part[3] = part[1]
    hidden.linear1.weight.data[5], hidden.linear1.bias.data[5] = hidden.linear1.weight[9], hidden.linear1.bias[9]
    kept = {g.name: torch.arange(g.num_channels) for g in trace_groups(net, batches[0][:1]) if not g.frozen}
    for name, indices in kept.items():
        kept[name] = torch.tensor([0, 1, 2]) if len(indices) == 4 else indices[indices != 5]
    cut, _ = compensated(net, kept, batches, "fold")
    torch.testing.assert_close(cut(batches[0]), net(batches[0]))


def digits() -> nn.Module:
    torch.manual_seed(0)
    return adasap.open_model(adasap.ModelSpec("adasap:digits_net", {"widths": [8, 16]}, (3, 16, 16))).eval()


@pytest.mark.slow
def test_prune_compensates_and_renews_norms() -> None:
    net, example = digits(), torch.zeros(1, 3, 16, 16)
    batches = [(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]
    plain = prune(net, example, "l2", {"macs": 0.5}, batches=iter(batches))
    assert plain.compensation is None
    kept = copied(net)
    cut_(kept, plain.dense_groups, plain.plan.kept)
    assert all(map(torch.equal, plain.model.state_dict().values(), kept.state_dict().values()))
    ours = prune(net, example, "l2", {"macs": 0.5}, batches=iter(batches), compensate="least_squares")
    assert ours.compensation is not None
    assert all(error.after <= error.before for error in ours.compensation.layers.values())
    assert str(ours).endswith(str(ours.compensation))
    unseen = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        near, far = ((pruned.model(unseen) - net(unseen)).norm() for pruned in (ours, plain))
    assert near < 0.7 * far
    renewed = prune(net, example, "l2", {"macs": 0.5}, batches=batches, renew_norms=True)
    adasap.recalibrate_(plain.model, batches)
    assert all(map(torch.equal, plain.model.state_dict().values(), renewed.model.state_dict().values()))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compensate": "lstsq"}, RecipeError, "compensate"),
        ({"compensate": "least_squares"}, ArgumentError, "batches are missing for compensate='least_squares'; pass"),
        ({"compensate": "least_squares", "batches": []}, ArgumentError, "pass batches=<a list"),
        (
            {
                "compensate": "least_squares",
                "batches": [torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), torch.nan)],
            },
            ArgumentError,
            "batch 1 of batches holds NaN",
        ),
        ({"renew_norms": True}, ArgumentError, "batches are missing for renew_norms"),
        (
            {"compensate": "least_squares", "batches": [torch.zeros(1, 5, 16, 16)]},
            ArgumentError,
            "does not take batch 0 of batches, a Tensor: .*; give what it is called with",
        ),
        ({"renew_norms": True, "batches": [{"images": 3}]}, ArgumentError, "does not take batch 0 of batches, a dict"),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prune(digits(), torch.zeros(1, 3, 16, 16), "l2", {"macs": 0.5}, **options)


def test_bad_options_of_a_recipe_are_refused() -> None:
    for bad in ({"compensate": "yes"}, {"compensate": True}, {"compensation_batches": 0}):
        with pytest.raises(RecipeError, match=next(iter(bad))):
            PruningOptions(**bad)


def test_passes_that_part_ways_are_refused_and_end() -> None:
    def one(stop: Callable[[str], None]) -> None:
        stop("first")

    def other(stop: Callable[[str], None]) -> None:
        stop("second")

    with pytest.raises(ModelError, match="in another order"), in_lockstep([one, other]) as names:
        list(names)
    with in_lockstep([one, one]) as names:
        assert next(names) == "first"  # and left there


def test_an_error_of_a_forward_is_told() -> None:
    def forward(model: nn.Module, batch: Tensor) -> None:
        model(batch)
        raise ZeroDivisionError

    net, kept = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {"0": torch.tensor([1])}
    groups: tuple[ChannelGroup, ...] = trace_groups(net, torch.zeros(1, 3))
    cut = copied(net)
    cut_(cut, groups, kept)
    with pytest.raises(ZeroDivisionError):
        compensate_(net, cut, groups, kept, "least_squares", norms={}, batches=[torch.ones(2, 3)], forward=forward)


def test_the_masked_network_is_left_behind() -> None:
    """The model before the cut ends as the cut one, masked: the proof holds after compensation, too."""
    net, batches = digits(), [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))]
    groups = trace_groups(net, batches[0][:1])
    kept = {g.name: torch.arange(0, g.num_channels, 2) for g in groups if not g.frozen}
    cut = copied(net)
    cut_(cut, groups, kept)
    compensate_(net, cut, groups, kept, "least_squares", norms=norms_behind(net, batches[0][:1]), batches=batches)
    with torch.no_grad():
        left = net(batches[0])
        torch.testing.assert_close(cut(batches[0]), left, rtol=1e-4, atol=1e-5)
        mask_(net, groups, kept)
        assert torch.equal(net(batches[0]), left)


def test_a_folder_of_before_goes_on_with_the_default_alone() -> None:
    now = {"weights": "abc", **_options(Compression())}
    before = copy.deepcopy(now)
    del before["pruning"]["compensate"], before["pruning"]["compensation_batches"]
    require_same_run(({}, {"identity": before}), now, None)
    other = {"weights": "abc", **_options(Compression(pruning=PruningOptions(compensate="fold")))}
    with pytest.raises(CheckpointError, match=r"pruning\.compensate \('none' there, 'fold' here\)"):
        require_same_run(({}, {"identity": before}), other, None)


@pytest.mark.slow
def test_a_run_compensates_at_every_event_and_tells_how_far_layers_are_off(
    tiny_recipe: Callable[..., dict[str, Any]],
) -> None:
    """The averaged weights are compensated, too: cut alone, they would not stay near the trained ones."""
    tree = tiny_recipe(
        warm_up={"epochs": 0}, pruning={"compensate": "least_squares", "events": 2}, training={"average_decay": 0.5}
    )
    recipe = parse_recipe(tree)
    records: list[Record] = []
    torch.manual_seed(0)
    task, data = open_task(recipe), open_data(recipe)
    run = CompressionRun(open_model(recipe.model), task, data, recipe, folder=None, observe=records.append)
    assert run.state.averaged is not None
    for event in run.timetable.events:
        run.train("pruning", until=event.step)
        groups, plan = run.state.groups, run.state.plan.kept
        uncut = [copied(unwrap(model)) for model in (run.state.model, run.state.averaged)]
        run.prune(event)
        kept = {name: torch.searchsorted(plan[name], indices) for name, indices in run.state.plan.kept.items()}
        for alone, ours in zip(uncut, (run.state.model, unwrap(run.state.averaged)), strict=True):
            cut_(alone, groups, kept)
            pairs = zip(ours.named_parameters(), alone.parameters(), strict=True)
            changed = [name for (name, new), old in pairs if not torch.equal(new, old)]
            assert {f"{name}.weight" for name in records[-1].layer_errors} <= set(changed)
    events = [record for record in records if isinstance(record, PruneRecord)]
    assert len(events) == 2
    for record in events:
        assert record.layer_errors
        assert all(after <= before for before, after in record.layer_errors.values())
        assert record.uncompensated == {}
        assert record.mask_error < 1e-4
    table = _layer_errors([as_dict(record) for record in events])
    assert table is not None
    assert [row[1] for row in table.rows] == [str(len(record.layer_errors or {})) for record in events]


@pytest.mark.slow
def test_resnet20_right_after_the_cut() -> None:
    torch.manual_seed(0)
    net, example = adasap.open_model(adasap.ModelSpec("adasap:cifar_resnet20")).eval(), torch.zeros(1, 3, 32, 32)
    batches = [torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    groups = trace_groups(net, example)
    kept = {g.name: torch.arange(0, g.num_channels, 2) for g in groups if not g.frozen}
    bare = copied(net)
    cut_(bare, groups, kept)
    cut, found = compensated(net, kept, batches[:2])
    assert len(found.layers) == 19
    with torch.no_grad():
        near, far = ((model(batches[2]) - net(batches[2])).norm() for model in (cut, bare))
    assert near < 0.5 * far
