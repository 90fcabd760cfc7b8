"""What a pruning event does to the state of a run: channels are removed for good, or masked until the next one."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from adasap.errors import ModelError, TraceError, TrainingError
from adasap.groups import ChannelGroup
from adasap.pruning import PruningPlan, SoftMask, apply_plan_
from adasap.pruning.proof import require_cut
from adasap.training.state import TrainingState


def cut_(state: TrainingState, plan: PruningPlan, probe: Tensor) -> float:
    """Removes channels from model, optimizer state and averages, and ends all masking.

    Args:
        state: Changed in place.
        plan: Of the state's present groups.
        probe: A batch of inputs for the proof.
    Returns:
        How far the cut model is from the masked one, relative to its outputs.
    Raises:
        TrainingError: If that is more than rounding.
    """
    before, groups = copy.deepcopy(state.model), state.groups
    averaged = [] if state.averaged is None else [state.averaged]
    state.groups = apply_plan_(
        state.model, groups, plan, optimizer=state.optimizer, companions=averaged, carried=[state.directions]
    )
    state.plan, state.soft_mask = state.plan.then(plan), None
    return _prove(state, before, state.model, groups, plan, probe)


def mask_(state: TrainingState, plan: PruningPlan, probe: Tensor) -> float:
    """Masks what the plan would remove, in place of what was masked before; the cut is proven on a copy.

    Args, returns and raises as `cut_`; the model's own weights stay as they are.
    """
    cut = copy.deepcopy(state.model)
    apply_plan_(cut, state.groups, plan)
    state.soft_mask = SoftMask(state.model, state.groups, plan)
    return _prove(state, state.model, cut, state.groups, plan, probe)


def _prove(
    state: TrainingState,
    before: nn.Module,
    after: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    probe: Tensor,
) -> float:
    """The light proof of every event; outputs that tell nothing mean that training has diverged."""
    try:
        return require_cut(before, after, groups, plan, probe)
    except ModelError as error:
        raise state.divergence("the model's outputs are not finite or all zero") from error
    except TraceError as error:
        raise TrainingError(str(error)) from error
