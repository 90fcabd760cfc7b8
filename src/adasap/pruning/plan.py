"""Which channels stay: plain data that can be saved, read back and composed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, cast, get_args

import torch
from torch import Tensor

from adasap.errors import PlanError
from adasap.groups.group import ChannelGroup, fingerprint, prunable
from adasap.groups.stand_ins import Removed, StandIn, left_of
from adasap.io import parse_json
from adasap.sealed import sealed, unsealed

FORMAT = "adasap-plan-1"
PRESENT = "branch "
"""Before the name of a module: the key among widths that is 0 where the module is taken out."""
MOST_CHANNELS = 10_000_000


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """The channels that stay, per group, in the indices of the model the plan was made for.

    Attributes:
        kept: Group name -> int64 [k], ascending, at least one; a group that is absent stays whole.
        num_channels: Group name -> C before the cut, for the same groups.
        fingerprint: `adasap.groups.fingerprint` of the groups the indices belong to.
        removed: Modules of residual branches that are taken out whole -> what they give from then on. Groups that only
            these have may stay whole in `kept`; they go with them.
    Raises:
        PlanError: If the indices are not ascending, out of range, or none.
    """

    kept: dict[str, Tensor]
    num_channels: dict[str, int]
    fingerprint: str
    removed: Removed = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.kept.keys() != self.num_channels.keys():
            odd = min(self.kept.keys() ^ self.num_channels.keys())
            raise PlanError(f"the plan names group {odd!r} in only one of kept and num_channels")
        for name, indices in self.kept.items():
            _check_indices(name, indices, self.num_channels[name])

    @classmethod
    def of(
        cls,
        groups: Sequence[ChannelGroup],
        kept: Mapping[str, Sequence[int] | Tensor] | None = None,
        removed: Removed | None = None,
    ) -> Self:
        """A plan for these groups; prunable groups that `kept` does not name stay whole.

        Raises:
            PlanError: For an unknown or frozen group, or bad indices.
        """
        chosen = dict(kept or {})
        whole = {g.name: torch.arange(g.num_channels) for g in prunable(groups)}
        for name in chosen.keys() - whole.keys():
            frozen = next((g.frozen for g in groups if g.name == name), None)
            reason = f"it is frozen: {frozen[0]}" if frozen else f"known: {', '.join(sorted(whole)) or 'none'}"
            raise PlanError(f"group {name!r} cannot be cut; {reason}")
        indices = {name: torch.as_tensor(x, dtype=torch.int64).cpu().sort().values for name, x in chosen.items()}
        return cls(
            kept={name: indices.get(name, all_of_it) for name, all_of_it in whole.items()},
            num_channels={name: len(all_of_it) for name, all_of_it in whole.items()},
            fingerprint=fingerprint(groups),
            removed=dict(removed or {}),
        )

    @property
    def keeps_all(self) -> bool:
        """Whether no channel and no branch goes."""
        return not self.removed and all(len(indices) == self.num_channels[name] for name, indices in self.kept.items())

    def widths(self) -> dict[str, int]:
        """Group name -> channels after the cut, and 0 for what is taken out, as `CostModel.total` takes them."""
        return {name: len(indices) for name, indices in self.kept.items()} | absent(self.removed)

    def then(self, later: PruningPlan) -> PruningPlan:
        """This plan and then another, as one in this plan's indices and with this plan's fingerprint.

        `later` counts within what this plan leaves, so its own fingerprint is that of the cut groups.

        Raises:
            PlanError: If `later` expects another width than this plan leaves.
        """
        kept, num_channels = dict(self.kept), dict(self.num_channels)
        for name, indices in later.kept.items():
            if name not in kept:
                kept[name], num_channels[name] = indices, later.num_channels[name]
                continue
            if len(kept[name]) != later.num_channels[name]:
                raise PlanError(
                    f"plans do not follow each other: the first leaves {len(kept[name])} channels of group "
                    f"{name!r}, the second starts from {later.num_channels[name]}"
                )
            kept[name] = kept[name][indices]
        return PruningPlan(kept, num_channels, self.fingerprint, {**self.removed, **later.removed})

    def to_json(self) -> str:
        """One JSON object: format, fingerprint, the kept indices of each group, what is taken out, and the digest."""
        groups = {
            name: {"num_channels": self.num_channels[name], "kept": indices.tolist()}
            for name, indices in self.kept.items()
        }
        removed = {"removed": dict(self.removed)} if self.removed else {}
        return json.dumps(sealed({"format": FORMAT, "fingerprint": self.fingerprint, "groups": groups} | removed))

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote, as a string or as the object parsed from it; one without a digest is taken, too.

        Raises:
            PlanError: If it is not a plan, was altered, or its indices are impossible.
        """
        data = _parsed(text)
        groups, mark = data["groups"], data["fingerprint"]
        if not isinstance(groups, Mapping) or not isinstance(mark, str):
            raise PlanError("not a pruning plan: it needs a `groups` object and a `fingerprint` string")
        kept = {name: _indices(name, entry) for name, entry in groups.items()}
        num_channels = {name: entry["num_channels"] for name, entry in groups.items()}
        return cls(kept, num_channels, mark, _removed(data.get("removed", {})))

    def summary(self) -> str:
        """One line per group that loses channels, and a last line with the sum.

        Example:
            >>> print(PruningPlan({"conv1": torch.tensor([0, 2])}, {"conv1": 4}, "").summary())
            conv1: 2 of 4 channels
            all groups: 2 of 4 channels (50.0 %)
        """
        cut = [(n, len(x), self.num_channels[n]) for n, x in self.kept.items() if len(x) < self.num_channels[n]]
        left, before = sum(map(len, self.kept.values())), sum(self.num_channels.values())
        total = f"all groups: {left} of {before} channels ({left / max(before, 1):.1%})".replace("%)", " %)")
        taken = [f"{name}: taken out, gives {gives}" for name, gives in self.removed.items()]
        return "\n".join([*taken, *(f"{name}: {k} of {c} channels" for name, k, c in cut), total])


def widths_after(groups: Sequence[ChannelGroup], plan: PruningPlan) -> dict[str, int]:
    """Group name -> channels that a plan of these groups leaves; 0 for those that go with a branch."""
    left = {group.name for group in left_of(groups, plan.removed)}
    return {g.name: len(plan.kept.get(g.name, range(g.num_channels))) if g.name in left else 0 for g in groups}


def absent(removed: Removed) -> dict[str, int]:
    """What widths say of modules that are taken out.

    Example:
        >>> absent({"layer1.1": "input"})
        {'branch layer1.1': 0}
    """
    return {f"{PRESENT}{name}": 0 for name in removed}


def modules_absent(widths: Mapping[str, float]) -> tuple[dict[str, float], Removed]:
    """Widths of groups, and the modules that are taken out, of what `absent` joined.

    Example:
        >>> modules_absent({"conv1": 8, "branch layer1.1": 0})
        ({'conv1': 8}, {'layer1.1': 'input'})
    """
    gone: dict[str, StandIn] = {n.removeprefix(PRESENT): "input" for n in widths if n.startswith(PRESENT)}
    return {name: width for name, width in widths.items() if not name.startswith(PRESENT)}, gone


def _parsed(text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan's object, its digest and its keys checked."""
    data = parse_json(text, where="the pruning plan", error=PlanError) if isinstance(text, str) else text
    if not isinstance(data, Mapping):
        raise PlanError(f"not a pruning plan: wanted a JSON object, got {type(data).__name__}")
    if data.get("format") != FORMAT:
        raise PlanError(f"not a pruning plan: format is {str(data.get('format'))[:40]!r}, wanted {FORMAT!r}")
    plain = unsealed(data, where="the pruning plan", error=PlanError, remedy="make it again", needs_digest=False)
    if plain.keys() - {"removed"} != {"format", "fingerprint", "groups"}:
        found = ", ".join(str(key)[:40] for key in list(plain)[:20])
        raise PlanError(f"not a pruning plan: wanted the keys format, fingerprint and groups, found {found}")
    return plain


def _removed(data: Any) -> dict[str, StandIn]:
    """What is taken out, each module with a stand-in that is known."""
    known = get_args(StandIn)
    if not isinstance(data, Mapping) or any(not isinstance(n, str) or g not in known for n, g in data.items()):
        raise PlanError(f"`removed` of the plan maps modules to {', '.join(known)}; found {str(data)[:80]}")
    return {name: cast(StandIn, gives) for name, gives in data.items()}


def _indices(name: Any, entry: Any) -> Tensor:
    """The kept channels of a group, int64 [k]."""
    whole, indices = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("num_channels", "kept"))
    whole_numbers = isinstance(indices, list) and all(type(index) is int for index in indices)
    if not isinstance(name, str) or type(whole) is not int or not isinstance(indices, list) or not whole_numbers:
        raise PlanError(f"group {name!r} of the plan needs an integer num_channels and a list of integers kept")
    if len(entry) != 2 or not 0 < whole <= MOST_CHANNELS:
        raise PlanError(
            f"group {name!r} of the plan has num_channels {str(whole)[:20]} and the keys {', '.join(map(str, entry))}; "
            f"wanted 1 to {MOST_CHANNELS:,} channels and the keys num_channels and kept alone"
        )
    bounded = [min(max(index, -1), whole) for index in indices]  # what is out of range stays so, and fits int64
    return torch.tensor(bounded, dtype=torch.int64)


def _check_indices(name: str, indices: Tensor, num_channels: int) -> None:
    if indices.dtype != torch.int64 or indices.ndim != 1 or len(indices) == 0:
        found = f"{indices.dtype} {tuple(indices.shape)}"
        raise PlanError(f"group {name!r} must keep at least one channel, as int64 [k], got {found}")
    ascending = bool((indices[1:] > indices[:-1]).all())
    if not ascending or int(indices[0]) < 0 or int(indices[-1]) >= num_channels:
        raise PlanError(
            f"group {name!r}: kept channels must ascend without repeats within 0 to {num_channels - 1}, "
            f"got {indices.tolist()[:8]}{'...' if len(indices) > 8 else ''}"
        )
