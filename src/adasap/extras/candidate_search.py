"""The search of a pruning event: candidates are cut on a copy, recalibrated and scored on training batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from adasap.extras.candidates import Candidates
from adasap.groups import ChannelGroup, Scores, evaluating, widths
from adasap.groups.fake_model import copied
from adasap.pruning import PruningPlan, Selection, apply_plan_
from adasap.report.records import CandidateRecord, Observer
from adasap.sharpness import recalibrate_
from adasap.tasks import Task
from adasap.training.run import CompressionRun
from adasap.training.run_schedule import Event
from adasap.training.runtime import Runtime
from adasap.training.seed import derived_seed
from adasap.training.state import TrainingState

CANDIDATES_PER_CHECKPOINT = 10
"""A search that was killed goes on from the last multiple of it."""


class Verdict(NamedTuple):
    """How good a candidate is: the task's mean score (the higher the better) and mean loss on training batches."""

    score: float
    loss: float

    def rank(self, by: Literal["score", "loss"]) -> tuple[float, float]:
        """By which candidates are compared, the larger the better; what is not a number is worst.

        Example:
            >>> Verdict(0.5, 1.0).rank("score") > Verdict(0.5, 2.0).rank("score")
            True
            >>> Verdict(float("nan"), float("nan")).rank("loss")
            (-inf, -inf)
        """
        score = -math.inf if math.isnan(self.score) else self.score
        gain = -math.inf if math.isnan(self.loss) else -self.loss
        return (score, gain) if by == "score" else (gain, score)


@dataclass(frozen=True)
class CandidateScorer:
    """Says how good a model would be after a cut.

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
        candidate = copied(model)
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


def search(method: Candidates, run: CompressionRun, scores: Scores, event: Event) -> PruningPlan:
    """The best candidate of a run's event; what has been tried is kept in its checkpoints."""
    batches = run.first_batches(method.calibration_batches + method.scoring_batches)
    calibration, held_out = batches[: method.calibration_batches], batches[method.calibration_batches :]
    return find_best(
        method,
        run.selection,
        run.state,
        scores,
        event,
        CandidateScorer(run.task, run.runtime, calibration, held_out),
        seed=run.config.seed,
        num_events=len(run.timetable.events),
        observe=run.observe,
        save=run.checkpoint,
    )


def find_best(
    method: Candidates,
    selection: Selection,
    state: TrainingState,
    scores: Scores,
    event: Event,
    scorer: CandidateScorer,
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
        method: Draws the candidates, and says how many and by what they are compared.
        selection: Floors, multiples and cost of the recipe.
        state: What is to be cut.
        scores: Group name -> importance, float [C].
        event: Whose limit all candidates meet.
        scorer: Gives the verdicts.
        seed: Of the run.
        num_events: Of the run, for the records.
        observe: Told about every candidate.
        save: Called now and then, to keep what has been tried.
    """
    best: tuple[float, float] | None = None
    chosen: PruningPlan | None = None
    for number, plan in enumerate(_plans(method, selection, state, scores, event, seed), start=1):
        started, known = time.perf_counter(), number <= len(state.tried)
        if not known:
            state.tried.append(scorer.verdict(state.model, state.groups, plan))
        verdict = Verdict(*state.tried[number - 1])
        rank = verdict.rank(method.by)
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
                candidates=method.count,
                cost=selection.cost.total({**widths(state.groups), **plan.widths()}),
                cost_limit=event.limit,
                unit=selection.cost.unit,
                score=verdict.score,
                loss=verdict.loss,
                best=chosen is plan,
                seconds=time.perf_counter() - started,
            )
        )
        if number % CANDIDATES_PER_CHECKPOINT == 0 and number < method.count:
            save()
    assert chosen is not None
    return chosen


def _plans(
    method: Candidates, selection: Selection, state: TrainingState, scores: Scores, event: Event, seed: int
) -> Iterator[PruningPlan]:
    for number in range(1, method.count + 1):
        if number == 1 and method.with_ranking:
            yield selection.plan(state.groups, scores, event.limit)
        else:
            draw = derived_seed(seed, "candidate", event.number, number)
            yield method.draw(selection, state.groups, scores, event.limit, seed=draw)
