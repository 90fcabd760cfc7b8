"""Corruption metrics and effective robustness against published and hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from adasap.corruptions import BENCHMARK, VALIDATION
from adasap.evaluation import (
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
from adasap.evaluation.statistics import fit_baseline
from suite_trees import by_cell

Cells = dict[str, dict[int, float]]


def cells(accuracies: dict[str, float]) -> Cells:
    """Five severities around each corruption's mean."""
    return {name: {s: mean + 0.02 * (3 - s) for s in range(1, 6)} for name, mean in accuracies.items()}


ALEXNET = {name: 1 - error for name, error in ALEXNET_ERRORS.items()}

RESNET50_ERRORS = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)
"""Corruption errors of ResNet-50 in percent of AlexNet's, in the benchmark's order: the table of mCE in
Hendrycks and Dietterich (2019), with mCE 76.7."""


def test_alexnet_is_the_unit() -> None:
    assert mean_corruption_error(cells(ALEXNET)) == pytest.approx(1.0, abs=1e-12)
    assert relative_mean_corruption_error(cells(ALEXNET), 1 - ALEXNET_CLEAN_ERROR) == pytest.approx(1.0, abs=1e-12)
    assert set(ALEXNET_ERRORS) == {*BENCHMARK, *VALIDATION}


def test_resnet50_has_its_published_mce() -> None:
    errors = {n: ce / 100 * ALEXNET_ERRORS[n] for n, ce in zip(BENCHMARK, RESNET50_ERRORS, strict=True)}
    found = cells({name: 1 - error for name, error in errors.items()})
    assert 100 * mean_corruption_error(found) == pytest.approx(76.7, abs=0.5)  # the table is rounded to whole percents
    assert 100 * mean_corrupted_accuracy(found) == pytest.approx(39.2, abs=0.5)


def test_two_corruptions_by_hand() -> None:
    found = {"fog": dict.fromkeys(range(1, 6), 0.4), "snow": {1: 0.8, 2: 0.7, 3: 0.6, 4: 0.5, 5: 0.4}}
    both = ("fog", "snow")
    assert corruption_accuracy(found, both) == pytest.approx({"fog": 0.4, "snow": 0.6})
    assert mean_corrupted_accuracy(found, both) == pytest.approx(0.5)
    assert mean_corruption_error(found, both) == pytest.approx((0.6 / 0.819324 + 0.4 / 0.866816) / 2)
    relative = (0.4 / (0.819324 - 0.435) + 0.2 / (0.866816 - 0.435)) / 2
    assert relative_mean_corruption_error(found, 0.8, both) == pytest.approx(relative)


def test_the_four_extra_corruptions_do_not_enter_the_mean_of_fifteen() -> None:
    fifteen = cells(dict.fromkeys(BENCHMARK, 0.5))
    all_nineteen = fifteen | cells(dict.fromkeys(VALIDATION, 0.9))
    for metric in (mean_corrupted_accuracy, mean_corruption_error, group_accuracies):
        assert metric(all_nineteen) == metric(fifteen)
    assert mean_corrupted_accuracy(all_nineteen, VALIDATION) == pytest.approx(0.9)


def test_groups_are_the_fifteen_and_average_their_corruptions() -> None:
    assert [name for group in CORRUPTION_GROUPS.values() for name in group] == list(BENCHMARK)
    found = cells({name: 0.2 + 0.04 * i for i, name in enumerate(BENCHMARK)})
    groups = {"noise": 0.24, "blur": 0.38, "weather": 0.54, "digital": 0.70}
    assert group_accuracies(found) == pytest.approx(groups)
    weights = {name: len(own) for name, own in CORRUPTION_GROUPS.items()}
    assert weights == {"noise": 3, "blur": 4, "weather": 4, "digital": 4}
    mean = sum(groups[name] * weights[name] for name in groups) / 15
    assert mean_corrupted_accuracy(found) == pytest.approx(mean)
    del found["fog"]
    assert list(group_accuracies(found)) == ["noise", "blur", "digital"]


def test_cells_are_read_from_the_metrics_of_a_suite() -> None:
    metrics = {"clean": {"accuracy": 0.9}, "fog/1": {"accuracy": 0.5, "loss": 1.0}, "fog/5": {"accuracy": 0.25}}
    assert cell_accuracies(by_cell(metrics)) == {"fog": {1: 0.5, 5: 0.25}}


@pytest.mark.parametrize(
    ("found", "corruptions", "words"),
    [
        (cells({"fog": 0.5}), BENCHMARK, "14 of 15 corruptions have no accuracy: gaussian_noise"),
        (cells({"fog": 0.5}), ("fogg",), "no AlexNet error for fogg"),
        ({"fog": {1: 0.5}}, ("fog",), r"severities 1 to 5, the accuracies are of \[1\]"),
        ({"fog": {1: 0.5}, "snow": {2: 0.5}}, ("fog", "snow"), "severities differ"),
        (cells({"fog": 55.0}), ("fog",), "give a fraction"),
        ({"fog": dict.fromkeys(range(1, 6), float("nan"))}, ("fog",), "give a fraction"),
        ({}, (), "no accuracy"),
    ],
)
def test_wrong_cells_are_refused(found: Cells, corruptions: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mean_corruption_error(found, corruptions)
    with pytest.raises(ValueError, match=words):
        relative_mean_corruption_error(found, 0.7, corruptions)


def test_a_ratio_prints_both_terms() -> None:
    ratio = AccuracyRatio(shifted=0.392, clean=0.7615)
    assert ratio.value == pytest.approx(0.5148, abs=1e-4)
    assert str(ratio) == "0.515 (39.20 % / 76.15 %)"
    with pytest.raises(ValueError, match="clean accuracy of 0"):
        AccuracyRatio(shifted=0.1, clean=0.0)
    with pytest.raises(ValueError, match=r"accuracy of shifted is 39\.2"):
        AccuracyRatio(shifted=39.2, clean=0.7)


@pytest.mark.parametrize(
    ("scale", "stretch"), [("logit", special.logit), ("probit", special.ndtri)], ids=["logit", "probit"]
)
def test_the_baseline_is_scipys_regression_on_its_scale(scale: str, stretch: np.ufunc) -> None:
    clean = [0.60, 0.66, 0.71, 0.75, 0.78]
    shifted = [0.26, 0.31, 0.37, 0.40, 0.45]
    line = fit_baseline(clean, shifted, scale=scale)  # type: ignore[arg-type]
    wanted = stats.linregress(stretch(clean), stretch(shifted))
    assert (line.slope, line.intercept) == pytest.approx((wanted.slope, wanted.intercept), rel=1e-9)
    assert line.r_squared == pytest.approx(wanted.rvalue**2, rel=1e-9)
    assert (line.num_models, line.clean_range) == (5, (0.60, 0.78))
    inverse = special.expit if scale == "logit" else special.ndtr
    predicted = inverse(wanted.intercept + wanted.slope * stretch(0.73))
    assert line.effective_robustness(0.73, 0.45) == pytest.approx(0.45 - predicted, rel=1e-9)


def test_models_on_the_line_have_no_effective_robustness() -> None:
    clean = [0.5, 0.7, 0.9]
    line = fit_baseline(clean, special.expit(1.2 * special.logit(clean) - 1.0).tolist())
    assert (line.slope, line.intercept, line.r_squared) == pytest.approx((1.2, -1.0, 1.0))
    on_it = special.expit(1.2 * special.logit(0.8) - 1.0)
    assert line.effective_robustness(0.8, on_it) == pytest.approx(0.0, abs=1e-12)


def test_lines_without_two_models_or_beyond_the_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="two different"):
        fit_baseline([0.5, 0.5], [0.2, 0.3])
    with pytest.raises(ValueError, match="2 clean and 1 shifted"):
        fit_baseline([0.5, 0.6], [0.2])
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        fit_baseline([0.5, 1.0], [0.2, 0.3])
    with pytest.raises(ValueError, match="give a fraction"):
        fit_baseline([0.5, 0.6], [0.2, 0.3]).effective_robustness(0.5, 40.0)
