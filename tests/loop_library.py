"""A run of the library's own loop, and all that another loop needs to repeat it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

import adasap
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.pruning import BudgetOptions, PruningOptions
from adasap.report.records import PruneRecord, StepRecord
from adasap.training import Compression, CompressionRun, ignore, learning_rate_factor
from parallel_nets import no_norms

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class LibraryRun:
    """What the loop of `adasap.compress` made, and of what.

    Attributes:
        dense: The dense model; copy it.
        batches: Prepared, one for each step.
        first: Those that norms and criteria look at.
        config: The three steps, their lengths in steps.
        learning_rate: Of a step, by its number from 0.
    """

    dense: nn.Module
    batches: list[Batch]
    first: list[Batch]
    config: Compression
    learning_rate: Callable[[int], float]
    weights: dict[str, Tensor]
    steps: list[StepRecord]
    events: list[PruneRecord]

    def model(self) -> nn.Module:
        return copy.deepcopy(self.dense)

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(
            [
                {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": DECAY},
                {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=RATE,
            momentum=0.9,
        )

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate)

    def assert_same(self, model: nn.Module, *, tolerance: float = 1e-5) -> None:
        """The model has the run's widths and, to rounding, its weights."""
        state = model.state_dict()
        assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in self.weights.items()}
        torch.testing.assert_close(state, self.weights, rtol=tolerance, atol=tolerance)


def without_norms(library: LibraryRun) -> LibraryRun:
    """Six steps of a network without batch statistics, in which parts of a batch count as the batch."""
    pruning = PruningOptions(
        epochs=2, criterion="taylor", events=2, every=1, budget=BudgetOptions(macs=0.5), recalibration_batches=0
    )
    warm_up = dataclasses.replace(library.config.warm_up, epochs=2.0)
    config = dataclasses.replace(library.config, pruning=pruning, warm_up=warm_up)
    return dataclasses.replace(library, dense=no_norms(), config=config, batches=library.batches[:6])


RATE, DECAY = 0.02, 5e-4


def library_run(tree: dict[str, Any]) -> LibraryRun:
    """Runs a recipe, and takes its data and lengths apart."""
    tree["training"]["optimizer"] = {"learning_rate": RATE, "weight_decay": DECAY}
    tree["training"]["runtime"] |= {"device": "cpu", "channels_last": False}
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    dense = adasap.open_model(recipe.model)
    task, data, records = open_task(recipe), open_data(recipe), list[Any]()
    weights = adasap.compress(copy.deepcopy(dense), task, data, recipe, observe=records.append).model.state_dict()
    run = CompressionRun(copy.deepcopy(dense), task, data, recipe, folder=None, observe=ignore)
    times, options = run.timetable, recipe.training.schedule
    phases = {
        "warm_up": dataclasses.replace(recipe.warm_up, epochs=float(times.warm_up_end)),
        "pruning": dataclasses.replace(recipe.pruning, epochs=float(times.pruning_end - times.warm_up_end)),
        "fine_tune": dataclasses.replace(recipe.fine_tune, epochs=float(times.num_steps - times.pruning_end)),
    }
    prepared = (task.prepare(batch, torch.device("cpu")) for batch in run.stream.iterate(0))
    return LibraryRun(
        dense=dense,
        batches=list(islice(prepared, times.num_steps)),
        first=run.first_batches(recipe.pruning.recalibration_batches),
        config=Compression(seed=recipe.seed, **phases),
        learning_rate=lambda step: learning_rate_factor(step, times.num_steps, options, warm_up_steps=times.rising),
        weights=weights,
        steps=[record for record in records if isinstance(record, StepRecord)],
        events=[record for record in records if isinstance(record, PruneRecord)],
    )
