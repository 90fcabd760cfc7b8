"""The light proof of a real cut: on random images the cut model computes what the masked one computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adasap.errors import ModelError, TraceError
from adasap.groups.check import cut_matches_mask
from adasap.groups.exported import evaluating
from adasap.groups.group import ChannelGroup
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.past import branches_of
from adasap.groups.stand_ins import kept_of_left, left_of, taken_out
from adasap.pruning.plan import PruningPlan

MAX_MASK_ERROR = 1e-3
"""Largest relative float32 difference between a cut model and the masked one that is taken for rounding."""


def probe_images(example_inputs: ExampleInputs, *, seed: int, count: int = 8) -> Arguments:
    """Random images around an example, always the same ones: `count` rows on its device; whole numbers stay.

    Example:
        >>> probe_images(torch.zeros(1, 3, 8, 8), seed=0).tensors[0].shape
        torch.Size([8, 3, 8, 8])
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        return tensor + torch.randn(tensor.shape, generator=generator).to(tensor)

    rows = as_arguments(example_inputs).rows(1).rows(count)
    return rows.map(lambda tensor: drawn(tensor) if tensor.is_floating_point() else tensor)


def require_cut(
    dense: nn.Module, cut: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan, images: ExampleInputs
) -> float:
    """How far the cut model is from the dense one with the same channels masked, relative to its largest output.

    Args:
        dense: The model before the cut; masked in place for the time of one forward, then restored.
        cut: The model after it.
        groups: Those of the dense model.
        plan: What was kept of them.
        images: A batch on the models' device, or the arguments of forward.
    Raises:
        TraceError: If they differ by more than rounding.
        PlanError: If the plan takes out what is no branch of the groups.
        ModelError: If the dense model's outputs are not finite or all zero, so that nothing can be told.
    """
    branches = taken_out(branches_of(groups), plan.removed)
    left, kept = left_of(groups, plan.removed), kept_of_left(groups, plan.kept, plan.removed)
    error = cut_matches_mask(dense, cut, left, kept, images, branches=branches)
    if error <= MAX_MASK_ERROR:
        return error
    with evaluating(dense), torch.no_grad():
        outputs = [t for t in tree_leaves(as_arguments(images).call(dense)) if isinstance(t, Tensor)]
    if not all(bool(t.isfinite().all()) for t in outputs) or not any(bool(t.any()) for t in outputs):
        raise ModelError(
            "the model's outputs on random images are not finite or all zero, so its cut cannot be compared with the "
            "masked model; load trained weights first"
        )
    raise TraceError(
        f"the cut model differs from the masked one by {error:.2g} of its output (allowed {MAX_MASK_ERROR:g}): "
        "a layer was not followed rightly; list its module in `keep` and report the model"
    )
