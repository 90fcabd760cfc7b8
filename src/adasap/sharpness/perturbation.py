"""Which way and how far the weights are moved before the second pass: the protocol, uniform and adaptive radii, and the
arithmetic of both.

Small vectors over all rows of the model carry radii, norms and coefficients; only `scaled_gradients` touches memory of
the size of the weights, and reads it once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from adasap.checks import finite_number
from adasap.errors import ArgumentError
from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup, Radii
from adasap.groups.parameters import members, named_parameters
from adasap.sharpness.budget import Strength
from adasap.sharpness.layout import KINDS, Channels, Kind, RowLayout, TensorRows
from adasap.sharpness.options import PerturbationOptions, Weighting
from adasap.sharpness.swap import Offsets, chunks, pieces, pieces_like


class Perturbation(Protocol):
    """What the two passes need: an offset for each parameter, computed from the gradients in `.grad`.

    A class that names it as its base inherits `moves`, `shares` and `strength`.
    """

    @property
    @abstractmethod
    def is_zero(self) -> bool:
        """Whether every offset is zero whatever the gradient, so that one pass is enough."""

    @abstractmethod
    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """The offset of each of the model's parameters that takes part, without waiting for the device.

        With `consume_gradients` nobody reads `.grad` afterwards, and its memory may be used for the saved weights.
        """

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """Which of the model's parameters may be moved, None for all: the first pass makes no gradients of others."""
        return None

    def shares(self) -> dict[Kind, float]:
        """How the squared radius of the last offsets was spent: on filters, scales and shifts. All zero by default."""
        return dict.fromkeys(KINDS, 0.0)

    @property
    def strength(self) -> Strength | None:
        """The common factor of the radii, None where there are none; one around another has that of the inner one."""
        return None


class CombiningPerturbation(Perturbation):
    """A `Perturbation` that also says what becomes of the two gradients; without it the second one is taken.

    Its step needs memory for one more copy of the gradients. Under data parallelism the first pass is averaged over the
    ranks, so that all of them combine the same two gradients.
    """

    @abstractmethod
    def combine_(self, clean: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
        """Changes `.grad`, which holds the gradient at w + eps, when the weights are back at w.

        Must not wait for the device. What is made of gradients that are not finite must not be finite.

        Args:
            clean: Parameter name -> gradient at w, which may be written over.
            parameters: All of the plain model, by name.
        """


class SinglePassPerturbation(Perturbation):
    """A `Perturbation` without a first pass. What it does to `.grad` before the pass is undone by the step."""

    @abstractmethod
    def load_gradients_(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Puts into `.grad`, which is empty, what the offsets are made of."""

    @abstractmethod
    def end_step(self, parameters: Mapping[str, nn.Parameter], *, finite: bool) -> None:
        """Called at the end of every step, plain ones too, when `.grad` holds its gradient."""


class _RowPerturbation(Perturbation):
    """The part that uniform and adaptive radii share: from gradients and a radius per channel to offsets."""

    def __init__(self, groups: Iterable[ChannelGroup], options: PerturbationOptions, strength: Strength | None) -> None:
        self.options = options
        self._strength = Strength(options.budget) if strength is None else strength
        if self._strength.budget != options.budget:
            raise ArgumentError(
                f"strength is of the budget {self._strength.budget}, the options have {options.budget}; leave out "
                "strength to begin anew"
            )
        self.channels = Channels(tuple(groups))
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
        taken in float32 or wider. The offsets do not depend on the scale of the loss; with a `loss_budget` they do,
        and `strength.loss_scale` must say it.

        Args:
            model: The model, also when wrapped.
        Returns:
            Parameter name -> offset, of the parameter's shape, type and memory format, in new memory. All zero where
            an ellipsoid's gradient is zero; everywhere if any gradient is not finite.
        Raises:
            ArgumentError: If the groups do not fit the model.
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
            self._strength.nothing()
            return Offsets((), [], [])
        layout, radii = self._rows(moved)
        weights: list[Tensor] = list(moved.values())
        in_place = consume_gradients and _own_their_memory([w.grad for w in weights if w.grad is not None])
        scaled, norms = scaled_gradients(weights, layout, self.options, in_place=in_place)
        coefficients, finite = row_coefficients(norms, radii, layout, self.options.weighting)
        rise = (coefficients * norms * norms).sum()  # <g, eps>: eps is the coefficient times T^2 g in each row
        factor = self._strength.factor(rise, sum(weight.numel() for weight in weights))
        if factor is not None:
            coefficients = coefficients * factor
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

    @property
    def strength(self) -> Strength:
        """The common factor of the radii; after a cut the next perturbation takes it on."""
        return self._strength

    def _taking_part(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """The parameters to perturb: those with a gradient, without scales and shifts if norms is `none`."""
        all_norms = self.options.norms != "none"
        return {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.grad is not None
            and parameter.requires_grad
            and (all_norms or self.channels.kind(name, parameter) == "filters")
        }

    def _rows(self, parameters: dict[str, nn.Parameter]) -> tuple[RowLayout, Tensor]:
        """The layout of these parameters and the radius of each row, both kept until something changes."""
        key = [(name, p.shape, p.device) for name, p in parameters.items()]
        if self._layout is None or key != self._layout_key:
            self._layout = self.channels.layout(parameters, scope=self.options.scope, norms=self.options.norms)
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
        strength: That of the perturbation before a cut, for a `loss_budget` of the start; None begins anew.
    Raises:
        ArgumentError: If rho is negative or not finite, or the scope needs groups and there are none.
    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
        >>> UniformPerturbation(0.5, PerturbationOptions(geometry="euclidean")).epsilon(layer)
        {'weight': tensor([[0.3000, 0.4000]])}
    """

    def __init__(
        self,
        rho: float,
        options: PerturbationOptions | None = None,
        groups: Sequence[ChannelGroup] = (),
        *,
        strength: Strength | None = None,
    ) -> None:
        options = options or PerturbationOptions()
        finite_number(rho, "rho", least=0)
        if options.scope != "model" and not groups:
            raise ArgumentError(
                f"scope {options.scope!r} needs the channel groups: pass groups=trace_groups(model, ...)"
            )
        super().__init__(groups, options, strength)
        self.rho = rho

    @property
    def is_zero(self) -> bool:
        """Whether rho is zero."""
        return self.rho == 0

    def _unit_radii(self, device: torch.device) -> Tensor:
        return torch.full((self.channels.num_units + 1,), self.rho, device=device)


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
        strength: That of the perturbation before a cut, for a `loss_budget` of the start; None begins anew.
    Raises:
        ArgumentError: If radii are missing or have another length than their group.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        radii: Radii,
        options: PerturbationOptions | None = None,
        *,
        midpoint: float | None = None,
        strength: Strength | None = None,
    ) -> None:
        super().__init__(groups, options or PerturbationOptions(), strength)
        if midpoint is not None:
            finite_number(midpoint, "midpoint", least=0)
        self.midpoint = midpoint
        self.update(radii)

    def update(self, radii: Radii) -> None:
        """Takes new radii for the same groups."""
        for group in self.channels.groups:
            if not group.is_output and group.name not in radii:
                raise ArgumentError(f"no radii for group {group.name!r}; score every group that is not an output")
            if not group.is_output and radii[group.name].shape != (group.num_channels,):
                raise ArgumentError(
                    f"group {group.name!r} has {group.num_channels} channels, its radii have shape "
                    f"{tuple(radii[group.name].shape)}; after a cut, score the new groups"
                )
        self.radii = radii
        owned = [radii[group.name] for group in self.channels.groups if not group.is_output]
        if not owned and self.midpoint is None:
            raise ArgumentError("no group has radii, so there is no midpoint to infer: pass midpoint=")
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
        for group in self.channels.groups:
            if group.is_output:
                parts.append(midpoint.expand(group.num_channels))
            else:
                parts.append(owned[start : start + group.num_channels])
                start += group.num_channels
        return torch.cat([*parts, midpoint])


@dataclass(frozen=True, eq=False)
class RowNorms:
    """What the last perturbation spent, per row: norm ||T g||, radius, coefficient. All float [rows]."""

    norms: Tensor
    radii: Tensor
    coefficients: Tensor
    layout: RowLayout

    def shares(self) -> dict[Kind, float]:
        """Shares of sum_i ||eps_i / T_i||^2 / rho_i^2 by kind of tensor."""
        spent = (self.coefficients * self.norms / self.radii).square().nan_to_num(0.0, 0.0, 0.0)
        sums = torch.stack([part.sum() for part in self.layout.split(spent.double())]).tolist()  # waits once
        total = dict.fromkeys(KINDS, 0.0)
        for rows, part in zip(self.layout.tensors, sums, strict=True):
            total[rows.kind] += part
        whole = sum(total.values())
        return {kind: value / whole if whole else 0.0 for kind, value in total.items()}


def scaled_gradients(
    weights: Sequence[Tensor], layout: RowLayout, options: PerturbationOptions, *, in_place: bool = False
) -> tuple[list[Tensor], Tensor]:
    """T^2 g of each weight, and the norm ||T g|| of each row, float [rows].

    Where T is 1 the gradient itself is returned, not a copy; with `in_place` the others are written over theirs.
    """
    scaled = [_wide(_gradient(weight)) for weight in weights]
    stretched = options.geometry == "elementwise"
    positions = [i for i, rows in enumerate(layout.tensors) if stretched and rows.kind != "shifts"]
    others = [i for i, rows in enumerate(layout.tensors) if not stretched or rows.kind == "shifts"]
    norms: dict[int, Tensor] = dict(
        zip(others, _row_norms([scaled[i] for i in others], [layout.tensors[i] for i in others]), strict=True)
    )
    for i, product, norm in _stretched(positions, weights, scaled, layout, options.eta, in_place):
        scaled[i], norms[i] = product, norm
    return scaled, torch.cat([norms[i] for i in range(len(scaled))])


def _stretched(
    positions: list[int],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    layout: RowLayout,
    eta: float,
    in_place: bool,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of the tensors at these positions (|w| + eta)^2 g, and the row norms of (|w| + eta) g."""
    rows = [layout.tensors[i] for i in positions]
    axes = [r.axis for r in rows]
    products = [gradients[i] if in_place else torch.empty_like(gradients[i]) for i in positions]
    parts = pieces(products, axes)
    outs = [*chain(*parts)]
    w = pieces_like(parts, [weights[i] for i in positions], axes)
    g = outs if in_place else pieces_like(parts, [gradients[i] for i in positions], axes)
    of_piece = [r for r, views in zip(rows, parts, strict=True) for _ in views]
    norms: list[Tensor] = []
    for part in chunks(outs):
        stretch = torch._foreach_abs([_wide(t) for t in w[part]])
        torch._foreach_add_(stretch, eta)
        if in_place:
            torch._foreach_mul_(outs[part], stretch)
        else:
            torch._foreach_copy_(outs[part], stretch)
            torch._foreach_mul_(outs[part], g[part])
        norms += _row_norms(outs[part], of_piece[part])
        torch._foreach_mul_(outs[part], stretch)
        del stretch  # the next part takes its memory, which is in the cache
    for i, product, views in zip(positions, products, parts, strict=True):
        mine, norms = norms[: len(views)], norms[len(views) :]
        yield i, product, torch.cat(mine) if len(mine) > 1 else mine[0]


def row_coefficients(norms: Tensor, radii: Tensor, layout: RowLayout, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """What T^2 g is multiplied with, float [rows], and whether every gradient is finite, bool [].

    rho_i^2 / sqrt(sum rho_j^2 ||T g||_j^2) for `ellipsoid` and rho_i / sqrt(sum ||T g||_j^2) for `linear`,
    over the rows of the ellipsoid. Zero where that sum is zero; zero everywhere if a gradient is not finite.
    """
    weighted = radii * norms if weighting == "ellipsoid" else norms
    gain = radii.square() if weighting == "ellipsoid" else radii
    if layout.num_ellipsoids == 1:
        length = torch.linalg.vector_norm(weighted).expand(1)
    else:  # on an accelerator the order of the sums varies, unless torch.use_deterministic_algorithms is on
        length = weighted.new_zeros(layout.num_ellipsoids)
        length = length.index_add_(0, layout.ellipsoids, weighted.square()).sqrt_()
    finite = torch.linalg.vector_norm(norms).isfinite()
    smallest = torch.finfo(length.dtype).tiny  # below it the reciprocal is not finite
    inverse = torch.where((length >= smallest) & finite, length.reciprocal(), 0.0)
    return gain * (inverse if layout.num_ellipsoids == 1 else inverse[layout.ellipsoids]), finite


def row_factors(coefficients: Tensor, layout: RowLayout) -> list[Tensor]:
    """The coefficients of each tensor's rows, in the shape in which they multiply it."""
    return [
        part.view(rows.factor_shape) if rows.inner_dims or not rows.factor_shape else part
        for part, rows in zip(layout.split(coefficients), layout.tensors, strict=True)
    ]


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or wider, where squares neither overflow nor vanish."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _row_norms(tensors: Sequence[Tensor], rows: Sequence[TensorRows]) -> list[Tensor]:
    """The norm of each row of each tensor; of rows of one number all at once."""
    single = [tensor for tensor, r in zip(tensors, rows, strict=True) if not r.inner_dims]
    sizes = iter(torch._foreach_abs(single) if single else ())
    return [
        torch.linalg.vector_norm(tensor, dim=r.inner_dims) if r.inner_dims else next(sizes).reshape(-1)
        for tensor, r in zip(tensors, rows, strict=True)
    ]
