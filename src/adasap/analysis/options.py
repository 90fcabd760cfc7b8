"""What is measured, and how finely: the options of each instrument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adasap.analysis.channels import Side
from adasap.checks import MOST_SEED, require_declared, require_within
from adasap.errors import RecipeError


@dataclass(frozen=True)
class WorstCaseOptions:
    """Ascent in balls; no radii leave a kind of ball out.

    Attributes:
        l2: Radii of euclidean balls, in weight units; SAM trains with about 0.05.
        adaptive_l2: Radii relative to the weights; ASAM trains with about 0.5.
        linf, adaptive_linf: The same for the largest entry.
        steps: Ascent steps.
    """

    l2: tuple[float, ...] = (0.02, 0.05, 0.1)
    adaptive_l2: tuple[float, ...] = (0.1, 0.2, 0.5)
    linf: tuple[float, ...] = (1e-4, 2e-4, 5e-4)
    adaptive_linf: tuple[float, ...] = (1e-3, 2e-3, 5e-3)
    steps: int = 5

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        _require_lengths(l2=self.l2, adaptive_l2=self.adaptive_l2, linf=self.linf, adaptive_linf=self.adaptive_linf)
        _require_counts(steps=self.steps)


@dataclass(frozen=True)
class AverageCaseOptions:
    """Gaussian offsets; no deviations leave a kind out.

    Attributes:
        deviations: In weight units.
        adaptive_deviations: Relative to each weight.
        draws: Of the noise.
    """

    deviations: tuple[float, ...] = (0.002, 0.005, 0.01)
    adaptive_deviations: tuple[float, ...] = (0.05, 0.1, 0.2)
    draws: int = 10

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        _require_lengths(deviations=self.deviations, adaptive_deviations=self.adaptive_deviations)
        _require_counts(least=2, draws=self.draws)


@dataclass(frozen=True)
class HessianOptions:
    """Eigenvalues, trace and density.

    Attributes:
        batches: How many of the batches the Hessian is taken over.
        eigenvalues: How many of the largest.
        tolerance: Largest residual, relative to the largest eigenvalue.
        max_products: Most products of the search for eigenvalues.
        trace_draws: Signs of the trace.
        density_probes, density_steps: Random vectors of the spectral density, and products for each.
        block_products: Most products for the largest eigenvalue of each layer and of each group; 0 leaves them out.
        graph_bytes: Graphs of the gradients are kept between products if all of them take less.
    """

    batches: int = 4
    eigenvalues: int = 5
    tolerance: float = 1e-3
    max_products: int = 40
    trace_draws: int = 16
    density_probes: int = 2
    density_steps: int = 20
    block_products: int = 6
    graph_bytes: int = 2_000_000_000

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        _require_counts(least=2, trace_draws=self.trace_draws)
        _require_counts(least=0, block_products=self.block_products)
        require_within(RecipeError, 0, 1e15, graph_bytes=self.graph_bytes)
        _require_counts(
            batches=self.batches,
            eigenvalues=self.eigenvalues,
            max_products=self.max_products,
            density_probes=self.density_probes,
            density_steps=self.density_steps,
        )
        if not self.tolerance > 0 or self.max_products < self.eigenvalues:
            raise RecipeError(
                f"tolerance is {self.tolerance} and max_products {self.max_products} for {self.eigenvalues} "
                "eigenvalues; give a tolerance above 0 and at least one product per eigenvalue"
            )


@dataclass(frozen=True)
class ChannelOptions:
    """Removal of single channels.

    Attributes:
        batches: How many of the batches the losses are taken over.
        most: Channels that are looked at; of more a random part.
        side: Which parameters go to zero along the direction of removal.
        criteria: Importances that are compared with; the first one decides what would go, if no plan does.
        kept: Fraction of the parameters that would stay.
        rho_min, rho_max: Ends of the adaptive radii, from the criterion `l2`.
    """

    batches: int = 2
    most: int = 512
    side: Side = "reading"
    criteria: tuple[str, ...] = ("l2", "taylor")
    kept: float = 0.5
    rho_min: float = 0.01
    rho_max: float = 2.0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        _require_counts(batches=self.batches)
        require_within(RecipeError, 1, 10_000_000, most=self.most)
        require_within(RecipeError, 0, 1e6, rho_min=self.rho_min, rho_max=self.rho_max)
        if not 0 < self.kept <= 1 or not self.criteria:
            raise RecipeError(f"kept is {self.kept} and criteria {self.criteria}; give a fraction and a criterion")


@dataclass(frozen=True)
class LandscapeOptions:
    """The loss along random directions.

    Attributes:
        batches: How many of the batches the loss is taken over.
        extent: Furthest position, as a multiple of the filters' lengths.
        points: Positions of a line, odd.
        plane: Positions along each side of a plane, odd; 1 leaves it out.
        directions: Lines.
    """

    batches: int = 4
    extent: float = 0.5
    points: int = 21
    plane: int = 11
    directions: int = 2

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        _require_lengths(extent=(self.extent,))
        _require_counts(batches=self.batches, points=self.points, directions=self.directions)
        require_within(RecipeError, 1, 501, plane=self.plane)
        if self.points % 2 == 0 or self.plane % 2 == 0:
            raise RecipeError(
                f"points is {self.points} and plane {self.plane}; give odd numbers, with w in their middle"
            )


@dataclass(frozen=True)
class AnalysisOptions:
    """All instruments.

    Attributes:
        seed: Of every random draw.
    """

    seed: int = 0
    worst_case: WorstCaseOptions = field(default_factory=WorstCaseOptions)
    average_case: AverageCaseOptions = field(default_factory=AverageCaseOptions)
    hessian: HessianOptions = field(default_factory=HessianOptions)
    channels: ChannelOptions = field(default_factory=ChannelOptions)
    landscape: LandscapeOptions = field(default_factory=LandscapeOptions)

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_within(RecipeError, 0, MOST_SEED, seed=self.seed)


def _require_lengths(**lengths: Sequence[float]) -> None:
    require_within(RecipeError, 0, 1e6, **lengths)
    for name, values in lengths.items():
        if len(values) > 100:
            raise RecipeError(f"{name} has {len(values)} numbers; give at most 100")


def _require_counts(*, least: int = 1, **counts: int) -> None:
    require_within(RecipeError, least, 10_000, **counts)
