"""The loop that carries the three steps: runtime, state, checkpoints, records."""

from adasap.report.records import (
    CandidateRecord,
    CellRecord,
    Observer,
    PhaseRecord,
    PruneRecord,
    Record,
    ResumeRecord,
    StageRecord,
    StepRecord,
    as_dict,
    ignore,
)
from adasap.sharpness import SharpnessOptions
from adasap.tasks.data import Data
from adasap.training.optimizer import (
    LEARNING_RATES,
    OptimizerOptions,
    ScheduleOptions,
    build_optimizer,
    learning_rate_factor,
)
from adasap.training.options import (
    Compression,
    FinalSharpnessOptions,
    FineTuneOptions,
    PhaseOptions,
    TrainingOptions,
)
from adasap.training.perturbation_schedule import Perturber
from adasap.training.preview import first_plan, first_score
from adasap.training.run import CompressionRun
from adasap.training.run_schedule import Event, Timetable
from adasap.training.runtime import Runtime, RuntimeOptions, is_main_process
from adasap.training.seed import derived_seed
from adasap.training.state import Counters, TrainingState

__all__ = [
    "LEARNING_RATES",
    "CandidateRecord",
    "CellRecord",
    "Compression",
    "CompressionRun",
    "Counters",
    "Data",
    "Event",
    "FinalSharpnessOptions",
    "FineTuneOptions",
    "Observer",
    "OptimizerOptions",
    "Perturber",
    "PhaseOptions",
    "PhaseRecord",
    "PruneRecord",
    "Record",
    "ResumeRecord",
    "Runtime",
    "RuntimeOptions",
    "ScheduleOptions",
    "SharpnessOptions",
    "StageRecord",
    "StepRecord",
    "Timetable",
    "TrainingOptions",
    "TrainingState",
    "as_dict",
    "build_optimizer",
    "derived_seed",
    "first_plan",
    "first_score",
    "ignore",
    "is_main_process",
    "learning_rate_factor",
]
