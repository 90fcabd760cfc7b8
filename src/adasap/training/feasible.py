"""What cannot work fails here, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from adasap.criteria import Criterion, validate_criterion
from adasap.errors import RecipeError
from adasap.pruning import Selection
from adasap.sharpness.batchnorm import keeps_statistics
from adasap.sharpness.rows import Channels
from adasap.tasks import part_of
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
    require_form(config, criterion, model)
    if pruning.prepare.masks and len(events) == 1:
        raise RecipeError(
            "pruning.prepare.kind soft_masks needs two events, but only one fits into the window; give a larger "
            "pruning.epochs or a smaller pruning.every"
        )
    if pruning.selection == "candidates":
        pruning.candidates.require_batches(steps_per_epoch)
    equal = {group.name: torch.ones(group.num_channels) for group in groups}
    selection.plan(groups, equal, events[-1].limit)


def require_form(config: Compression, criterion: Criterion, model: nn.Module) -> None:
    """Whether the steps' forms yield what the run needs.

    Raises:
        RecipeError: If nothing can be moved, evidence would be missing, or statistics could not be renewed.
    """
    if any(s.perturbation.norm_only for s in config.sharpnesses):
        if not Channels(()).norms(dict(model.named_parameters())):
            raise RecipeError("perturbation.norm_only moves norm layers alone, and the model has none; leave it out")
        if config.training.sync_perturbation:
            raise RecipeError(
                "perturbation.norm_only makes no gradients of filters in the first pass, and "
                "training.sync_perturbation waits for them; leave out one of the two"
            )
    until_the_cut = config.sharpnesses[:2]
    full = all(not s.perturbation.norm_only or s.form.direction == "stale" for s in until_the_cut)
    if "gradients" in criterion.needs and not full and not getattr(criterion, "norm_gradients", False):
        raise RecipeError(
            f"criterion {config.pruning.criterion!r} reads gradients of filters, and the first pass of "
            "perturbation.norm_only in steps 1 and 2 makes none; use taylor_norm, a criterion of the weights such as "
            "l2, or form.direction stale"
        )
    clean = all(s.clean_statistics for s in config.sharpnesses)
    if not clean and config.pruning.recalibration_batches == 0 and keeps_statistics(model):
        raise RecipeError(
            "pruning.recalibration_batches is 0, but a form with subbatch, stale or removal leaves norm statistics "
            "of moved weights; give a number of batches, such as 8, that they are estimated on before evaluation"
        )


def require_divisible(config: Compression, first_batches: Callable[[int], list[Any]], num_ranks: int) -> None:
    """Whether a first pass can see a part of each rank's batch, if it is to.

    Raises:
        RecipeError: If the part would be one image, which has no statistics over a batch.
        DataError: If the task's prepared batch cannot be divided.
    """
    share = min(sharpness.form.subbatch for sharpness in config.sharpnesses)
    if share == 1:
        return
    per_rank = config.training.batch_size // num_ranks
    if round(share * per_rank) < 2:
        raise RecipeError(
            f"form.subbatch {share:g} of {per_rank} images per process is less than two; give a larger "
            "training.batch_size or subbatch"
        )
    part_of(first_batches(1)[0], share)
