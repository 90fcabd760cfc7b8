"""How well a model holds up: suites, evaluation, metrics."""

from adasap.robustness.evaluate import CellResult, SuiteResult, evaluate_cell, evaluate_suite
from adasap.robustness.evaluate_folder import EvaluationFolder, identity_of
from adasap.robustness.evaluate_many import evaluate_suites
from adasap.robustness.metrics import Interval, bootstrap_mean, paired_difference
from adasap.robustness.suites import ImageSuite, Loading, Suite, check_suite
from adasap.robustness.suites_open import open_suite
from adasap.robustness.suites_registry import SUITES, SuiteSource

__all__ = [
    "SUITES",
    "CellResult",
    "EvaluationFolder",
    "ImageSuite",
    "Interval",
    "Loading",
    "Suite",
    "SuiteResult",
    "SuiteSource",
    "bootstrap_mean",
    "check_suite",
    "evaluate_cell",
    "evaluate_suite",
    "evaluate_suites",
    "identity_of",
    "open_suite",
    "paired_difference",
]
