"""Options that keep a builder busy are refused in bounded time."""

from __future__ import annotations

import gc
import time

import pytest
import torch
from torch import nn

from adasap.errors import ModelError
from adasap.models import size_guard
from adasap.models.deadline import TooSlowError, deadline
from adasap.models.open import ModelSpec, open_model


def counts(most: int) -> nn.Module:
    """Counts before it registers anything, and does not mind errors."""
    for _ in range(most):
        try:
            sum(range(1000))
        except Exception:
            continue
    return nn.Linear(2, 2)


def test_a_builder_that_only_computes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_guard, "TRIAL_SECONDS", 0.3)
    with pytest.raises(ModelError, match=r"not put together within 0\.3 s"):
        size_guard.built_within_bounds(counts, {"most": 10**9})
    assert isinstance(size_guard.built_within_bounds(counts, {"most": 1}), nn.Linear)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "options"),
    [
        ("timm:mobilenetv3_small_100", {"depth_multiplier": 1e6}),
        ("timm:vit_tiny_patch16_224", {"depth": 100_000}),
    ],
)
def test_absurd_options_are_refused_in_bounded_time(
    builder: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size_guard, "TRIAL_SECONDS", 2)
    with pytest.raises(ModelError, match="the options describe a model"):
        open_model(ModelSpec(builder, options))


def swallows_once(swallowed: list[int]) -> None:
    while True:
        try:
            sum(range(1000))
        except TooSlowError:
            swallowed.append(1)
            if len(swallowed) == 2:
                raise


def test_code_that_swallows_the_error_gets_it_again() -> None:
    swallowed: list[int] = []
    with pytest.raises(TooSlowError), deadline(0.1):
        swallows_once(swallowed)
    assert len(swallowed) == 2


def test_no_finaliser_of_others_takes_the_error() -> None:
    assert gc.isenabled()
    with deadline(60):
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_is_in_time_is_not_disturbed_later() -> None:
    with deadline(0.05):
        total = sum(range(1000))
    for _ in range(20):
        with deadline(1e-6):
            pass
    torch.ones(2).sum()
    time.sleep(0.3)
    assert total == 499_500
    with deadline(0.1), pytest.raises(TooSlowError):
        sum(0 for _ in iter(int, 1))  # never ends
