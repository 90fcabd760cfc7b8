"""What step 2 is open to: how the channels that stay are chosen, and what is done before the others go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import nn

from adasap.criteria import Criterion
from adasap.groups.group import ChannelGroup, Scores
from adasap.pruning.plan import PruningPlan
from adasap.registry import Registry

if TYPE_CHECKING:
    from adasap.pruning.options import PruningOptions
    from adasap.pruning.selection import Selection

Choose = Callable[[Sequence[ChannelGroup], Scores], PruningPlan]
"""What would stay at the end of all events, by these scores."""


class SelectionMethod(Protocol):
    """Chooses the channels that stay under a limit. A frozen dataclass, whose fields are its options in a recipe.

    Attributes:
        instead_of_ranking: Why `pruning.ranking` has no part in it, such as "weighs all groups together"; else empty.
        tries_depth: Of one that searches on batches: whether it ends in `run.choose`, which may take out branches.
    """

    instead_of_ranking: ClassVar[str] = ""
    tries_depth: ClassVar[bool] = False

    @abstractmethod
    def plan(self, selection: Selection, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """What stays of the present groups under a limit in the cost's unit, by the scores alone.

        Raises:
            BudgetError: If the limit cannot be met.
        """

    def validate(self, steps_per_epoch: int) -> None:
        """Raises RecipeError, before the first step, if an epoch of so many batches has not what it needs."""


@dataclass
class Preparation:
    """Something that training does for the sake of the cut to come; by itself nothing.

    A dataclass, whose fields are its options in a recipe. One object serves one run: what it remembers beside its
    options must be in `state`, or be the same again after a multiple of its `interval` and after a cut, so that a
    resumed run does the same.

    Attributes:
        holds: Whether it keeps channels back at all events but the last, in place of removing them.
    """

    holds: ClassVar[bool] = False

    @property
    def interval(self) -> int:
        """Steps at whose multiples a run can be taken up again."""
        return 1

    def check(self, options: PruningOptions) -> None:
        """Raises RecipeError for options of step 2 that it does not go with."""

    def begin(self, model: nn.Module, groups: Sequence[ChannelGroup], choose: Choose) -> None:
        """Called once, with the dense model.

        Raises:
            ArgumentError: If it cannot work on these groups.
        """

    def validate(self, num_events: int) -> None:
        """Raises RecipeError, before the first step, if it cannot work with so many events."""

    def criterion(self, criterion: Criterion) -> Criterion:
        """What events score by, in place of the recipe's criterion."""
        return criterion

    # In a step

    def applied(self) -> AbstractContextManager[None]:
        """Entered for every pass, forward and backward."""
        return nullcontext()

    def before_ascent_(self) -> None:
        """May change `.grad`, which holds what the perturbation is made of."""

    def before_step_(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """May change `.grad`, which holds the final gradients, after `step` steps were made.

        Called before every optimizer step until the last event, also of one that is then skipped.
        """

    # At an event

    def hold_(self, model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> None:
        """Keeps back what the plan would remove, in place of what was kept back before; where it `holds`."""

    def release(self) -> None:
        """Called when the channels are removed for good."""

    @property
    def num_held(self) -> int:
        """Channels that are kept back."""
        return 0

    def returning(self, plan: PruningPlan) -> int:
        """How many of those another plan of the same groups keeps."""
        return 0

    def suspended(self) -> AbstractContextManager[None]:
        """Inside nothing is kept back."""
        return nullcontext()

    # In a checkpoint

    def state(self) -> Any:
        """What a resumed run needs, ready for JSON; None for nothing."""
        return None

    def load(self, state: Any, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Takes what `state` gave."""


SELECTIONS: Registry[type[SelectionMethod]] = Registry(
    "selection", at="adasap.pruning.SELECTIONS", filled_by="adasap.extras"
)
"""Known under `pruning.selection`."""
SELECTIONS.register("ranking", "adasap.pruning.selection:LowestRanked")
SELECTIONS.register("knapsack", "adasap.pruning.selection:Knapsack")

PREPARATIONS: Registry[type[Preparation]] = Registry(
    "preparation", at="adasap.pruning.PREPARATIONS", filled_by="adasap.extras"
)
"""Known under `pruning.prepare.kind`."""
PREPARATIONS.register("none", Preparation)
