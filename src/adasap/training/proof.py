"""The light proof after every real pruning event: the cut model is the masked one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adasap.errors import TrainingError
from adasap.groups import ChannelGroup, cut_matches_mask, evaluating
from adasap.pruning import PruningPlan
from adasap.pruning.proof import MAX_MASK_ERROR
from adasap.training.state import TrainingState


def prove_cut(
    before: nn.Module,
    after: nn.Module,
    state: TrainingState,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    inputs: Tensor,
) -> float:
    """How far the cut model is from the one before with the same channels masked.

    Args:
        before: The model before the event.
        after: The cut model.
        state: Of the run, for the message where training has diverged.
        groups: The groups of `before`.
        plan: What was kept of them.
        inputs: A batch on the run's device.
    Raises:
        TrainingError: If they differ by more than rounding, or training has diverged and nothing can be told.
    """
    error = cut_matches_mask(before, after, groups, plan.kept, inputs)
    if error <= MAX_MASK_ERROR:
        return error
    with evaluating(before), torch.no_grad():
        outputs = [t for t in tree_leaves(before(inputs)) if isinstance(t, Tensor)]
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise state.divergence("the model's outputs are not finite")
    raise TrainingError(
        f"the cut model differs from the masked one by {error:.2g} of its output (allowed {MAX_MASK_ERROR:g}): "
        "a layer was not followed rightly; list its module in pruning.keep and report the model"
    )
