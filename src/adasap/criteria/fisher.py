"""Optimal brain damage with the empirical Fisher: the second-order cost of a channel, from gradients alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from adasap.criteria.evidence import collected
from adasap.criteria.protocol import Need
from adasap.criteria.taylor import gradient_sums
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class Fisher:
    """s_i = 1/2 * mean over batches of sum of (g * w)^2 over the producer rows of channel i

    The saliency 1/2 * H_kk * w_k^2 of optimal brain damage (LeCun, Denker, Solla 1989), summed over the
    channel, with the diagonal of the empirical Fisher for H: the mean of g_k^2. The gradients are those of
    whole batches, which training makes anyway; the ones of single images, by which the empirical Fisher is
    defined, would cost a backward pass each. Near a minimum a batch of B images gives about 1/B of that
    figure, the same factor everywhere, so the ranking stays. It is no Hessian where the loss is not small
    (arXiv:1905.12558).
    """

    needs: frozenset[Need] = frozenset({"gradients"})

    def batch_evidence(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Group name -> 1/2 * sum of (w * g)^2, float [C], g from `.grad`; parameters without one count 0."""
        sums = gradient_sums(model, groups, ("producer",), lambda products: products.square())
        sums.flat.mul_(0.5)
        return sums.by_group()

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence as it is. Raises ArgumentError when there is none."""
        return collected(evidence, groups, self)
