"""What the files of a run folder must hold, checked where they are read: anybody may have written them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from adasap.errors import DataError
from adasap.schema import Amount, Count, Positive, Score, Size


@dataclass(frozen=True)
class LatencyData:
    """Of `profiling.profile.Latency`."""

    batch_size: Count
    p50_ms: Positive
    p95_ms: Positive


@dataclass(frozen=True)
class ProfileData:
    """Of `profiling.profile.Profile`."""

    parameters: Size
    macs: Size
    peak_memory_mb: Positive
    latency: Annotated[tuple[LatencyData, ...], Field(min_length=1)]
    uncounted: tuple[str, ...] = ()
    predictions: dict[str, tuple[LatencyData, ...]] = field(default_factory=dict)
    detection: tuple[LatencyData, ...] = ()  # of earlier versions


@dataclass(frozen=True)
class SuiteData:
    """Of `evaluation.SuiteResult`: scores by cell as digits or numbers, and metrics, null where not finite."""

    scores: Annotated[
        dict[str, Annotated[str, Field(pattern="^[01]+$")] | Annotated[list[Score], Field(min_length=1)]],
        Field(min_length=1),
    ]
    cells: dict[str, dict[str, float | None]]
    worst_class: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupData:
    """Channels of a group."""

    name: str
    before: Annotated[int, Field(gt=0, le=10**15)]
    after: Count
    frozen: tuple[str, ...] = ()
    not_exact: str = ""


@dataclass(frozen=True)
class CountersData:
    """What a run took."""

    step: Count
    passes: Amount
    skipped: Count
    training_seconds: Amount


@dataclass(frozen=True)
class EnvironmentData:
    """Of `report.environment`."""

    python: str
    system: str
    packages: dict[str, str | None]
    gpu: str | None
    cpu_count: int | None
    torch_threads: int


@dataclass(frozen=True)
class SharpnessData:
    """Of a recipe's phase."""

    kind: str | None = None


@dataclass(frozen=True)
class PhaseData:
    """Of a recipe."""

    epochs: float = 0.0
    sharpness: SharpnessData = field(default_factory=SharpnessData)


@dataclass(frozen=True)
class PruningData:
    """Of a recipe."""

    criterion: Any = "?"
    budget: dict[str, Any] = field(default_factory=dict)
    epochs: float = 0.0
    sharpness: SharpnessData = field(default_factory=SharpnessData)


@dataclass(frozen=True)
class RecipeData:
    """What the page says of a recipe."""

    seed: Any = 0
    pruning: PruningData = field(default_factory=PruningData)
    warm_up: PhaseData = field(default_factory=PhaseData)
    fine_tune: PhaseData = field(default_factory=PhaseData)


@dataclass(frozen=True)
class ResultData:
    """`result.json`; `files` are the digests of what else belongs to the run, None in runs of earlier versions."""

    name: str
    recipe: RecipeData
    environment: EnvironmentData
    stages: dict[str, dict[str, SuiteData]]
    profiles: dict[str, ProfileData]
    counters: CountersData
    seconds: Amount
    groups: tuple[GroupData, ...] | None = None
    plan: dict[str, tuple[int, int]] | None = None
    files: dict[str, str] | None = None
    command: str = ""
    target: str = ""


def picture_beside(listing: Path, name: str) -> Path:
    """An image file that lies beside the file that names it.

    Raises:
        DataError: For any other path, a link, or a file that is not there.
    """
    path = listing.parent / name
    if Path(name).name != name or "\\" in name or "\0" in name or path.is_symlink():
        raise DataError(f"{listing}: the image {name[:200]!r} does not lie beside it; only such files are shown")
    if not path.is_file():
        raise DataError(f"{listing}: the image {name[:200]!r} is missing; run the command that made it again")
    return path
