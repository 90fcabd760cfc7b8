"""The loop that carries the three steps: runtime, state, checkpoints, records."""

from adasap.training.data import Data
from adasap.training.optimizer import OptimizerOptions, ScheduleOptions, build_optimizer, learning_rate_factor
from adasap.training.options import (
    Compression,
    FinalSharpnessOptions,
    FineTuneOptions,
    PhaseOptions,
    TrainingOptions,
)
from adasap.training.perturber import Perturber, SharpnessOptions
from adasap.training.preview import first_plan
from adasap.training.records import (
    CandidateRecord,
    Observer,
    PhaseRecord,
    PruneRecord,
    Record,
    StageRecord,
    StepRecord,
    as_dict,
    ignore,
)
from adasap.training.run import CompressionRun
from adasap.training.runtime import Runtime, RuntimeOptions, is_main_process
from adasap.training.seed import derived_seed
from adasap.training.state import Counters, TrainingState
from adasap.training.timetable import Event, Timetable

__all__ = [
    "CandidateRecord",
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
    "ignore",
    "is_main_process",
    "learning_rate_factor",
]
