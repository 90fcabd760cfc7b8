"""The scale of the norm layers behind a channel, as in network slimming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from adasap.criteria.channels import channel_sums, named_tensors
from adasap.criteria.norms import require_norms
from adasap.criteria.protocol import Need
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class NormScale:
    """s_i = mean |gamma| over the norms of channel i    (arXiv:1708.06519)

    Not normalised: the scale multiplies activations of unit variance, so it is comparable as it is, if the
    scales were trained under the same penalty. Frozen groups without norms score 0.
    """

    needs: frozenset[Need] = frozenset()

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises ArgumentError, naming the groups, if a group that can be pruned has no norm."""
        require_norms(groups, "norm_scale", "l2")

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """Group name -> mean |gamma|, float [C]."""
        self.validate(model, groups)
        tensors = named_tensors(model)
        sums = channel_sums(groups, ("scale",), tensors, lambda name, dim: tensors[name].abs()).by_group()
        scales = {g.name: sum(slot.positions.shape[1] for slot in g.with_role("scale")) for g in groups}
        return {name: total / max(scales[name], 1) for name, total in sums.items()}
