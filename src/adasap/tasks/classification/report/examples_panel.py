"""Test images of a classifier, clean and corrupted, with what the models took them for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adasap.report.comparison import Comparison
from adasap.report.panel import Content, Panel
from adasap.report.pictures import image_source, read_picture
from adasap.report.run_data import RunData
from adasap.tasks.classification.report.examples import Example, Guess, read_examples


class ExamplesPanel(Panel):
    """Each image once, for all runs together."""

    key, heading = "examples", "Examples"
    part = Path(__file__).with_suffix(".html")

    def content(self, found: Comparison) -> Content | None:
        cards = example_cards(found.runs)
        return Content("As the models saw it", pictures=tuple(cards)) if cards else None


def example_cards(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Each image once, with what the dense models and every run took it for."""
    cards: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for example in read_examples(run.folder):
            content = read_picture(example.image)
            key = (example.suite, example.corruption, example.severity, example.index, content)
            if key not in cards:
                cards[key] = {
                    "source": image_source(content, where=str(example.image)),
                    **_card(example),
                    "guesses": {},
                }
            for model, guess in example.guesses.items():
                _add_guess(cards[key]["guesses"], guess, model, run.name, alone=len(runs) == 1)
    return list(cards.values())


def _card(example: Example) -> dict[str, Any]:
    name = example.corruption.replace("_", " ") or example.suite
    title = f"{name}, severity {example.severity}" if example.severity else name
    return {"title": title, "label": example.label, "index": example.index}


def _add_guess(guesses: dict[str, Guess], guess: Guess, model: str, run: str, *, alone: bool) -> None:
    """Dense models that agree are one line."""
    if model == "dense":
        agrees = alone or guesses.get("dense", guess) == guess
        guesses["dense" if agrees else f"dense of {run}"] = guess
    else:
        guesses["pruned" if alone else run] = guess
