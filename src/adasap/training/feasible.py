"""What cannot work fails here, before the first step."""

from __future__ import annotations

import torch
from torch import nn

from adasap.criteria import Criterion, validate_criterion
from adasap.errors import RecipeError
from adasap.pruning import Selection
from adasap.training.optimizer import require_cuttable_state
from adasap.training.options import Compression
from adasap.training.timetable import Timetable


def require_feasible(
    config: Compression,
    criterion: Criterion,
    model: nn.Module,
    selection: Selection,
    timetable: Timetable,
    steps_per_epoch: int,
) -> None:
    """Whether the recipe's step 2 can be carried out on this model and these data.

    Raises:
        RecipeError: For a criterion, a preparation or a search that has not what it needs.
        BudgetError: If the budget cannot be met.
        ValueError: If the criterion says that it cannot score these groups.
    """
    pruning, events, groups = config.pruning, timetable.events, selection.dense_groups
    validate_criterion(criterion, model, groups)
    require_cuttable_state(config.training.optimizer)
    if "gradients" in criterion.needs and events[0].step == 0:
        raise RecipeError(
            f"criterion {pruning.criterion!r} needs gradients, but the first pruning event comes "
            "before any step; give warm_up.epochs above 0, or a criterion of the weights such as l2"
        )
    if pruning.prepare.masks and len(events) == 1:
        raise RecipeError(
            "pruning.prepare.kind soft_masks needs two events, but only one fits into the window; give a larger "
            "pruning.epochs or a smaller pruning.every"
        )
    if pruning.selection == "candidates":
        pruning.candidates.require_batches(steps_per_epoch)
    equal = {group.name: torch.ones(group.num_channels) for group in groups}
    selection.plan(groups, equal, events[-1].limit)
