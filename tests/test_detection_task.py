"""Detection as a task: two passes over lists and dictionaries are the step that they are for tensors."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adasap.criteria import score
from adasap.sharpness import (
    AdaptivePerturbation,
    PerturbationOptions,
    UniformPerturbation,
    adaptive_radius,
    sharpness_aware_gradients,
)
from adasap.tasks.detection.data.boxes import DetectionBatch
from adasap.tasks.detection.models.detector import Detector
from adasap.tasks.detection.task import DetectionTask
from detector_nets import scenes, small_detector, small_groups

CPU = torch.device("cpu")
SLOW = [pytest.param("fasterrcnn", marks=pytest.mark.slow)]
"""It draws which regions it learns from."""


def task() -> DetectionTask:
    return DetectionTask(mean=(0.5,) * 3, std=(0.25,) * 3, classes=("cat", "dog", "cow"))


def raw_batch(count: int = 3) -> DetectionBatch:
    """8-bit images of different sizes; in the last one there is nothing."""
    images, targets = scenes(count)
    targets[-1] |= {key: targets[-1][key][:0] for key in ("boxes", "labels", "difficult")}
    return DetectionBatch([(image * 40 + 128).clamp(0, 255).to(torch.uint8) for image in images], targets)


def closure(model: nn.Module, seen: list[Tensor] | None = None) -> Callable[[], Tensor]:
    made = task()
    batch = made.prepare(raw_batch(), CPU)

    def loss_and_backward() -> Tensor:
        if seen is not None:
            seen.append(torch.get_rng_state())
        loss = made.loss(model, batch)
        loss.backward()
        return loss.detach()

    return loss_and_backward


def norm_statistics(model: nn.Module) -> list[Tensor]:
    return [buffer.clone() for name, buffer in model.named_buffers() if "running" in name]


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", ["ssd_mobilenet_v1", *SLOW])
def test_a_zero_radius_is_plain_training_bit_for_bit(name: str) -> None:
    plain = small_detector(name).train()
    other = copy.deepcopy(plain)
    torch.manual_seed(3)
    expected = sharpness_aware_gradients(plain, None, closure(plain))
    torch.manual_seed(3)
    step = sharpness_aware_gradients(other, UniformPerturbation(0.0), closure(other))
    assert step.num_passes == 1
    assert step.loss == expected.loss
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain), gradients(other), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd_mobilenet_v1", *SLOW])
def test_two_adaptive_steps_go_up_come_back_and_see_the_same_random_numbers(name: str) -> None:
    model = small_detector(name).train()
    groups = small_groups(name)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for _ in range(2):
        radii = adaptive_radius(score("l2", model, groups), rho_min=0.001, rho_max=0.01)
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        single = copy.deepcopy(model)
        torch.manual_seed(3)
        sharpness_aware_gradients(single, None, closure(single))
        seen: list[Tensor] = []
        torch.manual_seed(3)
        step = sharpness_aware_gradients(model, AdaptivePerturbation(groups, radii), closure(model, seen))
        assert step.finite
        assert step.num_passes == 2
        assert step.perturbed_loss != step.loss
        assert torch.equal(*seen)
        assert all(torch.equal(a, b) for a, b in zip(norm_statistics(model), norm_statistics(single), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
        optimizer.step()


def test_a_small_ascent_raises_the_loss_as_its_gradient_says() -> None:
    """L(w + eps) - L(w) = rho |g| to first order for a ball around the weights."""
    model = small_detector("ssd_mobilenet_v1")  # norm layers hold still in both passes
    sam = UniformPerturbation(1e-4, PerturbationOptions(geometry="euclidean"))
    step = sharpness_aware_gradients(model, sam, closure(model))
    plain = sharpness_aware_gradients(model, None, closure(model))
    assert step.gap == pytest.approx(1e-4 * plain.gradient_norm, rel=0.2)


@pytest.mark.parametrize("name", ["ssd_mobilenet_v1", *SLOW])
def test_mixed_precision_gives_a_float32_loss_close_to_the_full_one(name: str) -> None:
    model, made = small_detector(name), task()
    batch = made.prepare(raw_batch(), CPU)
    torch.manual_seed(0)
    full = made.loss(model, batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made.loss(model, batch)
    mixed.backward()
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(full.item(), rel=0.25)
    assert all(gradient.isfinite().all() for gradient in gradients(model))


def test_difficult_objects_are_not_trained_on_and_the_batch_stays_as_it_was() -> None:
    model, made = small_detector("ssd_mobilenet_v1"), task()
    batch = made.prepare(raw_batch(2), CPU)
    marked, fewer = copy.deepcopy(batch), copy.deepcopy(batch)
    extra = {"boxes": torch.tensor([[1.0, 1.0, 50.0, 50.0]]), "labels": torch.tensor([2])}
    for key, value in extra.items():
        marked.targets[0][key] = torch.cat([marked.targets[0][key], value])
    marked.targets[0]["difficult"] = torch.tensor([False, True])
    assert made.loss(model, marked).item() == made.loss(model, fewer).item()
    marked.targets[0]["difficult"] = torch.tensor([False, False])
    assert made.loss(model, marked).item() != made.loss(model, fewer).item()
    assert len(marked.targets[0]["boxes"]) == 2


def test_evaluation_counts_what_the_detector_finds() -> None:
    class Oracle(Detector):
        """Finds every box of the batch it was given, whatever it sees."""

        def __init__(self, targets: list[dict[str, Tensor]]) -> None:
            super().__init__()
            self.targets = targets

        def detect(self, images: object) -> list[dict[str, Tensor]]:
            return [{**target, "scores": torch.ones(len(target["labels"]))} for target in self.targets]

    batch = task().prepare(raw_batch(), CPU)
    evaluator = task().evaluator()
    evaluator.update(Oracle(batch.targets), batch)
    assert evaluator.compute()["map50"] == 1.0
    assert evaluator.per_image().mean().item() == pytest.approx(1.0)
