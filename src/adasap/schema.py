"""Plain values of JSON become dataclasses, checked where they are read: anybody may have written the file."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from adasap.errors import DataError

Kind = TypeVar("Kind")
Count = Annotated[int, Field(ge=0, le=10**15)]
Size = Annotated[int, Field(gt=0, le=10**18)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Corner = Annotated[float, Field(ge=-1e9, le=1e9)]
Score = Annotated[float, Field(ge=-1e6, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def checked(kind: type[Kind], value: Any, *, where: str) -> Kind:
    """A dataclass from plain values.

    Args:
        kind: The dataclass; keys that it does not know are passed over.
        value: Of JSON.
        where: The file, which begins the message.
    Raises:
        DataError: Names the first place that is missing or wrong.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Truth:
        ...     label: str
        ...     difficult: bool
        >>> checked(Truth, {"label": "cat"}, where="detections.json")
        Traceback (most recent call last):
        adasap.errors.DataError: detections.json: difficult is missing
    """
    try:
        found: Kind = _adapter(kind).validate_python(value)  # type: ignore[arg-type]  # it has a hash
        return found
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200] or "its content"
        if first["type"] == "missing":
            raise DataError(f"{where}: {place} is missing") from error
        raise DataError(f"{where}: {place} is {str(first['input'])[:80]!r}; {first['msg'].lower()}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
