"""Random divisions of a budget among the groups, from which the one that works best is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from adasap.checks import MOST_STEPS, require_declared, require_within
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Scores, prunable
from adasap.pruning.budget import Budget
from adasap.pruning.plan import PruningPlan
from adasap.pruning.select import checked_scores, select_channels
from adasap.pruning.selection import LowestRanked, Selection

if TYPE_CHECKING:
    from adasap.training.run import CompressionRun
    from adasap.training.run_schedule import Event


@dataclass(frozen=True)
class Candidates(LowestRanked):
    """`selection: candidates`: a search at every pruning event    (EagleEye, arXiv:2007.02491)

    Without a run, by scores alone, the plan is that of the ranking.

    Attributes:
        count: Candidates per event.
        with_ranking: The first candidate is what the criterion's own ranking would choose; all others are random.
        calibration_batches: Training batches on which each candidate's norm statistics are estimated anew.
        scoring_batches: The training batches after those, on which it is scored.
        by: What decides: the task's `score` (the mean over images; the lower loss where equal), or its `loss`.
    """

    count: int = 50
    with_ranking: bool = True
    calibration_batches: int = 8
    scoring_batches: int = 8
    by: Literal["score", "loss"] = "score"

    instead_of_ranking = "draws what each group loses"

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        if self.count < 1 or self.calibration_batches < 1 or self.scoring_batches < 1:
            raise RecipeError(
                f"candidates: count is {self.count}, calibration_batches {self.calibration_batches}, scoring_batches "
                f"{self.scoring_batches}; give at least 1 of each"
            )
        batches = {"calibration_batches": self.calibration_batches, "scoring_batches": self.scoring_batches}
        require_within(RecipeError, 1, MOST_STEPS, **batches)
        require_within(RecipeError, 1, 100_000, count=self.count)

    def validate(self, steps_per_epoch: int) -> None:
        """Raises RecipeError unless an epoch of so many batches has those of both kinds, so that none is of both."""
        if self.calibration_batches + self.scoring_batches > steps_per_epoch:
            raise RecipeError(
                f"candidates: {self.calibration_batches} calibration_batches and {self.scoring_batches} "
                f"scoring_batches are more than the {steps_per_epoch} of an epoch; lower them or training.batch_size"
            )

    def draw(
        self, selection: Selection, groups: Sequence[ChannelGroup], scores: Scores, limit: float, *, seed: int
    ) -> PruningPlan:
        """A random division of a limit in the cost's unit, with the recipe's floors and multiples.

        Raises:
            BudgetError: If the limit cannot be met.
        """
        return draw_candidate(
            groups,
            scores,
            Budget(selection.cost, limit=limit),
            seed=seed,
            multiple_of=selection.options.multiple_of,
            floors=selection.floors,
        )

    def search(self, run: CompressionRun, scores: Scores, event: Event) -> PruningPlan:
        """The candidate that works best on batches of the run."""
        from adasap.extras.candidate_search import search  # training stands above what needs torch alone

        return search(self, run, scores, event)


def draw_candidate(
    groups: Sequence[ChannelGroup],
    scores: Scores,
    budget: Budget,
    *,
    seed: int,
    multiple_of: int = 1,
    floors: Mapping[str, int] | None = None,
) -> PruningPlan:
    """A random division of the budget: which channels go inside a group is up to the scores, how many to chance.

    Each group g draws u_g, uniform in (0, 1), and loses the fraction min(1, t * u_g) of its channels, lowest
    scores first, with the smallest t that meets the budget; floors and widths' steps hold as in
    `select_channels`.

    Args:
        groups: The model's groups; frozen ones stay whole.
        scores: Group name -> importance, float [C].
        budget: The cost to reach.
        seed: Of the draw: the same plan for the same seed.
        multiple_of: Width step.
        floors: Group name -> channels that this group keeps at least.
    Raises:
        BudgetError: If the budget cannot be met.
        ArgumentError: As `select_channels`.
    Example:
        >>> from torch import nn
        >>> from adasap.groups import trace_groups
        >>> from adasap.pruning import Parameters
        >>> mlp = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2))
        >>> groups = trace_groups(mlp, torch.zeros(1, 3))
        >>> scores = {group.name: torch.rand(group.num_channels) for group in groups}
        >>> half = Budget(Parameters(mlp, groups), kept=0.5)
        >>> [list(draw_candidate(groups, scores, half, seed=seed).widths().values()) for seed in (0, 1, 2)]
        [[32, 37], [44, 26], [24, 48]]
    """
    candidates = prunable(groups)
    speeds = torch.rand(len(candidates), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tiny = torch.finfo(torch.float64).eps
    times: dict[str, torch.Tensor] = {}
    for group, speed in zip(candidates, speeds.clamp_min(tiny), strict=True):
        order = checked_scores(scores, group).argsort(stable=True)
        fractions = torch.arange(1, group.num_channels + 1, dtype=torch.float64) / group.num_channels
        times[group.name] = torch.empty_like(fractions).index_copy_(0, order, fractions / speed)
    return select_channels(groups, times, budget, multiple_of=multiple_of, floors=floors)
