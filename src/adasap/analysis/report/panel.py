"""The sharpness of a run's models, where `adasap analyze` measured it."""

from __future__ import annotations

from markupsafe import Markup

from adasap.analysis.file import NAME, read_analysis
from adasap.analysis.report.figures import analysis_figures
from adasap.errors import DataError
from adasap.report.comparison import Comparison
from adasap.report.figures import Figure
from adasap.report.panel import Block, Content, Panel, blocks_by_run
from adasap.report.run_data import RunData

MISSING = Markup("Not analysed: <code>adasap analyze</code> takes the run's folder.")


class SharpnessPanel(Panel):
    """Left out where no run was analysed."""

    key, heading = "sharpness", "Sharpness"

    def content(self, found: Comparison) -> Content | None:
        content = blocks_by_run("Sharpness", found, _blocks)
        if content is None:
            return None
        return Content(content.title, by_run=tuple(own or (Block(text=MISSING),) for own in content.by_run))


def _blocks(found: Comparison, place: int) -> list[Block]:
    return [Block(figure.title, figure=figure) for figure in _figures(found.runs[place], place).values()]


def _figures(run: RunData, place: int) -> dict[str, Figure]:
    """Those of the analysis that lies in a run's folder.

    Raises:
        DataError: If its file is damaged.
    """
    path = run.folder / NAME
    try:
        return analysis_figures(read_analysis(path), f"-{place}") if path.is_file() else {}
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"{path} lacks what its figures need ({type(error).__name__}: {error}); remove it, or analyze the run again"
        ) from error
