"""The numbers of an analysis as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adasap.analysis.schema import ModelData
from adasap.report.table import Table

Json = Mapping[str, Any]


@dataclass(frozen=True)
class TitledTable:
    """A table with what it says."""

    title: str
    table: Table


def tables_of(content: Json) -> list[TitledTable]:
    """What is known so far; a table without rows is left out."""
    models = content["models"]
    found = [
        TitledTable("Rise of the loss, 95 % intervals over batches", _sharpness(models)),
        TitledTable("Hessian", _hessian(models)),
        TitledTable(
            "Removing a channel: rank correlations, all channels together / within groups", _correlations(models)
        ),
        TitledTable("Channels that go against channels that stay, medians", _halves(models)),
        TitledTable("Instruments of your own", _own(models)),
    ]
    return [titled for titled in found if titled.table.rows]


def number(value: float | None) -> str:
    """Three or four digits, or a dash.

    Example:
        >>> number(0.01234), number(123.4), number(-2e-6), number(None)
        ('0.0123', '123', '-2e-06', '-')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def interval(found: Json) -> str:
    """A mean with its interval."""
    return f"{number(found['mean'])} ({number(found['low'])} to {number(found['high'])})"


def sharpness_rows(model: Json) -> Iterator[tuple[str, str, Json]]:
    """Kind with its radius, how it was searched, and the mean with its interval."""
    for kind, part in model.get("worst_case", {}).items():
        for result in part["radii"]:
            yield f"{kind} {result['radius']:g}", "one step", result["one_step"]
            yield f"{kind} {result['radius']:g}", f"{result['steps']} steps", result["n_step"]
    for kind, part in model.get("average_case", {}).items():
        for result in part["deviations"]:
            yield f"{kind} {result['deviation']:g}", f"mean of {result['draws']} draws", result


def _sharpness(models: Json) -> Table:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name, model in models.items():
        if "loss" in model:
            rows.setdefault(("the loss itself", ""), {})[name] = interval(model["loss"]["loss"])
        for kind, how, found in sharpness_rows(model):
            rows.setdefault((kind, how), {})[name] = interval(found)
    lines = [
        [f"{kind}, {how}" if how else kind, *(row.get(m, "") for m in models)] for (kind, how), row in rows.items()
    ]
    return Table(["", *models], lines)


def _hessian(models: Json) -> Table:
    rows: dict[str, dict[str, str]] = {}

    def put(row: str, model: str, text: str) -> None:
        rows.setdefault(row, {})[model] = text

    for name, model in models.items():
        found = model.get("eigenvalues", {}).get("whole model")
        if found:
            for place, (value, residual) in enumerate(zip(found["largest"], found["residuals"], strict=True), start=1):
                put(f"eigenvalue {place} (residual)", name, f"{number(value)} ({residual:.1g})")
            put("smallest Ritz value", name, f"{number(found['smallest'])} ({found['smallest_residual']:.1g})")
            put("stopped by", name, found["stopped"])
            put("products by", name, found["method"])
        trace = model.get("trace", {}).get("trace")
        if trace:
            put("trace ± standard error", name, f"{number(trace['value'])} ± {number(trace['standard_error'])}")
            put("trace per weight", name, number(trace["value"] / trace["size"]))
    return Table(["", *models], [[row, *(texts.get(m, "") for m in models)] for row, texts in rows.items()])


def _correlations(models: Json) -> Table:
    rows, yardsticks = (
        [],
        list(dict.fromkeys(y for s in _summaries(models).values() for m in s["correlations"].values() for y in m)),
    )
    for name, summary in _summaries(models).items():
        for measure, by in summary["correlations"].items():
            texts = [f"{_two(by[y]['pooled'])} / {_two(by[y]['within'])}" if y in by else "" for y in yardsticks]
            rows.append([f"{name}: {measure}", *texts])
    return Table(["", *yardsticks], rows)


def _halves(models: Json) -> Table:
    rows = []
    for name, summary in _summaries(models).items():
        for measure, found in summary["going_against_staying"].items():
            if found["median_going"] is not None:
                probability = found["probability_going_is_smaller"]
                texts = [number(found["median_going"]), number(found["median_staying"]), _two(probability)]
                rows.append([f"{name}: {measure}", *texts])
    return Table(["", "going", "staying", "P(going is smaller)"], rows)


def _own(models: Json) -> Table:
    """The plain numbers of instruments that the page has no figures for."""
    rows: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        for instrument in model.keys() - ModelData.__dataclass_fields__.keys():
            for part, found in model[instrument].items():
                for key, value in found.items():
                    if isinstance(value, int | float | None) and key != "seconds":
                        rows.setdefault(f"{instrument}, {part}: {key}", {})[name] = number(value)
    return Table(["", *models], [[row, *(rows[row].get(m, "") for m in models)] for row in sorted(rows)])


def _summaries(models: Json) -> dict[str, Json]:
    return {name: model["summary"]["channels"] for name, model in models.items() if "summary" in model}


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
