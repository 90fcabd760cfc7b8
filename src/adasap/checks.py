"""Values that a user or a stranger gives, refused in one place before anything is allocated: text for numbers, truth
values for seeds, NaN and infinity, numbers out of range."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeGuard

from adasap.errors import AdasapError, ArgumentError

MOST_PIXELS = 8_192
"""Longest side of an image that is made, in pixels."""
MOST_EPOCHS = 100_000
MOST_STEPS = 1_000_000_000
MOST_SEED = 2**63 - 1


def whole_number(
    value: object, name: str, *, least: int = 0, most: float = math.inf, error: type[AdasapError] = ArgumentError
) -> int:
    """The value, if it is a whole number from `least` to `most`; `True` and "3" are none.

    Example:
        >>> whole_number(True, "seed")
        Traceback (most recent call last):
        adasap.errors.ArgumentError: seed is True; give a whole number of at least 0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        raise error(f"{name} is {_shown(value)}; give {_wanted('a whole number', least, most)}")
    return int(value)


def finite_number(
    value: object,
    name: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    error: type[AdasapError] = ArgumentError,
) -> float:
    """The value, if it is a finite number from `least` (or above `above`) to `most`.

    Example:
        >>> finite_number("50%", "kept", above=0, most=1)
        Traceback (most recent call last):
        adasap.errors.ArgumentError: kept is '50%'; give a number above 0, up to 1, such as 0.5 for 50 %
    """
    if not _is_finite(value) or value < least or value <= above or value > most:
        raise error(f"{name} is {_shown(value)}; give {_wanted('a number', least, most, above)}{_percent(value)}")
    return float(value)


def require_within(
    error: type[AdasapError], least: float, most: float, /, **values: float | Iterable[float] | None
) -> None:
    """Raises unless every number lies from `least` to `most`; None says that an option is left out.

    Args:
        error: What is raised.
        least: The smallest that may be given.
        most: The largest.
        values: Name of an option -> number, or numbers.

    Example:
        >>> from adasap.errors import RecipeError
        >>> require_within(RecipeError, 1, 1000, batch_size=32, workers=None, milestones=(1, 10**9))
        Traceback (most recent call last):
        adasap.errors.RecipeError: milestones is 1,000,000,000; give a number from 1 to 1,000
    """
    _require(error, values, least=least, most=most)


def require_above(
    error: type[AdasapError], least: float, most: float, /, **values: float | Iterable[float] | None
) -> None:
    """As `require_within`, and `least` itself may not be given."""
    _require(error, values, above=least, most=most)


def _require(error: type[AdasapError], values: Mapping[str, Any], **bounds: float) -> None:
    for name, given in values.items():
        many = isinstance(given, Iterable) and not isinstance(given, str | bytes)
        for value in given if many else () if given is None else (given,):
            finite_number(value, name, error=error, **bounds)


def _wanted(kind: str, least: float, most: float, above: float = -math.inf) -> str:
    """The numbers that may be given, in words."""
    upper = _bound(most)
    if above > -math.inf:
        return f"{kind} above {_bound(above)}" + (f", up to {upper}" if most < math.inf else "")
    if least > -math.inf:
        return f"{kind} " + (f"from {_bound(least)} to {upper}" if most < math.inf else f"of at least {_bound(least)}")
    return f"{kind} of at most {upper}" if most < math.inf else f"{kind} that is finite"


def _bound(number: float) -> str:
    return f"{int(number) if math.isfinite(number) and number == int(number) else number:,}"


def _shown(value: object) -> str:
    """A value in a message: numbers with commas, everything cut short."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return f"{int(value):,}" if abs(int(value)) < 10**30 else "a number of over 30 digits"
    return f"{value!r:.60}"


def _percent(value: object) -> str:
    """The fraction that a percentage means, to be added to a message."""
    digits = value.strip().removesuffix("%").strip() if isinstance(value, str) and value.strip().endswith("%") else ""
    return f", such as {float(digits) / 100:g} for {digits} %" if digits.replace(".", "", 1).isdigit() else ""


def require_declared(options: Any, error: type[AdasapError], *, place: str = "") -> None:
    """Raises unless every field of a dataclass holds a value of its declared type, all numbers finite.

    Whole numbers are allowed where fractions are declared. Nothing is converted.

    Args:
        options: An instance of a dataclass.
        error: What is raised.
        place: Begins the name of a field in messages.
    Example:
        >>> @dataclasses.dataclass
        ... class Options:
        ...     seed: int = 0
        ...     def __post_init__(self):
        ...         require_declared(self, ArgumentError)
        >>> Options(seed="3")
        Traceback (most recent call last):
        adasap.errors.ArgumentError: seed is '3'; give a whole number
    """
    for name, hint in _hints(type(options)).items():  # type: ignore[arg-type]  # a class has a hash
        value = getattr(options, name)
        if (wanted := _misfit(value, hint)) is not None:
            raise error(f"{place}{name} is {_shown(value)}; give {wanted}{_percent(value)}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    known = typing.get_type_hints(kind)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def _misfit(value: object, hint: Any) -> str | None:
    """What is wanted in place of a value that does not fit a type hint; None if it fits or the hint is not judged."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        misfits = [_misfit(value, part) for part in inner]
        return None if None in misfits else " or ".join(dict.fromkeys(str(wanted) for wanted in misfits))
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in inner)
        return None if fits else f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        return _tuple_misfit(value, inner)
    if hint in _JUDGED:
        fits, wanted = _JUDGED[hint]
        return None if fits(value) else wanted
    return None


def _tuple_misfit(value: object, inner: tuple[Any, ...]) -> str | None:
    many = len(inner) == 2 and inner[1] is Ellipsis
    wanted = "a list" if many else f"a list of {len(inner)}"
    if not isinstance(value, tuple | list) or (not many and len(value) != len(inner)):
        return wanted
    hints = [inner[0]] * len(value) if many else inner
    misfits = [_misfit(part, hint) for part, hint in zip(value, hints, strict=True)]
    return next((f"{wanted}, each {misfit}" for misfit in misfits if misfit is not None), None)


def _is_finite(value: object) -> TypeGuard[float]:
    try:
        return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


_JUDGED: Mapping[Any, tuple[Any, str]] = {
    int: (lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool), "a whole number"),
    float: (_is_finite, "a finite number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "a text"),
    type(None): (lambda value: value is None, "nothing"),
}
