"""Removing channels: cost, budget, schedule, selection, plan, surgery."""

from adasap.pruning.budget import Budget, BudgetOptions, build_cost
from adasap.pruning.compensate import Compensation, LayerError, compensate_
from adasap.pruning.cost import COST_MODELS, CostModel, Parameters, amount
from adasap.pruning.damage import Damage, measured_damage
from adasap.pruning.depth import choose_depth
from adasap.pruning.knapsack import KnapsackSolution, solve_knapsack
from adasap.pruning.macs import MACs
from adasap.pruning.one_shot import Pruned, prune
from adasap.pruning.options import PruningOptions
from adasap.pruning.plan import PruningPlan
from adasap.pruning.protocols import PREPARATIONS, SELECTIONS, Preparation, SelectionMethod
from adasap.pruning.ranking import Ranking, ranking_classes
from adasap.pruning.schedule import (
    PRUNING_SCHEDULES,
    CubicSchedule,
    EventWindow,
    ExponentialSchedule,
    LinearSchedule,
    OneShotSchedule,
    PruningSchedule,
    build_schedule,
    event_steps,
)
from adasap.pruning.select import select_channels
from adasap.pruning.selection import Selection
from adasap.pruning.surgery import apply_plan_

__all__ = [
    "COST_MODELS",
    "PREPARATIONS",
    "PRUNING_SCHEDULES",
    "SELECTIONS",
    "Budget",
    "BudgetOptions",
    "Compensation",
    "CostModel",
    "CubicSchedule",
    "Damage",
    "EventWindow",
    "ExponentialSchedule",
    "KnapsackSolution",
    "LayerError",
    "LinearSchedule",
    "MACs",
    "OneShotSchedule",
    "Parameters",
    "Preparation",
    "Pruned",
    "PruningOptions",
    "PruningPlan",
    "PruningSchedule",
    "Ranking",
    "Selection",
    "SelectionMethod",
    "amount",
    "apply_plan_",
    "build_cost",
    "build_schedule",
    "choose_depth",
    "compensate_",
    "event_steps",
    "measured_damage",
    "prune",
    "ranking_classes",
    "select_channels",
    "solve_knapsack",
]
