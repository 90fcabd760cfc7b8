"""How well a model holds up: suites, evaluation, metrics."""

from adasap.robustness.evaluate import SuiteResult, evaluate, evaluate_suite
from adasap.robustness.metrics import Interval, bootstrap_mean, paired_difference
from adasap.robustness.suites import Suite, SuiteSource, check_suite, open_suite

__all__ = [
    "Interval",
    "Suite",
    "SuiteResult",
    "SuiteSource",
    "bootstrap_mean",
    "check_suite",
    "evaluate",
    "evaluate_suite",
    "open_suite",
    "paired_difference",
]
