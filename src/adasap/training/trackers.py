"""Curves of a run in TensorBoard, Weights & Biases, MLflow and what else Accelerate tracks with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from adasap.errors import CheckpointError, RecipeError, TrainingError, suggestion
from adasap.io import atomic_write, read_json
from adasap.report.records import PruneRecord, Record, ResumeRecord, StageRecord, StepRecord

PROJECT = "adasap"
"""The project of W&B and experiment of MLflow where `WANDB_PROJECT` and `MLFLOW_EXPERIMENT_NAME` say no other."""
KEPT = "trackers.json"
"""File of a run's folder: under which names its trackers know it, so that a resumed run goes on there."""
_LONGEST = 250


def require_known(names: Sequence[str]) -> None:
    """Whether there are trackers of these names.

    Raises:
        RecipeError: If not.
    Example:
        >>> require_known(["tensorboard", "wandb", "mlflow"])
        >>> require_known(["tensorbord"])
        Traceback (most recent call last):
        adasap.errors.RecipeError: there is no tracker 'tensorbord'; did you mean 'tensorboard'?
    """
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(f"there is no tracker {name!r:.80}; {suggestion(name, LOGGER_TYPE_TO_CLASS)}")


def require_installed(names: Sequence[str]) -> None:
    """Whether the packages of trackers are there.

    Raises:
        RecipeError: If one is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(
                f"training.trackers names {name}, which is not installed; `pip install {name.replace('_', '-')}`, or "
                "leave it out"
            )


class Trackers:
    """Writes loss, gap and linear rise, factor of the radii, learning rate, gradient norm, kept cost, stage scores.

    Trackers open with the first record, before training, under the names that the folder keeps: a resumed run goes on
    in the same run of W&B and MLflow. TensorBoard writes into `tensorboard/` of the folder.

    Args:
        names: Of Accelerate's trackers.
        folder: Of the run.
        title: What the run is called there.
        settings: Dotted key -> value of the recipe, for trackers that show settings.
        every: Steps between two points of a curve.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        title: str,
        settings: Mapping[str, Any] | None = None,
        *,
        every: int = 10,
    ) -> None:
        require_known(names)
        require_installed(names)
        self._names, self._folder, self._title, self._settings = names, folder, title, settings or {}
        self._every = every
        self._open: list[GeneralTracker] | None = None

    def __call__(self, record: Record) -> None:
        if isinstance(record, ResumeRecord):  # perhaps of a run that is finished
            return
        if self._open is None:
            self._open = self._opened()
        curves = {_plain_name(name): value for name, value in _curves(record, self._every).items()}
        for tracker in self._open if curves else ():
            tracker.log(curves, step=record.step)

    def close(self) -> None:
        """All that is not written yet."""
        for tracker in self._open or ():
            tracker.finish()

    def _opened(self) -> list[GeneralTracker]:
        PartialState()  # Accelerate's loggers want it; in a run it is there
        known, found = self._known(), list[GeneralTracker]()
        for name in self._names:
            begun = name in known
            tracker = LOGGER_TYPE_TO_CLASS[name](*self._place(name), **self._keys(name, known.get(name)))
            try:
                tracker.start()
            except Exception as error:  # each has its own
                raise TrainingError(
                    f"the tracker {name} cannot be opened ({str(error)[:300]}); correct that, or leave {name} out of "
                    "training.trackers"
                ) from error
            if name == "wandb":
                known[name] = tracker.tracker.id
            elif name == "mlflow":
                known[name] = tracker.tracker.info.run_id
            if self._settings and not begun and name != "tensorboard":
                tracker.store_init_configuration(dict(self._settings))
            found.append(tracker)
        if known:
            with atomic_write(self._folder / KEPT) as file:
                file.write(json.dumps(known).encode())
        return found

    def _known(self) -> dict[str, str]:
        path = self._folder / KEPT
        known = read_json(path, what="the names of a run's trackers", error=CheckpointError) if path.is_file() else {}
        return {name: text for name, text in known.items() if isinstance(text, str)} if isinstance(known, dict) else {}

    def _place(self, name: str) -> tuple[Any, ...]:
        """Project, experiment or run, and the folder for those that write into one."""
        if name == "tensorboard":
            return "tensorboard", self._folder
        project = os.environ.get("WANDB_PROJECT", PROJECT) if name == "wandb" else PROJECT
        needs = LOGGER_TYPE_TO_CLASS[name].requires_logging_directory
        return (project, self._folder) if needs else (project,)

    def _keys(self, name: str, known: str | None) -> dict[str, Any]:
        if name == "wandb":
            return {"name": self._title, "dir": str(self._folder), "id": known, "resume": "allow"}
        return {"run_name": self._title, "run_id": known} if name == "mlflow" else {}


def _plain_name(curve: str) -> str:
    """A name that every tracker takes; suites may be called anything."""
    return re.sub(r"[^\w./ -]", "_", curve, flags=re.ASCII)[:_LONGEST]


def _curves(record: Record, every: int) -> dict[str, float]:
    if isinstance(record, StepRecord) and record.step % every == 0:
        curves = {
            "train/loss": record.loss,
            "train/learning_rate": record.learning_rate,
            "train/gradient_norm": record.gradient_norm,
        }
        if record.gap is not None:
            curves["sharpness/gap"] = record.gap
        if record.linear_rise is not None:
            curves["sharpness/linear_rise"] = record.linear_rise
        if record.radius_factor is not None:
            curves["sharpness/radius_factor"] = record.radius_factor
        return curves | {f"sharpness/share_{k}": v for k, v in (record.radius_shares or {}).items()}
    if isinstance(record, PruneRecord):
        curves = {f"pruning/{record.unit.lower()}": record.cost, "pruning/mask_error": record.mask_error}
        if record.layer_errors:
            before, after = zip(*record.layer_errors.values(), strict=True)
            curves |= {"pruning/layer_error_before": fmean(before), "pruning/layer_error_after": fmean(after)}
        return curves
    if isinstance(record, StageRecord):
        return {f"evaluation/{suite}": score for suite, score in record.scores.items()}
    return {}
