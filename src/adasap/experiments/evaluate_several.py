"""Several models scored on the same images, one after the other, and shown side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from adasap.errors import ModelError
from adasap.evaluation.folder import file_name
from adasap.experiments.evaluation import Evaluation, EvaluationResult
from adasap.experiments.name_models import AnyModel, ModelName, OpenedModel, name_before, short_name
from adasap.export import InItsRuntime, state_bytes
from adasap.profiling.profile import latency_of
from adasap.profiling.timing import time_models_ms
from adasap.report import PAGE, environment
from adasap.report.deployment import Deployment, files_table
from adasap.report.side_by_side import ScoredModel, scores_table, side_by_side
from adasap.training import is_main_process


def listed_models(models: AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel]) -> dict[str, AnyModel]:
    """Name -> model; of one model, as it is given, the name is empty.

    Raises:
        ModelError: For none, or two of one name.

    Example:
        >>> listed_models(["runs/a/model.safetensors", "b=adasap:digits_net"])
        {'a': 'runs/a/model.safetensors', 'b': 'adasap:digits_net'}
    """
    if isinstance(models, Mapping):
        pairs = list(models.items())
    elif isinstance(models, list | tuple):
        pairs = [_with_name(model) for model in models]
    else:
        pairs = [("", models)]  # type: ignore[list-item]
    if not pairs:
        raise ModelError("no model is given; give one or several")
    if len(pairs) == 1:
        return {"": pairs[0][1]}
    short = [name or _short(model) for name, model in pairs]
    names = [name if short.count(name) == 1 else _title(model) for name, (_, model) in zip(short, pairs, strict=True)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ModelError(f"two models are called {twice[0]}; write NAME=MODEL to tell them apart (a mapping in Python)")
    return {name: model for name, (_, model) in zip(names, pairs, strict=True)}


def _with_name(model: AnyModel) -> tuple[str, AnyModel]:
    """The name that stands before a model's text, and the model without it."""
    if isinstance(model, str):
        return name_before(model)
    if isinstance(model, ModelName):
        name, place = name_before(model.name)
        return name, replace(model, name=place)
    return "", model


def _title(model: AnyModel) -> str:
    if isinstance(model, ModelName):
        return model.name
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, OpenedModel):
        return model.title
    return type(model).__name__ if isinstance(model, nn.Module) else model.builder


def _short(model: AnyModel) -> str:
    return short_name(_title(model))


def run_side_by_side(evaluations: Mapping[str, Evaluation], out: Path | None, console: Console) -> EvaluationResult:
    """Checks all, scores one after the other, prints one table, writes a folder for each and the page.

    Args:
        evaluations: Name -> a model with the suites that all have.
        out: Its folders have the models' names; the page lies beside them.
        console: Told what happens.
    """
    folders = {name: one.check(None if out is None else out / file_name(name)) for name, one in evaluations.items()}
    notes = _said_by({name: one.notes() for name, one in evaluations.items()})
    for line in notes:
        console.print(line, soft_wrap=True)
    results = {}
    for name, one in evaluations.items():
        results[name] = one.score(folders[name], console, name)
        one.opened.model.cpu()  # the next one has the device to itself
    first = next(iter(evaluations.values()))
    sizes = _deployments({name: one.opened for name, one in evaluations.items()})
    scored = [_scored(name, evaluations[name], result, sizes.get(name)) for name, result in results.items()]
    found = side_by_side(scored, first.task.primary_metric)
    table = scores_table(found)
    console.print(table)
    if sizes:
        console.print(files_table(found))
    for name, result in results.items():
        evaluations[name].tell(result, console, model=name)
    remarks = [*found.remarks, *_said_by({name: result.remarks for name, result in results.items()})]
    if out is not None:
        if is_main_process():
            from adasap.report.side_by_side_page import write_side_by_side

            write_side_by_side(found, out, {"data": first.asked["data"], "environment": environment()})
        remarks.append(f"The page: {out / PAGE}")
    for line in remarks:
        console.print(line, soft_wrap=True)
    suites = next(iter(results.values())).suites
    return EvaluationResult(suites, table, tuple(notes), tuple(remarks), out, models=results, comparison=found)


DEPLOYMENT_SECONDS = 3.0
"""Time for the latency of all models together."""


def _deployments(models: Mapping[str, OpenedModel]) -> dict[str, Deployment]:
    """Size and time of each model, where any of them is an exported file; none without one."""
    if not any(opened.exported for opened in models.values()):
        return {}
    runs = {name: partial(_answer, opened.model, opened.example_inputs) for name, opened in models.items()}
    with torch.no_grad():
        times = time_models_ms(runs, torch.zeros(1), seconds=DEPLOYMENT_SECONDS)
    return {name: Deployment(*_file_of(opened), latency_of(1, times[name])) for name, opened in models.items()}


def _answer(model: nn.Module, images: Tensor, _: Tensor) -> None:
    """One call; each model has images of its own size."""
    model(images)


def _file_of(opened: OpenedModel) -> tuple[str, str, float]:
    """Runtime, number type, MB on disk; of a model without a file those of its weights."""
    model = opened.model
    if isinstance(model, InItsRuntime):
        return model.file.runtime, model.file.numbers, model.size_bytes / 1e6
    path = Path(opened.name)
    size = path.stat().st_size if path.suffix == ".safetensors" and path.is_file() else state_bytes(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return "torch", str(dtype).removeprefix("torch."), size / 1e6


def _scored(name: str, evaluation: Evaluation, result: EvaluationResult, deployment: Deployment | None) -> ScoredModel:
    opened = evaluation.opened
    about = {
        "opened from": opened.title,
        "input": " x ".join(map(str, opened.input_size)),
        "mean": " ".join(f"{number:.4g}" for number in opened.spec.mean),
        "std": " ".join(f"{number:.4g}" for number in opened.spec.std),
    }
    records = {suite.name: suite.record for suite in evaluation.suites}
    return ScoredModel(name, result.suites, records, about, deployment)


def _said_by(lines: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines that are said of all models once, the others with the name of their model.

    Example:
        >>> _said_by({"a": ["one", "two"], "b": ["one"]})
        ['one', 'a: two']
    """
    of_all = [line for line in next(iter(lines.values())) if all(line in own for own in lines.values())]
    return of_all + [f"{name}: {line}" for name, own in lines.items() for line in own if line not in of_all]
