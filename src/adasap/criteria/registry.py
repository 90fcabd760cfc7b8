"""Criteria by name, and a user's own function or object in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from adasap.criteria.activation import ActivationMean, APoZ
from adasap.criteria.chip import CHIP
from adasap.criteria.fisher import Fisher
from adasap.criteria.fpgm import FPGM
from adasap.criteria.hutchinson import Hutchinson
from adasap.criteria.l1 import L1
from adasap.criteria.l2 import L2
from adasap.criteria.lamp import LAMP
from adasap.criteria.norm_scale import NormScale
from adasap.criteria.protocol import Criterion, GatheringCriterion, GradientCriterion, Need
from adasap.criteria.random import Random
from adasap.criteria.taylor import Taylor, TaylorNorm
from adasap.criteria.taylor2 import SecondOrderTaylor
from adasap.errors import RecipeError, suggestion
from adasap.groups.group import ChannelGroup, Scores

ScoreFunction = Callable[[nn.Module, Sequence[ChannelGroup]], Scores]

_FACTORIES: dict[str, Callable[..., Criterion]] = {}


def register_criterion(name: str, factory: Callable[..., Criterion]) -> None:
    """Makes a criterion known by name; `factory(**options)` builds it.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _FACTORIES:
        raise ValueError(f"a criterion named {name!r} is registered already; choose another name")
    _FACTORIES[name] = factory


register_criterion("activation_mean", ActivationMean)
register_criterion("apoz", APoZ)
register_criterion("chip", CHIP)
register_criterion("fisher", Fisher)
register_criterion("fpgm", FPGM)
register_criterion("hutchinson", Hutchinson)
register_criterion("l1", L1)
register_criterion("l2", L2)
register_criterion("lamp", LAMP)
register_criterion("norm_scale", NormScale)
register_criterion("random", Random)
register_criterion("taylor", Taylor)
register_criterion("taylor2", SecondOrderTaylor)
register_criterion("taylor_norm", TaylorNorm)


def criterion_names() -> list[str]:
    """The names `build_criterion` knows, sorted."""
    return sorted(_FACTORIES)


def build_criterion(criterion: str | ScoreFunction | Criterion, **options: Any) -> Criterion:
    """A criterion from its name, from a plain function `(model, groups) -> scores`, or as it is.

    Args:
        criterion: A name of `criterion_names()`, a function, or an object with `score` and `needs`.
        options: Passed to the named criterion, such as `seed=1` for `random`.
    Raises:
        RecipeError: For an unknown name, an option the criterion does not have, or options with a function or object.
    Example:
        >>> build_criterion("random", seed=3)
        Random(seed=3, needs=frozenset())
    """
    if isinstance(criterion, str):
        return _build_named(criterion, options)
    if options:
        raise RecipeError(
            f"options {sorted(options)} were given with a criterion that is built already; set them there"
        )
    if hasattr(criterion, "score") and not isinstance(criterion, type):
        return cast(Criterion, criterion)
    if callable(criterion) and not isinstance(criterion, type):
        return FunctionCriterion(criterion)
    raise RecipeError(f"a criterion is a name, a function or an object with `score`, not {criterion!r}")


def score(
    criterion: str | ScoreFunction | Criterion,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    evidence: Scores | None = None,
) -> dict[str, Tensor]:
    """Group name -> importance, float [C], not negative: `build_criterion(criterion).score(...)`."""
    return build_criterion(criterion).score(model, groups, evidence)


def validate_criterion(criterion: Criterion, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
    """Raises, before any training, if the criterion is incomplete or says that it cannot score these groups.

    Raises:
        RecipeError: If it has not the methods of what it needs.
    """
    methods = {"gradients": (GradientCriterion, "batch_evidence"), "batches": (GatheringCriterion, "gather")}
    for need in criterion.needs:
        if need not in methods:
            raise RecipeError(f"a criterion needs {' or '.join(methods)}, not {need!r}")
        kind, method = methods[need]
        if not isinstance(criterion, kind):
            more = " and num_batches" if need == "batches" else ""
            raise RecipeError(f"{criterion!r} needs {need!r} but has no {method}{more}; see docs/criteria.md")
    if getattr(criterion, "num_batches", 1) < 1:
        raise RecipeError(f"{criterion!r} is to look at no batches; give num_batches of at least 1")
    validate = getattr(criterion, "validate", None)
    if validate is not None:
        validate(model, groups)


@dataclass(frozen=True)
class FunctionCriterion:
    """A user's function as a criterion: it reads the weights, so it needs no evidence."""

    function: ScoreFunction
    needs: frozenset[Need] = frozenset()

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """What the function gives; ValueError unless every group has its [C] scores, none negative."""
        scores = {name: value.detach() for name, value in self.function(model, groups).items()}
        title = getattr(self.function, "__name__", repr(self.function))
        for group in groups:
            found = tuple(scores[group.name].shape) if group.name in scores else "nothing"
            if found != (group.num_channels,):
                raise ValueError(
                    f"criterion {title} must score group {group.name!r} with shape ({group.num_channels},), "
                    f"gave {found}"
                )
            if bool((scores[group.name] < 0).any()):
                raise ValueError(f"criterion {title} scored group {group.name!r} below zero; give values >= 0")
        return scores


def _build_named(name: str, options: dict[str, Any]) -> Criterion:
    if name not in _FACTORIES:
        raise RecipeError(f"no criterion is called {name!r}; {suggestion(name, _FACTORIES)}")
    try:
        return _FACTORIES[name](**options)
    except TypeError as error:
        raise RecipeError(f"criterion {name!r} cannot be built with options {options}: {error}") from error
