"""Errors a user can act on: each message names what was given, what was wanted and the next move."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_LISTED = 20


class AdasapError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback."""


class ArgumentError(AdasapError, ValueError):
    """An argument of a public function has the wrong type, shape, length or value."""


class TraceError(AdasapError):
    """The model could not be exported or its channels could not be followed."""


class BudgetError(AdasapError, ValueError):
    """The budget cannot be met, or says nothing that could be met."""


class PlanError(AdasapError, ValueError):
    """A pruning plan does not belong to the model or the groups it was applied to."""


class RecipeError(AdasapError, ValueError):
    """A recipe has an unknown key, a value of the wrong kind, or options that exclude each other."""


class ModelError(AdasapError, ValueError):
    """A model could not be built, or weights do not fit it."""


class ModelFileError(AdasapError, ValueError):
    """A model file is truncated, altered, foreign, or asks for a builder that is not trusted."""


class ExportError(AdasapError, RuntimeError):
    """A model could not be written for a runtime, or does not compute the same numbers there."""


class DataError(AdasapError, ValueError):
    """Images or labels cannot be read or do not fit the task."""


class TrainingError(AdasapError, RuntimeError):
    """Training cannot go on: the loss is not finite step after step."""


class CheckpointError(AdasapError, RuntimeError):
    """A checkpoint could not be written or does not belong to this run."""


class HalfWrittenError(AdasapError, RuntimeError):
    """A file is empty or cut short, as a crash may leave it; what it held can be computed again."""


class AdasapWarning(UserWarning):
    """Something a user will want to know before the work starts; the command line prints it as a sentence."""


def suggestion(given: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known ones, or what there is.

    Example:
        >>> suggestion("adamw", ["SGD", "Adam", "AdamW"])
        "did you mean 'AdamW' or 'Adam'?"
        >>> suggestion("xyz", ["l1", "l2"])
        'there are: l1, l2'
    """
    names = list(known)
    folded = {name.lower(): name for name in names}
    near = [repr(folded[name]) for name in get_close_matches(str(given).lower(), folded, n=3)]
    if near:
        return f"did you mean {' or '.join([', '.join(near[:-1]), near[-1]] if near[1:] else near)}?"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"there are: {', '.join(names[:_MOST_LISTED])}{more}"


def first_line(error: BaseException) -> str:
    """The first line of a message that has any text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
