"""What every task must do with its batches, its loss and its evaluator."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adasap.convolutions import guard_convolutions
from adasap.data.items import read_items
from adasap.evaluation.evaluator import Evaluator, MergeableEvaluator
from adasap.tasks.data import Data
from adasap.tasks.task import BaseTask, first_images
from adasap.testing.random_state import global_random_state

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TaskCase:
    """A task with what it is tried on.

    Attributes:
        task: The task.
        model: One that it goes with, small.
        images: A map-style data set of at least three items with 8-bit images.
        augmentation: Of the task's `augmentation_type`; None for its defaults.
        example: What the model is traced with, float [1, C, H, W]; None for a black image like the first.
    """

    task: BaseTask[Any]
    model: nn.Module
    images: Any
    augmentation: Any = None
    example: Tensor | None = None

    def training_batch(self, indices: Sequence[int], *, epoch: int = 0) -> Any:
        """A raw training batch of a run of seed 0."""
        varied = self.task.augmentation_type() if self.augmentation is None else self.augmentation
        maker = self.task.batching(self.images, varied).maker(seed=0)
        return maker.labelled(self.images, torch.tensor(indices), epoch)

    def raw(self, indices: Sequence[int]) -> Any:
        """A raw batch of an evaluation."""
        return self.task.collate(read_items(self.images, torch.tensor(indices)))

    def evaluated(self, *batches: Sequence[int]) -> Evaluator[Any]:
        """An evaluator that has seen these batches."""
        evaluator, model = self.task.evaluator(), self.model.eval()
        with torch.no_grad():
            for indices in batches:
                evaluator.update(model, self.task.prepare(self.raw(indices), CPU))
        return evaluator


def images_in(batch: Any) -> list[Tensor]:
    """Copies of the images of a batch."""
    return [image.clone() for image in first_images(batch)]


class TaskContract:
    """Asks for the fixture `case`, a `TaskCase`."""

    def test_it_says_what_good_means(self, case: TaskCase) -> None:
        metric = case.task.primary_metric
        assert case.task.name
        assert metric.key
        assert metric.label
        keys = [panel.key for panel in case.task.panels() if panel.key]
        assert len(set(keys)) == len(case.task.panels()), "give every panel a key of its own"

    def test_a_training_batch_is_a_function_of_seed_epoch_and_items(self, case: TaskCase) -> None:
        before = global_random_state()
        first, second = images_in(case.training_batch([0, 1])), images_in(case.training_batch([0, 1]))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "a resumed run would differ"
        [alone] = images_in(case.training_batch([1]))
        assert torch.equal(alone, first[1]), "an image depends on the batch it is in: ranks would differ"
        assert global_random_state() == before, "a global generator was drawn from; draw from the seeds"

    def test_preparing_leaves_the_raw_batch_alone(self, case: TaskCase) -> None:
        batch = case.raw([0, 1])
        before = copy.deepcopy(images_in(batch))
        prepared = case.task.prepare(batch, CPU)
        assert all(image.is_floating_point() for image in images_in(prepared))
        assert all(torch.equal(a, b) for a, b in zip(images_in(batch), before, strict=True))

    def test_the_loss_is_a_finite_scalar_with_a_graph(self, case: TaskCase) -> None:
        model = case.model.train()
        model.zero_grad()
        loss = case.task.loss(model, case.task.prepare(case.training_batch([0, 1, 2]), CPU))
        assert loss.ndim == 0
        assert loss.isfinite(), f"the loss is {loss}"
        guard_convolutions()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert any(bool(gradient.any()) for gradient in gradients), "no parameter has a gradient"
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)

    def test_the_loss_of_a_batch_is_the_same_twice(self, case: TaskCase) -> None:
        """Both passes of a step are made over one prepared batch."""
        model, batch = case.model.eval(), case.task.prepare(case.training_batch([0, 1]), CPU)
        with torch.no_grad():
            first, second = case.task.loss(model, batch), case.task.loss(model, batch)
        assert torch.equal(first, second), "the loss changed the batch, or drew random numbers"

    def test_the_evaluator_gives_the_primary_metric_and_a_score_of_each_image(self, case: TaskCase) -> None:
        evaluator = case.evaluated([0, 1], [2])
        metrics, scores = evaluator.compute(), evaluator.per_image()
        assert math.isfinite(metrics[case.task.primary_metric.key])
        assert scores.shape == (3,)
        assert scores.is_floating_point()

    def test_batches_change_no_metric(self, case: TaskCase) -> None:
        whole, apart = case.evaluated([0, 1, 2]), case.evaluated([0], [1], [2])
        assert whole.compute() == pytest.approx(apart.compute(), rel=1e-4, abs=1e-5, nan_ok=True)
        torch.testing.assert_close(whole.per_image(), apart.per_image(), rtol=1e-4, atol=1e-5)

    def test_records_of_processes_join_to_those_of_one(self, case: TaskCase) -> None:
        whole, first, second = case.evaluated([0, 1, 2]), case.evaluated([0, 1]), case.evaluated([2])
        if not isinstance(whole, MergeableEvaluator):
            return  # such a one is evaluated by a single process
        assert isinstance(first, MergeableEvaluator)
        assert isinstance(second, MergeableEvaluator)
        assert whole.metrics_of(whole.records()) == pytest.approx(whole.compute(), nan_ok=True)
        joined = {name: torch.cat([part, second.records()[name]]) for name, part in first.records().items()}
        assert whole.metrics_of(joined) == pytest.approx(whole.compute(), rel=1e-4, abs=1e-5, nan_ok=True)

    def test_a_corruption_changes_images_alone_and_follows_the_seeds(self, case: TaskCase) -> None:
        batch, seeds = case.raw([0, 1]), torch.tensor([3, 4])
        before = images_in(batch)
        first = images_in(case.task.corrupt(batch, "gaussian_noise", 5, seeds))
        assert all(torch.equal(a, b) for a, b in zip(images_in(batch), before, strict=True)), "it wrote to the batch"
        assert not any(torch.equal(a, b) for a, b in zip(first, before, strict=True)), "nothing was corrupted"
        [alone] = images_in(case.task.corrupt(case.raw([1]), "gaussian_noise", 5, seeds[1:]))
        assert torch.equal(alone, first[1]), "the draws of an image depend on its batch"

    def test_what_fits_passes_the_check_and_leaves_the_model_as_it_was(self, case: TaskCase) -> None:
        model = case.model.train()
        before = [weight.detach().clone() for weight in model.state_dict().values()]
        varied = case.augmentation or case.task.augmentation_type()
        example = case.task.example_inputs(case.images, varied) if case.example is None else case.example
        case.task.check(model, Data(case.images, (), example, varied))
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
        assert model.training
