"""The multiple-choice knapsack: one choice from each group, the most value for a limited cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def best_choices(values: Sequence[Tensor], costs: Sequence[Tensor], limit: float, *, gap: float = 0.0) -> list[int]:
    """The place of the choice in each group.

    One price for all groups gives a good solution and a bound on every other; choices that cannot be part of a better
    one are left out, and HiGHS decides about the rest.

    Args:
        values: Per group the value of each choice, float64.
        costs: Per group the cost of each choice, float64; may be negative.
        limit: What the choices may cost together.
        gap: Share of the value by which the solution may miss the best one; 0 is exact.
    Returns:
        The choices; in each group the cheapest one where even these cost more than the limit.
    Example:
        >>> values = [torch.tensor([1.0, 5.0], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)]
        >>> costs = [torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)]
        >>> best_choices(values, costs, 4.0)
        [1, 0]
    """
    start, candidates, missed = _core(values, costs, limit)
    if missed <= gap:
        return start
    found = _by_highs(
        [v[c] for v, c in zip(values, candidates, strict=True)],
        [v[c] for v, c in zip(costs, candidates, strict=True)],
        limit,
        gap,
    )
    return start if found is None else [int(c[i]) for c, i in zip(candidates, found, strict=True)]


def _core(values: Sequence[Tensor], costs: Sequence[Tensor], limit: float) -> tuple[list[int], list[Tensor], float]:
    """A good solution by one price for all groups, per group the choices that a better one could take, and the gap.

    With a price p per unit of cost, sum of max(value - p cost) + p limit bounds every solution from above. A choice
    whose own bound lies below the solution at hand cannot be part of a better one.
    """
    width = max(map(len, values))
    v = torch.stack([torch.nn.functional.pad(x, (0, width - len(x)), value=-torch.inf) for x in values])
    c = torch.stack([torch.nn.functional.pad(x, (0, width - len(x))) for x in costs])

    def at(price: float) -> Tensor:
        return (v - price * c).argmax(1, keepdim=True)

    low, high = 0.0, 1.0
    while float(c.gather(1, at(high)).sum()) > limit and high < 1e18:
        high *= 4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if float(c.gather(1, at(middle)).sum()) > limit else (low, middle)
    chosen = at(high)
    if float(c.gather(1, chosen).sum()) > limit:  # too dear at any price
        return [int(x.argmin()) for x in costs], [x.argmin().view(1) for x in costs], 0.0
    _fill_(chosen, v, c, limit)
    reduced = v - high * c
    best = reduced.max(1, keepdim=True).values
    value = float(v.gather(1, chosen).sum())
    slack = float(best.sum()) + high * limit - value
    useful = reduced >= best - slack * (1 + 1e-9) - 1e-12 * float(v[v.isfinite()].max())
    return chosen.flatten().tolist(), [row.nonzero().flatten() for row in useful], slack / max(value, 1e-300)


def _fill_(chosen: Tensor, values: Tensor, costs: Tensor, limit: float) -> None:
    """Spends what is left on the exchange of one choice that gains the most, until none fits; in place."""
    while True:
        gain = values - values.gather(1, chosen)
        fits = costs - costs.gather(1, chosen) <= limit - costs.gather(1, chosen).sum()
        gain = torch.where(fits, gain, -torch.inf)
        best = int(gain.argmax())
        if not gain.flatten()[best] > 0:
            return
        chosen[best // values.shape[1]] = best % values.shape[1]


def _by_highs(values: Sequence[Tensor], costs: Sequence[Tensor], limit: float, gap: float) -> list[int] | None:
    """The multiple-choice knapsack solved by HiGHS, the place of the choice in each group; None if it found none."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = [len(x) for x in values]
    v, c = torch.cat(list(values)).numpy(), torch.cat(list(costs)).numpy()
    owner = np.repeat(np.arange(len(sizes)), sizes)
    one_each = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    scale = max(abs(c).max(), 1e-300)
    result = milp(
        -v / max(abs(v).max(), 1e-300),
        integrality=np.ones(len(owner)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(csr_array(c[None] / scale), -np.inf, limit / scale),
        ],
        options={"mip_rel_gap": gap, "time_limit": 10.0},
    )
    return None if result.x is None else [int(part.argmax()) for part in np.split(result.x, np.cumsum(sizes[:-1]))]
