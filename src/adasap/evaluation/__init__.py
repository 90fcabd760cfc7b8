"""How well a model holds up: suites, evaluation, metrics."""

from adasap.evaluation.cells import CLEAN, Cell
from adasap.evaluation.folder import EvaluationFolder, identity_of
from adasap.evaluation.metrics import (
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
from adasap.evaluation.open_suites import open_own_suite, open_suite
from adasap.evaluation.results import CellResult, SuiteResult
from adasap.evaluation.runner import evaluate_cell, evaluate_suite, evaluate_suites, suite_results
from adasap.evaluation.statistics import (
    BaselineLine,
    Interval,
    SeedDifference,
    bootstrap_mean,
    fit_baseline,
    holm,
    mean_over_seeds,
    paired_difference,
    paired_over_seeds,
)
from adasap.evaluation.suite_readers import kept_suite
from adasap.evaluation.suite_sources import SUITES, SuiteKind, SuiteSource
from adasap.evaluation.suites import CellImages, DatasetSuite, ImageSuite, Loading, Suite, check_suite

__all__ = [
    "ALEXNET_CLEAN_ERROR",
    "ALEXNET_ERRORS",
    "CLEAN",
    "CORRUPTION_GROUPS",
    "SUITES",
    "AccuracyRatio",
    "BaselineLine",
    "Cell",
    "CellImages",
    "CellResult",
    "DatasetSuite",
    "EvaluationFolder",
    "ImageSuite",
    "Interval",
    "Loading",
    "SeedDifference",
    "Suite",
    "SuiteKind",
    "SuiteResult",
    "SuiteSource",
    "bootstrap_mean",
    "cell_accuracies",
    "check_suite",
    "corruption_accuracy",
    "evaluate_cell",
    "evaluate_suite",
    "evaluate_suites",
    "fit_baseline",
    "group_accuracies",
    "holm",
    "identity_of",
    "kept_suite",
    "mean_corrupted_accuracy",
    "mean_corruption_error",
    "mean_over_seeds",
    "open_own_suite",
    "open_suite",
    "paired_difference",
    "paired_over_seeds",
    "relative_mean_corruption_error",
    "suite_results",
]
