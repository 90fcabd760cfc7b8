"""Cells on a cluster, through Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from adasap.errors import RecipeError
from adasap.experiments.sweep.cells import Cell, shortest_first
from adasap.experiments.sweep.file import ClusterOptions
from adasap.experiments.sweep.running import Outcome, RunCell, dense_failed, failure, run_one, state_without_running


def run_on_cluster(
    cells: Sequence[Cell],
    out: Path,
    run: RunCell,
    options: ClusterOptions,
    *,
    address: str,
    workers: int | None = None,
    taken: Collection[tuple[str, int]] = (),
) -> Iterator[Outcome]:
    """Runs cells side by side, each dense cell before those that start from it; outcomes come as they are ready.

    A cell whose worker died (killed, out of memory, its machine gone) is taken up by another one and goes on from its
    checkpoint, `options.retries` times; then it counts as failed.

    Args:
        out: A folder that all machines see at the same path.
        address: `local` starts Ray on this machine for as long as the sweep runs; else that of a running cluster.
        workers: With `local`: how many cells at a time; by default as many as there are cores.
        taken: Run and seed of cells that are not to be run.
    Raises:
        RecipeError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RecipeError("--cluster needs Ray; install it: pip install 'adasap[cluster]'") from error
    states = {cell.title: state_without_running(cell, cells, out, taken) for cell in cells}
    yield from (Outcome(cell, state) for cell in cells if (state := states[cell.title]) is not None)
    cells = [cell for cell in shortest_first(cells) if states[cell.title] is None]
    if address == "local":
        cpus = None if workers is None else max(1, round(workers * options.cpus))
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, configure_logging=False)
    else:
        ray.init(address=address, log_to_driver=False)
    try:
        yield from _outcomes(ray, cells, out.resolve(), run, options)
    finally:
        ray.shutdown()


def _outcomes(ray: Any, cells: Sequence[Cell], out: Path, run: RunCell, options: ClusterOptions) -> Iterator[Outcome]:
    task = ray.remote(_one).options(
        num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries, retry_exceptions=False
    )
    known: dict[str, Any] = {}  # recipe's name -> its task: two runs of one recipe are one cell
    of_task: dict[Any, list[Cell]] = {}
    for cell in cells:
        name = cell.recipe.name
        if name not in known:
            before = None if cell.dense is None else known.get(cell.dense.recipe.name)  # a finished one has no task
            known[name] = task.remote(cell, out, run, before)
        of_task.setdefault(known[name], []).append(cell)
    waiting = list(of_task)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        for reference in ready:
            for cell in of_task[reference]:
                yield _outcome(ray, reference, cell, out)


def _one(cell: Cell, out: Path, run: RunCell, before: Outcome | None) -> Outcome:
    """In a worker: one cell, after the outcome of its dense cell."""
    if before is not None and before.state == "failed":
        return dense_failed(cell)
    return run_one(cell, out, run)


def _outcome(ray: Any, reference: Any, cell: Cell, out: Path) -> Outcome:
    """What the worker says; where it cannot say anything any more, what Ray says of it."""
    try:
        found = ray.get(reference)
    except ray.exceptions.RayError as error:
        return failure(cell, out, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", str(error))
    return Outcome(cell, found.state, found.seconds, found.error)
