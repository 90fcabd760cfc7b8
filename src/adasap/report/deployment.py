"""What models need where they are deployed: runtime, number type, size, time; and what kinds of corruption take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adasap.evaluation import CORRUPTION_GROUPS, SuiteResult
from adasap.profiling.profile import Latency
from adasap.report.comparison import difference_of, mean_of
from adasap.report.files import NOT_COMPARABLE
from adasap.report.format import (
    difference_number,
    difference_unit,
    score_number,
    score_text,
    three_digits,
    unit_bracket,
)
from adasap.report.panel import Block, Content
from adasap.report.table import Table

if TYPE_CHECKING:
    from adasap.report.side_by_side import SideBySide


@dataclass(frozen=True)
class Deployment:
    """One model as it would be deployed.

    Attributes:
        runtime: What computes it: `torch`, `onnxruntime`, `openvino`, `executorch`.
        numbers: Type of most weights.
        size_mb: On disk, in MB (1e6 bytes), with what belongs to it; of a model without a file its weights.
        latency: Of one image, the models taking turns in one process.
    """

    runtime: str
    numbers: str
    size_mb: float
    latency: Latency


def deployment_content(found: SideBySide) -> Content | None:
    """The panel of models side by side; None where none of them is an exported file."""
    if not any(model.deployment and model.deployment.runtime != "torch" for model in found.models):
        return None
    blocks = [Block(text=MEASURED, table=files_table(found))]
    if (kinds := kinds_table(found)) is not None:
        more = f"Score, and difference to {found.first.name} with its 95 % interval, paired image by image."
        blocks.append(Block("By kind of corruption", more, table=kinds))
    return Content("Deployment", shared=tuple(blocks))


MEASURED = (
    "Every file in its own runtime on the CPU. Latency is that of one image, of a detector of its traced part, median "
    "and 95th percentile; the models took turns in one process, with as many threads each."
)


def files_table(found: SideBySide) -> Table:
    """One row per model: runtime, number type, size, latency, clean and corrupted score."""
    suites, rows = list(found.first.suites), []
    for model in found.models:
        has = model.deployment
        row = [model.name]
        if has is not None:
            times = f"{three_digits(has.latency.p50_ms)} / {three_digits(has.latency.p95_ms)}"
            row += [has.runtime, has.numbers, f"{has.size_mb:.3g}", times]
        scores = [score_text(model.suites[suite].mean, found.metric) for suite in suites]
        rows.append([*row, *[""] * (5 - len(row)), *scores])
    return Table(["model", "runtime", "numbers", "size (MB)", "p50 / p95 (ms)", *suites], rows, left=(0, 1, 2))


def kinds_table(found: SideBySide) -> Table | None:
    """One row per model: its score under noise, blur, weather and digital damage; None without corruptions of them."""
    suite = found.first.first_corrupted()
    first = {} if suite is None else kinds_of(found.first.suites[suite])
    if suite is None or not first:
        return None
    rows = []
    for model in found.models:
        row = [model.name]
        for kind, scores in kinds_of(model.suites[suite]).items():
            text = score_number(mean_of(scores).value, found.metric)
            if suite in found.apart[model.name]:
                text += f" ({NOT_COMPARABLE})"
            elif model is not found.first:
                text += f", {difference_number(difference_of(scores, first[kind]), found.metric)}"
            row.append(text)
        rows.append(row)
    points = difference_unit(found.metric)
    unit = unit_bracket(found.metric) or (f" ({points})" if points else "")
    return Table(["model", *(f"{kind}{unit}" for kind in first)], rows)


def kinds_of(result: SuiteResult) -> Mapping[str, Tensor]:
    """Kind -> score of each image, float [N], mean over the cells of those of its corruptions that were evaluated.

    Example:
        >>> from adasap.evaluation import Cell
        >>> kinds_of(SuiteResult("c", {Cell("fog", 1): torch.ones(2), Cell("snow", 1): torch.zeros(2)}))
        {'weather': tensor([0.5000, 0.5000])}
    """
    found = {}
    for kind, corruptions in CORRUPTION_GROUPS.items():
        cells = [scores for cell, scores in result.cells.items() if cell.corruption in corruptions]
        if cells:
            found[kind] = torch.stack(cells).mean(dim=0)
    return found
