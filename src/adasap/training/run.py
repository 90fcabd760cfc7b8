"""One compression run: traced, trained, cut, evaluated, and able to go on after being killed.

Every public method is a no-op where the checkpoint says that its work is done, so `pipeline.compress` reads straight
through in a fresh run and in a resumed one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adasap.data import TrainingStream
from adasap.groups import ChannelGroup, Scores, trace_groups, widths
from adasap.pruning import PruningPlan, Selection, build_preparation
from adasap.pruning.proof import probe_images
from adasap.robustness import SuiteResult, evaluate_suite
from adasap.tasks import Task
from adasap.training.data import Data
from adasap.training.event import cut_, mask_
from adasap.training.feasible import require_divisible, require_feasible
from adasap.training.folder import RunFolder
from adasap.training.identity import digest, identity
from adasap.training.loop import Trainer
from adasap.training.opening import open_state, require_same_run
from adasap.training.options import Compression
from adasap.training.perturber import Perturber
from adasap.training.records import Observer, PhaseRecord, PruneRecord, Record, StageRecord
from adasap.training.runtime import Runtime
from adasap.training.scoring import Scoring, criterion_of
from adasap.training.search import Jury, find_best
from adasap.training.timetable import Event, Timetable


class CompressionRun:
    """The state of a run and the verbs the pipeline is written in.

    Args:
        model: The dense model; changed in place.
        task: What good means.
        data: Training images and evaluation suites.
        config: The options of the three steps.
        folder: Where records, checkpoint and stage results are kept; None keeps nothing and cannot resume.
        observe: Called with every record.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task[Any],
        data: Data,
        config: Compression,
        *,
        folder: Path | None,
        observe: Observer,
    ) -> None:
        self.task, self.data, self.config = task, data, config
        self.runtime = Runtime(config.training.runtime)
        self.folder = RunFolder(folder)
        self.runtime.wait()  # every rank has read it
        self._watchers: list[Observer] = [self.folder.observe, observe] if self.runtime.is_main else []
        self.stream = self._open_stream()
        self.criterion = criterion_of(config.pruning)
        self.dense_groups = trace_groups(model, data.example_inputs, keep=config.pruning.keep)
        self.selection = Selection.of(config.pruning, model, self.dense_groups, data.example_inputs)
        self.cost = self.selection.cost
        self.timetable = Timetable.of(config, self.stream.steps_per_epoch, self.cost)
        self.preparation = build_preparation(config.pruning.prepare, model, self.dense_groups, self._select_last)
        self.dense_model = copy.deepcopy(model)
        require_feasible(config, self.criterion, model, self.selection, self.timetable, self.stream.steps_per_epoch)
        require_same_run(self.folder.saved, self._identity(), self.folder.path)
        self.state = open_state(model, self.dense_groups, config.training, self.runtime, self.folder.saved)
        self.scoring = Scoring(self.criterion, config.pruning, self.state, task, self.runtime, self.first_batches)
        if self.state.counters.step == 0:
            self.scoring.try_gathering()
            require_divisible(config, self.first_batches, self.runtime.world_size)
        self.stages = self.folder.stages
        self._scored: dict[str, dict[str, SuiteResult]] = {}
        if self.runtime.is_main:
            self.folder.open_for_writing()
        self.trainer = Trainer(
            self.state,
            task,
            self.runtime,
            config.training,
            num_steps=self.timetable.num_steps,
            warm_up_steps=self.timetable.rising,
            seed=config.seed,
            observe=self._observe,
        )

    # The verbs

    def train(self, phase: str, *, until: int) -> None:
        """Steps of a phase until the run has made `until` steps in all."""
        counters = self.state.counters
        if counters.step >= until:
            return
        self._observe(PhaseRecord(counters.step, phase, until, self.timetable.num_steps))
        sharpness = self.config.sharpness(phase)
        steps = self.timetable.steps_of(phase, self.config)
        perturber = Perturber(sharpness, steps, self.state.directions, seed=self.config.seed)
        if sharpness.form.direction != "stale":
            self.state.directions.clear()
        to_come = counters.events < len(self.timetable.events)
        criterion, preparation = (self.criterion, self.preparation) if to_come else (None, None)
        for batch in self.stream.iterate(counters.step):
            self.trainer.step(batch, phase, perturber, criterion, preparation)
            if counters.step >= until and not sharpness.clean_statistics:
                self.scoring.renew_statistics(self.timetable)
            due = counters.step % self.config.training.checkpoint_every == 0
            if due and counters.step % math.lcm(sharpness.interval, self.config.pruning.prepare.interval) == 0:
                self.checkpoint()
            if counters.step >= until:
                return

    def prune(self, event: Event) -> None:
        """Removes, or masks for now, the channels that matter least until the event's limit is met; proves that cut."""
        if self.state.counters.events >= event.number:
            return
        started = time.perf_counter()
        state = self.state
        state.require_finite()
        self._agree()
        plan = self._select(event)
        groups, mask = state.groups, state.soft_mask
        last = event.number == len(self.timetable.events)
        for_good = last or not self.config.pruning.prepare.masks
        mask_error = (cut_ if for_good else mask_)(state, plan, self._probe())
        state.evidence.reset()
        state.tried.clear()
        state.counters.events = event.number
        self.trainer.rewrap()
        if last:
            self.evaluate("pruned")
        self.scoring.recalibrate()
        removed = sum(widths(groups).values()) - sum(widths(state.groups).values())
        self._observe(
            PruneRecord(
                step=state.counters.step,
                event=event.number,
                events=len(self.timetable.events),
                cost=self.cost.total({**widths(groups), **plan.widths()}),
                cost_limit=event.limit,
                unit=self.cost.unit,
                removed=removed,
                mask_error=mask_error,
                seconds=time.perf_counter() - started,
                masked=0 if state.soft_mask is None else state.soft_mask.num_masked,
                returned=0 if mask is None else mask.returning(plan),
            )
        )
        self.checkpoint()

    def _select(self, event: Event) -> PruningPlan:
        """What stays at an event, by the criterion and the selection of the recipe."""
        scores, options = self.scoring.score(), self.config.pruning
        if options.selection != "candidates":
            return self.selection.plan(self.state.groups, scores, event.limit)
        part = options.candidates.calibration_batches
        batches = self.first_batches(part + options.candidates.scoring_batches)
        return find_best(
            self.selection,
            self.state,
            scores,
            event,
            Jury(self.task, self.runtime, batches[:part], batches[part:]),
            seed=self.config.seed,
            num_events=len(self.timetable.events),
            observe=self._observe,
            save=self.checkpoint,
        )

    def _select_last(self, groups: Sequence[ChannelGroup], scores: Scores) -> PruningPlan:
        """What would stay if the last event came now."""
        return self.selection.plan(groups, scores, self.timetable.events[-1].limit)

    def evaluate(self, stage: str, model: nn.Module | None = None) -> dict[str, SuiteResult]:
        """Scores of every suite at a stage; read back from the folder where they were already computed."""
        if stage in self.stages:
            return self.stages[stage]
        started = time.perf_counter()
        if model is None:
            model = self.state.model
            self.runtime.average_buffers_(model)
        model = model.to(self.runtime.device)
        weights = digest(model.state_dict().values())
        if weights not in self._scored:  # a stage that changes nothing, such as a warm-up of no epochs, costs nothing
            found = {s.name: evaluate_suite(model, self.task, s, self.runtime.device) for s in self.data.suites}
            self._scored = {weights: found}
        results = self._scored[weights]
        if self.config.training.keep_stages:
            plan = {"plan": None if stage == "dense" else self.state.plan.to_json()}
            self.folder.write_weights(stage, model.state_dict(), plan)
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
        stream = self._open_stream(whole=True)
        batches = stream.iterate(0)
        return [self.task.prepare(next(batches), self.runtime.device) for _ in range(count)]

    # Opening

    def _open_stream(self, *, whole: bool = False) -> TrainingStream:
        """This rank's part of the batches, or the whole ones."""
        ranks = {} if whole else {"rank": self.runtime.rank, "world_size": self.runtime.world_size}
        workers = 0 if whole else self.config.training.num_workers
        return TrainingStream(
            self.data.train,
            self.data.augmentation,
            batch_size=self.config.training.batch_size,
            seed=self.config.seed,
            num_workers=workers,
            **ranks,
        )

    # Small helpers

    def _agree(self) -> None:
        """Norm statistics and evidence, which each rank gathers by itself, become those of all ranks."""
        self.runtime.average_buffers_(self.state.model)
        if self.runtime.world_size > 1 and self.state.evidence.count:
            self.state.evidence.reduce(self.runtime.average)

    def _identity(self) -> dict[str, Any]:
        return identity(self.config, self.dense_groups, self.dense_model, self.task, self.data)

    def _probe(self) -> Tensor:
        """Eight random images, the same at every event, on the run's device."""
        return probe_images(self.data.example_inputs.to(self.runtime.device), seed=self.config.seed)

    def _observe(self, record: Record) -> None:
        for watcher in self._watchers:
            watcher(record)
