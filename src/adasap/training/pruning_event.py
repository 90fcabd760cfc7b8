"""What a pruning event does to the state of a run: channels are removed for good, or kept back until the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import ModelError, TraceError, TrainingError
from adasap.groups import ChannelGroup, Scores
from adasap.groups.fake_model import copied
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.norms_behind import norms_behind
from adasap.groups.stand_ins import kept_of_left, left_of, take_out_
from adasap.pruning import Compensation, PruningOptions, PruningPlan, Selection, apply_plan_, compensate_
from adasap.pruning.depth import choose_depth
from adasap.pruning.proof import require_cut
from adasap.training.processes import Processes
from adasap.training.state import TrainingState

MakeUp = Callable[[nn.Module, nn.Module, Sequence[ChannelGroup], PruningPlan], Compensation]
"""Gives a cut model weights that make up for what went: of the model before (used up), the cut one, groups and plan."""


def build_make_up(
    options: PruningOptions,
    model: nn.Module,
    example_inputs: ExampleInputs,
    first_batches: Callable[[int], list[Any]],
    loss: Callable[[nn.Module, Any], Tensor],
    processes: Processes,
) -> MakeUp | None:
    """Compensation as the recipe wants it, on the first batches, the same on every process; None for none.

    Args:
        model: The dense model.
        example_inputs: What it is called with, on its device.
        first_batches: `first_batches(n)` gives prepared training batches, the same on every process.
        loss: Runs a model on such a batch.
    """
    if options.compensate == "none":
        return None
    norms = norms_behind(model, as_arguments(example_inputs).to_model(model))

    def make_up(before: nn.Module, cut: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> Compensation:
        measured = options.compensate == "least_squares"
        batches = first_batches(options.compensation_batches) if measured else []
        take_out_(before, plan.removed)
        left, kept = left_of(groups, plan.removed), kept_of_left(groups, plan.kept, plan.removed)
        found = compensate_(before, cut, left, kept, options.compensate, norms=norms, batches=batches, forward=loss)
        processes.average_(cut, found.changed)
        return found

    return make_up


def choose(
    selection: Selection,
    state: TrainingState,
    scores: Scores,
    limit: float,
    first_batches: Callable[[int], list[Any]],
    loss: Callable[[nn.Module, Any], Tensor],
    processes: Processes,
) -> PruningPlan:
    """What stays of the state's model under a limit: by the scores, and with depth by trials on the first batches.

    Args:
        first_batches: `first_batches(n)` gives prepared training batches.
        loss: The mean loss of a model on such a batch.
    Raises:
        BudgetError: If the limit cannot be met.
    """
    if not selection.options.budget.depth:
        return selection.plan(state.groups, scores, limit)
    device = next(state.model.parameters()).device
    with processes.autocast():
        return choose_depth(
            state.model,
            state.groups,
            selection,
            scores,
            limit,
            first_batches(max(1, selection.options.recalibration_batches)),
            loss,
            average=lambda losses: processes.average(losses.to(device, torch.float32)),
        )


def cut_(
    state: TrainingState, plan: PruningPlan, probe: ExampleInputs, make_up: MakeUp | None = None
) -> tuple[float, Compensation | None]:
    """Removes channels from model, optimizer state and averages, for good, and makes up for them after the proof.

    Args:
        state: Changed in place.
        plan: Of the state's present groups.
        probe: A batch of inputs for the proof.
        make_up: What compensates, the averages as well as the model.
    Returns:
        How far the cut model is from the masked one, relative to its outputs, and what was done to the model then.
    Raises:
        TrainingError: If that is more than rounding.
    """
    before, groups = copied(state.model), state.groups
    averaged = state.copies
    averaged_before = [copied(model) for model in averaged if make_up is not None]
    state.groups = apply_plan_(
        state.model, groups, plan, optimizer=state.optimizer, companions=averaged, carried=[state.directions]
    )
    state.plan = state.plan.then(plan)
    state.preparation.release()
    error = _prove(state, before, state.model, groups, plan, probe)
    if make_up is None:
        return error, None
    for dense, cut in zip(averaged_before, averaged, strict=True):
        make_up(dense, cut, groups, plan)
    return error, make_up(before, state.model, groups, plan)


def hold_back_(state: TrainingState, plan: PruningPlan, probe: ExampleInputs) -> float:
    """Keeps back what the plan would remove, as the preparation does it; the cut is proven on a copy.

    Args and raises as `cut_`, returns its error; the model's own weights stay as they are.
    """
    cut = copied(state.model)
    apply_plan_(cut, state.groups, plan)
    state.preparation.hold_(state.model, state.groups, plan)
    return _prove(state, state.model, cut, state.groups, plan, probe)


def _prove(
    state: TrainingState,
    before: nn.Module,
    after: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    probe: ExampleInputs,
) -> float:
    """The light proof of every event; outputs that tell nothing mean that training has diverged."""
    try:
        return require_cut(before, after, groups, plan, probe)
    except ModelError as error:
        raise state.divergence("the model's outputs are not finite or all zero") from error
    except TraceError as error:
        raise TrainingError(str(error)) from error
