"""What a model costs at given widths, without touching a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError, RecipeError
from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup, Slot, widths
from adasap.groups.inputs import ExampleInputs
from adasap.groups.stand_ins import Removed, is_within
from adasap.models.own_code import imported
from adasap.pruning.plan import absent, modules_absent
from adasap.registry import Registry


class CostModel(Protocol):
    """A cost in absolute units, as a function of the groups' widths."""

    @property
    def unit(self) -> str:
        """What `total` counts, such as "parameters" or "MACs"."""
        ...

    @property
    def dense(self) -> float:
        """The cost of the model this was built on."""
        return self.total({})

    def total(self, widths: Mapping[str, float]) -> float:
        """The cost at these widths (group name -> channels); a group that is not named is whole.

        Widths between whole numbers are allowed, and cost what lies between. `branch NAME`: 0 says that module NAME is
        taken out, which happens under a budget with `depth` alone; `adasap.pruning.plan.modules_absent` tells it apart.
        """
        ...

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The costs where one group takes each of these widths and the others stay, float64 [choices]."""
        return torch.tensor([self.total({**widths, group: choice}) for choice in choices], dtype=torch.float64)


@dataclass(frozen=True)
class CostWithout:
    """Another cost where modules are taken out; `dense` is still that of the dense model.

    Attributes:
        whole: The other cost.
        removed: The modules.
    """

    whole: CostModel
    removed: Removed

    @property
    def unit(self) -> str:
        """What `total` counts."""
        return self.whole.unit

    @property
    def dense(self) -> float:
        """The cost of the dense model."""
        return self.whole.dense

    def total(self, widths: Mapping[str, float]) -> float:
        """The cost at these widths (group name -> channels) without the modules."""
        return self.whole.total({**widths, **absent(self.removed)})

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The costs where one group takes each of these widths and the others stay, float64 [choices]."""
        return self.whole.along({**widths, **absent(self.removed)}, group, choices)


COST_MODELS: Registry[Callable[..., CostModel]] = Registry("cost model", at="adasap.pruning.COST_MODELS")
"""Name in a budget -> what is called with model, groups and example inputs, and with `cost_options` by keyword."""
COST_MODELS.register("parameters", "adasap.pruning.cost:count_parameters")
COST_MODELS.register("macs", "adasap.pruning.macs:MACs")
COST_MODELS.register("latency", "adasap.profiling.table:latency_cost")


def cost_builder(name: str) -> Callable[..., CostModel]:
    """The registered cost model of that name, or the user's own: `package.module:Class`, whose code runs.

    Raises:
        RecipeError: If there is none.
    Example:
        >>> cost_builder("macs").__name__
        'MACs'
        >>> cost_builder("mac")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        adasap.errors.RecipeError: there is no cost model 'mac'; did you mean 'macs'?...
    """
    return imported(name, what="cost model", error=RecipeError) if is_own_cost(name) else COST_MODELS.get(name)


def is_own_cost(name: str) -> bool:
    """Whether a name is that of code of the user's, which a stranger's file may not run.

    Example:
        >>> is_own_cost("mypackage.energy:Energy"), is_own_cost("macs")
        (True, False)
    """
    return ":" in name and name not in COST_MODELS


def amount(cost: float) -> str:
    """A cost as people read it: large ones in whole numbers, small ones with four digits.

    Example:
        >>> amount(1234567.0), amount(3.14159)
        ('1,234,567', '3.142')
    """
    return f"{cost:,.0f}" if cost >= 1000 or cost == int(cost) else f"{cost:.4g}"


def count_parameters(model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs) -> Parameters:
    """`Parameters` of a model, which no example inputs change."""
    return Parameters(model, groups)


class Parameters:
    """Number of parameters, trainable or not, shared ones once; buffers do not count.

    Group names survive cuts, so the object built on the dense model stays valid for every later event.

    Example:
        >>> Parameters(nn.Linear(3, 4), groups=()).total({})
        16
    """

    unit = "parameters"

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        model = unwrap(model)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._sum = WidthPolynomial(groups, [Term(1, name, shape) for name, shape in shapes.items()])
        self.dense = int(self._sum.at({}))

    def total(self, widths: Mapping[str, float]) -> float:
        """Parameters at these widths (group name -> channels); a group that is not named is whole."""
        total = self._sum.at(widths)
        return int(total) if total.is_integer() else total

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The costs where one group takes each of these widths and the others stay, float64 [choices]."""
        return self._sum.along(widths, group, choices)


@dataclass(frozen=True)
class Term:
    """Coefficient times the number of entries of one parameter, or of those that belong to some groups.

    Attributes:
        coefficient: What one entry costs.
        name: The parameter.
        shape: Its axes, or the first of them.
        groups: Where not empty, indices of an axis count that these own, and no others.
    """

    coefficient: float
    name: str
    shape: tuple[int, ...]
    groups: tuple[str, ...] = ()


class WidthPolynomial:
    """Sum over parameters of coefficient x product over axes of (fixed + sum over groups of K_g x width_g).

    K_g is how many indices of the axis one channel of group g owns; fixed is the rest of the axis. Sums are
    exact up to 2^53. Parameters and constants of modules that are taken out count nothing.

    Args:
        groups: Whose widths vary.
        terms: The parameters.
        constants: Module -> what it costs at any widths.
    """

    def __init__(
        self, groups: Sequence[ChannelGroup], terms: Sequence[Term], constants: Mapping[str, float] | None = None
    ) -> None:
        self._whole = widths(groups)
        self._constants = constants or {}
        column = {name: index for index, name in enumerate(self._whole)}
        owned = owned_per_channel(groups)
        rows: dict[tuple[str, int, tuple[str, ...]], int] = {}
        matrix, fixed = (
            [torch.zeros(len(column), dtype=torch.float64)],
            [1.0],
        )  # row 0: an axis that is always 1
        coefficients, factors = [], []
        for term in terms:
            coefficient, places = float(term.coefficient), []
            for dim, size in enumerate(term.shape):
                if (axis := (term.name, dim)) not in owned:
                    coefficient *= size
                    continue
                if (part := (*axis, term.groups)) not in rows:
                    row = torch.zeros(len(column), dtype=torch.float64)
                    for name, per_channel in owned[axis].items():
                        row[column[name]] = per_channel if name in (term.groups or owned[axis]) else 0
                    rows[part] = len(matrix)
                    matrix.append(row)
                    fixed.append(0.0 if term.groups else size - sum(k * self._whole[n] for n, k in owned[axis].items()))
                places.append(rows[part])
            coefficients.append(coefficient)
            factors.append(places)
        longest = max((len(places) for places in factors), default=0)
        padded = [places + [0] * (longest - len(places)) for places in factors]
        self._matrix, self._fixed = torch.stack(matrix), torch.tensor(fixed, dtype=torch.float64)
        self._coefficients = torch.tensor(coefficients, dtype=torch.float64)
        self._names = [term.name for term in terms]
        self._factors = torch.tensor(padded, dtype=torch.int64).view(len(padded), longest)

    def at(self, widths: Mapping[str, float]) -> float:
        """The sum at these widths; groups that are not named are whole.

        Raises:
            ArgumentError: For a name that is no group.
        """
        widths, gone = modules_absent(widths)
        return float(self._at(self._vector(widths).unsqueeze(0), gone))

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The sums where one group takes each of these widths and the others stay, float64 [choices]."""
        widths, gone = modules_absent(widths)
        vectors = self._vector(widths).repeat(len(choices), 1)
        vectors[:, list(self._whole).index(group)] = torch.tensor(choices, dtype=torch.float64)
        return self._at(vectors, gone)

    def _vector(self, widths: Mapping[str, float]) -> Tensor:
        if unknown := widths.keys() - self._whole.keys():
            raise ArgumentError(f"no channel group is called {min(unknown)!r}: the cost was built on other groups")
        return torch.tensor([widths.get(n, whole) for n, whole in self._whole.items()], dtype=torch.float64)

    def _at(self, vectors: Tensor, gone: Removed) -> Tensor:
        """float64 [n, groups] -> [n], without the parameters of modules that are taken out."""
        sizes = vectors @ self._matrix.T + self._fixed
        coefficients = self._coefficients
        if gone:
            coefficients = coefficients * torch.tensor([not is_within(name, gone) for name in self._names])
        constant = sum(cost for name, cost in self._constants.items() if not is_within(name, gone))
        return (coefficients * sizes[:, self._factors].prod(2)).sum(1) + constant


def owned_per_channel(groups: Sequence[ChannelGroup]) -> dict[tuple[str, int], dict[str, int]]:
    """(name, dim) -> group name -> how many indices of the axis each channel owns."""
    owned: dict[tuple[str, int], dict[str, int]] = {}
    for group in groups:
        seen: dict[tuple[str, int], list[Slot]] = {}
        for slot in group.slots:
            earlier = seen.setdefault((slot.name, slot.dim), [])
            if not any(_same_positions(slot.positions, other.positions) for other in earlier):
                earlier.append(slot)
        for axis, slots in seen.items():
            owned.setdefault(axis, {})[group.name] = sum(slot.positions.shape[1] for slot in slots)
    return owned


def _same_positions(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
