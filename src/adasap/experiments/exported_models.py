"""A file of another runtime as a model of an evaluation: what is given counts, what it says, what else is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adasap.data.classes import Names
from adasap.errors import ModelError
from adasap.experiments.classes import classes_of
from adasap.experiments.name_models import AnyModel, ModelName, OpenedModel, Size
from adasap.experiments.recipe import Recipe
from adasap.experiments.trust import require_trust
from adasap.export import About, kept_classes
from adasap.export.runtimes import InItsRuntime, is_exported, opened_file
from adasap.models import ModelSpec, is_trusted, open_model


@dataclass(frozen=True)
class Preparation:
    """How images are prepared for a model that cannot say it itself.

    Attributes:
        of: Whose preparation it is, in words; empty for what the user gave.
        mean: Per channel.
        std: Likewise.
        input_size: Channels, height, width.
        classes: Names of the outputs.
        model: The model of the same call that it is of.
    """

    of: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int] | None = None
    classes: Names | None = None
    model: nn.Module | None = None

    @classmethod
    def like(cls, name: str, opened: OpenedModel) -> Preparation:
        """That of another model of the same call."""
        spec = opened.spec
        return cls(name, spec.mean, spec.std, spec.input_size, classes_of(opened), opened.model)

    @classmethod
    def of_recipe(cls, recipe: Recipe, data: object) -> Preparation:
        """That of a recipe, or of the run whose data are taken."""
        spec, place = recipe.model, Path(str(data))
        classes = kept_classes(place / "model.safetensors") if place.is_dir() else None
        return cls(str(data), spec.mean, spec.std, spec.input_size, classes)

    @classmethod
    def of_file(cls, about: About | None) -> Preparation | None:
        """What the file itself says; None of one that says no mean and std."""
        if about is None or not (about.mean and about.std):
            return None
        return cls("", about.mean, about.std, about.input_size, about.classes or None)


def exported_name(model: AnyModel) -> str | None:
    """The file of a model that another runtime computes; None for any other model."""
    name = model.name if isinstance(model, ModelName) else model
    return str(name) if isinstance(name, str | Path) and is_exported(name) else None


def task_said(model: AnyModel) -> str | None:
    """The task that an exported file says it is for; None of any other model."""
    name = exported_name(model)
    about = None if name is None else opened_file(Path(name)).about
    return None if about is None else about.task or None


def open_exported(
    model: AnyModel,
    known: Preparation | None,
    *,
    task: str = "",
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    classes: Sequence[str] | None = None,
    trust_builder: bool = False,
) -> OpenedModel:
    """Opens a file in its runtime; of mean and std those that are given count, else the file's own, else those known.

    Args:
        model: The file.
        known: What the recipe or another model of the call says.
        task: That it is scored by.
        size: Of its images, where neither it nor anything known says it.
        mean: As given.
        std: As given.
        classes: As given.
        trust_builder: Let the file import the module that it names.
    Raises:
        ModelError: If nobody says how images are prepared.
        ExportError: As `InItsRuntime`.
    """
    name = exported_name(model)
    assert name is not None
    if isinstance(model, ModelName):
        size, mean, std = model.size or size, tuple(model.mean) or mean, tuple(model.std) or std
        trust_builder = model.trust_builder or trust_builder
    module = InItsRuntime(name)
    about = module.file.about
    own, given = Preparation.of_file(about), bool(mean or std)
    found = own or known or (Preparation("", tuple(mean), tuple(std)) if mean and std else None)
    if found is None:
        raise ModelError(
            f"{name} does not say how its images are prepared; give --mean and --std (`mean` and `std` in Python), as "
            f"in (x / 255 - mean) / std, or the model that it was exported from: adasap evaluate MODEL {name}"
        )
    mean, std = tuple(mean) or found.mean, tuple(std) or found.std
    if (detector := _detector_of(name, about, known, trust_builder)) is not None:
        module.answer_like(detector)
    sides = found.input_size or _of(size, len(mean))
    fixed = tuple(n for n in module.file.input_shape[1:] if n is not None)
    input_size = (fixed[0], fixed[1], fixed[2]) if len(fixed) == 3 else sides
    spec = ModelSpec(f"{module.file.runtime}:{Path(name).name}", input_size=input_size, mean=mean, std=std)
    notes = (*_notes(spec, given, own, known), *_contradicted(about, task, classes))
    return OpenedModel(module.eval(), spec, name=name, exported=True, classes=found.classes, notes=notes)


def _notes(spec: ModelSpec, given: bool, own: Preparation | None, known: Preparation | None) -> Iterator[str]:
    """Where mean and std come from, and who says otherwise."""
    how = "" if given else "as it says itself, " if own else f"as for {known.of}, " if known and known.of else ""
    others = {"it says": own} | ({f"{known.of} has": known} if known is not None and known.of else {})
    against = [
        f"{who} {list(other.mean)} and {list(other.std)}"
        for who, other in others.items()
        if other is not None and (other.mean, other.std) != (spec.mean, spec.std)
    ]
    if how or against:
        though = f", though {' and '.join(against)}" if against else ""
        yield f"images are prepared {how}by mean {list(spec.mean)} and std {list(spec.std)}{though}"


def _contradicted(about: About | None, task: str, classes: Sequence[str] | None) -> Iterator[str]:
    """What is given and differs from what the file says."""
    if about is None:
        return
    if task and about.task not in ("", task):
        yield f"it is scored by {task}, though it says that it is for {about.task}"
    if classes and about.classes and tuple(classes) != about.classes:
        named = [", ".join(names[:6]) for names in (classes, about.classes)]
        yield f"its outputs are taken for {named[0]}, ..., though it says {named[1]}, ..."


def _detector_of(name: str, about: About | None, known: Preparation | None, trust_builder: bool) -> nn.Module | None:
    """What finds boxes in a detector's outputs: built anew as the file says, else the detector of the same call."""
    beside = None if known is None or not hasattr(known.model, "computed_by") else known.model
    if about is None or about.task != "detection" or about.spec is None:
        return beside
    if beside is not None and not (trust_builder or is_trusted(about.builder)):
        return beside
    require_trust(about.builder, trust_builder, name)
    return open_model(about.spec, trust_builder=trust_builder).eval()


def _of(size: Size | None, channels: int) -> tuple[int, int, int] | None:
    if size is None or isinstance(size, tuple):
        return size
    return (channels, size, size)


def require_own_precision(precision: str) -> None:
    """Refuses a precision for a file, which computes in its own.

    Raises:
        ModelError: For any but float32.
    """
    if precision != "float32":
        raise ModelError(f"a file computes in its own number type; leave --precision {precision} out")
