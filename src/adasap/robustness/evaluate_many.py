"""Many cells: those that are there already are read, the others shared out over the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from adasap.robustness.evaluate import CellResult, evaluate_cell
from adasap.robustness.evaluate_folder import EvaluationFolder
from adasap.robustness.suites import Loading, Suite
from adasap.tasks import Task

Key = tuple[str, str]
"""Names of suite and cell."""
CellResults = dict[str, dict[str, CellResult]]
"""Suite -> cell -> result, in the suites' order."""


def evaluate_suites(
    model: nn.Module,
    task: Task[Any],
    suites: Sequence[Suite],
    device: torch.device,
    *,
    loading: Loading | None = None,
    folder: EvaluationFolder | None = None,
    observe: Callable[[str, str, CellResult], None] = lambda suite, cell, result: None,
) -> CellResults:
    """Scores the model on every cell of all suites.

    Under `torch.distributed` each process takes every world-size-th cell of those that are not yet in the folder, and
    all get all results. A cell is computed whole by one process: its numbers do not depend on how many there are.

    Args:
        model: On the device.
        task: What good means.
        suites: Different names.
        device: Where the model is.
        loading: How batches are made.
        folder: Where cells are read from and kept as they come.
        observe: Called with suite, cell and result for each cell that this process has, read or computed.
    """
    keys = [(suite.name, cell) for suite in suites for cell in suite.cell_names()]
    by_name = {suite.name: suite for suite in suites}
    results = {key: kept for key in keys if folder and (kept := folder.read(*key)) is not None}
    for key, result in results.items():
        observe(*key, result)
    missing = _as_on_the_first([key for key in keys if key not in results])
    for key in missing[_rank() :: _world_size()]:
        results[key] = evaluate_cell(model, task, by_name[key[0]], key[1], device, loading)
        if folder is not None:
            folder.write(*key, results[key])
        observe(*key, results[key])
    results = _gathered(results)
    return {suite.name: {cell: results[suite.name, cell] for cell in suite.cell_names()} for suite in suites}


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _as_on_the_first(keys: list[Key]) -> list[Key]:
    """What the first process found missing: another may look when some of it has been written."""
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
