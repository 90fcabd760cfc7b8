"""When channels go, and how many of them each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from adasap.errors import RecipeError
from adasap.registry import Registry


class PruningSchedule(Protocol):
    """At which steps there are pruning events, and which part of the cost stays after each."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have an event, ascending."""
        ...

    def progress(self, step: int) -> float | None:
        """r / R at the step of event r of R, so 1 at the last; None at a step without an event."""
        ...

    def kept_after(self, event: int, events: int, kept: float) -> float:
        """Fraction of the dense cost left after event `event` (1 to `events`) on the way to `kept`."""
        ...


def event_steps(start: int, stop: int, events: int, every: int) -> tuple[int, ...]:
    """Steps of at most `events` events, evenly spread over [start, stop) from `start` on, at least `every`
    apart.

    Fewer events where they do not fit, and one at `start` if the window is empty or shorter than `every`.

    Raises:
        RecipeError: Unless start >= 0, stop >= start, events >= 1 and every >= 1.
    Example:
        >>> event_steps(100, 200, events=3, every=30)
        (100, 133, 166)
        >>> event_steps(100, 200, events=30, every=30)
        (100, 133, 166)
    """
    if start < 0 or stop < start or events < 1 or every < 1:
        raise RecipeError(
            f"a pruning window needs 0 <= start <= stop, events >= 1 and every >= 1, "
            f"got start={start}, stop={stop}, events={events}, every={every}"
        )
    window = stop - start
    fitting = max(1, min(events, window // every))
    return tuple(start + index * window // fitting for index in range(fitting))


@dataclass(frozen=True)
class EventWindow:
    """What all schedules share: the events' steps.

    Attributes:
        start: First step of the window, that of the first event.
        stop: First step after the window.
        events: R, the number wanted; fewer if they do not fit.
        every: Least number of steps between two events.
    """

    start: int = 0
    stop: int = 0
    events: int = 30
    every: int = 30
    steps: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", event_steps(self.start, self.stop, self.events, self.every))

    def progress(self, step: int) -> float | None:
        """r / R at the step of event r of R, so 1 at the last; None at a step without an event."""
        return (self.steps.index(step) + 1) / len(self.steps) if step in self.steps else None


@dataclass(frozen=True)
class ExponentialSchedule(EventWindow):
    """Each event leaves the same fraction of what it finds: kept after event r of R is k^(r/R)."""

    def kept_after(self, event: int, events: int, kept: float) -> float:
        """k^(r/R).

        Example:
            >>> ExponentialSchedule().kept_after(1, 2, kept=0.25)
            0.5
        """
        return float(kept ** _part(event, events))


@dataclass(frozen=True)
class CubicSchedule(EventWindow):
    """Much at first, little at last: kept after event r of R is k + (1 - k)(1 - r/R)^3  (arXiv:1710.01878)"""

    def kept_after(self, event: int, events: int, kept: float) -> float:
        """k + (1 - k)(1 - r/R)^3."""
        return kept + (1 - kept) * (1 - _part(event, events)) ** 3


@dataclass(frozen=True)
class LinearSchedule(EventWindow):
    """The same cost at each event: kept after event r of R is 1 - (1 - k) r/R."""

    def kept_after(self, event: int, events: int, kept: float) -> float:
        """1 - (1 - k) r/R."""
        part = _part(event, events)
        return (1 - part) + kept * part


@dataclass(frozen=True)
class OneShotSchedule(EventWindow):
    """Everything at the first step of the window."""

    events: int = 1

    def __post_init__(self) -> None:
        if self.events != 1:
            raise RecipeError(f"one_shot has one event, got events={self.events}; choose another schedule for more")
        super().__post_init__()

    def kept_after(self, event: int, events: int, kept: float) -> float:
        """k from the first event on."""
        return kept if _part(event, events) > 0 else 1.0


PRUNING_SCHEDULES: Registry[Callable[..., PruningSchedule]] = Registry(
    "pruning schedule",
    {
        "exponential": ExponentialSchedule,
        "cubic": CubicSchedule,
        "linear": LinearSchedule,
        "one_shot": OneShotSchedule,
    },
    at="adasap.pruning.PRUNING_SCHEDULES",
)
"""Known under `pruning.schedule`; one of your own is an `EventWindow` with a `kept_after` of its own."""


def build_schedule(name: str, **options: Any) -> PruningSchedule:
    """A schedule by name with its window: `build_schedule("cubic", start=0, stop=900, events=30, every=30)`.

    Raises:
        RecipeError: For an unknown name, or an impossible window.
    """
    if name == "one_shot":
        options = {**options, "events": 1}
    return PRUNING_SCHEDULES.get(name)(**options)


def _part(event: int, events: int) -> float:
    if not 0 <= event <= events or events < 1:
        raise RecipeError(f"event {event} of {events}: events count from 1, and 0 is before the first")
    return event / events
