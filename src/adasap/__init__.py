"""adasap: adaptive sharpness-aware pruning, for vision models that are small, fast and robust.

The names below are all that most programs need. They are imported when they are first used, so that
`import adasap` and the core (groups, criteria, sharpness, pruning) need nothing but torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adasap.config import Recipe, read_recipe
    from adasap.criteria import Evidence, build_criterion, score
    from adasap.export import export_model, load, save
    from adasap.groups import ChannelGroup, Slot, check_cut, prunable, trace_groups, widths
    from adasap.models import ModelSpec, open_model
    from adasap.pipeline import Result, compress
    from adasap.pruning import (
        Budget,
        BudgetOptions,
        MACs,
        Parameters,
        Pruned,
        PruningPlan,
        apply_plan_,
        prune,
        select_channels,
    )
    from adasap.sharpness import (
        AdaptivePerturbation,
        PerturbationOptions,
        UniformPerturbation,
        adaptive_radius,
        perturbed,
        recalibrate_,
        sharpness_aware_gradients,
    )
    from adasap.tasks import ClassificationTask, DetectionTask, Task
    from adasap.training import Compression, Data

__version__ = "0.1.0"

_HOMES = {
    "config": ("Recipe", "read_recipe"),
    "criteria": ("Evidence", "build_criterion", "score"),
    "export": ("export_model", "load", "save"),
    "groups": ("ChannelGroup", "Slot", "check_cut", "prunable", "trace_groups", "widths"),
    "models": ("ModelSpec", "open_model"),
    "pipeline": ("Result", "compress"),
    "pruning": (
        "Budget",
        "BudgetOptions",
        "MACs",
        "Parameters",
        "Pruned",
        "PruningPlan",
        "apply_plan_",
        "prune",
        "select_channels",
    ),
    "sharpness": (
        "AdaptivePerturbation",
        "PerturbationOptions",
        "UniformPerturbation",
        "adaptive_radius",
        "perturbed",
        "recalibrate_",
        "sharpness_aware_gradients",
    ),
    "tasks": ("ClassificationTask", "DetectionTask", "Task"),
    "training": ("Compression", "Data"),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptivePerturbation",
    "Budget",
    "BudgetOptions",
    "ChannelGroup",
    "ClassificationTask",
    "Compression",
    "Data",
    "DetectionTask",
    "Evidence",
    "MACs",
    "ModelSpec",
    "Parameters",
    "PerturbationOptions",
    "Pruned",
    "PruningPlan",
    "Recipe",
    "Result",
    "Slot",
    "Task",
    "UniformPerturbation",
    "adaptive_radius",
    "apply_plan_",
    "build_criterion",
    "check_cut",
    "compress",
    "export_model",
    "load",
    "open_model",
    "perturbed",
    "prunable",
    "prune",
    "read_recipe",
    "recalibrate_",
    "save",
    "score",
    "select_channels",
    "sharpness_aware_gradients",
    "trace_groups",
    "widths",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'adasap' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adasap.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
