"""Runs a model over the cells of suites: shared out over processes, in a precision, going on from cells that are kept.

The stages of a run and `adasap evaluate` both come here. A cell is computed whole by one process, so numbers do not
depend on how many processes there are, nor on which of the cells were there already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adasap.data import PreparationTime
from adasap.evaluation.cells import Cell
from adasap.evaluation.evaluator import MergeableEvaluator, ScoringTask
from adasap.evaluation.folder import EvaluationFolder
from adasap.evaluation.results import CellResult, SuiteResult
from adasap.evaluation.suites import Loading, Suite
from adasap.groups import evaluating
from adasap.models.outputs import logits_of
from adasap.processor import DTYPES, Precision

Key = tuple[str, Cell]
"""Name of a suite, and one of its cells."""
CellResults = dict[str, dict[Cell, CellResult]]
"""Suite -> cell -> result, in the suites' order."""


def evaluate_suites(
    model: nn.Module,
    task: ScoringTask[Any],
    suites: Sequence[Suite],
    device: torch.device,
    *,
    loading: Loading | None = None,
    precision: Precision = "float32",
    folder: EvaluationFolder | None = None,
    observe: Callable[[str, Cell, CellResult], None] = lambda suite, cell, result: None,
) -> CellResults:
    """Scores the model on every cell of all suites.

    Under `torch.distributed` each process takes every world-size-th cell of those that the first did not find in the
    folder, and all get all results.

    Args:
        model: On the device.
        task: What good means.
        suites: Different names.
        device: Where the model is.
        loading: How batches are made; no number depends on its workers.
        precision: Of the model's forward pass; below float32 it is automatic mixed precision.
        folder: Where cells are read from and kept as they come.
        observe: Called with suite, cell and result for each cell that this process read or computed.
    """
    keys = [(suite.name, cell) for suite in suites for cell in suite.cells]
    by_name = {suite.name: suite for suite in suites}
    results: dict[Key, CellResult] = {}
    if folder is not None and _rank() == 0:
        results = {key: kept for key in keys if (kept := folder.read(*key)) is not None}
    for key, result in results.items():
        observe(*key, result)
    missing = _as_on_the_first([key for key in keys if key not in results])
    for key in missing[_rank() :: _world_size()]:
        results[key] = evaluate_cell(model, task, by_name[key[0]], key[1], device, loading, precision)
        if folder is not None:
            folder.write(*key, results[key])
        observe(*key, results[key])
    results = _gathered(results)
    return {suite.name: {cell: results[suite.name, cell] for cell in suite.cells} for suite in suites}


def evaluate_suite(
    model: nn.Module,
    task: ScoringTask[Any],
    suite: Suite,
    device: torch.device,
    loading: Loading | None = None,
    precision: Precision = "float32",
) -> SuiteResult:
    """Scores the model on every cell of a suite, all of them in this process."""
    cells = {cell: evaluate_cell(model, task, suite, cell, device, loading, precision) for cell in suite.cells}
    return SuiteResult.of_cells(suite.name, cells, _class_names(suite))


def evaluate_cell(
    model: nn.Module,
    task: ScoringTask[Any],
    suite: Suite,
    cell: Cell,
    device: torch.device,
    loading: Loading | None = None,
    precision: Precision = "float32",
) -> CellResult:
    """Scores the model on one cell of a suite, in evaluation mode and without gradients."""
    spent, began = PreparationTime(), time.perf_counter()
    batches = suite.batches(cell, device, loading or Loading(), spent)
    restricted = model if suite.outputs is None else RestrictedOutputs(model, suite.outputs)
    evaluator, in_model = _run(restricted, task, batches, device, precision)
    records = evaluator.records() if isinstance(evaluator, MergeableEvaluator) else {}
    metrics, scores = evaluator.compute(), evaluator.per_image()
    wall = time.perf_counter() - began
    timings = {"wall": wall, "model": in_model, "reading": spent.reading, "corruptions": spent.transform}
    return CellResult(metrics, scores, records, timings)


def _run(
    model: nn.Module, task: ScoringTask[Any], batches: Iterable[Any], device: torch.device, precision: Precision
) -> tuple[Any, float]:
    """The evaluator after all batches, and the seconds spent in the model and the metrics."""
    evaluator, seconds = task.evaluator(), 0.0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            began = time.perf_counter()
            prepared = task.prepare(batch, device)
            with _autocast(device, precision):
                evaluator.update(model, prepared)
            seconds += time.perf_counter() - began
    return evaluator, seconds


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])


def suite_results(suites: Sequence[Suite], found: CellResults) -> dict[str, SuiteResult]:
    """Suite -> its cells put together."""
    return {suite.name: SuiteResult.of_cells(suite.name, found[suite.name], _class_names(suite)) for suite in suites}


def _class_names(suite: Suite) -> tuple[str, ...]:
    """The names of a suite's labels; empty where the data have none."""
    return tuple(map(str, getattr(suite.images, "classes", ())))


class RestrictedOutputs(nn.Module):
    """A model that answers with labels of which its outputs are kinds: a label's logit is the largest of its outputs.

    Args:
        model: Gives logits [B, K].
        outputs: Which label each output answers, int64 [K], -1 for none.

    Example:
        >>> model = RestrictedOutputs(nn.Identity(), torch.tensor([1, -1, 0, 1]))
        >>> model(torch.tensor([[3.0, 9.0, 2.0, 4.0]]))
        tensor([[2., 4.]])
    """

    def __init__(self, model: nn.Module, outputs: Tensor) -> None:
        super().__init__()
        self.model = model
        self.counting = (outputs >= 0).nonzero().squeeze(1)
        self.labels = outputs[self.counting]

    def forward(self, images: Tensor) -> Tensor:
        """Logits float [B, labels]."""
        logits = logits_of(self.model(images))[:, self.counting.to(images.device)]
        labels = self.labels.to(images.device).expand(len(logits), -1)
        lowest = logits.new_full((len(logits), int(self.labels.max()) + 1), -torch.inf)
        return lowest.scatter_reduce(1, labels, logits, "amax")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _as_on_the_first(keys: list[Key]) -> list[Key]:
    """What the first process found missing."""
    if _world_size() == 1:
        return keys
    shared = [keys]
    dist.broadcast_object_list(shared)
    return shared[0]


def _gathered(results: dict[Key, CellResult]) -> dict[Key, CellResult]:
    """The results of all processes."""
    if _world_size() == 1:
        return results
    parts: list[dict[Key, CellResult]] = [{} for _ in range(_world_size())]
    dist.all_gather_object(parts, results)
    return {key: result for part in parts for key, result in part.items()}
