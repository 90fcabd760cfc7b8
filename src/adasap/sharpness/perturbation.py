"""Which way and how far the weights are moved before the second pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Radii
from adasap.groups.members import members, named_parameters
from adasap.sharpness.offsets import RowNorms, row_coefficients, row_factors, scaled_gradients
from adasap.sharpness.options import PerturbationOptions
from adasap.sharpness.rows import KINDS, Channels, Kind, RowLayout
from adasap.sharpness.swap import Offsets
from adasap.sharpness.wrappers import unwrap


class Perturbation(Protocol):
    """What the two passes need: an offset for each parameter, computed from the gradients in `.grad`."""

    @property
    def is_zero(self) -> bool:
        """Whether every offset is zero whatever the gradient, so that one pass is enough."""

    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """The offset of each of the model's parameters that takes part, without waiting for the device.

        With `consume_gradients` nobody reads `.grad` afterwards, and its memory may be used for the saved weights.
        """

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """Which of the model's parameters may be moved, None for all: the first pass makes no gradients of others."""

    def shares(self) -> dict[Kind, float]:
        """How the squared radius of the last offsets was spent: on filters, scales and shifts."""


class _RowPerturbation:
    """The part that uniform and adaptive radii share: from gradients and a radius per channel to offsets."""

    def __init__(self, groups: Iterable[ChannelGroup], options: PerturbationOptions) -> None:
        self.options = options
        self._channels = Channels(tuple(groups))
        self._layout_key: object = None
        self._layout: RowLayout | None = None
        self._radii: Tensor | None = None  # per row, of this layout
        self._spent: RowNorms | None = None

    def _unit_radii(self, device: torch.device) -> Tensor:
        """Radius of each channel of all groups, then the midpoint: float32 [units + 1]."""
        raise NotImplementedError

    def epsilon(self, model: nn.Module) -> dict[str, Tensor]:
        """The offset of each parameter that has a gradient, for the gradients that now lie in `.grad`.

        `ellipsoid`: eps_i = rho_i^2 T_i^2 g_i / sqrt(sum_j rho_j^2 ||T_j g_j||^2); `linear`: eps_i = rho_i
        T_i^2 g_i / sqrt(sum_j ||T_j g_j||^2); the sums run over the rows that share an ellipsoid. Norms are
        taken in float32 or wider. The offsets do not depend on the scale of the loss.

        Args:
            model: The model, also when wrapped.
        Returns:
            Parameter name -> offset, of the parameter's shape, type and memory format, in new memory. All zero where
            an ellipsoid's gradient is zero; everywhere if any gradient is not finite.
        Raises:
            ValueError: If the groups do not fit the model.
        """
        offsets = self.offsets(named_parameters(members(unwrap(model))))
        return dict(zip(offsets.names, offsets.multiplied(), strict=True))

    @torch.no_grad()
    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """Those of `epsilon`, not yet multiplied out: `swapped` does so on its way through the weights.

        Args:
            parameters: All of the plain model, by name.
            consume_gradients: Work in the gradients' memory where that saves time: on a CPU new memory of this size
                costs more than the arithmetic.
        """
        moved = self._taking_part(parameters)
        if not moved:
            self._spent = None
            return Offsets((), [], [])
        layout, radii = self._rows(moved)
        weights: list[Tensor] = list(moved.values())
        in_place = consume_gradients and _own_their_memory([w.grad for w in weights if w.grad is not None])
        scaled, norms = scaled_gradients(weights, layout, self.options, in_place=in_place)
        coefficients, finite = row_coefficients(norms, radii, layout, self.options.weighting)
        self._spent = RowNorms(norms, radii, coefficients, layout)
        if finite.device.type == "cpu" and not finite:
            return Offsets(tuple(moved), weights, [torch.zeros_like(weight) for weight in weights])
        factors = row_factors(coefficients, layout)
        return Offsets(tuple(moved), weights, scaled, factors, [rows.axis for rows in layout.tensors], in_place)

    def shares(self) -> dict[Kind, float]:
        """Shares of the squared radius, ||eps_i / T_i||^2 / rho_i^2, that the last `epsilon` spent.

        They sum to 1. Costs nothing until it is called. All zero before the first call and when epsilon was
        zero.
        """
        if self._spent is None:
            return dict.fromkeys(KINDS, 0.0)
        return self._spent.shares()

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """With `norm_only` the scales and shifts of norm layers, otherwise None."""
        return self._channels.norms(parameters) if self.options.norm_only else None

    def _taking_part(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """The parameters to perturb: those with a gradient, without scales and shifts if norms is `none`."""
        all_norms, moved = self.options.norms != "none", self.moves(parameters)
        return {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.grad is not None
            and parameter.requires_grad
            and (all_norms or self._channels.kind(name, parameter) == "filters")
            and (moved is None or name in moved)
        }

    def _rows(self, parameters: dict[str, nn.Parameter]) -> tuple[RowLayout, Tensor]:
        """The layout of these parameters and the radius of each row, both kept until something changes."""
        key = [(name, p.shape, p.device) for name, p in parameters.items()]
        if self._layout is None or key != self._layout_key:
            self._layout = self._channels.layout(parameters, scope=self.options.scope, norms=self.options.norms)
            self._layout_key, self._radii = key, None
        if self._radii is None:
            radii = self._unit_radii(self._layout.units.device)[self._layout.units]
            if self.options.rescale and self.options.scope != "model":
                radii = radii / self._layout.num_ellipsoids**0.5
            self._radii = radii
        return self._layout, self._radii


def _own_their_memory(gradients: Sequence[Tensor]) -> bool:
    """Whether these are CPU tensors, each all of its memory: no views of a bucket that the next pass fills again."""
    return (
        gradients[0].device.type == "cpu"
        and all(g.untyped_storage().nbytes() == g.numel() * g.element_size() for g in gradients)
        and len({g.data_ptr() for g in gradients}) == len(gradients)
    )


class UniformPerturbation(_RowPerturbation):
    """One radius for everything: with scope `model`, SAM (`euclidean`) and ASAM (`elementwise`).

    Args:
        rho: The radius, >= 0. Usual: 0.05 for SAM, 0.5 to 2 for ASAM.
        options: Geometry, scope and so on.
        groups: The channel groups; needed by the scopes `group` and `channel`, and they tell shifts from
            scales.
    Raises:
        ValueError: If rho is negative or not finite, or the scope needs groups and there are none.
    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
        >>> UniformPerturbation(0.5, PerturbationOptions(geometry="euclidean")).epsilon(layer)
        {'weight': tensor([[0.3000, 0.4000]])}
    """

    def __init__(
        self, rho: float, options: PerturbationOptions | None = None, groups: Sequence[ChannelGroup] = ()
    ) -> None:
        options = options or PerturbationOptions()
        if not 0 <= rho < float("inf"):
            raise ValueError(f"rho must be finite and >= 0, got {rho}")
        if options.scope != "model" and not groups:
            raise ValueError(f"scope {options.scope!r} needs the channel groups: pass groups=trace_groups(model, ...)")
        super().__init__(groups, options)
        self.rho = rho

    @property
    def is_zero(self) -> bool:
        """Whether rho is zero."""
        return self.rho == 0

    def _unit_radii(self, device: torch.device) -> Tensor:
        return torch.full((self._channels.num_units + 1,), self.rho, device=device)


class AdaptivePerturbation(_RowPerturbation):
    """Each channel has its own radius; rows that belong to no channel, and the classifier's, take the
    midpoint.

    After a cut make a new one from the new groups; between cuts `update` takes new radii at little cost.

    Args:
        groups: The channel groups, frozen ones and the classifier's included.
        radii: Group name -> radius, float [C], for each group that is not the model's output. Radii of output
            groups are ignored.
        options: Geometry, scope and so on.
        midpoint: Radius of the rows without a channel, (rho_min + rho_max) / 2; None takes it halfway between
            the least and the greatest of `radii`, which is the same when a group has two different scores.
    Raises:
        ValueError: If radii are missing or have another length than their group.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        radii: Radii,
        options: PerturbationOptions | None = None,
        *,
        midpoint: float | None = None,
    ) -> None:
        super().__init__(groups, options or PerturbationOptions())
        if midpoint is not None and not 0 <= midpoint < float("inf"):
            raise ValueError(f"midpoint must be finite and >= 0, got {midpoint}")
        self.midpoint = midpoint
        self.update(radii)

    def update(self, radii: Radii) -> None:
        """Takes new radii for the same groups."""
        for group in self._channels.groups:
            if not group.is_output and group.name not in radii:
                raise ValueError(f"no radii for group {group.name!r}; score every group that is not an output")
            if not group.is_output and radii[group.name].shape != (group.num_channels,):
                raise ValueError(
                    f"group {group.name!r} has {group.num_channels} channels, its radii have shape "
                    f"{tuple(radii[group.name].shape)}; after a cut, score the new groups"
                )
        owned = [radii[group.name] for group in self._channels.groups if not group.is_output]
        if not owned and self.midpoint is None:
            raise ValueError("no group has radii, so there is no midpoint to infer: pass midpoint=")
        self._owned = torch.cat(owned).detach().float() if owned else torch.zeros(0)
        self._radii = None

    @property
    def is_zero(self) -> bool:
        """Whether all radii are zero; False on an accelerator, where asking would make the host wait."""
        return self._owned.device.type == "cpu" and not self.midpoint and not bool(self._owned.any())

    def _unit_radii(self, device: torch.device) -> Tensor:
        owned = self._owned.to(device)
        if self.midpoint is None:
            lowest, highest = owned.aminmax()
            midpoint = ((lowest + highest) / 2).reshape(1)
        else:
            midpoint = torch.full((1,), self.midpoint, device=device)
        parts, start = [], 0
        for group in self._channels.groups:
            if group.is_output:
                parts.append(midpoint.expand(group.num_channels))
            else:
                parts.append(owned[start : start + group.num_channels])
                start += group.num_channels
        return torch.cat([*parts, midpoint])
