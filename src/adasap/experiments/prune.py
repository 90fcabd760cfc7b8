"""One cut without training, of a model by its name: proven, scored before and after, written as a model file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adasap.checks import require_within
from adasap.criteria import build_criterion
from adasap.data import DataSource, open_source
from adasap.errors import ArgumentError
from adasap.experiments.budgets import budget_keys, budget_named
from adasap.experiments.classes import classes_of
from adasap.experiments.evaluate import evaluate
from adasap.experiments.find_data import FoundData, find_data, with_keys
from adasap.experiments.fit_size import brought_to_size
from adasap.experiments.name_models import AnyModel, OpenedModel, Size, open_any
from adasap.experiments.name_suites import data_options
from adasap.experiments.open_models import Candidate, open_images, prepared_batches
from adasap.experiments.recipe import DEFAULT_TASK, TaskSpec
from adasap.export import save, state_bytes
from adasap.pruning import BudgetOptions, Pruned, amount, prune
from adasap.pruning.compensate import Compensate
from adasap.pruning.ranking import Ranking
from adasap.report import Shown, Table
from adasap.report.format import score_text
from adasap.report.target import measure_target
from adasap.tasks import BaseTask, Metric
from adasap.tasks.data import class_list, names_of


@dataclass(frozen=True, repr=False)
class PrunedFile(Shown):
    """What one cut made; it prints as a table of before and after, and the proof.

    Attributes:
        pruned: The cut model, its plan and groups.
        dense: The model before.
        file: What was written, if anything.
        scores: `dense` and `pruned` -> the task's primary metric on the test images; empty without data.
        metric: What that is.
        remarks: On which images, and what is to be known about them.
    """

    pruned: Pruned
    dense: nn.Module
    file: Path | None = None
    scores: Mapping[str, float] | None = None
    metric: Metric | None = None
    remarks: tuple[str, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The cut model."""
        return self.pruned.model

    def parts(self) -> Iterator[Table | str]:
        """Remarks, before and after, the proof, the file."""
        yield from self.remarks
        cut = self.pruned
        models = (self.dense, cut.model)
        rows = [
            ["parameters", *(f"{sum(p.numel() for p in model.parameters()):,}" for model in models)],
            ["weights, MB", *(f"{state_bytes(model) / 1e6:.2f}" for model in models)],
        ]
        if cut.cost.unit != "parameters":
            rows.insert(0, [cut.cost.unit, amount(cut.cost_before), amount(cut.cost_after)])
        if self.scores and self.metric is not None:
            rows.append([self.metric.label, *(score_text(score, self.metric) for score in self.scores.values())])
        yield Table(["", "dense", "pruned"], rows)
        yield str(cut)
        if self.file is not None:
            yield f"{self.file}: adasap.load({str(self.file)!r}) opens it"


def prune_model(
    model: AnyModel,
    out: str | Path | None = None,
    budget: Mapping[str, Any] | str = "macs=0.5",
    *,
    data: str | DataSource | None = None,
    split: str | None = None,
    test_split: str | None = None,
    data_option: Sequence[str] = (),
    criterion: str = "l2",
    ranking: Ranking = "global",
    min_kept: float = 0.0,
    multiple_of: int = 1,
    keep: Sequence[str] = (),
    allow_inexact: bool = False,
    compensate: Compensate = "none",
    renew_norms: bool = False,
    images: int = 256,
    batch: int = 32,
    limit: int | None = None,
    seed: int = 0,
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    task: str | None = None,
    trust_builder: bool = False,
) -> PrunedFile:
    """Cuts a model once, without training, as `adasap prune` does; `adasap.prune` is the same for modules in memory.

    Args:
        model: A module (copied), a `ModelSpec`, a builder's name, a model file or a recipe.
        out: The model file to write; None writes nothing.
        budget: As in a recipe, `{"macs": 0.5}`, or as text: `macs=0.5`, `parameters=1000000`, `size_mb=2` (a number of
            parameters at four bytes each), `latency=0.5,latency_table=FILE`; with `,depth=true` branches may go whole.
        data: For criteria, compensation and norms that look at images, and for the scores before and after: a path,
            `KIND:PATH` or a `DataSource`. Splits are found by their usual names.
        split: What criteria, compensation and norms look at; by default the training images.
        test_split: What is scored; by default `test`, else the validation images, else the same images.
        data_option: Further keys of the data source, `KEY=VALUE`, such as `skip_broken=true`.
        criterion: A name of docs/criteria.md.
        ranking: Over which channels scores are compared: `global`, `uniform` or `isomorphic`.
        min_kept: Fraction of its width that every group keeps.
        multiple_of: Widths are multiples of it.
        keep: Patterns of module names whose channels stay.
        allow_inexact: Whether channels under a norm or mean over them may go, which is then marked.
        compensate: New weights for what reads the channels that went: `least_squares`, or `fold`, without data.
        renew_norms: Estimate running statistics of norm layers anew.
        images: How many are looked at, drawn by the seed; fewer where there are no more.
        batch: Images per batch.
        limit: Score a sample of so many images.
        seed: Of both samples.
        size, mean, std: As for `adasap.evaluate`.
        task: Likewise.
        trust_builder: Let a file import the module that it names.
    Raises:
        AdasapError: As `adasap.prune`; and before any work if data are missing that the criterion needs.

    Example:
        >>> found = prune_model("adasap:digits_net", budget="macs=0.5", data="digits:", images=64, limit=50)
        >>> found.pruned.cost_after <= 0.5 * found.pruned.cost_before, sorted(found.scores)
        (True, ['dense', 'pruned'])
    """
    require_within(ArgumentError, 1, 1_000_000, images=images, batch=batch)
    keys = budget_keys(budget)
    needs = _what_looks_at_images(criterion, compensate, renew_norms, bool(keys.get("depth")))
    if needs and data is None:
        raise ArgumentError(f"{' and '.join(needs)}: images are missing; give --data FOLDER, or KIND:PATH")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # weights that no file fills
        opened = open_any(model, size=size, mean=mean, std=std, trust_builder=trust_builder)
    keys = budget_named(keys, opened.model)
    train, test, remarks = _sources(data, split, test_split, data_option, opened)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches, loss, classes = None, None, classes_of(opened) or _classes_of(train)
    if train is not None and needs:
        sample, used, said = training_sample(train, images, seed, opened, task)
        batches, loss = prepared_batches(sample, batch, used, device), used.loss
        looked = (
            f"{', '.join(needs)}: {len(sample):,} images of {train.where}, split {train.own_split('train') or 'train'}"
        )
        remarks = [*remarks, *said, looked]
    pruned = prune(
        opened.model.to(device),
        opened.example_inputs.to(device),
        criterion,
        keys,
        ranking=ranking,
        min_kept=min_kept,
        multiple_of=multiple_of,
        keep=tuple(keep),
        allow_inexact=allow_inexact,
        batches=batches,
        loss=loss,
        compensate=compensate,
        renew_norms=renew_norms,
    )
    remarks += _time_remarks(keys, opened, pruned)
    scores, metric = {}, None
    if test is not None:
        after = replace(opened, model=pruned.model, dense=None)
        for name, one in (("dense", opened), ("pruned", after)):
            asked: dict[str, Any] = {"limit": limit, "seed": seed, "batch": batch, "trust_builder": trust_builder}
            found = evaluate(one, test, "clean", task=task, classes=classes, **asked)
            scores[name] = found["clean"].mean
            remarks += [line for line in found.notes if line not in remarks]
        metric = task_class_for(task, test).primary_metric
        count = len(found["clean"].per_image())
        remarks.append(f"scored on {count:,} images of {test.where}, split {test.split or 'test'}")
    if out is not None:
        metadata = {**({"classes": list(classes)} if classes else {}), **({"scores": scores} if scores else {})}
        spec = replace(opened.spec, weights=None, backbone_weights=None)
        save(out, pruned.model.cpu(), spec=spec, groups=pruned.groups, metadata=metadata, trust_builder=True)
    written = None if out is None else Path(out)
    return PrunedFile(pruned, opened.model.cpu(), written, scores, metric, tuple(remarks))


def _time_remarks(keys: Mapping[str, Any], opened: OpenedModel, pruned: Pruned) -> list[str]:
    """A budget of time beside what both models take in the table's engine, if they run here."""
    budget = BudgetOptions(**keys)
    if not budget.is_latency:
        return []
    models = {"dense": opened.model.cpu(), "compressed": pruned.model}
    example = opened.example_inputs.cpu()
    return [str(measure_target(budget, models, pruned.dense_groups, example, {}, plan=pruned.plan))]


def _what_looks_at_images(criterion: str, compensate: str, renew_norms: bool, depth: bool) -> list[str]:
    """What cannot do without images, by its name."""
    needs = [f"the criterion {criterion}"] if build_criterion(criterion).needs else []
    needs += ["least_squares"] if compensate == "least_squares" else []
    needs += ["a budget with depth"] if depth else []
    return [*needs, "renewed norms"] if renew_norms else needs


def _sources(
    data: str | DataSource | None,
    split: str | None,
    test_split: str | None,
    option: Sequence[str],
    opened: OpenedModel,
) -> tuple[DataSource | None, DataSource | None, list[str]]:
    """What is looked at, what is scored, and what is to be said of them."""
    if data is None:
        return None, None, []
    found = with_keys(find_data(data) if isinstance(data, str) else FoundData(data, data), **data_options(option))
    train = found.train if split is None else replace(found.train, split=split)
    test, remarks = found.test or train, list(found.remarks)
    if test_split is not None:
        test = replace(found.train, split=test_split)
    elif found.test is None:
        remarks.append(f"{train.where} has no test images: scored on all that there are; --test-split names others")
    train, test, said = brought_to_size(train, test, opened.spec)
    return train, test, [*remarks, *said]


def _classes_of(source: DataSource | None) -> tuple[str, ...] | None:
    """The classes of the training images: those of the test images may lack some, and be numbered otherwise."""
    if source is None:
        return None
    return names_of(open_source(source, source.own_split("train") or "train", trust_code=True))


def task_class_for(task: str | None, source: DataSource) -> type[BaseTask[Any]]:
    """The task that is named, else that which the data are for."""
    return TaskSpec(task or source.row.task or DEFAULT_TASK).task_class(trust_code=True)


def training_sample(
    source: DataSource, count: int, seed: int, opened: OpenedModel, task: str | None
) -> tuple[Any, BaseTask[Any], list[str]]:
    """Some training images, the task that prepares them, and what is to be said about them."""
    kind = task_class_for(task, source)
    model = Candidate(opened.title, opened.model, opened.spec, classes=classes_of(opened))
    used = None if kind.name == DEFAULT_TASK else kind.opened(kind.options_type(), opened.spec)
    _, sample, said = open_images(
        source, source.own_split("train") or "train", count, seed, [model], used, fewer_do=True
    )
    classes = class_list(getattr(sample, "dataset", sample))
    return sample, kind.opened(kind.options_type(), opened.spec, classes=classes), said
