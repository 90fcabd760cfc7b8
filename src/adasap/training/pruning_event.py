"""What a pruning event does to the state of a run: channels are removed for good, or kept back until the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from adasap.errors import ModelError, TraceError, TrainingError
from adasap.groups import ChannelGroup
from adasap.groups.bare import unwrap
from adasap.groups.fake_model import copied
from adasap.groups.inputs import ExampleInputs
from adasap.pruning import Compensation, PruningPlan, apply_plan_
from adasap.pruning.proof import require_cut
from adasap.training.state import TrainingState

MakeUp = Callable[[nn.Module, nn.Module, Sequence[ChannelGroup], PruningPlan], Compensation]
"""Gives a cut model weights that make up for what went: of the model before (used up), the cut one, groups and plan."""


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
    averaged = [] if state.averaged is None else [unwrap(state.averaged)]
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
