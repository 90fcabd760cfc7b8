"""A run as it happens, on the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from adasap.experiments.terminal import PlainColumn
from adasap.pruning import amount
from adasap.training import CandidateRecord, PhaseRecord, PruneRecord, Record, ResumeRecord, StageRecord, StepRecord


class ProgressObserver:
    """One bar over the whole run with time left, and a line per stage that changed something."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
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
        self._removed = 0
        self._mask_error = 0.0
        self._scores: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, record: Record) -> None:
        if isinstance(record, StageRecord) and record.scores != self._scores:
            self._scores = record.scores
            scores = ", ".join(f"{suite} {100 * score:.2f} %" for suite, score in record.scores.items())
            self._console.print(f"{self._title}: {record.stage:<12} {scores}")
        elif isinstance(record, PruneRecord):
            self._kept = f"{amount(record.cost)} {record.unit}"
            self._removed += record.removed
            self._mask_error = max(self._mask_error, record.mask_error)
            if record.event == record.events and self._removed:
                self._console.print(
                    f"{self._title}: {'cut':<12} {self._kept} left of the {record.cost_limit:,.0f} allowed; "
                    f"every cut = masked within {self._mask_error:.1g}"
                )
        elif isinstance(record, ResumeRecord):
            for line in resumed_lines(record):
                self._console.print(f"{self._title}: {line}", highlight=False, markup=False, soft_wrap=True)
        elif isinstance(record, CandidateRecord) and self._bar is not None:
            self._progress.update(self._bar, detail=f"candidate {record.candidate} of {record.candidates}")
        elif isinstance(record, PhaseRecord):
            if self._bar is None:
                self._bar = self._progress.add_task("", total=record.num_steps, completed=record.step, detail="")
            self._progress.update(self._bar, description=f"{self._title}: {record.phase}")
        elif isinstance(record, StepRecord) and self._bar is not None:
            gap = "" if record.gap is None else f"gap {record.gap:.3f}  "
            self._progress.update(self._bar, completed=record.step, detail=f"loss {record.loss:.3f}  {gap}{self._kept}")


def resumed_lines(record: ResumeRecord) -> list[str]:
    """Where a run goes on, and what was found half-written.

    Example:
        >>> resumed_lines(ResumeRecord(40, 120, finished=False))
        ['resumed at step 40 of 120']
    """
    begun = [f"resumed at step {record.step:,} of {record.num_steps:,}"]
    return [*record.notes, *(begun if record.step and not record.finished else [])]
