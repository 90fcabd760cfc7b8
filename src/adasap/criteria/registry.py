"""Criteria by name, and a user's own function or object in their place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from adasap.criteria.protocol import Criterion, GatheringCriterion, GradientCriterion, Need
from adasap.errors import ArgumentError, RecipeError
from adasap.groups.bare import require_values
from adasap.groups.group import ChannelGroup, Scores
from adasap.groups.materialise import plain_model
from adasap.registry import Registry

ScoreFunction = Callable[[nn.Module, Sequence[ChannelGroup]], Scores]

CRITERIA: Registry[Callable[..., Criterion]] = Registry(
    "criterion",
    {
        "activation_mean": "adasap.criteria.activation:ActivationMean",
        "apoz": "adasap.criteria.activation:APoZ",
        "chip": "adasap.criteria.chip:CHIP",
        "fisher": "adasap.criteria.fisher:Fisher",
        "fpgm": "adasap.criteria.fpgm:FPGM",
        "hutchinson": "adasap.criteria.hutchinson:Hutchinson",
        "l1": "adasap.criteria.l1:L1",
        "l2": "adasap.criteria.l2:L2",
        "lamp": "adasap.criteria.lamp:LAMP",
        "norm_scale": "adasap.criteria.norm_scale:NormScale",
        "random": "adasap.criteria.random:Random",
        "taylor": "adasap.criteria.taylor:Taylor",
        "taylor2": "adasap.criteria.taylor2:SecondOrderTaylor",
        "taylor_norm": "adasap.criteria.taylor:TaylorNorm",
    },
    at="adasap.criteria.CRITERIA",
)
"""Name -> what builds a criterion from its options; open to your own."""


def build_criterion(criterion: str | ScoreFunction | Criterion, **options: Any) -> Criterion:
    """A criterion from its name, from a plain function `(model, groups) -> scores`, or as it is.

    Args:
        criterion: A name of `CRITERIA`, a function, or an object with `score` and `needs`.
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
    """Group name -> importance, float [C], not negative: `build_criterion(criterion).score(...)`.

    Args:
        criterion: As `build_criterion` takes it.
        model: Also inside wrappers; its weights are finite and plain.
        groups: Its groups.
        evidence: What the criterion needs beside the weights.
    Raises:
        ModelError: If weights are not finite (the message names the first parameter) or are computed from others.
        ArgumentError: If evidence is missing, or the groups belong to another model.
    """
    bare = plain_model(model)
    require_values(bare, "scores")
    return build_criterion(criterion).score(bare, groups, evidence)


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

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises RecipeError if the function cannot be called with a model and groups."""
        try:
            inspect.signature(self.function).bind(model, groups)
        except TypeError as error:
            raise RecipeError(
                f"criterion {self.function!r:.80} is called with the model and the groups: {error}; give a function "
                "of these two"
            ) from error
        except ValueError:  # built in, without a signature
            return

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """What the function gives; ArgumentError unless every group has its [C] scores, none negative."""
        title = getattr(self.function, "__name__", repr(self.function))
        self.validate(model, groups)
        given = self.function(model, groups)
        if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
            raise ArgumentError(
                f"criterion {title} gave a {type(given).__name__}; return a dictionary, group name -> tensor [C]"
            )
        scores = {name: value.detach() for name, value in given.items()}
        for group in groups:
            found = tuple(scores[group.name].shape) if group.name in scores else "nothing"
            if found != (group.num_channels,):
                raise ArgumentError(
                    f"criterion {title} must score group {group.name!r} with shape ({group.num_channels},), "
                    f"gave {found}"
                )
            if bool((scores[group.name] < 0).any()):
                raise ArgumentError(f"criterion {title} scored group {group.name!r} below zero; give values >= 0")
        return scores


def _build_named(name: str, options: dict[str, Any]) -> Criterion:
    factory = CRITERIA.get(name)
    try:
        return factory(**options)
    except TypeError as error:
        raise RecipeError(f"criterion {name!r} cannot be built with options {options}: {error}") from error
