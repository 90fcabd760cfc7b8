"""The options of a run: what the three steps share, and each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from adasap.checks import MOST_EPOCHS, MOST_SEED, MOST_STEPS, require_above, require_declared, require_within
from adasap.errors import RecipeError
from adasap.evaluation import Loading
from adasap.pruning import PruningOptions
from adasap.sharpness import SharpnessOptions, Strength
from adasap.training.optimizer import OptimizerOptions, ScheduleOptions
from adasap.training.runtime import RuntimeOptions
from adasap.training.trackers import require_known

PHASES = ("warm-up", "pruning", "fine-tuning")
"""Names of the three steps, in order."""
DEFAULT_TRACKERS = ("tensorboard",)


@dataclass(frozen=True)
class EvaluationOptions:
    """How the model is scored after each stage; cells of suites are shared out over the processes of a run.

    Attributes:
        precision: Of the forward pass: `float32`, automatic mixed precision in `bf16` or `fp16` (GPU only), or
            `training`, that of the training steps.
        num_workers: Processes that read and corrupt images ahead, beside each process of the run; 0 does it there.
        batch_size: Images per batch; None is the suite's own choice.
    """

    precision: Literal["float32", "bf16", "fp16", "training"] = "float32"
    num_workers: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_within(RecipeError, 0, 256, num_workers=self.num_workers)
        require_within(RecipeError, 1, 1_000_000, batch_size=self.batch_size)

    @property
    def loading(self) -> Loading:
        """How batches are made."""
        return Loading(self.batch_size, self.num_workers)


@dataclass(frozen=True)
class TrainingOptions:
    """What all three steps share: one optimizer, one learning-rate schedule.

    Attributes:
        batch_size: Images per step over all ranks together.
        optimizer: Which one, and how fast.
        schedule: How the learning rate moves.
        runtime: Where it is computed, and how precisely.
        clip_norm: Largest norm of the final gradient, or None.
        average_decay: Decay of the moving average of the weights, or None for no average.
        sync_perturbation: Average the first gradient over the ranks (one ascent point instead of one per rank).
        num_workers: Processes that load images; 0 loads in the main one.
        checkpoint_every: Steps between checkpoints; one is also written after every pruning event.
        max_skipped: Steps in a row with a non-finite gradient after which the run stops.
        evaluation: How the stages are scored.
        trackers: Where curves are written, by names of Accelerate: `tensorboard` (`tensorboard/` in the run's folder),
            `wandb`, `mlflow` and others (`docs/logs.md`); none of them changes a number.
        keep_stages: Keep the weights of every stage in the run's folder, for `adasap analyze`.
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
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    trackers: tuple[str, ...] = DEFAULT_TRACKERS
    keep_stages: bool = field(default=False, repr=False)  # by its repr a run is known again; no number depends on this

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_known(self.trackers)
        if min(self.batch_size, self.checkpoint_every, self.max_skipped) < 1:
            raise RecipeError("batch_size, checkpoint_every and max_skipped must be at least 1")
        require_within(RecipeError, 1, 1_000_000, batch_size=self.batch_size)
        require_within(RecipeError, 1, MOST_STEPS, checkpoint_every=self.checkpoint_every, max_skipped=self.max_skipped)
        require_above(RecipeError, 0, 1e9, clip_norm=self.clip_norm)
        require_within(RecipeError, 0, 256, num_workers=self.num_workers)
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise RecipeError(f"average_decay is {self.average_decay}; give a number between 0 and 1, such as 0.999")


@dataclass(frozen=True)
class PhaseOptions:
    """One of the three steps: how long, and how sharpness-aware.

    Attributes:
        epochs: Passes over the training images; also a fraction.
        sharpness: How weights are perturbed in its steps.
    """

    epochs: float = 1.0
    sharpness: SharpnessOptions = field(default_factory=SharpnessOptions)

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_within(RecipeError, 0, MOST_EPOCHS, epochs=self.epochs)


@dataclass(frozen=True)
class FinalSharpnessOptions(SharpnessOptions):
    """As `SharpnessOptions`, but uniform unless it says otherwise."""

    kind: Literal["adaptive", "uniform", "plain"] = "uniform"


@dataclass(frozen=True)
class FineTuneOptions(PhaseOptions):
    """Step 3: how long, and with which uniform radius."""

    epochs: float = 3.0
    sharpness: FinalSharpnessOptions = field(default_factory=FinalSharpnessOptions)


@dataclass(frozen=True, kw_only=True)
class Compression:
    """The three steps, whatever the model, task and data.

    Attributes:
        seed: Of data order, augmentation and dropout.
        training: What the three steps share.
        warm_up: Step 1: its length and perturbation; step 2 goes on with the same perturbation by default.
        pruning: Step 2: criterion, budget, schedule.
        pruning_sharpness: Perturbation of step 2 where it is not that of step 1.
        fine_tune: Step 3: its length and perturbation.
    """

    seed: int = 0
    training: TrainingOptions = field(default_factory=TrainingOptions)
    warm_up: PhaseOptions = field(default_factory=lambda: PhaseOptions(epochs=1.0))
    pruning: PruningOptions = field(default_factory=PruningOptions)
    pruning_sharpness: SharpnessOptions | None = None
    fine_tune: FineTuneOptions = field(default_factory=FineTuneOptions)

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_within(RecipeError, 0, MOST_SEED, seed=self.seed)

    def sharpness(self, phase: str) -> SharpnessOptions:
        """The perturbation of `warm-up`, `pruning` or `fine-tuning`."""
        if phase == "fine-tuning":
            return self.fine_tune.sharpness
        if phase == "pruning" and self.pruning_sharpness is not None:
            return self.pruning_sharpness
        return self.warm_up.sharpness

    def perturbed_with(self, phase: str) -> str:
        """The phase whose perturbation a phase goes on with: its own, or the warm-up for a pruning without one."""
        return "warm-up" if phase == "pruning" and self.pruning_sharpness is None else phase

    def strengths(self) -> dict[str, Strength]:
        """Phase -> what will measure the factor of its radii, where a `loss_budget` fixes one at the start."""
        budgets = {p: self.sharpness(p).perturbation.budget for p in map(self.perturbed_with, PHASES)}
        return {phase: Strength(budget) for phase, budget in budgets.items() if budget and budget.when == "start"}

    @property
    def sharpnesses(self) -> tuple[SharpnessOptions, SharpnessOptions, SharpnessOptions]:
        """The perturbations of the three steps."""
        return self.sharpness("warm-up"), self.sharpness("pruning"), self.sharpness("fine-tuning")
