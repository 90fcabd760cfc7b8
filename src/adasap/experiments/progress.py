"""A run as it happens: a bar on a terminal, lines in a log, objects for a program."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from adasap.experiments.terminal import Every, JsonConsole, PlainColumn, is_live
from adasap.pruning import amount
from adasap.report.format import duration
from adasap.report.records import as_dict
from adasap.training import (
    CandidateRecord,
    CellRecord,
    Observer,
    PhaseRecord,
    PruneRecord,
    Record,
    ResumeRecord,
    StageRecord,
    StepRecord,
)

SECONDS = 30.0
"""Between two lines of a log."""


@contextmanager
def progress_on(console: Console, title: str) -> Iterator[Observer]:
    """What shows a run on a console: a bar where one can move, else lines, or objects of JSON."""
    if isinstance(console, JsonConsole):
        yield lambda record: console.tell(**as_dict(record))
    elif not is_live(console):
        yield LogObserver(console, title)
    else:
        with ProgressObserver(console, title) as observer:
            yield observer


class Milestones:
    """A line for each stage that changed something, for the cut and where a run goes on."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._removed = 0
        self._mask_error = 0.0
        self._scores: dict[str, float] = {}

    def say(self, line: str) -> None:
        """A line of this run."""
        self._console.print(f"{self._title}: {line}", highlight=False, markup=False, soft_wrap=True)

    def __call__(self, record: Record) -> None:
        if isinstance(record, StageRecord) and record.scores != self._scores:
            self._scores = record.scores
            scores = ", ".join(f"{suite} {100 * score:.2f} %" for suite, score in record.scores.items())
            self.say(f"{record.stage:<12} {scores}")
        elif isinstance(record, PruneRecord):
            self._removed += record.removed
            self._mask_error = max(self._mask_error, record.mask_error)
            if record.event == record.events and self._removed:
                self.say(
                    f"{'cut':<12} {amount(record.cost)} {record.unit} left of the {record.cost_limit:,.0f} allowed; "
                    f"every cut = masked within {self._mask_error:.1g}"
                )
        elif isinstance(record, ResumeRecord):
            for line in resumed_lines(record):
                self.say(line)


class ProgressObserver(Milestones):
    """One bar over the whole run with time left, and the lines of `Milestones`."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, title)
        self._progress = Progress(
            PlainColumn("{task.description}", style="bold"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            PlainColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._kept = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, record: Record) -> None:
        super().__call__(record)
        if isinstance(record, PruneRecord):
            self._kept = f"{amount(record.cost)} {record.unit}"
        elif isinstance(record, PhaseRecord):
            if self._bar is None:
                self._bar = self._progress.add_task("", total=record.num_steps, completed=record.step, detail="")
            self._progress.update(self._bar, description=f"{self._title}: {record.phase}")
        elif self._bar is None:
            return
        elif isinstance(record, CandidateRecord):
            self._progress.update(self._bar, detail=f"candidate {record.candidate} of {record.candidates}")
        elif isinstance(record, CellRecord):
            self._progress.update(self._bar, detail=cell_text(record))
        elif isinstance(record, StepRecord):
            gap = "" if record.gap is None else f"gap {record.gap:.3f}  "
            self._progress.update(self._bar, completed=record.step, detail=f"loss {record.loss:.3f}  {gap}{self._kept}")


class LogObserver(Milestones):
    """Lines without a bar: at every stage, phase and pruning event, and every 30 s of what is done between them.

    Args:
        console: Where they go.
        title: What they begin with.
        clock: Gives seconds.
    """

    def __init__(self, console: Console, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, title)
        self._due, self._clock = Every(SECONDS, clock=clock), clock
        self._phase, self._num_steps = "", 0
        self._begun = (0, clock())  # step and time from which the pace is measured

    def __call__(self, record: Record) -> None:
        super().__call__(record)
        if isinstance(record, PhaseRecord):
            self._num_steps, self._begun = record.num_steps, (record.step, self._clock())
            if record.phase != self._phase:
                self._phase = record.phase
                self.say(f"{record.phase} from step {record.step:,} of {record.num_steps:,} on")
        elif isinstance(record, PruneRecord):
            self.say(
                f"pruning event {record.event} of {record.events} at step {record.step:,}: {record.removed:,} channels "
                f"removed, {amount(record.cost)} {record.unit} left"
            )
        elif isinstance(record, StepRecord | CellRecord | CandidateRecord) and self._due():
            self.say(self._line(record))

    def _line(self, record: StepRecord | CellRecord | CandidateRecord) -> str:
        if isinstance(record, CellRecord):
            return cell_text(record)
        if isinstance(record, CandidateRecord):
            return f"pruning event {record.event}, candidate {record.candidate} of {record.candidates}"
        step, began = self._begun
        pace = (self._clock() - began) / max(1, record.step - step)
        gap = "" if record.gap is None else f", gap {record.gap:.4f}"
        return (
            f"{record.phase}, step {record.step:,} of {self._num_steps:,}, loss {record.loss:.4f}{gap}, learning rate "
            f"{record.learning_rate:.3g}, {pace:.2g} s a step, {duration(pace * (self._num_steps - record.step))} left "
            "at this pace"
        )


def cell_text(record: CellRecord) -> str:
    """Which cell of an evaluation is done.

    Example:
        >>> cell_text(CellRecord(40, "pruned", "corrupted", "fog/3", 12, 76))
        'evaluating pruned: corrupted fog/3, cell 12 of 76'
    """
    return f"evaluating {record.stage}: {record.suite} {record.cell}, cell {record.number:,} of {record.cells:,}"


def resumed_lines(record: ResumeRecord) -> list[str]:
    """Where a run goes on, and what was found half-written.

    Example:
        >>> resumed_lines(ResumeRecord(40, 120, finished=False))
        ['resumed at step 40 of 120']
    """
    begun = [f"resumed at step {record.step:,} of {record.num_steps:,}"]
    return [*record.notes, *(begun if record.step and not record.finished else [])]
