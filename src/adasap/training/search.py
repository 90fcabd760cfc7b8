"""The search of a pruning event: candidates are cut on a copy, recalibrated and scored on training batches."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adasap.groups import ChannelGroup, Scores, evaluating, widths
from adasap.pruning import PruningPlan, Selection, apply_plan_
from adasap.sharpness import recalibrate_
from adasap.tasks import Task
from adasap.training.records import CandidateRecord, Observer
from adasap.training.runtime import Runtime
from adasap.training.seed import derived_seed
from adasap.training.state import TrainingState, Verdict
from adasap.training.timetable import Event

CANDIDATES_PER_CHECKPOINT = 10
"""A search that was killed goes on from the last multiple of it."""


@dataclass(frozen=True)
class Jury:
    """Judges a model that is about to be cut.

    Attributes:
        task: Its evaluator gives the score, the higher the better, and it gives the loss.
        runtime: For precision, and for one verdict on all ranks.
        calibration: Prepared batches for norm statistics.
        held_out: Prepared batches for the verdict; none of the former.
    """

    task: Task[Any]
    runtime: Runtime
    calibration: Sequence[Any]
    held_out: Sequence[Any]

    def verdict(self, model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> Verdict:
        """The cut copy's mean score over the images and mean loss over the batches; the model stays as it is."""
        candidate = copy.deepcopy(model)
        apply_plan_(candidate, groups, plan)
        with self.runtime.autocast():
            recalibrate_(candidate, self.calibration, forward=self.task.loss)
        evaluator, losses = self.task.evaluator(), []
        with evaluating(candidate), torch.no_grad():
            for batch in self.held_out:
                evaluator.update(candidate, batch)
                losses.append(self.task.loss(candidate, batch).double().cpu())
        found = torch.stack([evaluator.per_image().double().mean().cpu(), torch.stack(losses).mean()])
        score, loss = self.runtime.average(found.to(self.runtime.device, torch.float32)).tolist()
        return Verdict(score, loss)


def find_best(
    selection: Selection,
    state: TrainingState,
    scores: Scores,
    event: Event,
    jury: Jury,
    *,
    seed: int,
    num_events: int,
    observe: Observer,
    save: Callable[[], None],
) -> PruningPlan:
    """The candidate with the best verdict; the earliest of equal ones.

    Candidates are drawn from (seed, event, number), so a resumed search goes on with the same ones. Verdicts are
    kept in `state.tried`.

    Args:
        selection: Draws the candidates.
        state: What is to be cut.
        scores: Group name -> importance, float [C].
        event: Whose limit all candidates meet.
        jury: Gives the verdicts.
        seed: Of the run.
        num_events: Of the run, for the records.
        observe: Told about every candidate.
        save: Called now and then, to keep what has been tried.
    """
    options = selection.options.candidates
    best: tuple[float, float] | None = None
    chosen: PruningPlan | None = None
    for number, plan in enumerate(_plans(selection, state, scores, event, seed), start=1):
        started, known = time.perf_counter(), number <= len(state.tried)
        if not known:
            state.tried.append(jury.verdict(state.model, state.groups, plan))
        verdict = state.tried[number - 1]
        rank = verdict.rank(options.by)
        if best is None or rank > best:
            best, chosen = rank, plan
        if known:
            continue
        observe(
            CandidateRecord(
                step=state.counters.step,
                event=event.number,
                events=num_events,
                candidate=number,
                candidates=options.count,
                cost=selection.cost.total({**widths(state.groups), **plan.widths()}),
                cost_limit=event.limit,
                unit=selection.cost.unit,
                score=verdict.score,
                loss=verdict.loss,
                best=chosen is plan,
                seconds=time.perf_counter() - started,
            )
        )
        if number % CANDIDATES_PER_CHECKPOINT == 0 and number < options.count:
            save()
    assert chosen is not None
    return chosen


def _plans(
    selection: Selection, state: TrainingState, scores: Scores, event: Event, seed: int
) -> Iterator[PruningPlan]:
    options = selection.options.candidates
    for number in range(1, options.count + 1):
        if number == 1 and options.with_ranking:
            yield selection.plan(state.groups, scores, event.limit)
        else:
            draw = derived_seed(seed, "candidate", event.number, number)
            yield selection.candidate(state.groups, scores, event.limit, seed=draw)
