"""One compression run: traced, trained, cut, evaluated, and able to go on after being killed.

Every public method is a no-op where the checkpoint says that its work is done, so `pipeline.compress` reads straight
through in a fresh run and in a resumed one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adasap.criteria import Evidence, build_criterion, validate_criterion
from adasap.data import Augmentation, ImageSet, TrainingStream
from adasap.errors import CheckpointError, RecipeError, TrainingError
from adasap.groups import ChannelGroup, Scores, cut_matches_mask, fingerprint, trace_groups, widths
from adasap.pruning import (
    Budget,
    PruningOptions,
    PruningPlan,
    apply_plan_,
    build_cost,
    select_channels,
)
from adasap.robustness import Suite, SuiteResult, evaluate_suite
from adasap.sharpness import recalibrate_
from adasap.tasks import Task
from adasap.training.folder import RunFolder
from adasap.training.loop import Trainer
from adasap.training.optimizer import build_optimizer
from adasap.training.options import PhaseOptions, TrainingOptions
from adasap.training.perturber import Perturber
from adasap.training.records import Observer, PhaseRecord, PruneRecord, Record, StageRecord
from adasap.training.runtime import Runtime
from adasap.training.state import TrainingState

MAX_MASK_ERROR = 1e-3
"""Largest relative float32 difference between a cut model and the masked one that is taken for rounding."""


@dataclass(frozen=True)
class Data:
    """What a run trains and is measured on.

    Attributes:
        train: Labelled images.
        suites: What is evaluated after each stage; the first is the clean test set.
        example_inputs: One preprocessed image, float [1, C, H, W], for tracing and counting.
        augmentation: Applied to training images only.
    """

    train: ImageSet
    suites: Sequence[Suite]
    example_inputs: Tensor
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Event:
    """A pruning event: after `step` steps the cost may be at most `limit`."""

    number: int
    step: int
    limit: float


class CompressionRun:
    """The state of a run and the verbs the pipeline is written in.

    Args:
        model: The dense model; changed in place.
        task: What good means.
        data: Training images and evaluation suites.
        seed: Of data order, augmentation and dropout.
        training: Optimizer, schedule, runtime.
        warm_up, pruning, fine_tune: The three steps.
        folder: Where records, checkpoint and stage results are kept; None keeps nothing and cannot resume.
        observe: Called with every record.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task[Any],
        data: Data,
        *,
        seed: int,
        training: TrainingOptions,
        warm_up: PhaseOptions,
        pruning: PruningOptions,
        fine_tune: PhaseOptions,
        folder: Path | None,
        observe: Observer,
    ) -> None:
        self.task, self.data, self.seed, self.options, self.pruning = task, data, seed, training, pruning
        # Step 2 goes on with step 1's perturbation.
        self.phases = {
            "warm-up": warm_up.sharpness,
            "pruning": warm_up.sharpness,
            "fine-tuning": fine_tune.sharpness,
        }
        self.runtime = Runtime(training.runtime)
        self.folder = RunFolder(folder)
        self.runtime.wait()  # every rank has read it
        self._watchers: list[Observer] = [self.folder.observe, observe] if self.runtime.is_main else []
        self.criterion = build_criterion(pruning.criterion, **pruning.criterion_options)
        self.stream = TrainingStream(
            data.train,
            data.augmentation,
            batch_size=training.batch_size,
            seed=seed,
            num_workers=training.num_workers,
            rank=self.runtime.rank,
            world_size=self.runtime.world_size,
        )
        per_epoch = self.stream.steps_per_epoch
        self.warm_up_end = round(warm_up.epochs * per_epoch)
        self.pruning_end = self.warm_up_end + round(pruning.epochs * per_epoch)
        self.num_steps = self.pruning_end + round(fine_tune.epochs * per_epoch)

        self.example_inputs = data.example_inputs
        self.dense_groups = trace_groups(model, self.example_inputs, keep=pruning.keep)
        validate_criterion(self.criterion, model, self.dense_groups)
        self.cost = build_cost(pruning.budget, model, self.dense_groups, self.example_inputs)
        self.events = self._plan_events()
        if self.criterion.needs and self.events[0].step == 0:
            raise RecipeError(
                f"criterion {pruning.criterion!r} needs gradients, but the first pruning event comes before any step; "
                "give warm_up.epochs above 0, or a criterion of the weights such as l2"
            )
        self.floors = pruning.floors(self.dense_groups)
        self.select(self.dense_groups, self._equal_scores(), self.events[-1].limit)  # an impossible budget fails here
        self.dense_model = copy.deepcopy(model)
        self.state = self._open_state(model)
        self.stages = self.folder.stages
        if self.runtime.is_main:
            self.folder.open_for_writing()
        self.trainer = Trainer(
            self.state,
            task,
            self.runtime,
            training,
            num_steps=self.num_steps,
            warm_up_steps=round(training.schedule.warm_up_epochs * per_epoch),
            seed=seed,
            observe=self._observe,
        )

    # The verbs

    def train(self, phase: str, *, until: int) -> None:
        """Steps of a phase until the run has made `until` steps in all."""
        counters = self.state.counters
        if counters.step >= until:
            return
        self._observe(PhaseRecord(counters.step, phase, until, self.num_steps))
        perturber = Perturber(self.phases[phase])
        criterion = self.criterion if counters.step < self.pruning_end else None
        for batch in self.stream.iterate(counters.step):
            self.trainer.step(batch, phase, perturber, criterion)
            due = counters.step % self.options.checkpoint_every == 0
            if due and counters.step % self.phases[phase].refresh == 0:
                self.checkpoint()
            if counters.step >= until:
                return

    def prune(self, event: Event) -> None:
        """Removes the channels that matter least until the event's limit is met, and proves that cut."""
        if self.state.counters.events >= event.number:
            return
        started = time.perf_counter()
        state, model = self.state, self.state.model
        self._agree()
        evidence = state.evidence.mean() if self.criterion.needs else None
        scores = self.criterion.score(model, state.groups, evidence)
        plan = self.select(state.groups, scores, event.limit)
        before, groups = copy.deepcopy(model), state.groups
        averaged = [] if state.averaged is None else [state.averaged]
        state.groups = apply_plan_(model, groups, plan, optimizer=state.optimizer, companions=averaged)
        mask_error = self._check(before, groups, plan)
        state.plan = state.plan.then(plan)
        state.evidence.reset()
        state.counters.events = event.number
        self.trainer.rewrap()
        if event.number == len(self.events):
            self.evaluate("pruned")
        self.recalibrate()
        removed = sum(widths(groups).values()) - sum(widths(state.groups).values())
        self._observe(
            PruneRecord(
                step=state.counters.step,
                event=event.number,
                events=len(self.events),
                cost=self.cost.total(widths(state.groups)),
                cost_limit=event.limit,
                unit=self.cost.unit,
                removed=removed,
                mask_error=mask_error,
                seconds=time.perf_counter() - started,
            )
        )
        self.checkpoint()

    def select(self, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """What stays under a limit, by the floors and multiples of the recipe."""
        budget = Budget(self.cost, limit=limit)
        return select_channels(groups, scores, budget, floors=self.floors, multiple_of=self.pruning.multiple_of)

    def recalibrate(self) -> None:
        """Re-estimates norm statistics on the first batches of the run, the same on every rank."""
        if self.pruning.recalibration_batches == 0:
            return
        with self.runtime.autocast():
            recalibrate_(
                self.state.model,
                self.first_batches(self.pruning.recalibration_batches),
                forward=self.task.loss,
            )
        self.runtime.average_buffers_(self.state.model)

    def evaluate(self, stage: str, model: nn.Module | None = None) -> dict[str, SuiteResult]:
        """Scores of every suite at a stage; read back from the folder where they were already computed."""
        if stage in self.stages:
            return self.stages[stage]
        started = time.perf_counter()
        if model is None:
            model = self.state.model
            self.runtime.average_buffers_(model)
        model = model.to(self.runtime.device)
        results = {s.name: evaluate_suite(model, self.task, s, self.runtime.device) for s in self.data.suites}
        self.folder.write_stage(stage, results)
        scores = {name: result.mean for name, result in results.items()}
        self._observe(StageRecord(self.state.counters.step, stage, scores, time.perf_counter() - started))
        self.stages[stage] = results
        return results

    def final_model(self) -> nn.Module:
        """The model that leaves: the averaged weights if there are any, in evaluation mode."""
        averaged = self.state.averaged
        model = self.state.model if averaged is None else averaged.module
        assert isinstance(model, nn.Module)
        return model.eval()

    def checkpoint(self) -> None:
        """Writes all of the state; without a folder nothing is kept."""
        self._agree()
        metadata = self.state.metadata() | {"identity": self._identity()}
        if self.runtime.scaler is not None:
            metadata["scaler"] = self.runtime.scaler.state_dict()
        self.folder.write_checkpoint(self.state.tensors(), metadata)

    def close(self) -> None:
        """The last checkpoint, and the end of the records."""
        self.checkpoint()
        self.folder.close()
        self.runtime.wait()

    def first_batches(self, count: int) -> list[Any]:
        """Prepared training batches that are the same on every rank."""
        stream = TrainingStream(
            self.data.train, self.data.augmentation, batch_size=self.options.batch_size, seed=self.seed
        )
        batches = stream.iterate(0)
        return [self.task.prepare(next(batches), self.runtime.device) for _ in range(count)]

    # Opening

    def _plan_events(self) -> list[Event]:
        steps = self.pruning.event_steps(self.warm_up_end, self.pruning_end)
        limits = self.pruning.limits(self.cost, len(steps))
        return [Event(r + 1, step, limit) for r, (step, limit) in enumerate(zip(steps, limits, strict=True))]

    def _open_state(self, model: nn.Module) -> TrainingState:
        saved = self.folder.saved
        groups: Sequence[ChannelGroup] = self.dense_groups
        plan = PruningPlan.of(groups)
        if saved is not None:
            if saved[1]["identity"] != self._identity():
                raise CheckpointError(
                    f"{self.folder.path} belongs to another recipe or model; "
                    "give the recipe it was begun with, or a new folder"
                )
            plan = PruningPlan.from_json(saved[1]["plan"])
            groups = apply_plan_(model, groups, plan)
        model = self.runtime.place(model)
        decay = self.options.average_decay
        averaged = None if decay is None else _average_of(model, decay)
        state = TrainingState(model, groups, build_optimizer(model, self.options.optimizer), plan, Evidence(), averaged)
        if saved is not None:
            state.load(*saved)
            if self.runtime.scaler is not None:
                self.runtime.scaler.load_state_dict(saved[1]["scaler"])
        return state

    def _identity(self) -> dict[str, Any]:
        """What must not change between a run and its resumption."""
        options = repr((self.seed, self.options.batch_size, self.options.optimizer, self.options.schedule, self.phases))
        return {
            "groups": fingerprint(self.dense_groups),
            "options": options,
            "pruning": repr(self.pruning),
            "num_steps": self.num_steps,
            "num_images": len(self.data.train),
        }

    # Small helpers

    def _equal_scores(self) -> Scores:
        return {group.name: torch.ones(group.num_channels) for group in self.dense_groups}

    def _agree(self) -> None:
        """Norm statistics and evidence, which each rank gathers by itself, become those of all ranks."""
        self.runtime.average_buffers_(self.state.model)
        if self.runtime.world_size > 1 and self.state.evidence.count:
            self.state.evidence.reduce(self.runtime.average)

    def _observe(self, record: Record) -> None:
        for watcher in self._watchers:
            watcher(record)

    def _check(self, before: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> float:
        inputs = self.example_inputs.expand(8, *self.example_inputs.shape[1:]).to(self.runtime.device)
        generator = torch.Generator().manual_seed(self.seed)
        inputs = inputs + torch.randn(inputs.shape, generator=generator).to(inputs)
        error = cut_matches_mask(before, self.state.model, groups, plan.kept, inputs)
        if not error <= MAX_MASK_ERROR:
            raise TrainingError(
                f"the cut model differs from the masked one by {error:.2g} of its output (allowed {MAX_MASK_ERROR:g}): "
                "a layer was not followed rightly; list its module in pruning.keep and report the model"
            )
        return error


def _average_of(model: nn.Module, decay: float) -> AveragedModel:
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
