"""The contract suites over all members of ours and over toy ones; and that each sees what is broken."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.corruptions import CORRUPTIONS
from adasap.corruptions.draws import uniform
from adasap.data import InMemoryImages
from adasap.evaluation import Suite, SuiteSource, open_own_suite, open_suite
from adasap.groups import ChannelGroup
from adasap.models import ModelSpec, open_model
from adasap.sharpness import VARIANTS, AdaptivePerturbation, Moment, Perturbation, SharpnessOptions, UniformPerturbation
from adasap.sharpness.swap import Offsets
from adasap.tasks import BaseTask
from adasap.tasks.classification.task import ClassificationTask
from adasap.tasks.detection.data.shapes import read_shapes
from adasap.tasks.detection.suites import open_detection_suite
from adasap.tasks.detection.task import DetectionTask
from adasap.tasks.segmentation.data.shapes import read_shape_masks
from adasap.tasks.segmentation.task import SegmentationTask
from adasap.testing import CorruptionContract, PerturbationContract, SuiteContract, TaskCase, TaskContract
from detector_nets import SMALL
from test_toy_task import Counter, CountingTask, Dots

Groups = Sequence[ChannelGroup]
SEVERE = SuiteSource("corrupted", corruptions=("gaussian_noise", "fog"), severities=(2, 5))


# Corruptions; those of ours are in test_corruptions.py


def snowflakes(images: Tensor, severity: int, seeds: Tensor, constants: str) -> Tensor:
    """A user's own: white pixels, the more the higher the severity."""
    drawn = uniform(seeds, "snowflakes", images.shape[-2:])[:, None]
    return torch.where(drawn < severity / 20, 1.0, images)


@pytest.mark.usefixtures("registered_for_a_test")
class TestOwnCorruption(CorruptionContract):
    @pytest.fixture
    def corruption(self) -> str:
        CORRUPTIONS.register("snowflakes", snowflakes)
        return "snowflakes"


BROKEN_CORRUPTIONS: dict[str, Callable[..., Any]] = {
    "test_gives_finite_numbers": lambda images, *_: images / 0,
    "test_does_more_at_a_higher_severity": lambda images, *_: images / 2,
    "test_keeps_shape_and_type_and_leaves_its_input_alone": lambda images, *_: images[:, :1],
    "test_takes_any_size": lambda images, *_: images.unfold(2, 3, 1)[..., 0],
    "test_global_random_state_is_neither_read_nor_moved": lambda images, *_: images * torch.rand(()),
    "test_an_image_gets_the_same_draws_in_any_batch_and_order": lambda images, *_: images * images.mean(),
    "test_takes_any_channels_unless_it_is_of_colour": lambda images, *_: images[:, [0, 1, 2]],
}


@pytest.mark.usefixtures("registered_for_a_test")
@pytest.mark.parametrize("test", BROKEN_CORRUPTIONS)
def test_the_contract_of_corruptions_sees(test: str) -> None:
    CORRUPTIONS.register("broken", BROKEN_CORRUPTIONS[test])
    with pytest.raises((AssertionError, RuntimeError, adasap.errors.AdasapError)):
        getattr(CorruptionContract(), test)("broken")


# Perturbations


def radii(groups: Groups) -> dict[str, Tensor]:
    return {group.name: torch.linspace(0.1, 1.0, group.num_channels) for group in groups}


def varied(name: str) -> Callable[[nn.Module, Groups], Perturbation]:
    """What a variant of the step makes of adaptive radii."""

    def make(model: nn.Module, groups: Groups) -> Perturbation:
        draws = lambda purpose, number: torch.Generator().manual_seed(number)  # noqa: E731
        moment = Moment(0, model, groups, SharpnessOptions(), {}, draws)
        return VARIANTS.get(name)().perturbation(AdaptivePerturbation(groups, radii(groups)), moment)

    return make


class SignPerturbation(Perturbation):
    """A user's own: every weight goes the same way up, by the sign of its gradient."""

    is_zero = False
    factor: float = 0.01

    def direction(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return self.factor * gradient.sign()

    def offsets(self, parameters: Any, *, consume_gradients: bool = False) -> Offsets:
        some = {name: weight for name, weight in parameters.items() if weight.grad is not None}
        finite = all(bool(weight.grad.isfinite().all()) for weight in some.values())
        steps = [self.direction(w.grad, w) if finite else torch.zeros_like(w) for w in some.values()]
        return Offsets(tuple(some), list(some.values()), steps)


PERTURBATIONS: dict[str, Callable[[nn.Module, Groups], Perturbation]] = {
    "uniform": lambda model, groups: UniformPerturbation(0.5, groups=groups),
    "uniform of radius 0": lambda model, groups: UniformPerturbation(0.0),
    "adaptive": lambda model, groups: AdaptivePerturbation(groups, radii(groups)),
    **{name: varied(name) for name in VARIANTS},
    "sign": lambda model, groups: SignPerturbation(),
}


class TestPerturbations(PerturbationContract):
    @pytest.fixture(params=PERTURBATIONS)
    def make(self, request: pytest.FixtureRequest) -> Callable[[nn.Module, Groups], Perturbation]:
        return PERTURBATIONS[request.param]


class FollowsTheScale(SignPerturbation):
    def direction(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient


class WritesToWeights(SignPerturbation):
    def direction(self, gradient: Tensor, weight: Tensor) -> Tensor:
        weight.data.mul_(1.01)
        return gradient.sign()


class DrawsFromTheGlobalGenerator(SignPerturbation):
    def direction(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.sign() * torch.rand(())


class WrongShape(SignPerturbation):
    def direction(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.sign().flatten()[:1]


class SaysZero(SignPerturbation):
    is_zero = True


class MovesMore(SignPerturbation):
    def moves(self, parameters: Any) -> Any:
        return ["0.weight"]


BROKEN_PERTURBATIONS: dict[str, type[Perturbation]] = {
    "test_offsets_do_not_depend_on_the_scale_of_the_loss": FollowsTheScale,
    "test_weights_are_left_where_they_were": WritesToWeights,
    "test_the_same_step_gives_the_same_bits": DrawsFromTheGlobalGenerator,
    "test_offsets_are_finite_and_shaped_as_their_parameters": WrongShape,
    "test_if_it_is_zero_nothing_moves": SaysZero,
    "test_only_what_it_says_is_moved": MovesMore,
}


@pytest.mark.parametrize("test", BROKEN_PERTURBATIONS)
def test_the_contract_of_perturbations_sees(test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(PerturbationContract(), test)(lambda model, groups: BROKEN_PERTURBATIONS[test]())


# Suites


def coloured(count: int = 5) -> InMemoryImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return InMemoryImages(images, torch.arange(count) % 3, ("a", "b", "c"))


SUITES: dict[str, Callable[[], Suite]] = {
    "images": lambda: open_suite("clean", SuiteSource("clean"), coloured()),
    "corrupted images": lambda: open_suite("corrupted", SEVERE, coloured()),
    "boxes": lambda: open_detection_suite("clean", SuiteSource("clean"), read_shapes("test", slice(4))),
    "corrupted boxes": lambda: open_detection_suite("corrupted", SEVERE, read_shapes("test", slice(4))),
    "corrupted masks": lambda: open_own_suite("c", SEVERE, read_shape_masks("test", slice(4)), segmentation().task),
    "corrupted dots": lambda: open_own_suite("corrupted", SEVERE, Dots(4, 1), CountingTask()),
}


class TestSuites(SuiteContract):
    @pytest.fixture(params=SUITES)
    def suite(self, request: pytest.FixtureRequest) -> Suite:
        return SUITES[request.param]()


@dataclass(frozen=True)
class Broken:
    """A suite with one method in place of its own."""

    whole: Any
    method: str
    instead: Callable[..., Any]

    def __getattr__(self, name: str) -> Any:
        if name == self.method:
            return functools.partial(self.instead, self.whole)
        return getattr(self.whole, name)


def by_place_in_the_batch(suite: Any, cell: Any, device: Any, loading: Any, spent: Any) -> Iterator[Any]:
    """Draws that follow from the place in the batch."""
    for images, labels in suite.batches(suite.cells[0], device, loading, spent):
        yield torch.stack([(image + place).to(torch.uint8) for place, image in enumerate(images)]), labels


def sampled_anew(suite: Any, count: int, *, seed: int) -> Any:
    return replace(suite, images_of={cell: one.sampled(torch.randperm(5)[:2]) for cell, one in suite.images_of.items()})


def never_whole(suite: Any, count: int, *, seed: int) -> Any:
    return suite.sampled(2, seed=seed)


BROKEN_SUITES: dict[str, tuple[str, Callable[..., Any]]] = {
    "test_the_batch_size_changes_no_image": ("batches", by_place_in_the_batch),
    "test_a_sample_keeps_images_and_their_draws_in_every_cell": ("sampled", sampled_anew),
    "test_it_is_known_by_its_content": ("sampled", lambda suite, count, *, seed: suite),
    "test_a_sample_of_more_than_there_is_is_the_whole": ("sampled", never_whole),
}


@pytest.mark.parametrize("test", BROKEN_SUITES)
def test_the_contract_of_suites_sees(test: str) -> None:
    torch.manual_seed(0)
    suite = open_suite("corrupted", replace(SEVERE, severities=(1, 2, 3, 4, 5)), coloured())
    with pytest.raises(AssertionError):
        getattr(SuiteContract(), test)(Broken(suite, *BROKEN_SUITES[test]))


# Tasks


def classification() -> TaskCase:
    task = ClassificationTask(mean=(0.5,) * 3, std=(0.25,) * 3)
    spec = ModelSpec("adasap:digits_net", {"widths": [4, 8, 16], "num_classes": 3}, (3, 32, 32))
    images = InMemoryImages(coloured().images.repeat(1, 1, 2, 2), coloured().labels, ("a", "b", "c"))
    return TaskCase(task, open_model(spec), images)


def detection() -> TaskCase:
    images = read_shapes("test", slice(3))
    task = DetectionTask(mean=(0.5,) * 3, std=(0.25,) * 3, classes=images.classes)
    return TaskCase(task, open_model(SMALL["ssd_mobilenet_v2"]), images, example=torch.zeros(1, 3, 64, 64))


def segmentation() -> TaskCase:
    images = read_shape_masks("test", slice(3))
    task = SegmentationTask(mean=(0.5,) * 3, std=(0.25,) * 3, classes=images.classes)
    spec = ModelSpec("adasap:unet", {"num_classes": 4, "width": 4, "depth": 2}, (3, 96, 96))
    return TaskCase(task, open_model(spec), images)


TASKS: dict[str, Callable[[], TaskCase]] = {
    "classification": classification,
    "detection": detection,
    "segmentation": segmentation,
    "counting": lambda: TaskCase(CountingTask(), Counter(), Dots(6, 0)),
}


def test_every_task_is_under_contract() -> None:
    assert set(adasap.TASKS) <= set(TASKS)


@functools.cache
def made(name: str) -> TaskCase:
    torch.manual_seed(0)
    return TASKS[name]()


class TestTasks(TaskContract):
    @pytest.fixture(params=TASKS)
    def case(self, request: pytest.FixtureRequest) -> TaskCase:
        return copy.deepcopy(made(request.param))


class NamesNoMetric(CountingTask):
    name = ""


class ScalesInPlace(CountingTask):
    def prepare(self, batch: Any, device: torch.device) -> Any:
        return super().prepare((batch[0].mul_(2), batch[1]), device)


class LosesTheGraph(CountingTask):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) * 0


class AddsNoise(CountingTask):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) + torch.rand(())


class ForgetsTheMetric(CountingTask):
    primary_metric = adasap.Metric("score", "score")


class VariesByTheBatch(CountingTask):
    def augment(self, batch: Any, seeds: Tensor) -> Any:
        return batch[0] // (1 + len(seeds)), batch[1]


class CorruptsByTheBatch(CountingTask):
    def corrupt(self, batch: Any, corruption: str, severity: int, seeds: Tensor) -> Any:
        return super().corrupt(batch, corruption, severity, torch.arange(len(seeds)))


class ChecksByTraining(CountingTask):
    def check(self, model: nn.Module, data: Any) -> None:
        model.eval()


BROKEN_TASKS: dict[str, type[BaseTask[Any]]] = {
    "test_it_says_what_good_means": NamesNoMetric,
    "test_preparing_leaves_the_raw_batch_alone": ScalesInPlace,
    "test_the_loss_is_a_finite_scalar_with_a_graph": LosesTheGraph,
    "test_the_loss_of_a_batch_is_the_same_twice": AddsNoise,
    "test_the_evaluator_gives_the_primary_metric_and_a_score_of_each_image": ForgetsTheMetric,
    "test_a_training_batch_is_a_function_of_seed_epoch_and_items": VariesByTheBatch,
    "test_a_corruption_changes_images_alone_and_follows_the_seeds": CorruptsByTheBatch,
    "test_what_fits_passes_the_check_and_leaves_the_model_as_it_was": ChecksByTraining,
}


@pytest.mark.parametrize("test", BROKEN_TASKS)
def test_the_contract_of_tasks_sees(test: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        getattr(TaskContract(), test)(TaskCase(BROKEN_TASKS[test](), Counter(), Dots(6, 0)))
