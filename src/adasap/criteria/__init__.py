"""How much a channel matters: one protocol, one registry, one file per criterion."""

from adasap.criteria.evidence import Evidence
from adasap.criteria.protocol import Criterion, GatheringCriterion, GradientCriterion
from adasap.criteria.reading_side import ReadingSide, reading_side
from adasap.criteria.registry import (
    FunctionCriterion,
    build_criterion,
    criterion_names,
    register_criterion,
    score,
    validate_criterion,
)

__all__ = [
    "Criterion",
    "Evidence",
    "FunctionCriterion",
    "GatheringCriterion",
    "GradientCriterion",
    "ReadingSide",
    "build_criterion",
    "criterion_names",
    "reading_side",
    "register_criterion",
    "score",
    "validate_criterion",
]
