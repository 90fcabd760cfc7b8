"""A run's state as it begins, or as its checkpoint left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adasap.criteria import Evidence
from adasap.errors import CheckpointError
from adasap.groups import ChannelGroup
from adasap.pruning import Preparation, PruningPlan, apply_plan_
from adasap.sharpness import Strength
from adasap.training.fingerprint import differences, with_later_options
from adasap.training.folder import Saved
from adasap.training.optimizer import build_optimizer
from adasap.training.options import TrainingOptions
from adasap.training.runtime import Runtime
from adasap.training.state import TrainingState


def open_state(
    model: nn.Module,
    dense_groups: Sequence[ChannelGroup],
    options: TrainingOptions,
    runtime: Runtime,
    saved: Saved | None,
    preparation: Preparation | None = None,
    strengths: dict[str, Strength] | None = None,
) -> TrainingState:
    """Cuts the dense model to the checkpoint's plan, places it, and fills everything; without one, a fresh start.

    Raises:
        CheckpointError: If the checkpoint does not fit.
    """
    plan, groups = PruningPlan.of(dense_groups), dense_groups
    if saved is not None:
        plan = PruningPlan.from_json(saved[1]["plan"])
        groups = apply_plan_(model, groups, plan)
    model = runtime.place(model)
    averaged = None if options.average_decay is None else _average_of(model, options.average_decay)
    optimizer = build_optimizer(model, options.optimizer)
    state = TrainingState(
        model,
        groups,
        optimizer,
        plan,
        Evidence(),
        averaged,
        preparation=preparation or Preparation(),
        strengths=strengths or {},
    )
    if saved is not None:
        state.load(*saved)
        if runtime.scaler is not None:
            runtime.scaler.load_state_dict(saved[1]["scaler"])
    return state


def require_same_run(saved: Saved | None, identity: Mapping[str, Any], folder: Path | None) -> None:
    """Refuses to go on from a checkpoint of other options, data or weights.

    Raises:
        CheckpointError: Names what differs.
    """
    if saved is None:
        return
    there = saved[1].get("identity")
    if other := differences(with_later_options(there if isinstance(there, Mapping) else {}), identity):
        raise CheckpointError(
            f"{folder} belongs to another recipe, model or data: {', '.join(other)}; "
            "give what it was begun with, or a new folder"
        )


def _average_of(model: nn.Module, decay: float) -> AveragedModel:
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
