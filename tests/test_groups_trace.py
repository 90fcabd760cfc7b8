"""What `trace_groups` promises beyond single rules: nothing changes, requests are kept, constants are found."""

from __future__ import annotations

import copy
import functools
import gc
import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.errors import TraceError
from adasap.groups import ChannelGroup, check_cut, cut_, fingerprint, prunable, trace_groups
from adasap.groups.fake_model import copied
from adasap.groups.trial import Trial, _different_cuts
from adasap.groups.walk import Graphs, walk_model
from adasap.models.cifar_resnet import CifarResNet, cifar_resnet20
from groups_nets import CUTTABLE, IMAGES, Net, by_name, places, random_kept


@pytest.mark.slow
def test_tracing_leaves_the_model_and_the_random_state_alone() -> None:
    model = CifarResNet(2)
    model.layer2.eval()
    before = copy.deepcopy(model.state_dict())
    objects = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    flags = [module.training for module in model.modules()]
    attributes = [copy.copy(vars(module.shortcut)) for module in model.layer2]
    random_state, switches = torch.random.get_rng_state(), vars(torch.fx.config).copy()
    trace_groups(model, torch.zeros(1, 3, 32, 32))
    assert gc.isenabled()
    assert vars(torch.fx.config) == switches
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert objects == [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    assert flags == [module.training for module in model.modules()]
    assert [vars(module.shortcut).keys() for module in model.layer2] == [a.keys() for a in attributes]
    assert (model.layer2[0].shortcut.before, model.layer2[0].shortcut.after) == (8, 8)
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("pattern", ["inner", "inner.weight", "inn*"])
def test_a_request_keeps_what_the_module_produces(pattern: str) -> None:
    groups = by_name(trace_groups(CUTTABLE["Residual"](), IMAGES, keep=[pattern]))
    assert groups["inner"].frozen == ("kept by request",)
    assert not groups["stem"].frozen


def test_a_request_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(TraceError, match=r"'iner' matches no module.*inner"):
        trace_groups(CUTTABLE["Residual"](), IMAGES, keep=["iner"])


def test_a_request_does_not_hide_what_a_cut_elsewhere_breaks() -> None:
    model = CUTTABLE["Residual"]()
    groups = trace_groups(model, IMAGES, keep=["inner"])
    assert [group.name for group in prunable(groups)] == ["stem"]
    assert check_cut(model, groups, random_kept(groups), IMAGES).holds


def test_a_model_that_cannot_be_exported_is_an_error_with_its_name() -> None:
    class Branching(Net):
        def body(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(TraceError, match=r"torch.export cannot follow Branching on inputs of shape"):
        trace_groups(Branching(), IMAGES)


def test_several_inputs_are_a_tuple() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x + y)

    assert [group.name for group in trace_groups(Two(), (IMAGES, IMAGES))] == ["stem", "head"]


def test_auxiliary_heads_of_training_mode_are_cut_too() -> None:
    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = F.relu(self.norm(self.stem(x))).mean((2, 3))
            return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)

    model = Auxiliary()
    groups = trace_groups(model, IMAGES[:1])
    assert places(groups[0], 2)["auxiliary.0.weight", 1] == [2]
    assert [group.name for group in groups if group.is_output] == ["head", "auxiliary.3"]
    proof = check_cut(model, groups, random_kept(groups), IMAGES)
    assert proof.holds, str(proof)


def test_a_training_mode_that_cannot_be_followed_freezes_everything() -> None:
    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.stem(x))).mean((2, 3))
            if self.training and bool(self.auxiliary(x).sum() > 0):
                return self.head(-x)
            return self.head(x)

    groups = trace_groups(Auxiliary(), IMAGES)
    assert not prunable(groups)
    assert "auxiliary.weight is not reached in evaluation mode" in groups[0].frozen[0]


@pytest.mark.slow
def test_the_streams_of_a_cifar_resnet() -> None:
    """The stem's 16 channels run through all three stages; each wider stage adds new channels around them."""
    groups = by_name(trace_groups(cifar_resnet20(), torch.zeros(1, 3, 32, 32)))
    assert len(prunable(tuple(groups.values()))) == 12
    stem, second, third = groups["conv1"], groups["layer2.0.conv2"], groups["layer3.0.conv2"]
    assert (stem.num_channels, second.num_channels, third.num_channels) == (16, 16, 32)
    assert places(stem, 0)["layer1.2.conv2.weight", 0] == [0]
    assert places(stem, 0)["layer2.0.conv2.weight", 0] == [8]
    assert places(stem, 0)["layer3.0.conv2.weight", 0] == [24]
    assert places(stem, 15)["linear.weight", 1] == [39]
    assert places(second, 7)["layer2.1.conv2.weight", 0] == [7]
    assert places(second, 8)["layer2.1.conv2.weight", 0] == [24]
    assert places(second, 8)["layer3.0.conv2.weight", 0] == [40]
    assert [s.name for s in third.with_role("producer")] == [f"layer3.{i}.conv2.weight" for i in range(3)]


def test_created_channels_lower_the_counts_that_create_them() -> None:
    groups = by_name(trace_groups(CifarResNet(1), torch.zeros(1, 3, 32, 32)))
    assert not groups["conv1"].extents
    before, after = groups["layer2.0.conv2"].extents
    assert (before.module, before.attribute, before.index) == ("layer2.0.shortcut", "before", None)
    assert (after.module, after.attribute, after.index) == ("layer2.0.shortcut", "after", None)
    assert before.counts.tolist() == [1] * 8 + [0] * 8
    assert after.counts.tolist() == [0] * 8 + [1] * 8


class _Constant(nn.Module):
    """The same shortcut with its counts written into forward."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.forward = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, count, count))  # type: ignore[method-assign]


class _Both(nn.Module):
    """One attribute for both sides, in a list."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.counts = [7, count]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.counts[1], self.counts[1]))


def _with_shortcuts(shortcut) -> CifarResNet:
    model = CifarResNet(1)
    model.layer2[0].shortcut = shortcut(8)
    model.layer3[0].shortcut = shortcut(16)
    return model


def test_channels_created_by_constants_are_frozen_and_the_others_free() -> None:
    model = _with_shortcuts(_Constant)
    images = torch.zeros(2, 3, 32, 32)
    groups = by_name(trace_groups(model, images))
    assert [name for name, group in groups.items() if group.frozen] == [
        "layer2.0.conv2",
        "layer3.0.conv2",
        "linear",
    ]
    assert groups["layer2.0.conv2"].frozen == (
        "aten.pad.default in layer2.0.shortcut creates a fixed number of channels",
    )
    assert groups["layer2.0.conv2"].num_channels == 16
    assert check_cut(model, tuple(groups.values()), random_kept(tuple(groups.values())), images).holds


def test_one_attribute_for_both_sides_ties_them() -> None:
    model = _with_shortcuts(_Both)
    images = torch.zeros(2, 3, 32, 32)
    groups = trace_groups(model, images)
    group = by_name(groups)["layer2.0.conv2"]
    (extent,) = group.extents
    assert (extent.module, extent.attribute, extent.index) == ("layer2.0.shortcut", "counts", 1)
    assert group.num_channels == 8
    assert places(group, 3)["layer2.0.conv2.weight", 0] == [3, 27]
    proof = check_cut(model, groups, random_kept(groups), images)
    assert proof.holds, str(proof)


@pytest.mark.slow
def test_tracing_a_cut_model_finds_the_renumbered_groups() -> None:
    model = CifarResNet(1)
    images = torch.zeros(2, 3, 32, 32)
    groups = trace_groups(model, images)
    cut = cut_(model, groups, random_kept(groups))
    assert fingerprint(trace_groups(model, images)) == fingerprint(cut)


class MakesItsOwn(Net):
    """Joins a tensor that it makes on the processor with its activations."""

    def body(self, x: Tensor) -> Tensor:
        return x + torch.linspace(0, 1, x.shape[-1], device="cpu")


class AsksItsSize(Net):
    """Checks a size that it computes as a tensor, as detectors with queries do, except while exported."""

    def body(self, x: Tensor) -> Tensor:
        rows = torch.ones(x.shape[-2], device=x.device)
        if not torch.compiler.is_exporting() and int(rows.sum()) != x.shape[-2]:
            raise ValueError("another height")
        return x


@pytest.mark.parametrize(
    ("net", "kind"), [(CUTTABLE["SplitByWidth"](), "bare"), (MakesItsOwn(), "fake"), (AsksItsSize(), "real")]
)
def test_trials_take_tensors_without_numbers_unless_forward_asks_for_some(net: nn.Module, kind: str) -> None:
    groups = trace_groups(net, IMAGES)
    assert prunable(groups)
    trial = Trial(net, groups, IMAGES, walk_model(Graphs(net, IMAGES)))
    assert trial.misfit(list(trial.kept)) is None
    assert trial.kind == kind
    trial.groups["stem"] = replace(trial.groups["stem"], slots=trial.groups["stem"].slots[:1])
    assert "does not fit a cut" in str(trial.misfit(["stem"]))


def test_a_group_that_sets_the_shape_of_an_output_is_frozen() -> None:
    class Sized(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.stem(x)
            return self.head(x.mean((2, 3))), torch.zeros(x.shape[1])

    reason = by_name(trace_groups(Sized(), IMAGES))["stem"].frozen[0]
    assert reason.startswith("a cut changes the output's shape from [(2, 5), (8,)] to [(2, 5), (")


def test_of_groups_that_fail_together_only_one_part_is_frozen() -> None:
    class Narrow(CUTTABLE["Joined"]):
        def body(self, x: Tensor) -> Tensor:
            joined = super().body(x)
            if joined.shape[1] < 10:
                raise RuntimeError("too narrow")
            return joined

    groups = by_name(trace_groups(Narrow(), IMAGES))
    assert [group.name for group in prunable(tuple(groups.values()))] == ["side"]
    assert groups["stem"].frozen == ("the model's forward does not fit a cut: too narrow (together with other groups)",)


def test_what_is_written_into_a_view_counts_though_nothing_reads_the_view() -> None:
    class Written(Net):
        def body(self, x: Tensor) -> Tensor:
            y = x * 1
            y[:, :, :4].sub_(x.softmax(1)[:, :, :4])
            return y

    assert by_name(trace_groups(Written(), IMAGES))["stem"].frozen == ("aten.softmax.int in model mixes the channels",)


@functools.cache
def ramp(size: int, device: torch.device) -> Tensor:
    return torch.linspace(0, 1, size, device=device)


def test_what_the_models_code_remembers_has_numbers_afterwards() -> None:
    class Remembers(Net):
        def body(self, x: Tensor) -> Tensor:
            return x + ramp(x.shape[-1], x.device)

    net = Remembers().eval()
    assert prunable(trace_groups(net, IMAGES))
    assert type(net(IMAGES)) is Tensor  # no tensor of the export, which has no numbers


@pytest.mark.parametrize(("net", "exports"), [(Net(), 1), (CUTTABLE["SplitByWidth"](), 2)])
def test_a_cut_model_is_followed_anew_unless_its_calls_are_those_of_the_model(
    net: nn.Module, exports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    class Counted(Graphs):
        def __init__(self, *given: object, **more: object) -> None:
            made.append(given)
            super().__init__(*given, **more)  # type: ignore[arg-type]

    for place in ("trace", "trial"):
        monkeypatch.setattr(f"adasap.groups.{place}.Graphs", Counted)
    assert prunable(trace_groups(net, IMAGES))
    assert len(made) == exports


def test_groups_of_one_width_are_tried_at_different_numbers() -> None:
    """Six channels that forward takes for the number of another layer's would fit by chance at three and three."""
    for count, expected in ((4, [2, 3, 4, 5]), (5, [2, 3, 3, 4, 5])):
        groups = [ChannelGroup(f"g{n}", 6, ()) for n in range(count)]
        assert sorted(map(len, _different_cuts(groups).values())) == expected


class Locked(nn.Sequential):
    """Holds what nothing can copy."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        self.lock = threading.Lock()


def test_what_cannot_be_copied_is_refused_with_a_sentence() -> None:
    with pytest.raises(TraceError, match=r"Locked cannot be copied with copy\.deepcopy .*lock"):
        copied(Locked())
