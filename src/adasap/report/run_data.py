"""A run folder as typed data: what the page and its files are made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from adasap.errors import DataError
from adasap.report.profile import Latency, Profile
from adasap.robustness import SuiteResult

Role = Literal["clean", "corrupted", "shifted"]
Model = Literal["dense", "compressed"]


@dataclass(frozen=True)
class Width:
    """Channels of a group before and after, and why it had to stay whole, if it had to."""

    group: str
    before: int
    after: int
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guess:
    """What a model took an image for, with the probability it gave."""

    label: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class Example:
    """A test image as the models saw it.

    Attributes:
        suite, corruption, severity: Where it comes from; severity 0 for images as they are.
        index: Place in the test set.
        label: Its true class.
        image: PNG file.
        guesses: `dense` and `compressed` -> their answers.
    """

    suite: str
    corruption: str
    severity: int
    index: int
    label: str
    image: Path
    guesses: dict[str, Guess]


@dataclass(frozen=True)
class RunData:
    """One finished run.

    Attributes:
        name: The recipe's name, unique among the runs that are shown together.
        recipe: Every key of it, defaults filled in.
        stages: Stage -> suite -> scores, in the order of the run; `dense` first, `fine-tuned` last.
        profiles: `dense` and `compressed`.
        widths: Of every group, in the order of the model's forward.
        records: What `records.jsonl` holds, in order.
        command: How the run was started; empty for a run of Python.
        recipe_yaml: The text of `recipe.yaml`.
    """

    name: str
    folder: Path
    recipe: dict[str, Any]
    recipe_yaml: str
    environment: dict[str, Any]
    stages: dict[str, dict[str, SuiteResult]]
    profiles: dict[str, Profile]
    counters: dict[str, Any]
    widths: tuple[Width, ...]
    seconds: float
    records: tuple[dict[str, Any], ...]
    command: str = ""
    examples: tuple[Example, ...] = ()

    def scores(self, model: Model) -> dict[str, SuiteResult]:
        """Suite -> what the dense or the compressed model did on it."""
        return self.stages["dense" if model == "dense" else "fine-tuned"]

    def first_suite(self, role: Role) -> str | None:
        """Name of the first suite of a role."""
        return next((name for name, result in self.scores("dense").items() if role_of(result) == role), None)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind: `step`, `prune`, `stage`, `phase`."""
        return [record for record in self.records if record["kind"] == kind]


def role_of(result: SuiteResult) -> Role:
    """`clean` is the run's own test set; cells named CORRUPTION/SEVERITY make a suite `corrupted`, others `shifted`.

    Example:
        >>> role_of(SuiteResult("fog", {"fog/1": [1.0]}))
        'corrupted'
    """
    if result.name == "clean":
        return "clean"
    return "corrupted" if any("/" in cell for cell in result.cells) else "shifted"


def measure_of(run: RunData) -> str:
    """What a run's scores are called: `accuracy`, or `AP50` of a detector."""
    metrics = next(iter(run.scores("dense").values())).metrics
    return "AP50" if "map50" in next(iter(metrics.values()), {}) else "accuracy"


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """Reads finished runs; those that share a name are told apart by their folders.

    Raises:
        DataError: For a folder without a finished run, or one given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError("a run folder was given twice; name each run once")
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [replace(run, name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


def read_run(folder: Path) -> RunData:
    """Reads what `adasap compress` left in a folder.

    Raises:
        DataError: If there is no finished run.
    """
    try:
        result = json.loads((folder / "result.json").read_text())
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        return RunData(
            name=result["name"],
            folder=folder,
            recipe=result["recipe"],
            recipe_yaml=(folder / "recipe.yaml").read_text(),
            environment=result["environment"],
            stages={
                stage: {name: SuiteResult.from_json(name, scores) for name, scores in suites.items()}
                for stage, suites in result["stages"].items()
            },
            profiles={name: _profile(data) for name, data in result["profiles"].items()},
            counters=result["counters"],
            widths=_widths(result),
            seconds=result["seconds"],
            records=tuple(records),
            command=result.get("command", ""),
            examples=_examples(folder),
        )
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"{folder} holds no finished run ({type(error).__name__}: {error}); give the folder that "
            "`adasap compress` names at its end, such as runs/NAME"
        ) from error


def _profile(data: dict[str, Any]) -> Profile:
    times = {key: tuple(Latency(**entry) for entry in data.get(key, ())) for key in ("latency", "detection")}
    return Profile(**{**data, **times, "uncounted": tuple(data["uncounted"])})


def _widths(result: dict[str, Any]) -> tuple[Width, ...]:
    """Runs of earlier versions kept the groups that could be cut, and nothing about the others."""
    if "groups" in result:
        return tuple(Width(g["name"], g["before"], g["after"], tuple(g["frozen"])) for g in result["groups"])
    return tuple(Width(name, before, after) for name, (after, before) in result["plan"].items())


def _examples(folder: Path) -> tuple[Example, ...]:
    path = folder / "examples" / "examples.json"
    if not path.is_file():
        return ()
    return tuple(
        Example(
            **{
                **entry,
                "image": path.parent / entry["image"],
                "guesses": {model: Guess(**guess) for model, guess in entry["guesses"].items()},
            }
        )
        for entry in json.loads(path.read_text())
    )
