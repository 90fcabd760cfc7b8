"""The options of the loop itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from adasap.errors import RecipeError
from adasap.training.optimizer import OptimizerOptions, ScheduleOptions
from adasap.training.perturber import SharpnessOptions
from adasap.training.runtime import RuntimeOptions


@dataclass(frozen=True)
class TrainingOptions:
    """What all three steps share: one optimizer, one learning-rate schedule.

    Attributes:
        batch_size: Images per step over all ranks together.
        clip_norm: Largest norm of the final gradient, or None.
        average_decay: Decay of the moving average of the weights, or None for no average.
        sync_perturbation: Average the first gradient over the ranks (one ascent point instead of one per rank).
        num_workers: Processes that load images; 0 loads in the main one.
        checkpoint_every: Steps between checkpoints; one is also written after every pruning event.
        max_skipped: Steps in a row with a non-finite gradient after which the run stops.
    """

    batch_size: int = 128
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    clip_norm: float | None = None
    average_decay: float | None = None
    sync_perturbation: bool = False
    num_workers: int = 0
    checkpoint_every: int = 200
    max_skipped: int = 10

    def __post_init__(self) -> None:
        if min(self.batch_size, self.checkpoint_every, self.max_skipped) < 1:
            raise RecipeError("batch_size, checkpoint_every and max_skipped must be at least 1")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise RecipeError(f"average_decay is {self.average_decay}; give a number between 0 and 1, such as 0.999")


@dataclass(frozen=True)
class PhaseOptions:
    """One of the three steps: how long, and how sharpness-aware."""

    epochs: float = 1.0
    sharpness: SharpnessOptions = field(default_factory=SharpnessOptions)

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise RecipeError(f"epochs is {self.epochs}; give 0 or more")
