"""How much may be left: a fraction of the dense cost, or an absolute limit."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from adasap.checks import finite_number, require_declared
from adasap.errors import AdasapError, BudgetError, RecipeError
from adasap.groups.group import ChannelGroup
from adasap.groups.inputs import ExampleInputs
from adasap.pruning.cost import COST_MODELS, CostModel, cost_builder, is_own_cost


@dataclass(frozen=True)
class Budget:
    """A cost that must not be exceeded; give exactly one of `kept` and `limit`.

    Attributes:
        cost: What is counted.
        kept: Fraction of the dense cost that may stay, in (0, 1].
        limit: Absolute limit in the unit of `cost`; worked out from `kept` if that was given.
    Raises:
        BudgetError: Unless exactly one is given and it is in range.
    Example:
        >>> from torch import nn
        >>> from adasap.pruning.cost import Parameters
        >>> Budget(Parameters(nn.Linear(3, 4), ()), kept=0.5).limit
        8.0
    """

    cost: CostModel
    kept: float | None = None
    limit: float = None  # type: ignore[assignment]  # always a number once built; None only says "not given"

    def __post_init__(self) -> None:
        if (self.kept is None) == (self.limit is None):
            raise BudgetError(
                f"a budget takes exactly one of kept and limit, got kept={self.kept}, limit={self.limit}: "
                f"kept=0.5 is half of the dense cost, limit=1e9 is 1e9 {self.cost.unit}"
            )
        if self.kept is not None:
            fraction(self.kept, "kept")
            object.__setattr__(self, "limit", self.kept * self.cost.dense)
        else:
            finite_number(self.limit, f"limit (in {self.cost.unit})", above=0, error=BudgetError)


def fraction(value: object, name: str, *, error: type[AdasapError] = BudgetError) -> float:
    """The kept fraction of a cost, above 0 and at most 1.

    Example:
        >>> fraction(1.5, "kept")
        Traceback (most recent call last):
        adasap.errors.BudgetError: kept is 1.5; a fraction is at most 1, such as 0.5 for one half
    """
    number = finite_number(value, name, above=0, error=error)
    if number > 1:
        raise error(f"{name} is {value}; a fraction is at most 1, such as 0.5 for one half")
    return number


@dataclass(frozen=True)
class BudgetOptions:
    """Exactly one of the costs: `parameters`, `macs`, `latency`, `latency_ms`, or a `cost` by its registered name.

    Attributes:
        parameters: Parameters of the whole model: up to 1 the fraction kept, above 1 an absolute number.
        macs: Multiply-accumulates of one image, likewise.
        latency: Fraction of the dense model's time, by the latency table.
        latency_ms: Milliseconds of one forward pass over the table's batch.
        latency_table: File that `adasap profile MODEL --latency-table FILE` wrote on the device that is meant.
        cost: Another cost model: its name in `COST_MODELS`, or `package.module:Class`.
        kept: Of `cost`: the fraction kept, up to 1.
        limit: Of `cost`: an absolute number in its own unit, in place of `kept`.
        cost_options: Of `cost`: its arguments beside model, groups and example inputs.
        depth: Whether residual branches may go whole, beside channels, where that raises the loss less (docs/depth.md).

    Example:
        >>> BudgetOptions(macs=0.5).unit, BudgetOptions(parameters=1_000_000).value
        ('macs', 1000000)
    """

    parameters: float | None = None
    macs: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    latency_table: str | None = None
    cost: str | None = None
    kept: float | None = None
    limit: float | None = None
    cost_options: dict[str, Any] = field(default_factory=dict)
    depth: bool = False

    def __post_init__(self) -> None:
        if self.cost is not None:
            self._require_named(self.cost)
            return
        if self.kept is not None or self.limit is not None or self.cost_options:
            raise RecipeError(
                "the budget gives kept, limit or cost_options without cost, the name of the cost model they go with; "
                "for the known costs write the number itself: macs: 0.4"
            )
        if len(self._given) != 1:
            raise RecipeError(
                f"the budget gives {self._given or 'nothing'}; give exactly one of parameters, macs, latency and "
                "latency_ms, as a kept fraction such as 0.4 or as an absolute number"
            )
        number = finite_number(self.value, self.unit, above=0, error=RecipeError)
        if self.latency is not None and number > 1:
            raise RecipeError(f"latency is the kept fraction, up to 1, got {self.latency}; milliseconds are latency_ms")
        if self.unit in ("parameters", "macs") and number > 1 and not number.is_integer():
            raise RecipeError(
                f"{self.unit} is {self.value}; a fraction is at most 1, and an absolute number is whole: 1000000"
            )
        require_declared(self, RecipeError)
        if self.is_latency != (self.latency_table is not None):
            raise RecipeError(
                "latency and latency_ms need latency_table, and nothing else takes it: a file made on the device that "
                "is meant by `adasap profile MODEL --latency-table FILE`"
            )

    def _require_named(self, name: str) -> None:
        if self._given or self.latency_table is not None:
            raise RecipeError(
                f"the budget gives cost {name!r} and {self._given or 'a latency_table'}; give one of them"
            )
        require_declared(self, RecipeError)
        if (self.kept is None) == (self.limit is None):
            raise RecipeError(
                f"a budget of cost {name!r} takes exactly one of kept and limit, got kept={self.kept}, "
                f"limit={self.limit}; kept: 0.4 is a fraction, limit a number in the cost's own unit"
            )
        if self.kept is not None:
            fraction(self.kept, "kept", error=RecipeError)
        else:
            finite_number(self.limit, "limit", above=0, error=RecipeError)
        if not is_own_cost(name):
            COST_MODELS.get(name)

    @property
    def own_code(self) -> tuple[str, ...]:
        """The code of the user's that the budget names, if any; it runs when the cost is built, not before."""
        return (self.cost,) if self.cost is not None and is_own_cost(self.cost) else ()

    @property
    def _given(self) -> dict[str, float]:
        costs: dict[str, float | None] = {
            "parameters": self.parameters,
            "macs": self.macs,
            "latency": self.latency,
            "latency_ms": self.latency_ms,
        }
        return {unit: value for unit, value in costs.items() if value is not None}

    @property
    def unit(self) -> str:
        """Which cost is limited, by its key or its registered name."""
        return self.cost or next(iter(self._given))

    @property
    def value(self) -> float:
        """The fraction or absolute number."""
        return next(value for value in (self.kept, self.limit, *self._given.values()) if value is not None)

    @property
    def absolute(self) -> bool:
        """Whether the value is a number in the cost's own unit."""
        return self.limit is not None or self.value > 1 or self.unit == "latency_ms"

    @property
    def is_latency(self) -> bool:
        """Whether time is limited."""
        return self.unit in ("latency", "latency_ms")

    def of(self, cost: CostModel) -> Budget:
        """The budget itself, for a cost from `build_cost`."""
        return Budget(cost, limit=self.value) if self.absolute else Budget(cost, kept=self.value)


def build_cost(
    budget: BudgetOptions, model: nn.Module, groups: Sequence[ChannelGroup], inputs: ExampleInputs
) -> CostModel:
    """The cost a budget limits; `inputs` are one preprocessed image, or what `trace_groups` takes.

    Raises:
        BudgetError: If the latency table is missing, or was made for another model.
        RecipeError: If a cost model does not take the options that are given.
    """
    name, options = budget.unit, budget.cost_options
    if budget.is_latency:
        name, options = "latency", {"table": budget.latency_table}
    builder = cost_builder(name)
    try:
        inspect.signature(builder).bind(model, groups, inputs, **options)
    except TypeError as error:
        raise RecipeError(f"cost model {name!r} cannot be built with cost_options {options}: {error}") from error
    return builder(model, groups, inputs, **options)
