"""What a pruning event does to the state of a run: channels are removed for good, or masked until the next one."""

from __future__ import annotations

import copy

from torch import Tensor

from adasap.pruning import PruningPlan, SoftMask, apply_plan_
from adasap.training.proof import prove_cut
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
    state.groups = apply_plan_(state.model, groups, plan, optimizer=state.optimizer, companions=averaged)
    state.plan, state.soft_mask = state.plan.then(plan), None
    return prove_cut(before, state.model, state, groups, plan, probe)


def mask_(state: TrainingState, plan: PruningPlan, probe: Tensor) -> float:
    """Masks what the plan would remove, in place of what was masked before; the cut is proven on a copy.

    Args, returns and raises as `cut_`; the model's own weights stay as they are.
    """
    cut = copy.deepcopy(state.model)
    apply_plan_(cut, state.groups, plan)
    state.soft_mask = SoftMask(state.model, state.groups, plan)
    return prove_cut(state.model, cut, state, state.groups, plan, probe)
