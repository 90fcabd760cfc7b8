"""What `analysis.json` must hold, checked where it is read: anybody may have written it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from adasap.errors import DataError
from adasap.schema import Amount, Count, Fraction, Size, checked

Known = Annotated[float, Field(ge=-1e300, le=1e300)] | None
"""A measured number; None where it was not finite."""
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Numbers = list[Number]


@dataclass(frozen=True)
class PartData:
    """Of every part."""

    options: dict[str, Any]
    seconds: Amount


@dataclass(frozen=True)
class MeanData:
    """Of `worst_case.over_batches`."""

    mean: Known
    low: Known
    high: Known
    batches: list[Known]


@dataclass(frozen=True)
class LossData(PartData, MeanData):
    """Of the instrument `loss`."""

    parameters: Count


@dataclass(frozen=True)
class RadiusData:
    """Of `WorstCase`."""

    radius: Amount
    steps: Count
    one_step: MeanData
    n_step: MeanData


@dataclass(frozen=True)
class WorstCaseData(PartData):
    """Of the instrument `worst_case`."""

    radii: Annotated[list[RadiusData], Field(min_length=1)]


@dataclass(frozen=True)
class DeviationData(MeanData):
    """Of `AverageCase`."""

    deviation: Amount
    draws: Count


@dataclass(frozen=True)
class AverageCaseData(PartData):
    """Of the instrument `average_case`."""

    deviations: Annotated[list[DeviationData], Field(min_length=1)]


@dataclass(frozen=True)
class BlockData:
    """Of `Eigenvalues`."""

    largest: Annotated[Numbers, Field(min_length=1)]
    residuals: Annotated[Numbers, Field(min_length=1)]
    smallest: Number
    smallest_residual: Number
    stopped: str

    def __post_init__(self) -> None:
        if len(self.largest) != len(self.residuals):
            raise ValueError("give a residual for each eigenvalue")


@dataclass(frozen=True)
class EigenvaluesData(PartData, BlockData):
    """Of the instrument `eigenvalues`."""

    method: str


@dataclass(frozen=True)
class EstimateData:
    """A trace."""

    value: Known
    standard_error: Known


@dataclass(frozen=True)
class TraceData(PartData):
    """Of the instrument `trace`."""

    value: Known
    standard_error: Known
    size: Size
    layers: dict[str, EstimateData]
    groups: dict[str, EstimateData]
    channels: dict[str, list[Known]]


@dataclass(frozen=True)
class DensityData(PartData):
    """Of the instrument `density`: nodes and weights of each probe."""

    nodes: Annotated[list[Annotated[Numbers, Field(min_length=1)]], Field(min_length=1)]
    weights: list[Numbers]
    size: Size
    method: str

    def __post_init__(self) -> None:
        if [len(row) for row in self.nodes] != [len(row) for row in self.weights]:
            raise ValueError("give a weight for each node")


@dataclass(frozen=True)
class BlocksData(PartData):
    """Of the instrument `blocks`."""

    blocks: dict[str, BlockData]


@dataclass(frozen=True)
class ChannelData:
    """A channel that was removed."""

    group: str
    channel: Count
    goes: bool
    damage: Known
    predicted: Known
    slope: Known
    curvature: Known
    importance: dict[str, Number]


@dataclass(frozen=True)
class ChannelsData(PartData):
    """Of the instrument `channels`."""

    rows: list[ChannelData]

    def __post_init__(self) -> None:
        if len({tuple(row.importance) for row in self.rows}) > 1:
            raise ValueError("give the same criteria for each channel")


@dataclass(frozen=True)
class LandscapeData(PartData):
    """Of the instrument `landscape`: a row of losses for each direction, or for each position of the first."""

    positions: Annotated[Numbers, Field(min_length=1)]
    losses: list[list[Known]]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.positions) for row in self.losses):
            raise ValueError("give a loss for each position")


@dataclass(frozen=True)
class CorrelationData:
    """Of `ranks.channel_summary`."""

    pooled: Known
    within: Known


@dataclass(frozen=True)
class HalvesData:
    """Of `ranks.channel_summary`."""

    median_going: Known
    median_staying: Known
    probability_going_is_smaller: Fraction | None


@dataclass(frozen=True)
class SummaryData:
    """Of `ranks.channel_summary`."""

    correlations: dict[str, dict[str, CorrelationData]]
    going_against_staying: dict[str, HalvesData]


@dataclass(frozen=True)
class ModelData:
    """Instrument -> part -> numbers, and the summary."""

    loss: dict[str, LossData] = field(default_factory=dict)
    worst_case: dict[str, WorstCaseData] = field(default_factory=dict)
    average_case: dict[str, AverageCaseData] = field(default_factory=dict)
    eigenvalues: dict[str, EigenvaluesData] = field(default_factory=dict)
    trace: dict[str, TraceData] = field(default_factory=dict)
    density: dict[str, DensityData] = field(default_factory=dict)
    blocks: dict[str, BlocksData] = field(default_factory=dict)
    channels: dict[str, ChannelsData] = field(default_factory=dict)
    landscape: dict[str, LandscapeData] = field(default_factory=dict)
    summary: dict[str, SummaryData] = field(default_factory=dict)

    def __post_init__(self) -> None:
        traces = {group: len(values) for part in self.trace.values() for group, values in part.channels.items()}
        rows = [row for part in self.channels.values() for row in part.rows]
        if any(row.channel >= traces.get(row.group, row.channel + 1) for row in rows):
            raise ValueError("give a trace for each channel")


PARTS = {
    "loss": {"loss"},
    "eigenvalues": {"whole model"},
    "trace": {"trace"},
    "density": {"density"},
    "blocks": {"layers", "groups"},
    "channels": {"channels"},
    "landscape": {"line", "plane"},
    "summary": {"channels"},
}
"""Instrument -> its parts, where their names are not those of the options."""


@dataclass(frozen=True)
class AnalysisData:
    """The whole file."""

    format: str
    identity: dict[str, Any]
    models: dict[str, ModelData]
    command: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    batch_norm: str = "frozen"


def check_analysis(content: Mapping[str, Any], *, where: str) -> None:
    """Raises unless the content is that of an analysis: every part with its numbers.

    Raises:
        DataError: Names the first place that is missing or wrong.
    """
    checked(AnalysisData, content, where=where)
    for name, model in content["models"].items():
        for instrument, parts in model.items():
            if instrument not in ModelData.__dataclass_fields__:  # somebody's own
                checked(dict[str, PartData], parts, where=f"{where}: models.{name}.{instrument}")
            wanted = PARTS.get(instrument, parts.keys())
            if unknown := parts.keys() - wanted:
                raise DataError(f"{where}: models.{name}.{instrument} has an unknown part {min(unknown)[:80]!r}")
            if len(wanted) == 1 and not parts:
                raise DataError(f"{where}: models.{name}.{instrument}.{min(wanted)} is missing")
