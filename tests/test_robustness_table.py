"""Tables of robustness, each number against one computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adasap.corruptions import BENCHMARK, VALIDATION
from adasap.evaluation import ALEXNET_ERRORS, SuiteResult
from adasap.evaluation.statistics import fit_baseline
from adasap.tasks.classification.report.robustness_table import robustness_tables
from suite_trees import by_cell

NUM_IMAGES = 200
SEVERITIES = range(1, 6)


def result(accuracies: dict[str, float], **metrics: float) -> SuiteResult:
    """Cells in which the first images are right, as many as the accuracy says."""
    places = torch.arange(NUM_IMAGES)
    cells = {cell: (places < round(a * NUM_IMAGES)).float() for cell, a in accuracies.items()}
    return SuiteResult(
        "s", by_cell(cells), by_cell({cell: {"accuracy": a, **metrics} for cell, a in accuracies.items()})
    )


def corrupted(accuracies: dict[str, float], **metrics: float) -> SuiteResult:
    return result({f"{name}/{s}": a for name, a in accuracies.items() for s in SEVERITIES}, **metrics)


def columns(table: object, row: int) -> dict[str, str]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in str(table).splitlines()]
    return dict(zip(lines[0], lines[2 + row], strict=True))


DENSE = {name: 0.1 + 0.05 * place for place, name in enumerate(BENCHMARK)}
PRUNED = {name: accuracy - 0.05 for name, accuracy in DENSE.items()}
MODELS = {
    "dense": {"clean": result({"clean": 0.9}), "corrupted": corrupted(DENSE | dict.fromkeys(VALIDATION, 1.0))},
    "pruned": {"clean": result({"clean": 0.8}), "corrupted": corrupted(PRUNED | dict.fromkeys(VALIDATION, 1.0))},
}


def test_accuracy_by_group_with_intervals_and_the_paired_difference() -> None:
    table = robustness_tables(MODELS)["Accuracy on corrupted (%)"]
    assert list(table.header) == [
        "model", "clean", "noise", "blur", "weather", "digital", "mean of 15", "minus dense",
    ]  # fmt: skip
    dense, pruned = columns(table, 0), columns(table, 1)
    means = {name: text.split(" ")[0] for name, text in dense.items()}
    assert means == {
        "model": "dense",
        "clean": "90.00",
        "noise": "15.00",
        "blur": "32.50",
        "weather": "52.50",
        "digital": "72.50",
        "mean of 15": "45.00",
        "minus dense": "-",
    }
    assert pruned["mean of 15"].startswith("40.00 (")
    low, high = (float(text) for text in pruned["minus dense"].removesuffix(")").split("(")[1].split(" to "))
    assert pruned["minus dense"].startswith("-5.00 (-")
    assert low < -5 < high < 0


def test_ratios_show_both_terms_and_mce_only_where_it_means_something() -> None:
    plain = columns(robustness_tables(MODELS)["Ratios to clean"], 1)
    assert plain["ratio (shifted / clean)"] == "0.500 (40.00 % / 80.00 %)"
    assert list(plain) == ["model", "suite", "ratio (shifted / clean)"]
    official = columns(robustness_tables(MODELS, imagenet_c=["corrupted"])["Ratios to clean"], 0)
    mce = sum((1 - DENSE[name]) / ALEXNET_ERRORS[name] for name in BENCHMARK) / 15
    two = {name: suites | {"cifar_c": suites["corrupted"]} for name, suites in MODELS.items()}
    other = columns(robustness_tables(two, imagenet_c=["corrupted"])["Ratios to clean"], 2)
    assert (other["suite"], other["mCE (%)"], other["relative mCE (%)"]) == ("cifar_c", "-", "-")
    relative = sum((0.9 - DENSE[name]) / (ALEXNET_ERRORS[name] - 0.435) for name in BENCHMARK) / 15
    assert float(official["mCE (%)"]) == pytest.approx(100 * mce, abs=0.006)
    assert float(official["relative mCE (%)"]) == pytest.approx(100 * relative, abs=0.006)


def test_effective_robustness_is_the_gap_to_the_line_of_plain_models() -> None:
    line = fit_baseline([0.7, 0.9], [0.3, 0.45])
    table = robustness_tables(MODELS, baselines={"corrupted": line})["Ratios to clean"]
    assert columns(table, 0)["effective robustness (points)"] == "+0.00"
    gap = 100 * (0.40 - line.predict(0.8))
    assert columns(table, 1)["effective robustness (points)"] == f"{gap:+.2f}"


def test_a_part_of_the_benchmark_is_named_as_such_and_has_no_mce() -> None:
    some = {"fog": 0.5, "contrast": 0.25}
    models = {"dense": {"clean": result({"clean": 0.9}), "some": corrupted(some)}}
    tables = robustness_tables(models, imagenet_c=["some"])
    accuracy = columns(tables["Accuracy on some (%)"], 0)
    assert list(accuracy) == ["model", "clean", "mean of 2 of 15"]
    assert accuracy["mean of 2 of 15"].startswith("37.50 (")
    assert columns(tables["Ratios to clean"], 0)["mCE (%)"] == "-"


def test_validation_corruptions_alone_are_their_own_mean_and_a_shifted_set_has_its_ratio() -> None:
    shifted = {"validation": corrupted(dict.fromkeys(VALIDATION, 0.25)), "v2": result({"clean": 0.45})}
    tables = robustness_tables({"dense": {"clean": result({"clean": 0.9}), **shifted}})
    assert list(tables) == ["Accuracy on validation (%)", "Ratios to clean", "Calibration and the worst class"]
    assert columns(tables["Accuracy on validation (%)"], 0)["mean of 4"].startswith("25.00 (")
    assert columns(tables["Ratios to clean"], 1)["ratio (shifted / clean)"] == "0.500 (45.00 % / 90.00 %)"


def test_calibration_is_the_mean_over_cells_and_absent_metrics_are_shown_as_absent() -> None:
    clean = result({"clean": 0.9}, loss=0.5, brier=0.25, ece=0.031, worst_class_accuracy=0.6, worst_class=3.0)
    cells = {"fog/1": {"loss": 1.0, "brier": 0.5, "ece": 0.1, "worst_class_accuracy": 0.4, "worst_class": 3.0}}
    cells["fog/2"] = {"loss": 2.0, "brier": 0.75, "ece": float("nan"), "worst_class_accuracy": 0.0, "worst_class": 5.0}
    cells["saturate/1"] = dict.fromkeys(cells["fog/1"], 99.0)  # none of the 15
    fog = SuiteResult("fog", by_cell(dict.fromkeys(cells, torch.ones(4))), by_cell(cells))
    old = SuiteResult("fog", fog.cells, {cell: {"accuracy": 1.0, "loss": 1.0} for cell in fog.cells})
    table = robustness_tables({"new": {"clean": clean, "fog": fog}, "old": {"clean": clean, "fog": old}})[
        "Calibration and the worst class"
    ]
    assert list(columns(table, 0).values()) == ["new", "clean", "0.5000", "0.2500", "3.10", "60.00 (class 3)"]
    assert list(columns(table, 2).values()) == ["new", "fog", "1.5000", "0.6250", "nan", "20.00"]
    assert list(columns(table, 3).values()) == ["old", "fog", "1.0000", "-", "-", "-"]
    named = replace(fog, worst_class=dict.fromkeys(fog.cells, "otter"))
    table = robustness_tables({"new": {"clean": clean, "fog": named}})["Calibration and the worst class"]
    assert columns(table, 1)["worst class (%)"] == "20.00 (otter)"  # the same in all cells


def test_a_model_that_is_always_wrong_has_no_ratio() -> None:
    models = {"broken": {"clean": result({"clean": 0.0}), "fog": corrupted({"fog": 0.0})}}
    assert columns(robustness_tables(models)["Ratios to clean"], 0)["ratio (shifted / clean)"] == "-"


def test_results_that_do_not_belong_together_are_refused() -> None:
    clean = result({"clean": 0.9})
    with pytest.raises(ValueError, match="no models"):
        robustness_tables({})
    with pytest.raises(ValueError, match="pruned has no results on fog"):
        robustness_tables({"dense": {"clean": clean, "fog": corrupted({"fog": 0.5})}, "pruned": {"clean": clean}})
    with pytest.raises(ValueError, match="not evaluated on the same cells of fog"):
        robustness_tables(
            {
                "dense": {"clean": clean, "fog": corrupted({"fog": 0.5})},
                "pruned": {"clean": clean, "fog": corrupted({"snow": 0.5})},
            }
        )
