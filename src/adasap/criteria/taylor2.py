"""Second-order Taylor: slope and curvature of the loss along the removal of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from adasap.criteria.evidence import collected
from adasap.criteria.protocol import Need
from adasap.criteria.taylor import gradient_sums
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class SecondOrderTaylor:
    """s_i = mean over batches of | -sum of g * w + curvature / 2 * sum of (g * w)^2 |, sums over the
    producer rows of channel i    (arXiv:1906.10771, with the empirical Fisher's diagonal for H)

    The change of the loss to second order when the rows are set to zero; the absolute value is taken per
    batch, as for `taylor`. The batch's own squared gradient stands for H_kk; see `fisher` for what that is
    worth. `curvature` = B, the images of a batch, turns it into an estimate of the per-image Fisher.

    Raises:
        RecipeError: If `curvature` is negative.
    """

    curvature: float = 1.0
    needs: frozenset[Need] = frozenset({"gradients"})

    def __post_init__(self) -> None:
        if not self.curvature >= 0:
            raise RecipeError(f"curvature is {self.curvature}; give 0 (first order alone) or more, such as 1")

    def batch_evidence(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Group name -> |second-order change|, float [C], g from `.grad`; parameters without one count 0."""
        slope = gradient_sums(model, groups, ("producer",), lambda products: products)
        bend = gradient_sums(model, groups, ("producer",), lambda products: products.square())
        slope.flat.neg_().add_(bend.flat, alpha=self.curvature / 2).abs_()
        return slope.by_group()

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence as it is. Raises ArgumentError when there is none."""
        return collected(evidence, groups, self)
