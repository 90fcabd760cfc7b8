"""Robustness against clean scores, size and time: every model of the page in one figure."""

from __future__ import annotations

from markupsafe import Markup

from adasap.report.comparison import Comparison
from adasap.report.figures_scores import trade_off
from adasap.report.panel import Block, Content, Panel
from adasap.report.run_data import RunData


class TradeOff(Panel):
    """Left out where no run has a suite of corruptions."""

    key, heading = "trade-off", "Trade-off"

    def content(self, found: Comparison) -> Content | None:
        if not found.points:
            return None
        recipes = {run.name: "<br>".join(recipe_lines(run)) for run in found.runs}
        figure = trade_off(found.points, recipes, found.metric)
        missing = [run.name for run in found.runs if found.apart.get(run.name) and not _has_point(found, run)]
        left = f"Left out, since not comparable with {found.reference}: {', '.join(missing)}." if missing else ""
        return Content("The trade-off", shared=(Block(text=left, figure=figure),))


def _has_point(found: Comparison, run: RunData) -> bool:
    return any(point.name == run.name for point in found.points)


def recipe_lines(run: RunData) -> list[str]:
    """What tells a recipe from another, for the hover: criterion, budget, steps, sharpness, seed; escaped."""
    recipe, lines = run.recipe, []
    pruning = recipe.get("pruning", {})
    budget = {k: v for k, v in pruning.get("budget", {}).items() if isinstance(v, int | float)}
    lines.append(
        f"criterion {pruning.get('criterion', '?')}; budget " + ", ".join(f"{k} {v}" for k, v in budget.items())
    )
    for step in ("warm_up", "pruning", "fine_tune"):
        part = recipe.get(step, {})
        kind = part.get("sharpness", {}).get("kind")
        lines.append(f"{step.replace('_', '-')} {part.get('epochs', 0):g} epochs" + (f", {kind}" if kind else ""))
    lines.append(f"seed {recipe.get('seed', 0)}")
    return [str(Markup.escape(line)) for line in lines]
