"""Finished runs side by side, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adasap.experiments.page import write_page
from adasap.report import PAGE, Shown, Table
from adasap.report.comparison import Comparison, compare_runs
from adasap.report.files import comparison_table, write_summary
from adasap.report.run_data import RunData, read_runs


@dataclass(frozen=True, repr=False)
class Compared(Shown):
    """Runs side by side.

    Attributes:
        comparison: All numbers: changes, gains with paired intervals, the trade-off.
        folder: Where page and numbers lie: `report.html`, `report.json`, `report.csv`.
    """

    comparison: Comparison
    folder: Path

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / PAGE

    def parts(self) -> Iterator[Table | str]:
        """One table, and lines about runs that are not comparable or that nothing vouches for."""
        yield comparison_table(self.comparison)
        yield from self.comparison.remarks
        for run in self.comparison.runs:
            if not run.has_digest:
                yield f"{run.name}: no digest (an earlier version wrote it), so nothing says whether it was altered"
        yield f"The page: {self.page}"


def compare(runs: Sequence[str | Path], *, baseline: str = "dense", out: str | Path = "comparison") -> Compared:
    """Shows finished runs side by side on one page, with the same numbers as JSON, CSV and Markdown.

    Runs with other test images, corruptions or severities than the baseline (else the first run) are marked as not
    comparable: they have no gains over it and no point in the trade-off.

    Args:
        runs: Folders that `adasap.run` made.
        baseline: What gains are measured from: a run's name or folder, or `dense`.
        out: Folder for the page and its numbers.
    Raises:
        DataError: If a folder holds no finished run, one was altered, or runs are of different metrics.
    """
    found = read_runs([Path(run) for run in runs])
    name = next((run.name for run in found if Path(baseline) == run.folder), baseline)
    return write_side_by_side(found, Path(out), baseline=name)


def write_side_by_side(runs: Sequence[RunData], out: Path, *, baseline: str) -> Compared:
    """The page and its numbers of runs that have been read."""
    found = compare_runs(runs, baseline)
    out.mkdir(parents=True, exist_ok=True)
    write_page(found, out)
    write_summary(found, out)
    return Compared(found, out)
