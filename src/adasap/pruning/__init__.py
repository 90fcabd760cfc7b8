"""Removing channels: cost, budget, schedule, selection, plan, surgery."""

from adasap.pruning.budget import Budget
from adasap.pruning.candidates import CandidateOptions, draw_candidate
from adasap.pruning.cost import CostModel, Parameters, amount
from adasap.pruning.knapsack import KnapsackSolution, solve_knapsack
from adasap.pruning.latency import Latency, LatencyTable
from adasap.pruning.macs import MACs
from adasap.pruning.one_shot import Pruned, prune
from adasap.pruning.options import BudgetOptions, PruningOptions, build_cost
from adasap.pruning.plan import PruningPlan
from adasap.pruning.preparing import Preparation, PreparingOptions, build_preparation
from adasap.pruning.ranking import Ranking, ranking_classes
from adasap.pruning.schedule import (
    CubicSchedule,
    ExponentialSchedule,
    LinearSchedule,
    OneShotSchedule,
    PruningSchedule,
    build_schedule,
    event_steps,
)
from adasap.pruning.select import select_channels
from adasap.pruning.selection import Selection
from adasap.pruning.soft_mask import SoftMask
from adasap.pruning.surgery import apply_plan_

__all__ = [
    "Budget",
    "BudgetOptions",
    "CandidateOptions",
    "CostModel",
    "CubicSchedule",
    "ExponentialSchedule",
    "KnapsackSolution",
    "Latency",
    "LatencyTable",
    "LinearSchedule",
    "MACs",
    "OneShotSchedule",
    "Parameters",
    "Preparation",
    "PreparingOptions",
    "Pruned",
    "PruningOptions",
    "PruningPlan",
    "PruningSchedule",
    "Ranking",
    "Selection",
    "SoftMask",
    "amount",
    "apply_plan_",
    "build_cost",
    "build_preparation",
    "build_schedule",
    "draw_candidate",
    "event_steps",
    "prune",
    "ranking_classes",
    "select_channels",
    "solve_knapsack",
]
