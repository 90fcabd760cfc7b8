"""One call from a model to a smaller one, for people who want nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adasap.criteria.gathering import collect_evidence, require_batches
from adasap.criteria.protocol import Criterion, Loss
from adasap.criteria.registry import ScoreFunction, build_criterion, validate_criterion
from adasap.errors import ArgumentError, RecipeError, suggestion
from adasap.groups.bare import require_values, unwrap, workable
from adasap.groups.fake_model import copied, shared_copy
from adasap.groups.group import not_exact
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.materialise import materialise_weights_
from adasap.groups.norms_behind import norms_behind
from adasap.groups.past import Groups, branches_of
from adasap.groups.stand_ins import kept_of_left, left_of, take_out_
from adasap.groups.trace import trace_groups
from adasap.pruning.budget import BudgetOptions
from adasap.pruning.compensate import Compensate, Compensation, compensate_, forward_images
from adasap.pruning.cost import CostModel, amount
from adasap.pruning.damage import measured_damage
from adasap.pruning.depth import choose_depth
from adasap.pruning.options import PruningOptions
from adasap.pruning.plan import PruningPlan
from adasap.pruning.proof import probe_images, require_cut
from adasap.pruning.ranking import Ranking
from adasap.pruning.selection import Selection
from adasap.pruning.surgery import apply_plan_
from adasap.sharpness import recalibrate_

if TYPE_CHECKING:
    from adasap.models import ModelSpec


@dataclass(frozen=True, eq=False)
class Pruned:
    """What `prune` made; `adasap.save(path, pruned.model, groups=pruned.groups)` writes it.

    Attributes:
        model: The cut copy, with the modes, device and types of the model that was given.
        plan: Which channels were kept, in the dense model's indices.
        dense_groups: The dense model's groups, which the plan belongs to.
        groups: The cut model's, for perturbations and further cuts.
        cost: What the budget limits, as a function of widths.
        mask_error: How far the cut model is from the masked one, relative to its largest output.
        materialised: Layers whose weights were computed from others (`weight_norm`, pruning masks) and are plain now.
        compensation: What was given new weights after the proof, and how far each layer is off; None if nothing was.
    """

    model: nn.Module
    plan: PruningPlan
    dense_groups: Groups
    groups: Groups
    cost: CostModel
    mask_error: float
    materialised: tuple[str, ...] = ()
    compensation: Compensation | None = None

    @property
    def cost_before(self) -> float:
        """Of the dense model, in `cost.unit`."""
        return self.cost.dense

    @property
    def cost_after(self) -> float:
        """Of the cut model, in `cost.unit`."""
        return self.cost.total(self.plan.widths())

    @property
    def not_exact(self) -> tuple[str, ...]:
        """Groups whose channels see each other and that lost some, one sentence each; empty for an exact cut."""
        widths = self.plan.widths()
        marked = {g.name: not_exact(g, widths.get(g.name, g.num_channels)) for g in self.dense_groups}
        return tuple(f"{name} is {said}" for name, said in marked.items() if said)

    def save(
        self, path: str | Path, spec: ModelSpec | None = None, *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """`adasap.save` of the cut model; a model that `open_model` or `load` gave knows its spec."""
        import adasap  # the package's door: files of models are made of what lies above this package

        adasap.save(path, self.model, spec=spec, groups=self.groups, metadata=metadata)

    def __str__(self) -> str:
        """What happened, in one line."""
        channels = self.plan.summary().splitlines()[-1].removeprefix("all groups: ")
        branches = branches_of(self.dense_groups)
        whole = sum(branch.modules.items() <= self.plan.removed.items() for branch in branches)
        return (
            f"{amount(self.cost_after)} of {amount(self.cost_before)} {self.cost.unit} "
            f"({100 * self.cost_after / self.cost_before:.1f} %), {channels}"
            f"{f', {whole} of {len(branches)} residual branches taken out' if branches else ''}"
            f"; masked = cut to {self.mask_error:.0e}"
            f"{''.join(f'; {line}' for line in self.not_exact)}"
            f"{_made_plain(self.materialised)}"
            f"{'' if self.compensation is None else f'; {self.compensation}'}"
        )


def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    criterion: str | ScoreFunction | Criterion,
    budget: BudgetOptions | Mapping[str, Any],
    *,
    ranking: Ranking = "global",
    selection: Literal["ranking", "knapsack", "least_damage"] = "ranking",
    min_channels: int = 1,
    min_kept: float = 0.0,
    multiple_of: int = 1,
    keep: Sequence[str] = (),
    allow_inexact: bool = False,
    inexact: Literal["by_score", "last"] = "by_score",
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    compensate: Compensate = "none",
    renew_norms: bool = False,
) -> Pruned:
    """A copy of the model without its least important channels, and what was done.

    The cut is proven before it is returned: on random images the copy computes what the model computes with the same
    channels masked. The weights that stay are not changed unless `compensate` says so, so fine-tune, or use
    `adasap.compress`, which cuts in many small steps while it trains.

    Args:
        model: Left as it is; wrappers (`torch.compile`, data parallel, averaging) are looked through. Weights that are
            computed from others (`weight_norm`, `spectral_norm`, pruning masks) are replaced in the copy by their
            values, with a warning.
        example_inputs: As `trace_groups` takes them, such as a preprocessed image, float [1, C, H, W]; MACs are counted
            at its size. Floating tensors are moved to the model's device and type.
        criterion: A name of `docs/criteria.md`, an object from `build_criterion("random", seed=1)`, or a function.
        budget: As in a recipe: `{"macs": 0.5}` or `{"parameters": 1_000_000}`; up to 1 the fraction that stays. With
            `"depth": True` residual branches may go whole where `batches` show that less harm is done (docs/depth.md).
        ranking: Over which channels scores are compared: `global`, `uniform` (each group) or `isomorphic`.
        selection: `ranking` removes the lowest scores, `knapsack` keeps the widths of the largest summed importance,
            `least_damage` those that raise the loss the least by trial cuts on `batches` (`measured_damage`).
        min_channels: Channels that every group keeps.
        min_kept: Fraction of its width that every group keeps.
        multiple_of: Widths are multiples of it.
        keep: Patterns of module names whose channels stay.
        allow_inexact: Whether channels under a norm or mean over them may go (docs/groups.md); what stays is normalised
            without them, and the proof's mask does so, too.
        inexact: When these go: `by_score`, or `last`, where the others alone cannot meet the budget.
        batches: For criteria that need gradients or batches: prepared batches on the model's device. All are used for
            gradients, the criterion's own `num_batches` otherwise. They are seen in evaluation mode. Also what
            `compensate="least_squares"` and `renew_norms` measure on, labels unseen; a few hundred images do.
        loss: `loss(model, batch)`, the mean loss, for the same criteria. Without it a batch is run as `model(batch)`,
            or `model(batch[0])` if it is a tuple or list.
        compensate: After the proof, new weights for what reads the channels that went: `least_squares`, on all
            batches at the same time, or `fold`, without any (docs/compensation.md).
        renew_norms: Estimate running statistics of norm layers anew on the batches, at the end.
    Raises:
        AdasapError: For a budget that cannot be met, a criterion that misses its batches or cannot score the model,
            a model that cannot be followed, a cut that does not hold, or batches that are missing.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> pruned = prune(net, torch.zeros(1, 3, 8, 8), "l2", {"parameters": 0.5})
        >>> sum(p.numel() for p in pruned.model.parameters()) == pruned.cost_after <= 0.5 * pruned.cost_before
        True
    """
    if selection not in ("ranking", "knapsack", "least_damage"):
        raise RecipeError(
            f"prune selects by `ranking`, `knapsack` or `least_damage`, got {selection!r}; a search needs a recipe"
        )
    measure, limits = build_criterion(criterion), _budget(budget)
    require_batches(measure, batches, loss)
    seen = _seen(batches, compensate, renew_norms, selection, limits.depth)
    if selection == "least_damage" and loss is None:
        raise ArgumentError("selection='least_damage' measures the loss; pass loss=<a function of model and batch>")
    if limits.depth and loss is None:
        raise ArgumentError("a budget with depth measures the loss; pass loss=<a function of model and batch>")
    batches = batches if seen is None else seen
    options = PruningOptions(
        ranking=ranking,
        selection="knapsack" if selection == "least_damage" else selection,
        budget=limits,
        schedule="one_shot",
        min_channels=min_channels,
        min_kept=min_kept,
        multiple_of=multiple_of,
        keep=(keep,) if isinstance(keep, str) else tuple(keep),
        allow=("norms",) if allow_inexact else (),
        inexact=inexact,
        compensate=compensate,
    )
    require_values(workable(model), "pruning scores")
    cut, materialised = _plain_copy(model)
    inputs = _finite(as_arguments(example_inputs)).to_model(cut)
    if seen:
        require_taken(cut, seen[0], loss or forward_images)
    dense_groups = trace_groups(cut, inputs, keep=options.keep, allow_inexact=options.allow_inexact, depth=limits.depth)
    validate_criterion(measure, cut, dense_groups)
    chosen = Selection.of(options, cut, dense_groups, inputs)
    (limit,) = options.limits(chosen.cost, 1)
    scores = measure.score(cut, dense_groups, collect_evidence(measure, cut, dense_groups, batches, loss))
    if selection == "least_damage" and seen and loss:
        chosen = replace(chosen, damages=measured_damage(cut, dense_groups, scores, seen, loss))
    if limits.depth and seen and loss:
        plan = choose_depth(cut, dense_groups, chosen, scores, limit, seen, loss)
    else:
        plan = chosen.plan(dense_groups, scores, limit)
    dense = copied(cut)
    groups = apply_plan_(cut, dense_groups, plan)
    error = require_cut(dense, cut, dense_groups, plan, probe_images(inputs, seed=0))
    compensation = None
    if compensate != "none":
        take_out_(dense, plan.removed)
        left, kept = left_of(dense_groups, plan.removed), kept_of_left(dense_groups, plan.kept, plan.removed)
        norms = norms_behind(dense, inputs)
        compensation = compensate_(dense, cut, left, kept, compensate, norms=norms, batches=seen or (), forward=loss)
    if renew_norms and seen:
        recalibrate_(cut, seen, forward=loss)
    return Pruned(cut, plan, dense_groups, groups, chosen.cost, error, materialised, compensation)


def _seen(
    batches: Iterable[Any] | None, compensate: str, renew_norms: bool, selection: str, depth: bool
) -> list[Any] | None:
    """The batches that selection, compensation and norms look at, if they look at any; a generator's are kept."""
    asked = {
        "selection='least_damage'": selection == "least_damage",
        "a budget with depth": depth,
        "compensate='least_squares'": compensate == "least_squares",
        "renew_norms": renew_norms,
    }
    wanted = [name for name, does in asked.items() if does]
    if not wanted:
        return None
    seen = [] if batches is None else list(batches)
    if not seen:
        raise ArgumentError(
            f"batches are missing for {' and '.join(wanted)}; pass batches=<a list of prepared batches>"
        )
    for index, batch in enumerate(seen):
        tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise ArgumentError(f"batch {index} of batches holds NaN or infinity; give prepared images")
    return seen


def require_taken(model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], object]) -> None:
    """Raises ArgumentError if the model does not take a batch."""
    watched = shared_copy(model).eval()
    try:
        with torch.no_grad():
            forward(watched, batch)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ArgumentError(
            f"the model does not take batch 0 of batches, a {type(batch).__name__}: {reason:.200}; give what it is "
            "called with, or a tuple or list that begins with it, or pass loss=<a function of model and batch>"
        ) from error


def _plain_copy(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy whose weights are all plain, and the layers that were made so."""
    copy = copied(unwrap(model))
    names = materialise_weights_(copy)
    if names:
        warnings.warn(f"prune{_made_plain(names).replace(';', ':')}", stacklevel=3)
    return copy, names


def _made_plain(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"; in the copy the weights of layers {', '.join(name or 'the model' for name in names[:3])}{more} are plain "
        "now: they keep the values that their normalisation or mask gave them, and train without it"
    )


def _finite(inputs: Arguments) -> Arguments:
    if any(tensor.is_meta for tensor in inputs.tensors):
        raise ArgumentError("example_inputs are on the meta device, which has shapes and no numbers; give torch.zeros")
    if not all(bool(tensor.isfinite().all()) for tensor in inputs.tensors):
        raise ArgumentError("example_inputs hold NaN or infinity; give a prepared image, or torch.zeros of its shape")
    return inputs


def _budget(budget: BudgetOptions | Mapping[str, Any]) -> BudgetOptions:
    if isinstance(budget, BudgetOptions):
        return budget
    known = [field.name for field in fields(BudgetOptions)]
    if not isinstance(budget, Mapping):
        raise RecipeError(f"the budget is {budget!r}; name what it limits ({', '.join(known)}), as in {{'macs': 0.5}}")
    for name in budget:
        if not isinstance(name, str) or name not in known:
            raise RecipeError(f"the budget limits {name!r}; {suggestion(name, known)}")
    return BudgetOptions(**budget)
