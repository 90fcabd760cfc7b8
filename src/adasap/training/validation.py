"""What cannot work fails here, before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.criteria import Criterion, validate_criterion
from adasap.errors import AdasapWarning, RecipeError
from adasap.groups import ChannelGroup
from adasap.profiling import read_latency_table
from adasap.profiling.agreement import require_agreement
from adasap.pruning import BudgetOptions, PruningPlan, Selection
from adasap.sharpness.batchnorm import keeps_statistics
from adasap.tasks import part_of
from adasap.training.optimizer import require_cuttable_state
from adasap.training.options import Compression
from adasap.training.run_schedule import Timetable


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
        ArgumentError: If the criterion says that it cannot score these groups.
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
    pruning.preparation().validate(len(events))
    pruning.method.validate(steps_per_epoch)
    equal = {group.name: torch.ones(group.num_channels) for group in groups}
    selection.plan(groups, equal, events[-1].limit)


def warn_of_thin_groups(plan: PruningPlan, groups: Sequence[ChannelGroup], least: float = 0.1) -> None:
    """Warns, once for all, of groups that a plan leaves less than a fraction of their channels.

    A ranking over the model may spend the whole budget on one layer, whose few channels then hold back all others.

    Args:
        plan: What is left after the last event, by the scores of the starting weights.
        groups: The dense model's.
        least: The fraction.
    """
    kept = plan.widths()
    dense = {group.name: group.num_channels for group in groups if group.name in kept}
    thin = [f"{name} ({kept[name]} of {count})" for name, count in dense.items() if kept[name] < least * count]
    if thin:
        more = f" and {len(thin) - 5} more" if len(thin) > 5 else ""
        warnings.warn(
            f"at the starting weights the last pruning event would leave less than {least:.0%} of the channels of "
            f"{', '.join(thin[:5])}{more}, and a network seldom recovers from that; give pruning.ranking: uniform, or "
            f"a floor such as pruning.min_kept: {least:g}",
            AdasapWarning,
            stacklevel=2,
        )


def require_form(config: Compression, criterion: Criterion, model: nn.Module) -> None:
    """Whether the steps' forms yield what the run needs.

    Raises:
        RecipeError: If nothing can be moved, evidence would be missing, or statistics could not be renewed.
    """
    for sharpness in config.sharpnesses:
        for variant in sharpness.varied:
            variant.validate(model)
        if sharpness.partial_gradients and config.training.sync_perturbation:
            raise RecipeError(
                f"variants {', '.join(sharpness.variants)}: the first pass makes gradients of some parameters alone, "
                "and training.sync_perturbation waits for all of them; leave out one of the two"
            )
    partial = [name for s in config.sharpnesses[:2] if s.partial_gradients for name in s.variants]
    if "gradients" in criterion.needs and partial and not getattr(criterion, "norm_gradients", False):
        raise RecipeError(
            f"criterion {config.pruning.criterion!r} reads gradients of filters, and the first pass of "
            f"variants {', '.join(dict.fromkeys(partial))} in steps 1 and 2 makes none; use taylor_norm, a criterion "
            "of the weights such as l2, or the variant stale with it"
        )
    clean = all(s.clean_statistics for s in config.sharpnesses)
    if not clean and config.pruning.recalibration_batches == 0 and keeps_statistics(model):
        raise RecipeError(
            "pruning.recalibration_batches is 0, but form.subbatch and the variants of one pass leave norm "
            "statistics of moved weights; give a number of batches, such as 8, to estimate them on before evaluation"
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


def require_measured_budget(
    budget: BudgetOptions, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: Tensor
) -> None:
    """Whether a latency table predicts the dense model's time, where this is the machine it was made on.

    Raises:
        BudgetError: If it is off by more than a tenth; says how to measure it again.
    """
    if budget.latency_table is not None:
        path = Path(budget.latency_table)
        require_agreement(read_latency_table(path), path, model, groups, example_inputs)
