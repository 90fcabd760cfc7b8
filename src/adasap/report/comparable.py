"""Whether scores of two models may stand in one column: on the same images, the same corruptions, the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adasap.evaluation import SuiteResult
from adasap.report.run_data import RunData


def not_comparable(run: RunData, reference: RunData) -> dict[str, str]:
    """Suite -> why a run's scores on it cannot be compared with those of another; suites that can are left out.

    What the images were is read from the recipes: kind, name of the place (which folder it lies in may differ between
    machines), part, range and classes.
    """
    mine, theirs = run.scores("compressed"), reference.scores("compressed")
    found = {
        name: why_apart(mine[name], theirs[name], images=(_images_of(run, name), _images_of(reference, name)))
        for name in mine.keys() & theirs.keys()
    }
    return {name: found[name] for name in mine if found.get(name)}


def why_apart(
    mine: SuiteResult, theirs: SuiteResult, *, images: tuple[str, str], outputs: tuple[str, str] = ("", "")
) -> str:
    """Why two results of a suite are not comparable; empty if they are.

    Args:
        mine: Of the model that is looked at.
        theirs: Of the one that it stands beside.
        images: What is known of the images of both, in words; empty where nothing is.
        outputs: Which outputs competed, in words.

    Example:
        >>> from adasap.evaluation import CLEAN
        >>> ten, two = (SuiteResult("clean", {CLEAN: [1.0] * count}) for count in (10, 2))
        >>> why_apart(two, ten, images=("digits", "digits"))
        'other test images (2 instead of 10)'
    """
    here, there = (len(next(iter(result.cells.values()))) for result in (mine, theirs))
    if all(images) and images[0] != images[1]:
        return f"other test images ({images[0]} instead of {images[1]})"
    if here != there:
        return f"other test images ({here:,} instead of {there:,})"
    if mine.cells.keys() != theirs.cells.keys():
        return "other corruptions or severities"
    if outputs[0] != outputs[1]:
        return f"other classes ({outputs[0] or 'all outputs'} instead of {outputs[1] or 'all outputs'})"
    return ""


def other_dense_model(run: RunData, reference: RunData) -> str:
    """A sentence about a run that began with another dense model than the reference; empty if it did not."""
    (mine, own), (theirs, other) = (_architecture_of(one) for one in (run, reference))
    if mine and theirs and (mine, own) != (theirs, other):
        options = " with other options" if mine == theirs else ""
        return f"{run.name} began with another dense model than {reference.name}: {mine}{options} instead of {theirs}"
    sizes = [(one.profiles["dense"].parameters, one.profiles["dense"].macs) for one in (run, reference)]
    same = sizes[0] == sizes[1]
    return "" if same else f"{run.name} began with another dense model than {reference.name}: of another size"


def _architecture_of(run: RunData) -> tuple[str, Mapping[str, Any]]:
    """Builder and its options; nothing of runs of early versions, or of a module from Python."""
    model = _mapping(run.recipe.get("model"))
    return str(model.get("builder") or ""), _mapping(model.get("options"))


def _images_of(run: RunData, suite: str) -> str:
    """The images of a suite as the recipe names them; empty where it does not say."""
    data = _mapping(run.recipe.get("data"))
    own = _mapping(_mapping(data.get("suites")).get(suite))
    if own.get("path"):
        return f"{own.get('kind') or suite} {Path(str(own['path'])).name}"
    return _described(_mapping(own.get("data")) or _mapping(data.get("test")))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _described(source: Mapping[str, Any]) -> str:
    """A data source in a few words."""
    split = source.get("split")
    split = split.get("test") if isinstance(split, Mapping) else split
    first, count, classes = source.get("first") or 0, source.get("count"), source.get("classes")
    words = [str(source.get("kind") or ""), Path(str(source["path"])).name if source.get("path") else ""]
    parts = [
        " ".join(filter(None, words)),
        f"part {split}" if split not in (None, "test") else "",
        f"from {first:,}" if isinstance(first, int) and first else "",
        f"{count:,} images" if isinstance(count, int) else "",
        f"only {', '.join(map(str, classes))}" if isinstance(classes, list | tuple) and classes else "",
    ]
    return ", ".join(filter(None, parts))
