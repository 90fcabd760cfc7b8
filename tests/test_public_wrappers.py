"""Every public function that takes a model looks through wrappers, and leaves what forward writes as it was."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import adasap
from adasap.analysis.folding import fold_batch_norms
from adasap.groups import cut_, mask_, masked, materialise_weights_
from adasap.groups.bare import unwrap
from adasap.groups.preserving import preserved
from adasap.profiling import layer_calls
from adasap.profiling.profile import profile_models
from adasap.pruning import ranking_classes
from public_nets import IMAGES, WRAPPERS, YoloLike, one_process, plain_net

BATCHES = [(torch.ones(4, 3, 8, 8) * shade, torch.arange(4)) for shade in (0.5, 1.0)]
KEPT = {"0": torch.tensor([0, 1, 5])}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> Iterator[None]:
    with one_process():
        yield


@functools.cache
def _groups() -> tuple[adasap.ChannelGroup, ...]:
    return adasap.trace_groups(plain_net(), IMAGES)


def _masked_entries(model: Any) -> int:
    with masked(model, _groups(), KEPT):
        pass
    mask_(model, _groups(), KEPT)
    return int((unwrap(model).get_parameter("3.weight") == 0).sum())


def _saved(model: Any, folder: Path) -> list[str]:
    file = folder / "net.pt2"
    adasap.export_model(model, IMAGES, file, to="torch-export")
    return sorted(torch.export.load(file).state_dict)


def _applied(model: Any) -> list[int]:
    groups = _groups()
    plan = adasap.PruningPlan.of(groups, KEPT)
    return [group.num_channels for group in adasap.apply_plan_(model, groups, plan)]


def _perturbed(model: Any) -> float:
    with adasap.perturbed(model, {"7.bias": torch.full((4,), 1000.0)}):
        return float(unwrap(model).get_parameter("7.bias").sum())


def _gap(model: Any) -> float:
    def loss_and_backward() -> Tensor:
        value = loss(model, BATCHES[0])
        value.backward()  # type: ignore[no-untyped-call]
        return value

    perturbation = adasap.UniformPerturbation(0.5, groups=_groups())
    return round(adasap.sharpness_aware_gradients(model, perturbation, loss_and_backward).gap, 5)


def _recalibrated(model: Any) -> list[float]:
    adasap.recalibrate_(model, [images for images, _ in BATCHES])
    return [round(value, 5) for value in unwrap(model).get_buffer("1.running_mean").tolist()]


FUNCTIONS: dict[str, Callable[[Any, Path], Any]] = {
    "trace_groups": lambda model, _: [(g.name, g.num_channels) for g in adasap.trace_groups(model, IMAGES)],
    "prune": lambda model, _: str(adasap.prune(model, IMAGES, "l2", {"macs": 0.5}).plan),
    "prune by gradients": lambda model, _: str(
        adasap.prune(model, IMAGES, "taylor", {"macs": 0.5}, batches=BATCHES, loss=loss).plan
    ),
    "check_cut": lambda model, _: adasap.check_cut(model, _groups(), KEPT, IMAGES).holds,
    "MACs": lambda model, _: adasap.MACs(model, _groups(), IMAGES).dense,
    "Parameters": lambda model, _: adasap.Parameters(model, _groups()).dense,
    "layer_calls": lambda model, _: [call.where for call in layer_calls(model, _groups(), IMAGES)],
    "score": lambda model, _: {name: s.tolist() for name, s in adasap.score("l2", model, _groups()).items()},
    "ranking_classes": lambda model, _: ranking_classes("isomorphic", model, _groups()),
    "profile_models": lambda model, _: profile_models({"it": model}, IMAGES, batch_sizes=(2,), seconds=0.0)["it"].macs,
    "export_model": _saved,
    "apply_plan_": lambda model, _: _applied(model),
    "cut_": lambda model, _: [group.num_channels for group in cut_(model, _groups(), KEPT)],
    "mask_": lambda model, _: _masked_entries(model),
    "materialise_weights_": lambda model, _: materialise_weights_(model, IMAGES),
    "fold_batch_norms": lambda model, _: fold_batch_norms(model, IMAGES)[1],
    "perturbed": lambda model, _: _perturbed(model),
    "recalibrate_": lambda model, _: _recalibrated(model),
    "sharpness_aware_gradients": lambda model, _: _gap(model),
}


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.filterwarnings("ignore")  # torch's own, of compiled data parallelism
def test_what_a_function_gives_for_a_wrapped_model_it_gives_for_the_plain_one(function: str, tmp_path: Path) -> None:
    expected = FUNCTIONS[function](plain_net(), tmp_path)
    assert expected not in (None, 0, [])
    for name in ("compiled", "averaged", "distributed compiled data parallel"):
        assert FUNCTIONS[function](WRAPPERS[name](plain_net()), tmp_path) == expected, name


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_looked_through_in_any_order_and_depth(wrapper: str) -> None:
    net = plain_net()
    inside = unwrap(WRAPPERS[wrapper](net))
    assert list(inside.state_dict()) == list(net.state_dict())
    assert (inside is net) == ("averaged" not in wrapper)  # an average is a copy


# What forward writes

TRACING: dict[str, Callable[[Any, Path], Any]] = {
    "trace_groups": lambda model, _: adasap.trace_groups(model, IMAGES),
    "check_cut": lambda model, _: adasap.check_cut(
        model, adasap.trace_groups(copy.deepcopy(model), IMAGES), {"backbone.0": torch.tensor([0, 3])}, IMAGES
    ),
    "MACs": lambda model, _: adasap.MACs(model, (), IMAGES),
    "layer_calls": lambda model, _: layer_calls(model, (), IMAGES),
    "profile_models": lambda model, _: profile_models({"it": model}, IMAGES, batch_sizes=(1, 2), seconds=0.0),
    "export_model": lambda model, folder: adasap.export_model(
        model, IMAGES, folder / "it.pt2", to="torch-export", fixed_batch=2
    ),
    "prune": lambda model, _: adasap.prune(model, IMAGES, "l2", {"macs": 0.6}),
    "fold_batch_norms": lambda model, _: fold_batch_norms(model, IMAGES),
    "an export that fails": lambda model, _: _failing_trace(model),
}


def _failing_trace(model: nn.Module) -> None:
    with pytest.raises(adasap.errors.TraceError, match="does not take these example inputs"):
        adasap.trace_groups(model, torch.zeros(1, 5, 8, 8))


def state_of(model: nn.Module) -> list[Any]:
    """All that can be read off a model, with tensors as lists, and the order of attributes."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            assert not isinstance(value, FakeTensor)
            return value.tolist(), value.requires_grad, value.grad is None
        if isinstance(value, nn.Module):
            return type(value)
        if isinstance(value, dict):
            return [(key, plain(inner)) for key, inner in value.items()]
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return plain(vars(value)) if type(value).__name__ == "Notes" else value

    return [(path, plain(vars(module))) for path, module in model.named_modules()]


@pytest.mark.parametrize("function", TRACING)
def test_what_forward_writes_on_the_modules_is_taken_back(function: str, tmp_path: Path) -> None:
    model = YoloLike()
    model.backbone[0].eval()
    model.backbone[0].weight.requires_grad_(False)
    before, objects = state_of(model), {name: id(p) for name, p in model.named_parameters()}
    random_state = torch.random.get_rng_state()
    TRACING[function](model, tmp_path)
    assert state_of(model) == before
    assert {name: id(p) for name, p in model.named_parameters()} == objects
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert state_of(copy.deepcopy(model)) == before
    model(torch.ones(1, 3, 8, 8)).sum().backward()


@pytest.mark.parametrize("function", TRACING)
def test_a_model_that_holds_the_graph_of_its_last_forward_is_worked_on_too(function: str, tmp_path: Path) -> None:
    model = YoloLike()
    model(torch.ones(2, 3, 8, 8))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    last = model.head.last
    if function != "check_cut":  # its own copy is made in the test
        TRACING[function](model, tmp_path)
    assert model.head.last is last
    assert model.head.calls == 1


def test_preserved_gives_back_what_was_replaced_emptied_or_deleted_also_after_an_error() -> None:
    model = YoloLike()
    before, history = state_of(model), model.head.history
    with contextlib.suppress(KeyError), preserved(model):
        model.head.history.clear()
        model.head.history = []
        del model.head.conv
        model.head.count = torch.ones(1)
        model.head.stride.fill_(7)
        model.backbone[0].weight.requires_grad_(False)
        model.backbone[0].weight.grad = torch.ones(8, 3, 3, 3)
        torch.rand(3)
        raise KeyError("broken")
    assert state_of(model) == before
    assert model.head.history is history
