"""What a criterion is: something that says how much each channel matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Scores

Need = Literal["gradients", "batches"]
"""`gradients`: those that training makes anyway; `batches`: a few of them, shown before each pruning event."""

Loss = Callable[[nn.Module, Any], Tensor]
"""`loss(model, batch)`: the mean loss over a prepared batch, as `Task.loss` gives it."""


@runtime_checkable
class Criterion(Protocol):
    """How much each channel matters: the one method a new criterion must have is `score`.

    A criterion holds no state that changes from call to call, so a resumed run scores as the uninterrupted
    one did. It may also have `validate(model, groups)`, which raises before training starts when it cannot
    score them, and `norm_gradients = True` if it reads the gradients of norm layers alone, which is all that a
    step with `norm_only` makes at w.
    """

    @property
    def needs(self) -> frozenset[Need]:
        """What has to be collected before `score` can be asked; empty for weights alone."""
        ...

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """Group name -> importance, float [C], not negative: the lower, the sooner the channel goes.

        Every group is scored, frozen ones too, because radii need them. `evidence` is the mean of what
        `batch_evidence` gave since the last pruning event, or what `gather` gives now; None for a criterion
        that needs none.
        """
        ...


@runtime_checkable
class GradientCriterion(Criterion, Protocol):
    """A criterion that reads gradients while the model trains."""

    def batch_evidence(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Group name -> importance by the gradients of one batch, found in `.grad`; float [C], >= 0."""
        ...


@runtime_checkable
class GatheringCriterion(Criterion, Protocol):
    """A criterion that looks at the model on a few training batches just before a pruning event.

    What it sees depends on the weights and the batches alone: random numbers come from a seed of its own, and
    weights, gradients, norm statistics and modes are left as they were. So it needs no place in a checkpoint.
    """

    @property
    def num_batches(self) -> int:
        """How many batches `gather` is to be given, at least 1."""
        ...

    def gather(
        self, model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Any], loss: Loss
    ) -> dict[str, Tensor]:
        """Group name -> evidence for `score`, float [C]; `loss(model, batch)` runs the model forward."""
        ...
