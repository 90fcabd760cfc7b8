"""Every way through cuts ends in a file that loads to the same numbers, or in a refusal before anything is written."""

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import adasap
from adasap.errors import ModelFileError, PlanError
from adasap.export import read_header
from adasap.groups import Groups
from adasap.groups.bare import unwrap
from adasap.groups.past import past_of
from public_nets import WRAPPERS, one_process

SPEC = adasap.ModelSpec("adasap:digits_net", {"widths": [8, 12]})
IMAGE = torch.zeros(1, 3, 16, 16)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return adasap.open_model(SPEC).eval()


def _plan(model: nn.Module, groups: Groups, kept: float = 0.7) -> adasap.PruningPlan:
    budget = adasap.Budget(adasap.Parameters(model, groups), kept=kept)
    return adasap.select_channels(groups, adasap.score("l2", model, groups), budget)


def _cut(model: nn.Module, groups: Groups, kept: float = 0.7) -> Groups:
    return adasap.apply_plan_(model, groups, _plan(model, groups, kept))


@functools.cache
def _cut_before() -> tuple[nn.Module, Groups]:
    model = _model()
    groups = _cut(model, adasap.trace_groups(model, IMAGE))
    return model, _cut(model, groups)


def _twice_cut() -> tuple[nn.Module, Groups]:
    """Made once: each test gets a copy."""
    return copy.deepcopy(_cut_before())


def _answers(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def _same(path: Path, model: nn.Module) -> bool:
    return torch.equal(_answers(adasap.load(path)), _answers(model))


def _train_(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(torch.randn(4, 3, 16, 16)).square().mean().backward()
    optimizer.step()


def test_groups_know_everything_after_several_cuts(tmp_path: Path) -> None:
    model, groups = _twice_cut()
    adasap.save(tmp_path / "m", model, groups=groups)
    header = read_header(tmp_path / "m")
    assert _same(tmp_path / "m", model)
    assert header.spec.builder == SPEC.builder
    assert header.spec.input_size == (3, 16, 16)
    assert header.plan is not None
    assert max(header.plan.num_channels.values()) == 12  # the dense model's own widths


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_the_traced_inputs_give_the_size_of_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    spec = adasap.ModelSpec("adasap:cifar_resnet20", {"in_channels": channels})
    model = adasap.open_model(spec).eval()
    adasap.save(tmp_path / "m", model, groups=adasap.trace_groups(model, torch.zeros(1, channels, 24, 20)))
    found = read_header(tmp_path / "m").spec
    assert found.input_size == (channels, 24, 20)
    assert found.mean == found.std == (0.5,) * channels


@pytest.mark.slow
def test_groups_that_are_traced_anew_after_a_cut_know_it_too(tmp_path: Path) -> None:
    model = _model()
    _cut(model, adasap.trace_groups(model, IMAGE, keep=["blocks.0"]))
    again = adasap.trace_groups(model, IMAGE)  # without what was kept before
    _cut(model, again, 0.5)
    adasap.save(tmp_path / "m", model, groups=adasap.trace_groups(model, IMAGE))
    assert _same(tmp_path / "m", model)


@pytest.mark.slow
def test_a_loaded_model_is_trained_cut_and_saved_again(tmp_path: Path) -> None:
    model, groups = _twice_cut()
    adasap.save(tmp_path / "first", model, groups=groups)
    loaded = adasap.load(tmp_path / "first")
    _train_(loaded)
    adasap.save(tmp_path / "trained", loaded)
    assert _same(tmp_path / "trained", loaded)
    assert not _same(tmp_path / "first", loaded)
    smaller = _cut(loaded, adasap.trace_groups(loaded, IMAGE))
    adasap.save(tmp_path / "smaller", loaded, groups=smaller)
    assert _same(tmp_path / "smaller", loaded)
    assert (tmp_path / "smaller").stat().st_size < (tmp_path / "trained").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])
def test_what_prune_made_saves_itself(told: bool, tmp_path: Path) -> None:
    pruned = adasap.prune(_model(), IMAGE, "l2", {"parameters": 0.6})
    pruned.save(tmp_path / "m", *([SPEC] if told else []))
    assert _same(tmp_path / "m", pruned.model)
    second = adasap.prune(pruned.model, IMAGE, "l1", {"parameters": 0.7})
    second.save(tmp_path / "m", metadata={"cuts": 2})
    assert _same(tmp_path / "m", second.model)
    assert read_header(tmp_path / "m").metadata == {"cuts": 2}


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [*COPIES, *WRAPPERS])
def test_copies_and_wrappers_know_what_was_cut_before_and_after(wrapper: str, tmp_path: Path) -> None:
    model, _ = _twice_cut()
    with one_process():
        wrapped = (COPIES | WRAPPERS)[wrapper](model)
        adasap.save(tmp_path / "m", wrapped)
        assert _same(tmp_path / "m", model)
        groups = _cut(wrapped, adasap.trace_groups(wrapped, IMAGE))
        adasap.save(tmp_path / "smaller", wrapped, groups=groups)
        assert _same(tmp_path / "smaller", unwrap(wrapped))
        assert past_of(wrapped).is_cut
        assert past_of(wrapped).spec == SPEC
    assert (tmp_path / "smaller").stat().st_size < (tmp_path / "m").stat().st_size


def test_an_average_that_was_cut_alike_knows_it(tmp_path: Path) -> None:
    model = _model()
    averaged = AveragedModel(model)
    groups = adasap.trace_groups(model, IMAGE)
    groups = adasap.apply_plan_(model, groups, _plan(model, groups), companions=[averaged])
    adasap.save(tmp_path / "m", averaged, groups=groups)
    assert _same(tmp_path / "m", averaged.module)


def test_the_last_plan_with_its_own_groups_is_the_whole_plan(tmp_path: Path) -> None:
    model = _model()
    first = _cut(model, adasap.trace_groups(model, IMAGE))
    plan = _plan(model, first)
    adasap.apply_plan_(model, first, plan)
    adasap.save(tmp_path / "m", model, spec=SPEC, plan=plan, groups=first)
    assert _same(tmp_path / "m", model)


def _dense_groups() -> Groups:
    return adasap.trace_groups(_model(), IMAGE)


def _wrong_spec(path: Path) -> None:
    adasap.save(path, _model(), spec=adasap.ModelSpec("adasap:digits_net", {"widths": [8, 16]}))


def _first_plan_only(path: Path) -> None:
    model, dense = _model(), _dense_groups()
    plan = _plan(model, dense)
    _cut(model, adasap.apply_plan_(model, dense, plan))
    adasap.save(path, model, spec=SPEC, plan=plan, groups=dense)


def _plan_that_was_not_carried_out(path: Path) -> None:
    model, dense = _model(), _dense_groups()
    adasap.save(path, model, spec=SPEC, plan=_plan(model, dense), groups=dense)


def _plan_with_the_groups_after_it(path: Path) -> None:
    model, dense = _model(), _dense_groups()
    plan = _plan(model, dense)
    adasap.save(path, model, spec=SPEC, plan=plan, groups=adasap.apply_plan_(model, dense, plan))


def _another_head(path: Path) -> None:
    model, groups = _twice_cut()
    model.head = nn.Linear(5, 3)
    adasap.save(path, model, groups=groups)


def _own_model_with_a_wrong_plan(path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    groups = adasap.trace_groups(model, IMAGE)
    plan = _plan(model, groups)
    _cut(model, adasap.apply_plan_(model, groups, plan))
    adasap.save(path, model, spec=adasap.ModelSpec("mine:net"), plan=plan, groups=groups)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another spec": (_wrong_spec, r"tensors would have another shape, such as blocks.*carry the plan of all cuts"),
    "the first of two plans": (_first_plan_only, "the file could not be loaded, so it is not written"),
    "a plan that was not carried out": (_plan_that_was_not_carried_out, "the file could not be loaded"),
    "the groups after the plan": (_plan_with_the_groups_after_it, r"belongs to other groups.*without `plan`"),
    "another head": (_another_head, "head"),
    "own code, the first of two plans": (_own_model_with_a_wrong_plan, r"such as 0\.weight: \[\d, 3, 3, 3\]"),
    "no spec": (lambda path: adasap.save(path, nn.Linear(2, 2)), r"pass spec=ModelSpec"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_file_is_written_that_cannot_be_loaded(case: str, tmp_path: Path) -> None:
    write, words = REFUSED[case]
    with pytest.raises((ModelFileError, PlanError), match=words):
        write(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_saving_draws_no_random_numbers(tmp_path: Path) -> None:
    model, groups = _twice_cut()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adasap.save(tmp_path / "m", model, groups=groups)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("builder", "options", "size"),
    [
        ("torchvision:resnet18", {}, (3, 224, 224)),
        ("torchvision:inception_v3", {}, (3, 299, 299)),
        ("torchvision:ssd300_vgg16", {}, (3, 300, 300)),
        ("torchvision:retinanet_resnet50_fpn", {}, None),
        ("timm:efficientnet_b3", {}, (3, 288, 288)),
        ("timm:vit_tiny_patch16_224", {"img_size": 96, "in_chans": 1}, (1, 96, 96)),
        ("adasap:cifar_resnet20", {}, (3, 32, 32)),
        ("adasap:mobilenet_v1_tf", {}, (3, 224, 224)),
        ("adasap:ssd_mobilenet_v1", {}, (3, 224, 224)),
        ("adasap:ssd_mobilenet_v1", {"image_size": 96}, (3, 96, 96)),
        ("mine:net", {}, None),
    ],
)
def test_a_kind_of_model_says_its_images_size_and_nobody_assumes_one(
    builder: str, options: dict[str, object], size: tuple[int, int, int] | None
) -> None:
    assert adasap.models.default_input_size(adasap.ModelSpec(builder, options)) == size


class StandardisedConv2d(nn.Conv2d):
    """Computes its weight in its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)),
    "older spectral norm": lambda: torch.nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)),
    "standardised in forward": lambda: StandardisedConv2d(3, 8, 3),
}


@pytest.mark.parametrize("known_by", ["what the builder makes", "what the model remembers"])
@pytest.mark.parametrize("computed", COMPUTED)
def test_weights_that_were_made_plain_come_back_plain(computed: str, known_by: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(COMPUTED[computed](), nn.ReLU(), nn.Conv2d(8, 4, 3))

    model, builder = build(), None
    adasap.groups.materialise_weights_(model, IMAGE)
    if known_by == "what the builder makes":
        model, builder = nn.Sequential(*model), build
    groups = _cut(model, adasap.trace_groups(model, IMAGE))
    spec = adasap.ModelSpec("mine:build", input_size=(3, 16, 16))
    adasap.save(tmp_path / "m", model, spec=spec, groups=groups, builder=builder)
    assert read_header(tmp_path / "m").plain_weights
    again = adasap.load(tmp_path / "m", builder=build)
    assert torch.equal(_answers(again), _answers(model))


def test_a_builder_may_give_a_wrapped_model(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.DataParallel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))

    model = adasap.open_model(adasap.ModelSpec("mine:build"), builder=build)
    groups = _cut(model, adasap.trace_groups(model, IMAGE))
    adasap.save(tmp_path / "m", model, groups=groups, builder=build)
    assert torch.equal(_answers(adasap.load(tmp_path / "m", builder=build)), _answers(model))
