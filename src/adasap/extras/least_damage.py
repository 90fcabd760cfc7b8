"""A knapsack that knows what each group is worth to the loss: it is measured before every cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from adasap.checks import MOST_STEPS, require_declared, require_within
from adasap.errors import RecipeError
from adasap.groups.group import Scores
from adasap.pruning.damage import measured_damage
from adasap.pruning.plan import PruningPlan
from adasap.pruning.selection import Knapsack

if TYPE_CHECKING:
    from adasap.training.run import CompressionRun
    from adasap.training.run_schedule import Event


@dataclass(frozen=True)
class LeastDamage(Knapsack):
    """`selection: least_damage`: the widths that raise the loss the least, as far as trial cuts of each group say.

    Before every cut each group alone loses a share of its channels, on a copy, and the rise of the loss is measured,
    norms renewed: two passes over the batches a group, forward only. A rise grows by the square of the importance that
    is lost. Without a run, by scores alone, the plan is that of `knapsack`.

    Attributes:
        batches: The first training batches on which the loss is measured and norm statistics are estimated.
        share: Of its channels that a group loses in its trial.
    """

    batches: int = 4
    share: float = 0.5

    tries_depth = True

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_within(RecipeError, 1, MOST_STEPS, batches=self.batches)
        require_within(RecipeError, 0.01, 0.99, share=self.share)

    def validate(self, steps_per_epoch: int) -> None:
        """Raises RecipeError unless an epoch has so many batches."""
        if self.batches > steps_per_epoch:
            raise RecipeError(
                f"least_damage: batches is {self.batches}, and an epoch has {steps_per_epoch}; lower it or "
                "training.batch_size"
            )

    def search(self, run: CompressionRun, scores: Scores, event: Event) -> PruningPlan:
        """By the damage to the run's model as it is."""
        model, groups = run.state.model, run.state.groups
        with run.runtime.autocast():
            damages = measured_damage(
                model,
                groups,
                scores,
                run.first_batches(self.batches),
                run.task.loss,
                share=self.share,
                average=lambda losses: run.runtime.average(losses.to(run.runtime.device, torch.float32)),
            )
        return run.choose(replace(run.selection, damages=damages), scores, event.limit)
