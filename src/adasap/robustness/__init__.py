"""How well a model holds up: suites, evaluation, metrics."""

from adasap.robustness.baseline import BaselineLine, fit_baseline
from adasap.robustness.detection import DetectionSuite, open_detection_suite
from adasap.robustness.detection_metrics import (
    Performance,
    bootstrap_map,
    class_performance,
    performance,
    ratio_interval,
)
from adasap.robustness.evaluate import CellResult, SuiteResult, evaluate_cell, evaluate_suite
from adasap.robustness.evaluate_folder import EvaluationFolder, identity_of
from adasap.robustness.evaluate_many import evaluate_suites
from adasap.robustness.intervals import Interval, bootstrap_mean, paired_difference
from adasap.robustness.metrics import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    CORRUPTION_GROUPS,
    AccuracyRatio,
    cell_accuracies,
    corruption_accuracy,
    group_accuracies,
    mean_corrupted_accuracy,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from adasap.robustness.seeds import SeedDifference, holm, mean_over_seeds, paired_over_seeds
from adasap.robustness.suites import ImageSuite, Loading, Suite, check_suite
from adasap.robustness.suites_kept import kept_suite
from adasap.robustness.suites_open import open_suite
from adasap.robustness.suites_registry import SUITES, SuiteSource
from adasap.tasks.classification_metrics import (
    brier_score,
    class_accuracy,
    expected_calibration_error,
    negative_log_likelihood,
    worst_class_accuracy,
)

__all__ = [
    "ALEXNET_CLEAN_ERROR",
    "ALEXNET_ERRORS",
    "CORRUPTION_GROUPS",
    "SUITES",
    "AccuracyRatio",
    "BaselineLine",
    "CellResult",
    "DetectionSuite",
    "EvaluationFolder",
    "ImageSuite",
    "Interval",
    "Loading",
    "Performance",
    "SeedDifference",
    "Suite",
    "SuiteResult",
    "SuiteSource",
    "bootstrap_map",
    "bootstrap_mean",
    "brier_score",
    "cell_accuracies",
    "check_suite",
    "class_accuracy",
    "class_performance",
    "corruption_accuracy",
    "evaluate_cell",
    "evaluate_suite",
    "evaluate_suites",
    "expected_calibration_error",
    "fit_baseline",
    "group_accuracies",
    "holm",
    "identity_of",
    "kept_suite",
    "mean_corrupted_accuracy",
    "mean_corruption_error",
    "mean_over_seeds",
    "negative_log_likelihood",
    "open_detection_suite",
    "open_suite",
    "paired_difference",
    "paired_over_seeds",
    "performance",
    "ratio_interval",
    "relative_mean_corruption_error",
    "worst_class_accuracy",
]
