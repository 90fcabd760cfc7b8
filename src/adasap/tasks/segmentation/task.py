"""Semantic segmentation: a class for every pixel, scored by mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adasap.checks import require_within
from adasap.data.source import require_trusted
from adasap.data.stream import Batching
from adasap.errors import DataError, RecipeError
from adasap.evaluation import Suite, SuiteResult, SuiteSource, open_own_suite
from adasap.evaluation.suites import DatasetSuite
from adasap.groups import evaluating
from adasap.metric import Metric
from adasap.models import ModelSpec
from adasap.tasks.data import Data, DataOptions, Opening, class_list, names_of
from adasap.tasks.segmentation.data.batches import (
    SegmentationAugmentation,
    SegmentationBatch,
    SegmentationBatching,
    collated,
)
from adasap.tasks.segmentation.data.classes import matched_masks
from adasap.tasks.segmentation.data.segmentation_set import IGNORED
from adasap.tasks.segmentation.data.sources import open_segmentation_dataset
from adasap.tasks.segmentation.loss import SegmentationLoss, outputs_of, resized
from adasap.tasks.segmentation.metrics import image_influences, segmentation_metrics, segmentation_records
from adasap.tasks.segmentation.suites import corruption_record
from adasap.tasks.task import BaseTask, corrupted_images

if TYPE_CHECKING:
    from adasap.report.table import Table


@dataclass(frozen=True)
class SegmentationOptions(SegmentationLoss):
    """How the loss is made, and how images are laid out.

    Attributes:
        multiple_of: Images are padded on the right and at the bottom to sides that are multiples of it, as some
            networks need (32 for those of segmentation-models-pytorch); the padding is ignored.
    """

    multiple_of: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within(RecipeError, 1, 1024, multiple_of=self.multiple_of)


class SegmentationTask(BaseTask[SegmentationBatch]):
    """A class for every pixel of 8-bit images.

    Args:
        mean: Per-channel mean of the model's own preprocessing, (x / 255 - mean) / std.
        std: Per-channel standard deviation.
        classes: Names of the classes 0, 1, ...; empty for as many as the model answers with, by their numbers.
        options: Cross-entropy and Dice with their weights, and the padding.

    Example:
        >>> from adasap.tasks.segmentation.data.shapes import SHAPE_CLASSES, read_shape_masks
        >>> options = SegmentationOptions(multiple_of=64)
        >>> task = SegmentationTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=SHAPE_CLASSES, options=options)
        >>> batch = task.prepare(task.collate([read_shape_masks("test")[0]]), torch.device("cpu"))
        >>> batch.images.shape, batch.masks.shape
        (torch.Size([1, 3, 128, 128]), torch.Size([1, 128, 128]))
    """

    name = "segmentation"
    primary_metric = Metric(
        "miou",
        "mIoU",
        meaning="pixels that answer and mask share, divided by those that either has, mean over the classes",
    )
    options_type: ClassVar[type[Any]] = SegmentationOptions
    augmentation_type: ClassVar[type[Any]] = SegmentationAugmentation

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str] = (),
        options: SegmentationOptions | None = None,
    ) -> None:
        super().__init__(options=options)
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self.classes = tuple(classes)

    def __repr__(self) -> str:
        """Everything that its loss depends on, so that a resumed run can tell whether it goes on with the same task."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"SegmentationTask({mean=}, {std=}, classes={self.classes}, options={self.options})"

    # Batches

    def collate(self, samples: Sequence[Any]) -> SegmentationBatch:
        """A raw batch of (image, mask): PIL, NumPy, tensors or tv_tensors; masks of whole numbers [H, W]."""
        return collated(samples)

    def batching(self, dataset: Any, augmentation: Any) -> Batching:
        """Image and mask varied together.

        Raises:
            RecipeError: If the augmentation is another task's.
        """
        self.require_own(augmentation)
        return SegmentationBatching(augmentation or SegmentationAugmentation())

    def prepare(self, batch: SegmentationBatch, device: torch.device) -> SegmentationBatch:
        """Images to the device, float, normalised and padded; masks int64.

        Raises:
            DataError: If they have another number of channels than mean and std.
        """
        images, masks = batch
        if isinstance(images, Tensor) and isinstance(masks, Tensor):
            return SegmentationBatch(*self._prepared(images, masks, device))
        parts = [self._prepared(image[None], mask[None], device) for image, mask in zip(images, masks, strict=True)]
        return SegmentationBatch([image[0] for image, _ in parts], [mask[0] for _, mask in parts])

    def _prepared(self, images: Tensor, masks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        channels = self.mean.numel()
        if images.shape[1] != channels:
            raise DataError(
                f"the images have {images.shape[1]} channels, the model's mean and std {channels} numbers; give one "
                "for each channel, and the model's `input_size` the same number"
            )
        images = images.to(device, non_blocking=True)
        images = images if images.is_floating_point() else images.float() / torch.iinfo(images.dtype).max
        images = (images - self.mean.to(device)) / self.std.to(device)
        masks = masks.to(device, non_blocking=True).long()
        bottom, right = (-side % self.options.multiple_of for side in images.shape[-2:])
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
            masks = F.pad(masks, (0, right, 0, bottom), value=IGNORED)
        return images, masks

    def loss(self, model: nn.Module, batch: SegmentationBatch) -> Tensor:
        """`SegmentationLoss` of the model's output.

        Raises:
            DataError: For images of several sizes.
        """
        images, masks = batch
        if not isinstance(images, Tensor) or not isinstance(masks, Tensor):
            sizes = sorted({tuple(image.shape[-2:]) for image in images})
            raise DataError(
                f"a training batch holds images of the sizes {', '.join(map(str, sizes[:3]))}; give the augmentation a "
                "`crop` of the height and width that training takes"
            )
        loss: Tensor = self.options(model(images), masks)
        return loss

    def evaluator(self) -> SegmentationEvaluator:
        """Intersection over union, pixel accuracy and boundary F."""
        return SegmentationEvaluator(self.classes)

    def corrupt(self, batch: SegmentationBatch, corruption: str, severity: int, seeds: Tensor) -> SegmentationBatch:
        """A raw batch whose images are corrupted and whose masks are as they were, as Kamann and Rother (2020,
        arXiv:1908.05005) evaluate networks; see `MOVES_PIXELS`.
        """
        return batch._replace(images=corrupted_images(batch.images, corruption, severity, seeds))

    # Before work starts

    def check(self, model: nn.Module, data: Data) -> None:
        """One forward pass over the first training image: the model must answer with every class of the data.

        Raises:
            DataError: If it does not, or the data have other classes.
        """
        self._check_classes(data.train, where="data.train")
        super().check(model, data)
        if self.classes:
            self._check_outputs(model, data.train)

    def check_suites(self, model: nn.Module, suites: Sequence[Suite], input_size: Sequence[int]) -> None:
        """Whether the suites have the task's classes, and the model answers with them.

        Raises:
            DataError: If not.
        """
        for suite in suites:
            self._check_classes(suite.images, where=f"suite {suite.name!r}")
        if self.classes:
            self._check_outputs(model, suites[0].images)

    def _check_classes(self, images: Any, *, where: str) -> None:
        given = names_of(images)
        if given is not None and self.classes and given != self.classes:
            raise DataError(
                f"{where} has the classes {', '.join(given[:6])}, ... ({len(given)}), the task "
                f"{', '.join(self.classes[:6])}, ... ({len(self.classes)}); give data of the same classes in the same "
                "order (folders of masks are matched by name)"
            )

    def _check_outputs(self, model: nn.Module, images: Any) -> None:
        weights = next(model.parameters(), torch.zeros(()))  # a file in its own runtime has none
        batch = self.prepare(self.collate([images[0]]), weights.device)
        found = count_outputs(model, batch.images[0][None])
        if found != len(self.classes):
            raise DataError(
                f"the data have {len(self.classes)} classes, the model answers with {found}; set its number of classes "
                f"(`model.options.num_classes`, `classes` of smp) to {len(self.classes)}"
            )

    # After a run, and an evaluation of the command line

    def save_pictures(
        self, folder: Path, models: Mapping[str, nn.Module], data: Data, suites: Sequence[Suite], device: torch.device
    ) -> None:
        """Overlays of what the models answer, clean and under every corruption."""
        from adasap.tasks.segmentation.report.overlays import save_overlays

        save_overlays(folder, models, self, [suite for suite in suites if isinstance(suite, DatasetSuite)], device)

    def table(self, results: Mapping[str, SuiteResult]) -> Table:
        """mIoU, pixel accuracy and boundary F of each data set and corruption."""
        from adasap.tasks.segmentation.report.tables import cell_table

        return cell_table(results)

    def more_tables(self, name: str, results: Mapping[str, SuiteResult], suites: Sequence[Suite]) -> dict[str, Table]:
        """Clean, corrupted and their ratio, where the first suite is a clean one; IoU by class of each suite."""
        from adasap.tasks.segmentation.report.tables import class_table, performance_table

        clean, *others = suites
        tables = {}
        for suite in others if len(clean.cells) == 1 else ():
            if len(suite.cells) > 1:
                title = f"Performance under corruption: {suite.name}"
                tables[title] = performance_table({name: results}, clean.name, suite.name)
            columns = (clean.name, suite.name)
            tables[f"IoU by class: {suite.name}"] = class_table(results[clean.name], results[suite.name], columns)
        return tables

    def remarks(self, suites: Sequence[Suite]) -> Iterator[str]:
        """How many images there are, what the score is, and which corruptions move pixels."""
        yield from dict.fromkeys(suite.images.summary() for suite in suites if hasattr(suite.images, "summary"))
        yield "mIoU: intersection over union over all pixels of the data set, mean over the classes that occur"
        moving = dict.fromkeys(name for suite in suites for name in _moving(suite))
        if moving:
            yield f"masks stay as they are under corruptions, though {', '.join(moving)} move what they are masks of"

    def about(self) -> dict[str, Any]:
        """What masks are."""
        return {"masks": f"a class number for each pixel, {IGNORED} takes no part; not warped by corruptions"}

    # From a recipe

    @classmethod
    def opened(
        cls,
        options: Any,
        spec: ModelSpec,
        *,
        classes: Sequence[str] = (),
        teacher: nn.Module | None = None,
        channels_last: bool = False,
    ) -> SegmentationTask:
        """With the model's own preprocessing."""
        return cls(mean=spec.mean, std=spec.std, classes=classes, options=options)

    @classmethod
    def open_data(cls, asked: DataOptions, of: Opening) -> Data:
        """Images with masks, suites (the clean test set first), and a zero image of the model's input size."""
        for source in asked.sources:
            require_trusted(source, of.trust_code)
        places: dict[str, Any] = {"channels": of.channels, "trust_code": of.trust_code}
        train = open_segmentation_dataset(asked.train, "train", **places)
        test = open_segmentation_dataset(asked.test, "test", **places)
        if "clean" in asked.suites:
            raise DataError("data.suites names one `clean`, which is the name of data.test's own; give it another name")
        train, how = matched_masks(train, of.classes or (), where="data.train", of="the weights")
        task = cls(mean=of.spec.mean, std=of.spec.std, classes=of.classes or class_list(train))
        test, same = matched_masks(test, task.classes, where="data.test", of="data.train")
        sources = {"clean": SuiteSource("clean"), **asked.suites}
        suites = [
            _suite(name, s, test if s.data is None else open_segmentation_dataset(s.data, "test", **places), task)
            for name, s in sources.items()
        ]
        summaries = [one.summary() for one in (train, test) if hasattr(one, "summary")]
        return Data(train, suites, of.example, asked.augmentation, (*summaries, *filter(None, (how, same))))

    @classmethod
    def open_suites(cls, sources: Mapping[str, SuiteSource], of: Opening, *, test: Any = None) -> list[Suite]:
        """Suites of images with masks; those that name no data take `test`."""
        places: dict[str, Any] = {"channels": of.channels, "trust_code": of.trust_code}
        found: list[Suite] = []
        for name, source in sources.items():
            images = test
            if source.data is not None:
                images = open_segmentation_dataset(source.data, "test", **places)
            if images is None:
                raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
            task = cls.opened(of.options, of.spec, classes=of.classes or class_list(images))
            found.append(_suite(name, source, images, task))
        return found

    @classmethod
    def classes_of(cls, asked: DataOptions, of: Opening) -> tuple[str, ...]:
        """Names of the classes 0, 1, ..."""
        return class_list(open_segmentation_dataset(asked.train, "train", trust_code=of.trust_code))


def _suite(name: str, source: SuiteSource, images: Any, task: SegmentationTask) -> DatasetSuite:
    """A suite, its classes matched with the task's by name, whose record says which corruptions move pixels."""
    images, remark = matched_masks(images, task.classes, where=f"suite {name!r}", of="the model")
    suite = open_own_suite(name, replace(source, data=None), images, task)
    corruptions = source.names() if source.row.on_the_fly else ()
    record = {**suite.record, "classes": list(task.classes)} | (corruption_record(corruptions) if corruptions else {})
    return replace(suite, record=record, remarks=(*suite.remarks, *[remark] * bool(remark)))


def _moving(suite: Suite) -> Mapping[str, str]:
    """The suite's corruptions that move pixels."""
    found: Mapping[str, str] = getattr(suite, "record", {}).get("moves_pixels", {})
    return found


class SegmentationEvaluator:
    """Keeps a few counts of each image (`segmentation_records`).

    Args:
        classes: Names of the classes 0, 1, ...; empty for as many as the model answers with.

    Example:
        >>> evaluator = SegmentationEvaluator(["sky", "road"])
        >>> images, masks = torch.tensor([[[[9.0, 1.0]], [[2.0, 3.0]]]]), torch.tensor([[[0, 0]]])
        >>> evaluator.update(nn.Identity(), SegmentationBatch(images, masks))
        >>> evaluator.compute()["pixel_accuracy"], evaluator.per_image()
        (0.5, tensor([0.2500], dtype=torch.float64))
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        self._batches: list[dict[str, Tensor]] = []

    def update(self, model: nn.Module, batch: SegmentationBatch) -> None:
        """Adds a prepared batch; images of several sizes go through the model one by one."""
        images, masks = batch
        if isinstance(images, Tensor) and isinstance(masks, Tensor):
            self._add(model, images, masks)
            return
        for image, mask in zip(images, masks, strict=True):
            self._add(model, image[None], mask[None])

    def _add(self, model: nn.Module, images: Tensor, masks: Tensor) -> None:
        logits = outputs_of(model(images))[0]
        self.classes = self.classes or tuple(map(str, range(logits.shape[1])))
        answers = answers_of(logits, masks.shape[-2:])
        self._batches.append(segmentation_records(answers, masks, len(self.classes)))

    def records(self) -> dict[str, Tensor]:
        """`segmentation_records` of all images, in their order."""
        if not self._batches:
            raise DataError("the evaluation saw no images; check that the data set is not empty")
        return {name: torch.cat([batch[name] for batch in self._batches]) for name in self._batches[0]}

    def metrics_of(self, records: Mapping[str, Tensor]) -> dict[str, float]:
        """`segmentation_metrics`: also of records that several processes gathered."""
        classes = self.classes or tuple(map(str, range(records["labelled"].shape[1])))
        return segmentation_metrics(records, classes)

    def compute(self) -> dict[str, float]:
        """`miou`, `iou:CLASS`, `pixel_accuracy`, `boundary_f`."""
        return self.metrics_of(self.records())

    def per_image(self) -> Tensor:
        """What each image contributes to `miou`, float64 [N] with that mean (`image_influences`)."""
        return image_influences(self.records())


def answers_of(output: Any, size: Sequence[int]) -> Tensor:
    """The class of each pixel, int64 [N, H, W], of what a model returned."""
    return resized(outputs_of(output)[0].float(), size).argmax(dim=1)


def count_outputs(model: nn.Module, images: Tensor) -> int:
    """How many classes a network answers with.

    Args:
        model: On the device of the images.
        images: Prepared, float [N, C, H, W].
    Raises:
        DataError: If it does not take such images, or returns no logits [N, C, H, W].
    """
    try:
        with evaluating(model), torch.no_grad():
            return int(outputs_of(model(images))[0].shape[1])
    except RuntimeError as error:
        raise DataError(
            f"the model does not take images of {' x '.join(map(str, images.shape[1:]))}: {error}; give the task a "
            "`multiple_of` that its sides must be multiples of, such as 32"
        ) from error
