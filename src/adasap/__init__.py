"""adasap: adaptive sharpness-aware pruning, for vision models that are small, fast and robust.

The names below are all that most programs need. They are imported when they are first used, so that
`import adasap` and the core (groups, criteria, sharpness, pruning) need nothing but torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adasap.convolutions import guard_convolutions
    from adasap.criteria import Evidence, build_criterion, score
    from adasap.evaluation import SuiteSource
    from adasap.experiments.analyze import analyze
    from adasap.experiments.check_data import check_data
    from adasap.experiments.compare import compare
    from adasap.experiments.compress import run
    from adasap.experiments.evaluate import evaluate
    from adasap.experiments.first_recipe import init_recipe
    from adasap.experiments.latency import latency_table
    from adasap.experiments.preview import preview
    from adasap.experiments.profile import profile
    from adasap.experiments.prune import prune_model
    from adasap.experiments.recipe import Recipe, read_recipe
    from adasap.experiments.sweep.run import sweep
    from adasap.export import export_model, from_pretrained, load, save, save_pretrained
    from adasap.groups import ChannelGroup, Slot, check_cut, prunable, register_operator, trace_groups, widths
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
        LossBudget,
        PerturbationOptions,
        UniformPerturbation,
        adaptive_radius,
        perturbed,
        recalibrate_,
        sharpness_aware_gradients,
    )
    from adasap.tasks import TASKS, BaseTask, Data, Metric, Task
    from adasap.tasks.classification.task import ClassificationTask
    from adasap.tasks.detection.task import DetectionTask
    from adasap.training import Compression

__version__ = "0.1.0"

_HOMES = {
    "experiments.analyze": ("analyze",),
    "experiments.check_data": ("check_data",),
    "experiments.compare": ("compare",),
    "experiments.compress": ("run",),
    "experiments.evaluate": ("evaluate",),
    "experiments.first_recipe": ("init_recipe",),
    "experiments.latency": ("latency_table",),
    "experiments.preview": ("preview",),
    "experiments.profile": ("profile",),
    "experiments.prune": ("prune_model",),
    "experiments.recipe": ("Recipe", "read_recipe"),
    "experiments.sweep.run": ("sweep",),
    "convolutions": ("guard_convolutions",),
    "criteria": ("Evidence", "build_criterion", "score"),
    "export": ("export_model", "from_pretrained", "load", "save", "save_pretrained"),
    "groups": ("ChannelGroup", "Slot", "check_cut", "prunable", "register_operator", "trace_groups", "widths"),
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
        "LossBudget",
        "PerturbationOptions",
        "UniformPerturbation",
        "adaptive_radius",
        "perturbed",
        "recalibrate_",
        "sharpness_aware_gradients",
    ),
    "evaluation": ("SuiteSource",),
    "tasks": ("TASKS", "BaseTask", "Data", "Metric", "Task"),
    "tasks.classification.task": ("ClassificationTask",),
    "tasks.detection.task": ("DetectionTask",),
    "training": ("Compression",),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "TASKS",
    "AdaptivePerturbation",
    "BaseTask",
    "Budget",
    "BudgetOptions",
    "ChannelGroup",
    "ClassificationTask",
    "Compression",
    "Data",
    "DetectionTask",
    "Evidence",
    "LossBudget",
    "MACs",
    "Metric",
    "ModelSpec",
    "Parameters",
    "PerturbationOptions",
    "Pruned",
    "PruningPlan",
    "Recipe",
    "Result",
    "Slot",
    "SuiteSource",
    "Task",
    "UniformPerturbation",
    "adaptive_radius",
    "analyze",
    "apply_plan_",
    "build_criterion",
    "check_cut",
    "check_data",
    "compare",
    "compress",
    "evaluate",
    "export_model",
    "from_pretrained",
    "guard_convolutions",
    "init_recipe",
    "latency_table",
    "load",
    "open_model",
    "perturbed",
    "preview",
    "profile",
    "prunable",
    "prune",
    "prune_model",
    "read_recipe",
    "recalibrate_",
    "register_operator",
    "run",
    "save",
    "save_pretrained",
    "score",
    "select_channels",
    "sharpness_aware_gradients",
    "sweep",
    "trace_groups",
    "widths",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'adasap' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adasap.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
