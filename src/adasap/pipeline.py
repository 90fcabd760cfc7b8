"""AdaSAP (Bair et al., ICLR 2024, arXiv:2306.14306): the three steps on one screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from adasap.evaluation import SuiteResult
from adasap.groups import ChannelGroup
from adasap.groups.bare import unwrap
from adasap.pruning import PruningPlan
from adasap.tasks import BaseTask
from adasap.training import Compression, CompressionRun, Counters, Data, Observer, ignore


def compress(
    model: nn.Module,
    task: BaseTask[Any],
    data: Data,
    config: Compression,
    *,
    folder: Path | None = None,
    observe: Observer = ignore,
) -> Result:
    """Turns a dense pretrained model into a smaller one that holds up on corrupted and shifted inputs.

    Args:
        model: The dense model; it is trained and cut in place. Wrappers are looked through: the run makes its own.
        task: What is learnt and what counts as good.
        data: Training images and the suites that are evaluated after each stage.
        config: The options of the three steps.
        folder: Where everything is kept; a run that was killed goes on from there to the same numbers.
        observe: Called with every record; watches, cannot steer.

    Returns:
        The compressed model with its plan and the scores after each stage.

    Raises:
        AdasapError: Before training, for anything in the model, data or options that cannot work.
    """
    run = CompressionRun(unwrap(model), task, data, config, folder=folder, observe=observe)
    times = run.timetable
    run.evaluate("dense", run.dense_model)

    # Step 1. Warm up: every channel has its own perturbation radius, the wider the less the channel matters.
    run.train("warm-up", until=times.warm_up_end)
    run.evaluate("warmed up")

    # Step 2. Prune: remove the least important channels event by event, while the adaptive steps go on.
    for event in times.events:
        run.train("pruning", until=event.step)
        run.prune(event)
    run.evaluate("recalibrated")
    run.train("pruning", until=times.pruning_end)

    # Step 3. Fine-tune: one uniform radius, so that the whole network ends in a flat region.
    run.train("fine-tuning", until=times.num_steps)
    run.evaluate("fine-tuned", run.final_model())

    run.close()
    return Result(run.final_model(), run.dense_groups, run.state.plan, run.stages, run.state.counters)


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        model: The compressed model, dense-shaped, in evaluation mode.
        dense_groups: The groups of the dense model, to which the plan belongs.
        plan: Which channels were kept, in the dense model's indices.
        stages: Stage -> suite -> scores; `dense`, `warmed up`, `pruned`, `recalibrated`, `fine-tuned`.
        counters: Steps, passes, skipped steps and training time.
    """

    model: nn.Module
    dense_groups: tuple[ChannelGroup, ...]
    plan: PruningPlan
    stages: dict[str, dict[str, SuiteResult]]
    counters: Counters
