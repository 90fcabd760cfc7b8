"""A run folder as typed data: what the page and its files are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from adasap.errors import DataError
from adasap.evaluation import SuiteResult
from adasap.io import read_text
from adasap.profiling.profile import Latency, Profile
from adasap.report.records import read_records
from adasap.report.schema import LatencyData, ProfileData, ResultData, SuiteData
from adasap.report.task_record import TaskRecord, predictions_of, task_of
from adasap.schema import checked
from adasap.sealed import digest_of_file, read_sealed_json

RESULT = "result.json"

Role = Literal["clean", "corrupted", "shifted"]
Model = Literal["dense", "compressed"]


@dataclass(frozen=True)
class Width:
    """Channels of a group before and after, and, where there is any: why it had to stay whole, what is not exact."""

    group: str
    before: int
    after: int
    frozen: tuple[str, ...] = ()
    not_exact: str = ""


@dataclass(frozen=True)
class RunData:
    """One finished run.

    Attributes:
        name: The recipe's name, unique among the runs that are shown together.
        task: What it was scored by.
        recipe: Every key of it, defaults filled in.
        stages: Stage -> suite -> scores, in the order of the run; `dense` first, `fine-tuned` last.
        profiles: `dense` and `compressed`.
        widths: Of every group, in the order of the model's forward.
        records: What `records.jsonl` holds, in order.
        command: How the run was started; empty for a run of Python.
        recipe_yaml: The text of `recipe.yaml`.
        target: What the budget allowed beside what was measured, in a sentence; empty in runs of earlier versions.
        has_digest: Whether `result.json` carries a digest; those of earlier versions do not.
    """

    name: str
    folder: Path
    task: TaskRecord
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
    target: str = ""
    has_digest: bool = True

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
    """`clean` is the run's own test set; cells of a corruption make a suite `corrupted`, others `shifted`.

    Example:
        >>> from adasap.evaluation import Cell
        >>> role_of(SuiteResult("fog", {Cell("fog", 1): [1.0]}))
        'corrupted'
    """
    if result.name == "clean":
        return "clean"
    return "shifted" if all(cell.is_clean for cell in result.cells) else "corrupted"


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
    """Reads what `adasap compress` left in a folder, after checking that all of it is there and unaltered.

    Raises:
        DataError: If there is no finished run; names what is missing, half written, altered or wrong.
    """
    path = folder / RESULT
    if not path.is_file():
        begun = "has not ended; run its command again" if (folder / "recipe.yaml").is_file() else f"lacks {RESULT}"
        raise DataError(
            f"{folder} holds no finished run ({begun}); give the folder that `adasap compress` names at its end, such "
            "as runs/NAME"
        )
    content = read_result(path, remedy="remove it and run the command of this run again, or compare other runs")
    result = checked(ResultData, content, where=str(path))
    if result.files is not None:
        _check_files(folder, result.files)
    return RunData(
        name=result.name,
        folder=folder,
        task=task_of(content, where=str(path)),
        recipe=content["recipe"],
        recipe_yaml=read_text(folder / "recipe.yaml", what="the recipe of a run", error=DataError),
        environment=content["environment"],
        stages=_stages(result.stages, str(path)),
        profiles=_profiles(result.profiles, str(path)),
        counters=content["counters"],
        widths=_widths(result),
        seconds=result.seconds,
        records=tuple(read_records(folder / "records.jsonl", error=DataError)),
        command=result.command,
        target=result.target,
        has_digest=result.files is not None,
    )


def read_result(path: Path, *, remedy: str) -> dict[str, Any]:
    """What `result.json` says; only those of earlier versions, which list no `files`, may be without a digest.

    Raises:
        AdasapError: If it was altered, is half written, or has lost its digest.
    """
    what = "the result of a run"
    content = read_sealed_json(path, what=what, error=DataError, remedy=remedy, needs_digest=False)
    if "files" in content:
        read_sealed_json(path, what=what, error=DataError, remedy=remedy)
    return content


def _widths(result: ResultData) -> tuple[Width, ...]:
    """Runs of early versions kept the groups that could be cut, and nothing about the others."""
    if result.groups is not None:
        return tuple(
            Width(group.name, group.before, group.after, group.frozen, group.not_exact) for group in result.groups
        )
    return tuple(Width(name, before, after) for name, (after, before) in (result.plan or {}).items())


def digests(folder: Path) -> dict[str, str]:
    """Path in a run's folder -> digest, of what belongs to its result and does not change any more."""
    names = ["recipe.yaml", "records.jsonl"]
    names += sorted(
        path.relative_to(folder).as_posix()
        for part in _picture_folders(folder)
        for path in (folder / part).glob("*")
        if path.is_file()
    )
    return {name: digest_of_file(folder / name) for name in names}


def _picture_folders(folder: Path) -> list[str]:
    """Folders of a run's folder that hold pictures and what the models said of them, in `NAME/NAME.json`."""
    return [path.name for path in sorted(folder.iterdir()) if (path / f"{path.name}.json").is_file()]


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Everything that a result names must be there as it was, and lie in the run's folder."""
    if outside := [name for name in files if not _lies_within(name)]:
        raise DataError(f"{folder / RESULT} names {outside[0][:200]!r}, which lies outside the folders of a run")
    names = list(dict.fromkeys([*files, "recipe.yaml", "records.jsonl"]))
    if missing := [name for name in names if not (folder / name).is_file() or (folder / name).is_symlink()]:
        raise DataError(f"{folder} lacks {', '.join(missing[:5])} of its run; copy the whole folder, or run it again")
    names += [f"{part}/{part}.json" for part in _picture_folders(folder)]
    altered = [name for name in dict.fromkeys(names) if digest_of_file(folder / name) != files.get(name)]
    if altered:
        raise DataError(
            f"{folder}: {', '.join(altered[:5])} is not what {RESULT} says, so it was altered or half written; run the "
            "command of this run again"
        )


def _lies_within(name: str) -> bool:
    """Whether a path names a file of a folder, or of a folder in it."""
    path = Path(name)
    return len(path.parts) <= 2 and not path.is_absolute() and ".." not in path.parts


def _stages(stages: dict[str, dict[str, SuiteData]], where: str) -> dict[str, dict[str, SuiteResult]]:
    """Stage -> suite -> scores; every stage has the same suites with the same cells and images."""
    for stage in ("dense", "fine-tuned"):
        if "clean" not in stages.get(stage, {}):
            raise DataError(f"{where}: the stage {stage!r} or its suite 'clean' is missing")
    wanted = _layout(stages["dense"])
    for stage, suites in stages.items():
        if _layout(suites) != wanted:
            raise DataError(f"{where}: the stages 'dense' and {stage!r} differ in suites, cells or images")
    for suite, cells in wanted.items():
        if len(set(cells.values())) > 1:
            raise DataError(f"{where}: the cells of suite {suite!r} have different images")
    try:
        return {
            stage: {name: SuiteResult.from_json(name, dataclasses.asdict(data)) for name, data in suites.items()}
            for stage, suites in stages.items()
        }
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _layout(suites: dict[str, SuiteData]) -> dict[str, dict[str, int]]:
    """Suite -> cell -> number of images."""
    return {name: {cell: len(scores) for cell, scores in data.scores.items()} for name, data in suites.items()}


def _profiles(profiles: dict[str, ProfileData], where: str) -> dict[str, Profile]:
    """`dense` and `compressed`, timed at the same batch sizes."""
    if not {"dense", "compressed"} <= profiles.keys():
        raise DataError(f"{where}: the profile of the dense or the compressed model is missing")
    found = {name: _profile(data) for name, data in profiles.items()}
    dense, small = ({what: len(times) for what, times in found[name].timed.items()} for name in ("dense", "compressed"))
    if dense != small:
        raise DataError(f"{where}: the dense and the compressed model were timed at different batch sizes")
    return found


def _profile(data: ProfileData) -> Profile:
    plain = {name: getattr(data, name) for name in ("parameters", "macs", "peak_memory_mb", "uncounted")}
    predictions = {what: _times(times) for what, times in predictions_of(data).items()}
    return Profile(**plain, latency=_times(data.latency), predictions=predictions)


def _times(times: Sequence[LatencyData]) -> tuple[Latency, ...]:
    return tuple(Latency(**dataclasses.asdict(time)) for time in times)
