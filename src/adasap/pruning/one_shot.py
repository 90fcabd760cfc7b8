"""One call from a model to a smaller one, for people who want nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from adasap.criteria.gathering import collect_evidence, require_batches
from adasap.criteria.protocol import Criterion, Loss
from adasap.criteria.registry import ScoreFunction, build_criterion, validate_criterion
from adasap.errors import RecipeError, suggestion
from adasap.groups.group import ChannelGroup
from adasap.groups.trace import trace_groups
from adasap.pruning.cost import CostModel
from adasap.pruning.options import BudgetOptions, PruningOptions
from adasap.pruning.plan import PruningPlan
from adasap.pruning.proof import probe_images, require_cut
from adasap.pruning.ranking import Ranking
from adasap.pruning.selection import Selection
from adasap.pruning.surgery import apply_plan_, unwrapped


@dataclass(frozen=True, eq=False)
class Pruned:
    """What `prune` made.

    Attributes:
        model: The cut copy, with the modes, device and types of the model that was given.
        plan: Which channels were kept, in the dense model's indices.
        dense_groups: The dense model's groups, as `adasap.save` wants them with the plan.
        groups: The cut model's, for perturbations and further cuts.
        cost: What the budget limits, as a function of widths.
        mask_error: How far the cut model is from the masked one, relative to its largest output.
    """

    model: nn.Module
    plan: PruningPlan
    dense_groups: tuple[ChannelGroup, ...]
    groups: tuple[ChannelGroup, ...]
    cost: CostModel
    mask_error: float

    @property
    def cost_before(self) -> float:
        """Of the dense model, in `cost.unit`."""
        return self.cost.dense

    @property
    def cost_after(self) -> float:
        """Of the cut model, in `cost.unit`."""
        return self.cost.total(self.plan.widths())

    def __str__(self) -> str:
        """What happened, in one line."""
        channels = self.plan.summary().splitlines()[-1].removeprefix("all groups: ")
        return (
            f"{self.cost_after:,.0f} of {self.cost_before:,.0f} {self.cost.unit} "
            f"({100 * self.cost_after / self.cost_before:.1f} %), {channels}; masked = cut to {self.mask_error:.0e}"
        )


def prune(
    model: nn.Module,
    example_inputs: Tensor,
    criterion: str | ScoreFunction | Criterion,
    budget: BudgetOptions | Mapping[str, Any],
    *,
    ranking: Ranking = "global",
    selection: Literal["ranking", "knapsack"] = "ranking",
    min_channels: int = 1,
    min_kept: float = 0.0,
    multiple_of: int = 1,
    keep: Sequence[str] = (),
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> Pruned:
    """A copy of the model without its least important channels, and what was done.

    The cut is proven before it is returned: on random images the copy computes what the model computes with the same
    channels masked. The weights that stay are not changed, so fine-tune, or use `adasap.compress`, which cuts in many
    small steps while it trains.

    Args:
        model: Left as it is.
        example_inputs: A preprocessed image, float [1, C, H, W]; MACs are counted at its size. It is moved to the
            model's device and type.
        criterion: A name of `docs/criteria.md`, an object from `build_criterion("random", seed=1)`, or a function.
        budget: As in a recipe: `{"macs": 0.5}` or `{"parameters": 1_000_000}`; up to 1 the fraction that stays.
        ranking: Over which channels scores are compared: `global`, `uniform` (each group) or `isomorphic`.
        selection: `ranking` removes the lowest scores, `knapsack` keeps the widths of the largest summed importance.
        min_channels: Channels that every group keeps.
        min_kept: Fraction of its width that every group keeps.
        multiple_of: Widths are multiples of it.
        keep: Patterns of module names whose channels stay.
        batches: For criteria that need gradients or batches: prepared batches on the model's device. All are used for
            gradients, the criterion's own `num_batches` otherwise. They are seen in evaluation mode.
        loss: `loss(model, batch)`, the mean loss, for the same criteria.
    Raises:
        AdasapError: For a budget that cannot be met, a criterion that misses its batches or cannot score the model,
            a model that cannot be followed, or a cut that does not hold.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> pruned = prune(net, torch.zeros(1, 3, 8, 8), "l2", {"parameters": 0.5})
        >>> sum(p.numel() for p in pruned.model.parameters()) == pruned.cost_after <= 0.5 * pruned.cost_before
        True
    """
    if selection not in ("ranking", "knapsack"):
        raise RecipeError(f"prune selects by `ranking` or `knapsack`, got {selection!r}; a search needs a recipe")
    measure = build_criterion(criterion)
    require_batches(measure, batches, loss)
    options = PruningOptions(
        ranking=ranking,
        selection=selection,
        budget=_budget(budget),
        schedule="one_shot",
        min_channels=min_channels,
        min_kept=min_kept,
        multiple_of=multiple_of,
        keep=(keep,) if isinstance(keep, str) else tuple(keep),
    )
    cut = copy.deepcopy(unwrapped(model))
    inputs = example_inputs.to(next(cut.parameters(), example_inputs))
    dense_groups = trace_groups(cut, inputs, keep=options.keep)
    validate_criterion(measure, cut, dense_groups)
    chosen = Selection.of(options, cut, dense_groups, inputs)
    (limit,) = options.limits(chosen.cost, 1)
    scores = measure.score(cut, dense_groups, collect_evidence(measure, cut, dense_groups, batches, loss))
    plan = chosen.plan(dense_groups, scores, limit)
    dense = copy.deepcopy(cut)
    groups = apply_plan_(cut, dense_groups, plan)
    error = require_cut(dense, cut, dense_groups, plan, probe_images(inputs, seed=0))
    return Pruned(cut, plan, dense_groups, groups, chosen.cost, error)


def _budget(budget: BudgetOptions | Mapping[str, Any]) -> BudgetOptions:
    if isinstance(budget, BudgetOptions):
        return budget
    known = [field.name for field in fields(BudgetOptions)]
    if not isinstance(budget, Mapping):
        raise RecipeError(f"the budget is {budget!r}; name what it limits ({', '.join(known)}), as in {{'macs': 0.5}}")
    for name in budget:
        if name not in known:
            raise RecipeError(f"the budget limits {name!r}; {suggestion(name, known)}")
    return BudgetOptions(**budget)
