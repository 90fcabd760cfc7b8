"""What was seen beside the weights: the running mean of a gradient criterion's batches, or what was gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from adasap.criteria.protocol import Criterion
from adasap.errors import ArgumentError
from adasap.groups.group import ChannelGroup, Scores


class Evidence:
    """Mean over batches of `GradientCriterion.batch_evidence`.

    Example:
        >>> evidence = Evidence()
        >>> evidence.add({"conv1": torch.tensor([2.0, 4.0])}, scale=2.0)
        >>> evidence.add({"conv1": torch.tensor([3.0, 0.0])})
        >>> evidence.mean()
        {'conv1': tensor([2., 1.])}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def count(self) -> int:
        """How many batches were added since the last reset."""
        return self._count

    def add(self, scores: Scores, *, scale: float = 1.0) -> None:
        """Adds the evidence of one batch; `scale` is the factor its loss was multiplied with.

        A batch whose evidence is not finite, as of a step that will be skipped, is left out.

        Raises:
            ArgumentError: If the groups or widths are not those of the batches before.
        """
        values = [value.detach() for value in scores.values()]
        if not self._sums:
            self._sums = {
                name: torch.zeros_like(v, dtype=torch.promote_types(v.dtype, torch.float32))
                for name, v in zip(scores, values, strict=True)
            }
        elif {n: v.shape for n, v in scores.items()} != {n: v.shape for n, v in self._sums.items()}:
            raise ArgumentError(
                "the evidence of this batch has other groups or widths than the batches before: "
                "call evidence.cut(plan.kept) or evidence.reset() after a pruning event"
            )
        if values and not bool(torch.cat([v.flatten() for v in values]).isfinite().all()):
            return
        sums = [self._sums[name] for name in scores]
        torch._foreach_add_(sums, [v.to(s) for v, s in zip(values, sums, strict=True)], alpha=1.0 / scale)
        self._count += 1

    def mean(self) -> dict[str, Tensor]:
        """Group name -> mean over the batches, float [C].

        Raises:
            ArgumentError: If nothing was added since the last reset.
        """
        if not self._count:
            raise ArgumentError(
                "no evidence was collected since the last pruning event: after each backward() call "
                "evidence.add(criterion.batch_evidence(model, groups)), or use a criterion of weights: 'l2'"
            )
        return {name: total / self._count for name, total in self._sums.items()}

    def reset(self) -> None:
        """Forgets everything."""
        self._sums, self._count = {}, 0

    def cut(self, kept: Mapping[str, Tensor]) -> None:
        """Follows a pruning event without forgetting: keeps these channels, int64 [k], of these groups."""
        for name, indices in kept.items():
            if name in self._sums:
                self._sums[name] = self._sums[name].index_select(0, indices.to(self._sums[name].device))

    def reduce(self, average: Callable[[Tensor], Tensor]) -> None:
        """Averages over ranks: `average` gives the mean of one tensor over all of them.

        One call for all groups, batches weighted alike. Every rank must have added at least one batch, and
        `count` becomes the mean number of batches per rank, rounded.
        """
        if not self._count:
            raise ArgumentError("this rank collected no evidence, so it cannot be averaged over ranks")
        flat = torch.cat([total.flatten() for total in self._sums.values()])
        reduced = average(torch.cat([flat, flat.new_tensor([self._count])]))
        mean_count = float(reduced[-1])
        self._count = max(1, round(mean_count))
        means = reduced[:-1] * (self._count / mean_count)
        parts = torch.split(means, [total.numel() for total in self._sums.values()])
        self._sums = dict(zip(self._sums, (part.clone() for part in parts), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, as tensors for a checkpoint."""
        sums = {f"sum.{name}": total.clone() for name, total in self._sums.items()}
        return {"count": torch.tensor(self._count), **sums}

    def load(self, state: Mapping[str, Tensor]) -> Self:
        """Takes over what `state` gave; the tensors are copied."""
        self._count = int(state["count"])
        self._sums = {n.removeprefix("sum."): t.clone() for n, t in state.items() if n.startswith("sum.")}
        return self


def collected(evidence: Scores | None, groups: Sequence[ChannelGroup], criterion: Criterion) -> dict[str, Tensor]:
    """The evidence of these groups, for a criterion that cannot do without.

    Raises:
        ArgumentError: If it is None, lacks a group, or has another number of channels.
    """
    if evidence is None:
        gathers = "batches" in criterion.needs
        raise ArgumentError(
            f"{type(criterion).__name__} scores channels by {'batches' if gathers else 'gradients'}, and no evidence "
            "was given: "
            + (
                "pass criterion.gather(model, groups, batches, loss)"
                if gathers
                else "after each backward() evidence.add(criterion.batch_evidence(model, groups)), then pass "
                "evidence.mean()"
            )
        )
    for group in groups:
        found = tuple(evidence[group.name].shape) if group.name in evidence else "nothing"
        if found != (group.num_channels,):
            raise ArgumentError(
                f"evidence for group {group.name!r}: wanted ({group.num_channels},), found {found}; "
                f"cut it with evidence.cut(plan.kept) or collect it anew after a pruning event"
            )
    return {group.name: evidence[group.name] for group in groups}
