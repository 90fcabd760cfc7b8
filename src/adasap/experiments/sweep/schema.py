"""`sweep.json` read back: what it must hold, checked, for anybody may have written it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from adasap.errors import DataError
from adasap.metric import Metric
from adasap.schema import Amount, Count, Fraction, Positive, Score, Size, checked
from adasap.sealed import read_sealed_json


@dataclass(frozen=True)
class MeanData:
    """A mean over seeds; of one seed it has no interval."""

    value: Score
    low: Score | None = None
    high: Score | None = None

    def __post_init__(self) -> None:
        if (self.low is None) is not (self.high is None):
            raise ValueError("give both ends of the interval")


@dataclass(frozen=True)
class CellData:
    """A finished run; files of earlier versions lack what has a default.

    Attributes:
        corruptions: Suite -> corruption -> score after fine-tuning, mean over severities.
        seconds: Of the whole run, evaluation and all.
        environment: Which of the file's `environments` it was made in.
    """

    scores: dict[str, Score]
    stages: dict[str, dict[str, Score]]
    parameters: Size
    macs: Size
    parameters_kept: Positive
    macs_kept: Positive
    passes: Amount
    skipped: Amount
    training_seconds: Amount
    cell: str = ""
    corruptions: dict[str, dict[str, Score]] = field(default_factory=dict)
    seconds: Amount = 0
    environment: Count = 0


@dataclass(frozen=True)
class RunData:
    """All seeds of a run, the seed as text."""

    means: dict[str, MeanData]
    cells: dict[Annotated[str, Field(pattern="^[0-9]{1,19}$")], CellData]


@dataclass(frozen=True)
class ComparisonData:
    """A paired difference; the primary one has no corrected p-value."""

    run: str
    baseline: str
    suite: str
    seeds: Count
    value: Score
    low: Score
    high: Score
    p: Fraction
    primary: bool
    p_corrected: Fraction | None = None

    def __post_init__(self) -> None:
        if not self.primary and self.p_corrected is None:
            raise ValueError("give p_corrected")


@dataclass(frozen=True)
class PrimaryData:
    """The comparison that was named beforehand."""

    run: str
    baseline: str
    suite: str


@dataclass(frozen=True)
class FailedData:
    """A cell that failed."""

    run: str
    seed: Count
    error: str


@dataclass(frozen=True)
class SweepData:
    """The whole file."""

    name: str
    title: str
    seeds: list[Count]
    primary: PrimaryData | None
    baselines: list[str]
    environments: list[dict[str, Any]]
    recipes: dict[str, dict[str, Any]]
    runs: dict[str, RunData]
    comparisons: list[ComparisonData]
    failed: list[FailedData]
    not_run: list[tuple[str, Count]]
    metric: Metric | None = None

    def __post_init__(self) -> None:
        for name, run in self.runs.items():
            if any(cell.environment >= len(self.environments) for cell in run.cells.values()):
                raise ValueError(f"run {name!r:.100} has a cell of an environment that is not listed")


def load_results(
    path: Path, *, needs_digest: bool = True, remedy: str = "run `adasap sweep SWEEP --report`, which writes it again"
) -> dict[str, Any]:
    """What a sweep left, as `read_results` gave it.

    Args:
        path: `sweep.json` in the sweep's folder, or a results file.
        needs_digest: Whether files without a digest, as earlier versions wrote them, are refused.
        remedy: The next move, for messages.
    Raises:
        DataError: If it is missing, half-written, altered, or lacks something.
    """
    content = read_sealed_json(
        path, what="the results of a sweep", error=DataError, remedy=remedy, needs_digest=needs_digest
    )
    if "environments" not in content:  # as earlier versions, which kept that of the first cell and no recipes
        content |= {"environments": [content.pop("environment", {})], "recipes": {}}
    checked(SweepData, content, where=str(path))
    return content
