"""Budgets and schedules: what may be left, and when."""

from __future__ import annotations

import itertools
import math

import pytest

from adasap.errors import BudgetError, RecipeError
from adasap.pruning import Budget, OneShotSchedule, Parameters, build_schedule, event_steps
from adasap.pruning.schedule import PRUNING_SCHEDULES
from criteria_nets import plain_net

NAMES = sorted(PRUNING_SCHEDULES)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_it_starts_whole_falls_and_ends_at_the_budget(self, name: str) -> None:
        schedule = build_schedule(name)
        events = 1 if name == "one_shot" else 7
        kept = [schedule.kept_after(event, events, 0.3) for event in range(events + 1)]
        assert kept[0] == 1.0
        assert kept[-1] == 0.3
        assert kept == sorted(kept, reverse=True)

    def test_keeping_all_keeps_all(self, name: str) -> None:
        assert build_schedule(name).kept_after(1, 1, 1.0) == 1.0

    def test_progress_ends_at_one_and_is_none_between_events(self, name: str) -> None:
        schedule = build_schedule(name, start=10, stop=100, events=3, every=20)
        progress = [schedule.progress(step) for step in range(120)]
        assert [step for step, value in enumerate(progress) if value is not None] == list(schedule.steps)
        assert progress[schedule.steps[-1]] == 1.0

    def test_events_out_of_range_are_refused(self, name: str) -> None:
        for event, events in ((-1, 3), (4, 3), (0, 0)):
            with pytest.raises(RecipeError, match=f"event {event} of {events}"):
                build_schedule(name).kept_after(event, events, 0.5)


def test_the_forms() -> None:
    assert build_schedule("exponential").kept_after(1, 4, 0.0625) == 0.5
    assert build_schedule("linear").kept_after(1, 4, 0.2) == pytest.approx(0.8)
    assert build_schedule("cubic").kept_after(2, 4, 0.2) == pytest.approx(0.2 + 0.8 / 8)
    assert build_schedule("one_shot").kept_after(1, 1, 0.2) == 0.2


@pytest.mark.parametrize(
    ("start", "stop", "events", "every", "wanted"),
    [
        (0, 100, 4, 10, [0, 25, 50, 75]),
        (7, 107, 30, 30, [7, 40, 73]),
        (5, 10, 30, 30, [5]),
        (5, 5, 3, 1, [5]),
        (0, 3, 3, 1, [0, 1, 2]),
        (0, 7, 3, 2, [0, 2, 4]),
    ],
)
def test_events_are_spread_over_the_window(start: int, stop: int, events: int, every: int, wanted: list[int]) -> None:
    assert list(event_steps(start, stop, events, every)) == wanted


def test_events_fit_the_window_and_keep_their_distance() -> None:
    for window in range(1, 80):
        for every in (1, 2, 7, 30):
            steps = event_steps(3, 3 + window, 10, every)
            assert 1 <= len(steps) <= 10
            assert steps[0] == 3
            assert steps[-1] < 3 + window
            assert all(b - a >= every for a, b in itertools.pairwise(steps))


def test_impossible_windows_are_refused() -> None:
    for arguments in ((-1, 5, 1, 1), (5, 4, 1, 1), (0, 5, 0, 1), (0, 5, 1, 0)):
        with pytest.raises(RecipeError, match="pruning window needs"):
            event_steps(*arguments)


def test_names() -> None:
    with pytest.raises(RecipeError, match="did you mean 'cubic'"):
        build_schedule("cubik")
    with pytest.raises(RecipeError, match="one event"):
        OneShotSchedule(events=3)


def test_a_budget_is_a_fraction_or_a_limit() -> None:
    cost = Parameters(*plain_net())
    assert Budget(cost, kept=0.5).limit == cost.dense / 2
    for options in ({}, {"kept": 0.5, "limit": 100.0}):
        with pytest.raises(BudgetError, match="exactly one"):
            Budget(cost, **options)
    for kept, message in ((0.0, "above 0"), (-0.1, "above 0"), (1.1, "a fraction is at most 1"), (math.nan, "above 0")):
        with pytest.raises(BudgetError, match=rf"kept is {kept}; .*{message}"):
            Budget(cost, kept=kept)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(BudgetError, match=r"limit \(in parameters\) is .*; give a number above 0"):
            Budget(cost, limit=limit)
