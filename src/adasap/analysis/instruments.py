"""The instruments by name, each made of parts that are computed and kept one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from adasap.analysis.average_case import average_sharpness
from adasap.analysis.blocks import channel_blocks, group_blocks, layer_blocks
from adasap.analysis.channels import channel_removals, some_channels
from adasap.analysis.hessian import Hessian
from adasap.analysis.lanczos import top_eigenvalues
from adasap.analysis.landscape import filter_normalised_direction, loss_line, loss_plane, symmetric_grid
from adasap.analysis.memory import graph_bytes
from adasap.analysis.options import AnalysisOptions
from adasap.analysis.spectrum import hutchinson_trace, random_signs, spectral_density
from adasap.analysis.subject import Subject, fits
from adasap.analysis.worst_case import over_batches, worst_case_sharpness
from adasap.registry import Registry
from adasap.sharpness import adaptive_radius
from adasap.sharpness.options import Geometry

Json = dict[str, Any]
Progress = Callable[[str], None]
"""Told what was just done within a part."""
Part = Callable[[Progress], Json]


@dataclass(frozen=True)
class Instrument:
    """Something that is measured of every model.

    Attributes:
        parts: Called with the subject and the options; gives part -> what computes its numbers, ready for JSON.
        section: The section of `AnalysisOptions` that the numbers depend on, beside the seed.
        settings: What else they depend on: of a user's own. A part that was kept under others is computed again.
    """

    parts: Callable[[Subject, AnalysisOptions], Mapping[str, Part]]
    section: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def depends_on(self, options: AnalysisOptions) -> Json:
        """The options that its numbers depend on."""
        found: dict[str, Any] = asdict(getattr(options, self.section)) if self.section else {}
        found.pop("graph_bytes", None)  # changes time and memory alone
        return {"seed": options.seed, **found, **self.settings}


def loss(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """The loss itself."""

    def part(_: Progress) -> Json:
        num_parameters = sum(p.numel() for p in subject.objective.parameters.values())
        return {**over_batches(subject.objective.losses()), "parameters": num_parameters}

    return {"loss": part}


def worst_case(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """Sharpness in each kind of ball, at all its radii."""
    chosen = options.worst_case
    kinds: dict[str, tuple[Geometry, str, tuple[float, ...]]] = {
        "l2": ("euclidean", "l2", chosen.l2),
        "adaptive l2": ("elementwise", "l2", chosen.adaptive_l2),
        "l-infinity": ("euclidean", "linf", chosen.linf),
        "adaptive l-infinity": ("elementwise", "linf", chosen.adaptive_linf),
    }

    def part(geometry: Geometry, norm: Any, radii: tuple[float, ...]) -> Part:
        def compute(_: Progress) -> Json:
            found = worst_case_sharpness(subject.objective, radii, geometry=geometry, norm=norm, steps=chosen.steps)
            return {"radii": [result.to_json() for result in found]}

        return compute

    return {name: part(*kind) for name, kind in kinds.items() if kind[2]}


def average_case(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """Rise under Gaussian noise, at all deviations."""
    chosen = options.average_case
    kinds: dict[str, tuple[Geometry, tuple[float, ...]]] = {
        "gaussian": ("euclidean", chosen.deviations),
        "adaptive gaussian": ("elementwise", chosen.adaptive_deviations),
    }

    def part(geometry: Geometry, deviations: tuple[float, ...]) -> Part:
        def compute(_: Progress) -> Json:
            found = average_sharpness(
                subject.objective, deviations, geometry=geometry, draws=chosen.draws, seed=options.seed
            )
            return {"deviations": [result.to_json() for result in found]}

        return compute

    return {name: part(*kind) for name, kind in kinds.items() if kind[1]}


def eigenvalues(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """The largest eigenvalues of the Hessian of the whole model."""
    chosen = options.hessian

    def part(_: Progress) -> Json:
        product = hessian_of(subject, options)
        found = top_eigenvalues(
            product,
            product.random_start(options.seed),
            min(chosen.eigenvalues, product.size),
            tolerance=chosen.tolerance,
            max_steps=chosen.max_products,
        )
        return {**found.to_json(), **how(product)}

    return {"whole model": part}


def trace(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """Trace of the Hessian, and of its blocks by layer, group and channel, from the same draws."""

    def part(_: Progress) -> Json:
        product, objective = hessian_of(subject, options), subject.objective
        blocks = {f"layer {name}": block for name, block in layer_blocks(objective).items()}
        blocks |= {f"group {name}": block for name, block in group_blocks(objective, subject.groups).items()}
        of_channels = channel_blocks(objective, subject.groups)
        blocks |= {f"channel {n} {i}": block for n, rows in of_channels.items() for i, block in enumerate(rows)}
        found = hutchinson_trace(
            product, product.size, draws=options.hessian.trace_draws, seed=options.seed, parts=blocks, like=product.like
        ).to_json()
        parts = found.pop("parts")
        return {
            **found,
            **how(product),
            "layers": {name: parts[f"layer {name}"] for name in layer_blocks(objective)},
            "groups": {name: parts[f"group {name}"] for name in group_blocks(objective, subject.groups)},
            "channels": {
                name: [parts[f"channel {name} {i}"]["value"] for i in range(len(rows))]
                for name, rows in of_channels.items()
            },
        }

    return {"trace": part}


def density(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """Spectral density of the Hessian."""
    chosen = options.hessian

    def part(_: Progress) -> Json:
        product, generator = hessian_of(subject, options), torch.Generator().manual_seed(options.seed)
        probes = [random_signs(product.size, generator, product.like) for _ in range(chosen.density_probes)]
        return {**spectral_density(product, probes, steps=chosen.density_steps).to_json(), **how(product)}

    return {"density": part}


def blocks(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """The largest eigenvalue of each layer's and of each group's block of the Hessian."""
    if not options.hessian.block_products:
        return {}

    def part(kind: str) -> Part:
        def compute(progress: Progress) -> Json:
            some = subject.objective
            every = layer_blocks(some) if kind == "layers" else group_blocks(some, subject.groups)
            found, method, keep = {}, "", keeps_graphs(subject, options)
            for number, (name, block) in enumerate(every.items(), start=1):
                product = Hessian(some.first(options.hessian.batches), coordinates=block, keep_graphs=keep)
                found[name] = top_eigenvalues(
                    product,
                    product.random_start(options.seed),
                    tolerance=10 * options.hessian.tolerance,
                    max_steps=options.hessian.block_products,
                ).to_json()
                method = product.method
                progress(f"{number} of {len(every)}")
            return {"blocks": found, "method": method, "tolerance": 10 * options.hessian.tolerance}

        return compute

    return {kind: part(kind) for kind in ("layers", "groups")}


def channels(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """Removal damage, slope and curvature of single channels, beside their importance and radius."""
    chosen = options.channels

    def part(progress: Progress) -> Json:
        some = some_channels(subject.groups, chosen.most, seed=options.seed)
        if not some:
            return {"rows": [], "side": chosen.side, "method": ""}
        scores = {name: subject.importance(name, chosen.batches) for name in dict.fromkeys((*chosen.criteria, "l2"))}
        kept = subject.kept(chosen, scores[chosen.criteria[0]])
        yardsticks = {name: scores[name] for name in chosen.criteria}
        yardsticks["radius"] = adaptive_radius(scores["l2"], rho_min=chosen.rho_min, rho_max=chosen.rho_max)
        done = iter(range(1, len(some) + 1))
        found = channel_removals(
            subject.objective.first(chosen.batches),
            subject.groups,
            channels=some,
            side=chosen.side,
            advance=lambda: progress(f"{next(done)} of {len(some)}"),
        )
        rows = [
            {
                "group": group,
                "channel": channel,
                "goes": channel not in kept[group],
                **{key: known(getattr(found, key)[place].item()) for key in MEASURED},
                "importance": {name: values[group][channel].item() for name, values in yardsticks.items()},
            }
            for place, (group, channel) in enumerate(found.channels)
        ]
        by_plan = subject.plan is not None and fits(subject.plan, subject.groups)
        return {"rows": rows, "side": found.side, "method": found.method, "goes_by": "plan" if by_plan else "criterion"}

    return {"channels": part}


def landscape(subject: Subject, options: AnalysisOptions) -> dict[str, Part]:
    """The loss along filter-normalised directions and in the plane of the first two."""
    chosen, some = options.landscape, subject.objective.first(options.landscape.batches)

    def direction(number: int) -> dict[str, torch.Tensor]:
        return filter_normalised_direction(some, seed=1000 * options.seed + number)

    def line(_: Progress) -> Json:
        grid = symmetric_grid(chosen.extent, chosen.points)
        found = [loss_line(some, direction(number), grid) for number in range(chosen.directions)]
        return {"positions": grid, "losses": [[known(value) for value in losses] for losses in found]}

    def plane(_: Progress) -> Json:
        grid = symmetric_grid(chosen.extent, chosen.plane)
        found = loss_plane(some, direction(0), direction(1), grid)
        return {"positions": grid, "losses": [[known(value) for value in row] for row in found]}

    parts: dict[str, Part] = {"line": line}
    return parts | ({"plane": plane} if chosen.plane > 1 else {})


def hessian_of(subject: Subject, options: AnalysisOptions) -> Hessian:
    """The Hessian over the first batches."""
    return Hessian(subject.objective.first(options.hessian.batches), keep_graphs=keeps_graphs(subject, options))


def keeps_graphs(subject: Subject, options: AnalysisOptions) -> bool:
    """Whether the graphs of all batches are small enough to be kept between products."""
    some = subject.objective.first(options.hessian.batches)
    return len(some.batches) * graph_bytes(some) <= options.hessian.graph_bytes


def how(product: Hessian) -> Json:
    """How products were computed, and why so."""
    return {"method": product.method, **({"because": product.reason} if product.reason else {})}


def known(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None


MEASURED = ("damage", "predicted", "slope", "curvature")
"""What `channel_removals` says of each channel."""

INSTRUMENTS: Registry[Instrument] = Registry(
    "instrument",
    {
        "loss": Instrument(loss),
        "worst_case": Instrument(worst_case, "worst_case"),
        "average_case": Instrument(average_case, "average_case"),
        "eigenvalues": Instrument(eigenvalues, "hessian"),
        "trace": Instrument(trace, "hessian"),
        "density": Instrument(density, "hessian"),
        "blocks": Instrument(blocks, "hessian"),
        "channels": Instrument(channels, "channels"),
        "landscape": Instrument(landscape, "landscape"),
    },
    at="adasap.analysis.INSTRUMENTS",
)
"""In the order in which they are run: the cheap ones and those others are compared with first; then your own."""
