"""How much may be left: a fraction of the dense cost, or an absolute limit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adasap.errors import BudgetError
from adasap.pruning.cost import CostModel


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
            if not 0 < self.kept <= 1:
                raise BudgetError(f"kept is the fraction of the dense cost that stays, in (0, 1], got {self.kept}")
            object.__setattr__(self, "limit", self.kept * self.cost.dense)
        elif not self.limit > 0:
            raise BudgetError(f"limit must be above 0 {self.cost.unit}, got {self.limit}")

    @property
    def kept_fraction(self) -> float:
        """The limit as a fraction of the dense cost; above 1 if the limit is loose."""
        return self.limit / self.cost.dense

    def relaxed(self, kept: float) -> Budget:
        """The same cost with another kept fraction, as for an event on the way to this budget."""
        return replace(self, kept=kept, limit=None)  # type: ignore[arg-type]
