"""One compression run: traced, trained, cut, evaluated, and able to go on after being killed.

Every public method is a no-op where the checkpoint says that its work is done, so `pipeline.compress` reads straight
through in a fresh run and in a resumed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from adasap.criteria import build_criterion
from adasap.data.loaders import Stream, open_stream
from adasap.errors import ArgumentError
from adasap.evaluation import Cell, SuiteResult, evaluate_suites, suite_results
from adasap.evaluation.folder import digest_of_model, suites_identity
from adasap.groups import ChannelGroup, Scores, trace_groups, widths
from adasap.groups.fake_model import copied
from adasap.groups.inputs import Arguments
from adasap.groups.past import branches_of, removed_before
from adasap.pruning import PruningPlan, Selection
from adasap.pruning.plan import absent
from adasap.pruning.proof import probe_images
from adasap.report.records import CellRecord, Observer, PhaseRecord, PruneRecord, Record, ResumeRecord, StageRecord
from adasap.tasks import BaseTask, Data
from adasap.training.fingerprint import identity
from adasap.training.folder import RunFolder
from adasap.training.loop import Trainer
from adasap.training.options import Compression
from adasap.training.perturbation_schedule import Perturber
from adasap.training.pruning_event import MakeUp, build_make_up, choose, cut_, hold_back_
from adasap.training.run_schedule import Event, Timetable
from adasap.training.runtime import Runtime
from adasap.training.scoring import Scoring
from adasap.training.start import open_state, require_same_run
from adasap.training.validation import (
    require_divisible,
    require_feasible,
    require_measured_budget,
    warn_of_thin_groups,
)

LAST_STAGE = "fine-tuned"
"""The stage whose scores end a run."""


@runtime_checkable
class SearchingMethod(Protocol):
    """A `SelectionMethod` that tries out on batches what would be left, at every event of a run."""

    def search(self, run: CompressionRun, scores: Scores, event: Event) -> PruningPlan:
        """What stays; what was tried so far may be kept in `run.state.tried`, for a resumed run."""


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
        task: BaseTask[Any],
        data: Data,
        config: Compression,
        *,
        folder: Path | None,
        observe: Observer,
    ) -> None:
        if not isinstance(task, BaseTask):
            raise ArgumentError(f"the task is a {type(task).__name__}; derive its class from adasap.BaseTask")
        data = data.for_task(task)
        self.task, self.data, self.config = task, data, config
        self.folder = RunFolder(folder)
        self.runtime = Runtime(config.training.runtime, begun=self.folder.precision)
        self.runtime.wait()  # every rank has read it
        self.scoring_precision = self.runtime.settled(config.training.evaluation.precision)
        self._watchers: list[Observer] = [self.folder.observe, observe] if self.runtime.is_main else []
        self.stream, self._whole_stream = self._open_stream(), self._open_stream(whole=True)
        self.preparation = config.pruning.preparation()
        criterion = build_criterion(config.pruning.criterion, **config.pruning.criterion_options)
        self.criterion = self.preparation.criterion(criterion)
        pruning = config.pruning
        self.dense_groups = trace_groups(
            model,
            data.example,
            keep=pruning.keep,
            allow_inexact=pruning.allow_inexact,
            depth=pruning.budget.depth,
        )
        self.selection = Selection.of(config.pruning, model, self.dense_groups, data.example)
        self.cost = self.selection.cost
        self.timetable = Timetable.of(config, self.stream.steps_per_epoch, self.cost)
        self.preparation.begin(model, self.dense_groups, self._select_last)
        self.dense_model = copied(model)
        require_feasible(config, self.criterion, model, self.selection, self.timetable, self.stream.steps_per_epoch)
        self._identity = identity(config, self.dense_groups, self.dense_model, task, data, self.runtime.precision)
        require_same_run(self.folder.saved, self._identity, self.folder.path)
        if self.folder.saved is None and self.runtime.is_main:
            require_measured_budget(config.pruning.budget, model, self.dense_groups, data.example)
        self.state = open_state(
            model,
            self.dense_groups,
            config.training,
            self.runtime,
            self.folder.saved,
            self.preparation,
            config.strengths(),
        )
        self.scoring = Scoring(self.criterion, config.pruning, self.state, task, self.runtime, self.first_batches)
        if self.state.counters.step == 0:
            self.scoring.try_gathering()
            require_divisible(config, self.first_batches, self.runtime.world_size)
            if self.runtime.is_main and not self.criterion.needs:
                warn_of_thin_groups(self._select_last(self.dense_groups, self.scoring.score()), self.dense_groups)
        self.stages = self.folder.stages
        self._announced = None if self.folder.saved is None else self.folder.saved[1].get("announced")
        self._scored: dict[str, dict[str, SuiteResult]] = {}
        if self.runtime.is_main:
            self.folder.open_for_writing()
            self._tell_resumed(observe)
        self.trainer = Trainer(
            self.state,
            task,
            self.runtime,
            config.training,
            num_steps=self.timetable.num_steps,
            warm_up_steps=self.timetable.rising,
            seed=config.seed,
            observe=self.observe,
        )

    # The verbs

    def train(self, phase: str, *, until: int) -> None:
        """Steps of a phase until the run has made `until` steps in all."""
        counters = self.state.counters
        if counters.step >= until:
            return
        self._announce(PhaseRecord(counters.step, phase, until, self.timetable.num_steps))
        sharpness = self.config.sharpness(phase)
        steps = self.timetable.steps_of(phase, self.config)
        strength = self.state.strengths.get(self.config.perturbed_with(phase))
        perturber = Perturber(sharpness, steps, self.state.directions, seed=self.config.seed, strength=strength)
        if not any(variant.remembers for variant in sharpness.varied):
            self.state.directions.clear()
        to_come = counters.events < len(self.timetable.events)
        criterion, preparation = (self.criterion, self.preparation) if to_come else (None, None)
        for batch in self.stream.iterate(counters.step):
            self.trainer.step(batch, phase, perturber, criterion, preparation)
            if counters.step >= until and not sharpness.clean_statistics:
                self.scoring.renew_statistics(self.timetable)
            due = counters.step % self.config.training.checkpoint_every == 0
            if due and counters.step % math.lcm(sharpness.interval, self.preparation.interval) == 0:
                self.checkpoint()
            if counters.step >= until:
                return

    def prune(self, event: Event) -> None:
        """Removes, or keeps back, the channels that matter least until the event's limit is met; proves that cut."""
        if self.state.counters.events >= event.number:
            return
        started = time.perf_counter()
        state = self.state
        state.require_finite()
        self._agree()
        plan = self._select(event)
        groups, returned = state.groups, state.preparation.returning(plan)
        last = event.number == len(self.timetable.events)
        compensation = None
        if last or not state.preparation.holds:
            mask_error, compensation = cut_(state, plan, self._probe(), self._make_up)
        else:
            mask_error = hold_back_(state, plan, self._probe())
        state.evidence.reset()
        state.tried.clear()
        state.counters.events = event.number
        self.trainer.rewrap()
        if last:
            self._evaluate("pruned", state.model)  # no checkpoint yet: the event is not over
        self.scoring.recalibrate()
        removed = sum(widths(groups).values()) - sum(widths(state.groups).values())
        self.observe(
            PruneRecord(
                step=state.counters.step,
                event=event.number,
                events=len(self.timetable.events),
                cost=self.cost.total({**widths(groups), **absent(removed_before(groups)), **plan.widths()}),
                cost_limit=event.limit,
                unit=self.cost.unit,
                removed=removed,
                branches=len(branches_of(groups)) - len(branches_of(state.groups)),
                mask_error=mask_error,
                seconds=time.perf_counter() - started,
                masked=state.preparation.num_held,
                returned=returned,
                layer_errors=None if compensation is None else compensation.errors,
                uncompensated=None if compensation is None else compensation.as_they_were,
            )
        )
        self.checkpoint()

    @cached_property
    def _make_up(self) -> MakeUp | None:
        """As the recipe wants it; None for none."""
        example, loss = self.data.example, self.task.loss
        return build_make_up(self.config.pruning, self.dense_model, example, self.first_batches, loss, self.runtime)

    def _select(self, event: Event) -> PruningPlan:
        """What stays at an event, by the criterion and the selection of the recipe."""
        scores, method = self.scoring.score(), self.config.pruning.method
        if isinstance(method, SearchingMethod):
            return method.search(self, scores, event)
        return self.choose(self.selection, scores, event.limit)

    def choose(self, selection: Selection, scores: Scores, limit: float) -> PruningPlan:
        """What stays of the present model; a budget with depth is tried on the first batches."""
        return choose(selection, self.state, scores, limit, self.first_batches, self.task.loss, self.runtime)

    def _select_last(self, groups: Sequence[ChannelGroup], scores: Scores) -> PruningPlan:
        """What would stay if the last event came now."""
        return self.selection.plan(groups, scores, self.timetable.events[-1].limit)

    def evaluate(self, stage: str, model: nn.Module | None = None) -> dict[str, SuiteResult]:
        """Scores of every suite at a stage; those of the checkpoint where it has them, else computed and kept there."""
        if stage not in self.stages:
            self._evaluate(stage, self.state.model if model is None else model)
            if model is self.dense_model:
                model.to("cpu")  # nothing needs it again: its memory on a GPU is the run's
            self.checkpoint()  # a run can be taken up here: the first event comes right after the warm-up
        return self.stages[stage]

    def _evaluate(self, stage: str, model: nn.Module) -> None:
        started = time.perf_counter()
        if model is not self.dense_model:
            self.runtime.average_buffers_(model)
        model = model.to(self.runtime.device)
        digest = digest_of_model(model)
        if digest not in self._scored:  # a stage that changes nothing, such as a warm-up of no epochs, costs nothing
            self._scored = {digest: self._scores(stage, model, digest)}
        results = self._scored[digest]
        if self.config.training.keep_stages:
            plan = {"plan": None if stage == "dense" else self.state.plan.to_json()}
            self.folder.write_weights(stage, model.state_dict(), plan)
        self.folder.write_stage(stage, results)
        scores = {name: result.mean for name, result in results.items()}
        seconds, precision = time.perf_counter() - started, self.scoring_precision
        self.observe(StageRecord(self.state.counters.step, stage, scores, seconds, precision))
        self.stages[stage] = results

    def _scores(self, stage: str, model: nn.Module, digest: str) -> dict[str, SuiteResult]:
        """Every suite's scores; cells that a killed run left are read, the others shared out over the ranks."""
        loading, suites = self.config.training.evaluation.loading, self.data.opened_suites
        device, cells = self.runtime.device, None
        if self.folder.path is not None:
            bound = {
                "model": digest,
                "task": repr(self.task),
                "precision": self.scoring_precision,
                "batches": {suite.name: suite.images_per_batch(loading) for suite in suites},
                "device": device.type,
                "torch": torch.__version__,
                **self._suites_identity,
            }
            cells = self.folder.open_cells(bound, is_first=self.runtime.is_main)
        number, total = count(1), sum(len(suite.cells) for suite in suites)

        def tell(suite: str, cell: Cell, result: object) -> None:
            self._tell(CellRecord(self.state.counters.step, stage, suite, str(cell), next(number), total))

        found = evaluate_suites(
            model,
            self.task,
            suites,
            device,
            loading=loading,
            precision=self.scoring_precision,
            folder=cells,
            observe=tell,
        )
        return suite_results(suites, found)

    @cached_property
    def _suites_identity(self) -> dict[str, Any]:
        return suites_identity(self.data.opened_suites)

    def final_model(self) -> nn.Module:
        """The model that leaves: the averaged weights if there are any, in evaluation mode."""
        averaged = self.state.averaged
        model = self.state.model if averaged is None else averaged.module
        if not isinstance(model, nn.Module):
            raise TypeError(f"the averaged model is {type(model).__name__} instead of a module")
        return model.eval()

    def checkpoint(self) -> None:
        """Writes all of the state; without a folder nothing is kept."""
        self._agree()
        metadata = self.state.metadata() | {"identity": self._identity, "announced": self._announced}
        if self.runtime.scaler is not None:
            metadata["scaler"] = self.runtime.scaler.state_dict()
        self.folder.write_checkpoint(self.state.tensors(), metadata)

    def close(self) -> None:
        """The end of the records; the last evaluation has left the last checkpoint."""
        self.folder.close()
        self.runtime.wait()

    def first_batches(self, count: int) -> list[Any]:
        """Prepared training batches that are the same on every rank."""
        return [self.task.prepare(batch, self.runtime.device) for batch in self._whole_stream.first(count)]

    # Opening

    def _open_stream(self, *, whole: bool = False) -> Stream:
        """This rank's part of the batches, or the whole ones."""
        ranks = {} if whole else {"rank": self.runtime.rank, "world_size": self.runtime.world_size}
        return open_stream(
            self.data.train,
            lambda: self.task.batching(self.data.train, self.data.augmentation),
            collate=self.task.collate,
            batch_size=self.config.training.batch_size,
            seed=self.config.seed,
            num_workers=0 if whole else self.config.training.num_workers,
            **ranks,
        )

    # Small helpers

    def _announce(self, record: PhaseRecord) -> None:
        """Begins a phase; one that was begun before the checkpoint has its record already."""
        if self._announced == [record.phase, record.stop]:
            self._tell(record)
            return
        self._announced = [record.phase, record.stop]
        self.observe(record)

    def _tell_resumed(self, observe: Observer) -> None:
        if self.folder.saved is None and not self.folder.notes:
            return
        step, num_steps = self.state.counters.step, self.timetable.num_steps
        finished = step == num_steps and LAST_STAGE in self.stages
        notes = (*self.folder.notes, *(() if self.folder.saved is None else self.stream.remarks))
        observe(ResumeRecord(step, num_steps, finished, notes))

    def _agree(self) -> None:
        """Norm statistics and evidence, which each rank gathers by itself, become those of all ranks."""
        self.runtime.average_buffers_(self.state.model)
        if self.runtime.world_size > 1 and self.state.evidence.count:
            self.state.evidence.reduce(self.runtime.average)

    def _probe(self) -> Arguments:
        """Eight random images, the same at every event, on the run's device."""
        return probe_images(self.data.example.to(self.runtime.device), seed=self.config.seed)

    def _tell(self, record: Record) -> None:
        """Tells whoever watches, but keeps nothing."""
        for watcher in self._watchers[1:]:
            watcher(record)

    def observe(self, record: Record) -> None:
        for watcher in self._watchers:
            watcher(record)
