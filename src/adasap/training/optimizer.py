"""Any torch optimizer by name, and the learning rate as a pure function of the step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from adasap.checks import MOST_EPOCHS, require_above, require_declared, require_within
from adasap.errors import RecipeError, suggestion
from adasap.registry import Registry


@dataclass(frozen=True)
class OptimizerOptions:
    """Which optimizer, and how fast.

    Attributes:
        name: A class of `torch.optim`.
        learning_rate: The peak rate.
        weight_decay: Decay of convolution and linear weights.
        decay_norms: Whether norm scales, shifts and biases decay too.
        options: Further arguments of the class; SGD without any gets momentum 0.9.
    """

    name: str = "SGD"
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    decay_norms: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_above(RecipeError, 0, 1e6, learning_rate=self.learning_rate)
        require_within(RecipeError, 0, 1e6, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate moves over the whole run, all three steps together.

    Attributes:
        name: `cosine` (to `final` of the peak), `step` (times `gamma` at each milestone), `constant`, or a registered
            one.
        warm_up_epochs: Epochs of linear increase from zero.
        milestones: Fractions of the run at which `step` falls.
        gamma: Factor at each milestone.
        final: Fraction of the peak at which `cosine` ends.
    """

    name: str = "cosine"
    warm_up_epochs: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        LEARNING_RATES.get(self.name)
        require_within(RecipeError, 0, MOST_EPOCHS, warm_up_epochs=self.warm_up_epochs)
        require_within(RecipeError, 0, 1, milestones=self.milestones, gamma=self.gamma, final=self.final)


def learning_rate_factor(step: int, num_steps: int, options: ScheduleOptions, *, warm_up_steps: int = 0) -> float:
    """The learning rate of a step (counted from 0) as a fraction of the peak.

    Example:
        >>> [round(learning_rate_factor(s, 4, ScheduleOptions()), 3) for s in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    if step < warm_up_steps:
        return (step + 1) / (warm_up_steps + 1)
    progress = (step - warm_up_steps) / max(1, num_steps - warm_up_steps)
    return float(LEARNING_RATES.get(options.name)(progress, options))


def cosine(progress: float, options: ScheduleOptions) -> float:
    """Half a wave from 1 to `final`."""
    return options.final + (1 - options.final) * 0.5 * (1 + math.cos(math.pi * progress))


def step(progress: float, options: ScheduleOptions) -> float:
    """gamma^(milestones passed)."""
    return float(options.gamma ** sum(progress >= milestone for milestone in options.milestones))


def constant(progress: float, options: ScheduleOptions) -> float:
    """1."""
    return 1.0


LearningRate = Callable[[float, ScheduleOptions], float]
"""From the part of the run that is over, 0 to 1, after the warm-up, to the learning rate as a fraction of the peak."""
LEARNING_RATES: Registry[LearningRate] = Registry(
    "learning-rate schedule",
    {"cosine": cosine, "step": step, "constant": constant},
    at="adasap.training.LEARNING_RATES",
)
"""Known under `training.schedule.name`."""


def require_cuttable_state(options: OptimizerOptions) -> None:
    """One trial step: an optimizer whose state cannot follow a cut is refused before any training.

    Raises:
        RecipeError: If its state has another shape than the parameter, or it cannot step on a dense gradient at all.
    """
    trial = nn.Conv2d(4, 6, 3)
    _require_follows(build_optimizer(trial, options), trial, f"torch.optim.{options.name}")


def require_cuttable(optimizer: torch.optim.Optimizer) -> None:
    """The same of an optimizer that exists, by a small one of its class; a class that takes other arguments passes.

    Raises:
        RecipeError: As `require_cuttable_state`.
    """
    trial, kind = nn.Conv2d(4, 6, 3), type(optimizer)
    try:
        like = kind(trial.parameters(), **optimizer.defaults)
    except (TypeError, ValueError):
        return  # it is seen at the first cut, before anything is changed
    _require_follows(like, trial, kind.__name__)


def _require_follows(optimizer: torch.optim.Optimizer, trial: nn.Module, name: str) -> None:
    for weight in trial.parameters():
        weight.grad = torch.ones_like(weight)
    wanted = "use an optimizer that keeps state of the parameter's shape, such as SGD or AdamW"
    try:
        optimizer.step()
    except (RuntimeError, TypeError) as error:
        raise RecipeError(f"{name} cannot step in this loop ({error}); {wanted}") from error
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                raise RecipeError(
                    f"{name} keeps {key!r} of a parameter of shape {tuple(parameter.shape)} as "
                    f"{tuple(value.shape)}, which cannot be cut with its channels; {wanted}"
                )


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters, one-dimensional ones in a group without decay.

    Raises:
        RecipeError: For an unknown class (names the nearest) or an argument the class does not take.
    """
    names = [n for n in dir(torch.optim) if inspect.isclass(getattr(torch.optim, n)) and n != "Optimizer"]
    if options.name not in names:
        raise RecipeError(f"torch.optim has no {options.name!r}; {suggestion(options.name, names)}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise RecipeError("the model has no trainable parameter; unfreeze some before training")
    decayed = [p for p in parameters if p.ndim > 1 or options.decay_norms]
    others = [p for p in parameters if p.ndim <= 1 and not options.decay_norms]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    arguments = options.options or ({"momentum": 0.9} if options.name == "SGD" else {})
    try:
        optimizer = getattr(torch.optim, options.name)(
            [group for group in groups if group["params"]], lr=options.learning_rate, **arguments
        )
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise RecipeError(f"torch.optim.{options.name} refuses {arguments}: {error}") from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer
