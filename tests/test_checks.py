"""Numbers that are given: kinds and ranges in one vocabulary."""

from __future__ import annotations

import math

import pytest

from adasap.checks import finite_number, require_above, require_within, whole_number
from adasap.errors import ArgumentError, RecipeError


@pytest.mark.parametrize("value", [True, "3", math.nan, math.inf, 10**400, 1j, [[1]], b"1", -1, 1001])
def test_a_range_refuses_what_is_not_a_number_within(value: object) -> None:
    with pytest.raises(RecipeError, match=r"count is .*; give a number from 0 to 1,000"):
        require_within(RecipeError, 0, 1000, count=value)  # type: ignore[arg-type]


def test_what_a_bound_excludes_and_what_is_left_out() -> None:
    require_within(RecipeError, 0, 1, zero=0, one=1.0, none=None, several=(0, 0.5, 1))
    with pytest.raises(RecipeError, match="rate is 0; give a number above 0, up to 1,000,000"):
        require_above(RecipeError, 0, 1e6, rate=(1, 0))


@pytest.mark.parametrize("check", [whole_number, finite_number])
def test_a_number_of_thousands_of_digits_is_refused_in_words(check: object) -> None:
    with pytest.raises(ArgumentError, match="seed is a number of over 30 digits; give a"):
        check(10**5000, "seed", most=5)  # type: ignore[operator]
