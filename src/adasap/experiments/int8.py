"""What INT8 is made and compared by, opened from names: calibration images, task and suites."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adasap.data import DataSource
from adasap.errors import ExportError
from adasap.evaluation import SuiteSource
from adasap.experiments.classes import classes_of
from adasap.experiments.export_options import Int8Options
from adasap.experiments.find_data import find_data
from adasap.experiments.fit_size import brought_to_size
from adasap.experiments.name_models import OpenedModel
from adasap.experiments.open_models import prepared_batches
from adasap.experiments.prune import task_class_for, training_sample
from adasap.export import Calibration, Check
from adasap.tasks.data import Opening, class_list
from adasap.tasks.task import first_images

SUITES = ("clean", "corrupted")
BATCH = 32


def open_calibration(opened: OpenedModel, options: Int8Options) -> tuple[Calibration, list[str]]:
    """Calibration images and what the file is compared by, and what is to be said about them.

    Args:
        opened: The model.
        options: Names of the data, and how many images.
    Raises:
        ExportError: If images have other sizes than the model's file takes.
        DataError: If there are none.
    """
    found = find_data(options.calibrate)
    train, test, said = found.train, found.test or found.train, [*found.remarks]
    if options.check is not None:
        checked = find_data(options.check)
        test = checked.test or checked.train
    elif found.test is None:
        said.append(f"{train.where} has no test images: compared by training images; --check names others")
    train, test, sizes = brought_to_size(train, test, opened.spec)
    sample, task, remarks = training_sample(train, options.images, options.seed, opened, None)
    batches = prepared_batches(sample, BATCH, task, torch.device("cpu"))
    images = torch.cat([traced_images(opened.model, batch, opened.input_size) for batch in batches])
    split = train.own_split("train") or "train"
    about = {"calibration_data": f"{train.kind}, split {split}", "seed": options.seed}
    calibration = Calibration(
        images,
        open_check(opened, test, options),
        per_channel=options.per_channel,
        processor=options.processor,
        tolerance=options.tolerance,
        force=options.force,
        about=about,
    )
    looked = f"calibrated by {len(images):,} training images of {train.where}, split {split}, seed {options.seed}"
    return calibration, [*said, *sizes, *remarks, looked]


def open_check(opened: OpenedModel, data: DataSource, options: Int8Options) -> Check:
    """The task of the data, and clean and corrupted images of them."""
    kind = task_class_for(None, data)
    sources = {
        "clean": SuiteSource("clean", data=data),
        "corrupted": SuiteSource("corrupted", data=data, severities=(options.severity,)),
    }
    settings = kind.options_type()
    of = Opening(spec=opened.spec, model=opened.model, classes=classes_of(opened), options=settings, trust_code=True)
    suites = kind.open_suites(sources, of)
    task = kind.opened(settings, opened.spec, classes=class_list(suites[0].images))
    task.check_suites(opened.model, suites, opened.input_size)
    some = [suite.sampled(options.limit, seed=options.seed) if options.limit else suite for suite in suites]
    return Check(task, some)


def traced_images(model: nn.Module, batch: Any, size: tuple[int, int, int]) -> Tensor:
    """What the traced part reads of a prepared batch, float [N, C, H, W]: a detector resizes its images first.

    Raises:
        ExportError: If there is an image of another size than the file takes.
    """
    images = first_images(batch)
    if hasattr(model, "computed_by") and not isinstance(images, Tensor):
        read: list[Tensor] = []

        def raw(resized: Tensor) -> Any:
            read.append(resized)
            return model.raw(resized)  # type: ignore[operator]

        with torch.no_grad():
            model.computed_by(raw)(list(images))  # type: ignore[operator]
        images = torch.cat(read)
    shapes = {tuple(image.shape[-3:]) for image in images}
    if shapes != {size}:
        raise ExportError(
            f"the file takes images of {' x '.join(map(str, size))}, and calibration images have "
            f"{', '.join(' x '.join(map(str, shape)) for shape in sorted(shapes)[:3])}; give the model that size "
            "(--size), or images of one size"
        )
    return images if isinstance(images, Tensor) else torch.stack(list(images))
