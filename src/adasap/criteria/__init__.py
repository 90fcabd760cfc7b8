"""How much a channel matters: one protocol, one registry, one file per criterion."""

from adasap.criteria.consumer_view import ReadingSide, reading_side
from adasap.criteria.evidence import Evidence
from adasap.criteria.protocol import Criterion, GatheringCriterion, GradientCriterion
from adasap.criteria.registry import CRITERIA, FunctionCriterion, build_criterion, score, validate_criterion

__all__ = [
    "CRITERIA",
    "Criterion",
    "Evidence",
    "FunctionCriterion",
    "GatheringCriterion",
    "GradientCriterion",
    "ReadingSide",
    "build_criterion",
    "reading_side",
    "score",
    "validate_criterion",
]
