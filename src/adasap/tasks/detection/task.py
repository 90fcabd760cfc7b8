"""Object detection: the detector's own losses, average precision, images of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.data.items import image_tensor
from adasap.data.stream import Batching
from adasap.errors import DataError, RecipeError, TrainingError
from adasap.evaluation import Suite, SuiteResult, SuiteSource
from adasap.groups.past import past_of
from adasap.metric import Metric
from adasap.models import ModelSpec, input_size_of
from adasap.tasks.classification.task import require_as_many
from adasap.tasks.data import Data, DataOptions, Opening
from adasap.tasks.detection.data.augmentation import DetectionAugmentation
from adasap.tasks.detection.data.boxes import DetectionBatch, Target, typed_target
from adasap.tasks.detection.data.classes import matched_objects
from adasap.tasks.detection.data.detection_set import DetectionImages
from adasap.tasks.detection.data.sources import open_detection_dataset
from adasap.tasks.detection.evaluator import DetectionEvaluator
from adasap.tasks.detection.models.detector import count_classes
from adasap.tasks.detection.suites import DetectionSuite, open_detection_suite
from adasap.tasks.task import BaseTask, corrupted_images

if TYPE_CHECKING:
    from adasap.report.table import Table

TIMED_IMAGES = 16
"""Of the test set, the first ones: what detection from images to boxes is timed on."""


@dataclass(frozen=True)
class DetectionOptions:
    """How a detector is scored; its losses are its own.

    Attributes:
        coco: Also compute COCO's average precision, which takes much longer.
    """

    coco: bool = False

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)


class DetectionTask(BaseTask[DetectionBatch]):
    """Boxes and classes of objects in 8-bit images, for any `adasap.models.Detector`.

    The detector itself brings images to the size it works at, and boxes back. Objects marked as difficult are not
    trained on, as the benchmark does not count them.

    Args:
        mean: Per-channel mean of the model's own preprocessing, (x / 255 - mean) / std.
        std: Per-channel standard deviation.
        classes: Names of the labels 1, 2, ...
        coco: Also compute COCO's average precision, which takes much longer.

    Example:
        >>> from adasap.tasks.detection.data.boxes import empty_target
        >>> task = DetectionTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=["cat"])
        >>> batch = DetectionBatch([torch.zeros(3, 8, 9, dtype=torch.uint8)], [empty_target(0)])
        >>> task.prepare(batch, torch.device("cpu")).images[0].unique().item()
        -1.0
    """

    name = "detection"
    primary_metric = Metric(
        "map50",
        "AP50",
        meaning="average precision of the boxes found, mean over the classes; a box is right where it and a true one "
        "share half of the area that they cover together",
    )
    options_type: ClassVar[type[Any]] = DetectionOptions
    augmentation_type: ClassVar[type[Any]] = DetectionAugmentation

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], classes: Sequence[str], coco: bool = False
    ) -> None:
        super().__init__(options=DetectionOptions(coco))
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.classes, self.coco = tuple(classes), coco

    def __repr__(self) -> str:
        """Everything that its loss depends on, so that a resumed run can tell whether it goes on with the same task."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"DetectionTask({mean=}, {std=}, classes={self.classes})"

    def prepare(self, batch: DetectionBatch, device: torch.device) -> DetectionBatch:
        """Images to the device, float and normalised, each of its own size; targets beside them.

        Raises:
            DataError: If they have another number of channels than mean and std.
        """
        for image in batch.images:
            require_as_many(self.mean.numel(), image.shape[0])
        moved, mean, std = batch.to(device), self.mean.to(device), self.std.to(device)
        return DetectionBatch([(image.float() / 255 - mean) / std for image in moved.images], moved.targets)

    def loss(self, model: nn.Module, batch: DetectionBatch) -> Tensor:
        """The sum of the detector's losses (`Detector.losses`), float32."""
        losses: dict[str, Tensor] = model(batch.images, [without_difficult(target) for target in batch.targets])
        if not isinstance(losses, dict):
            raise TrainingError(
                f"{type(model).__name__} gave no losses by name for images with targets; derive it from "
                "adasap.models.Detector"
            )
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def evaluator(self) -> DetectionEvaluator:
        """Average precision of Pascal VOC, and with `coco` that of COCO."""
        return DetectionEvaluator(self.classes, coco=self.coco)

    def collate(self, samples: Sequence[Any]) -> DetectionBatch:
        """Images of any sizes with targets: dictionaries of `boxes` and `labels`, perhaps `difficult`, `image_id`."""
        pairs = [(image_tensor(image), typed_target(target, place)) for place, (image, target) in enumerate(samples)]
        return DetectionBatch([image for image, _ in pairs], [target for _, target in pairs])

    def batching(self, dataset: Any, augmentation: Any) -> Batching:
        """By the augmentation.

        Raises:
            RecipeError: If the augmentation is another task's.
        """
        self.require_own(augmentation)
        found: DetectionAugmentation = augmentation or DetectionAugmentation()
        return found

    def corrupt(self, batch: DetectionBatch, corruption: str, severity: int, seeds: Tensor) -> DetectionBatch:
        """The images corrupted at their own size, boxes as they were."""
        return DetectionBatch(corrupted_images(batch.images, corruption, severity, seeds), batch.targets)

    def check(self, model: nn.Module, data: Data) -> None:
        """One forward pass: the detector must answer with every class of the data and with the background.

        Raises:
            DataError: If it does not, works at another size than `model.input_size`, or is no detector.
        """
        wanted, size = len(self.classes) + 1, data.example.shape[1:]
        found, spec = count_classes(model, size), past_of(model).spec
        title = type(model).__name__ if spec is None else spec.builder
        if found != wanted:
            raise DataError(
                f"data.train has {wanted - 1} classes, with the background {wanted}, but {title} answers "
                f"with {found}; set model.options.num_classes to {wanted}"
            )
        side = getattr(model, "image_size", None)
        if side is not None and tuple(size[1:]) != (side, side):
            raise DataError(
                f"{title} works at {side} x {side} pixels, model.input_size says "
                f"{size[1]} x {size[2]}; set one of it and model.options.image_size"
            )

    def check_suites(self, model: nn.Module, suites: Sequence[Suite], input_size: Sequence[int]) -> None:
        """Whether the model is a detector with enough classes, and all suites have the same, and objects of them.

        Raises:
            DataError: If not.
        """
        classes, found = self.classes, count_classes(model, input_size) - 1
        for suite in suites:
            if suite.images.classes != classes:
                raise DataError(f"suite {suite.name!r} has other classes than the first; evaluate it by itself")
            if not len(suite.images.annotations.labels):
                raise DataError(
                    f"suite {suite.name!r} holds no object of its classes ({', '.join(classes[:4])}, ...); "
                    f"give data with these names ({suite.images.summary()})"
                )
        if found < len(classes):
            raise DataError(
                f"the data have {len(classes)} classes ({', '.join(classes[:4])}, ...), the detector answers with "
                f"{found}; give one that was trained on them, or name its classes with `classes` of the data"
            )

    def first_score(self, result: SuiteResult, train: Any) -> str:
        """Average precision beside chance."""
        value, count = next(iter(result.metrics.values()))["map50"], len(result.per_image())
        return f"As loaded: {100 * value:.1f} % average precision on {count} test images; chance is 0."

    def timed_images(self, data: Data) -> dict[str, list[Tensor]]:
        """`images to boxes`, with resizing and all work on boxes, on the first test images."""
        test = data.opened_suites[0].images
        some = [test[place] for place in range(min(TIMED_IMAGES, len(test)))]
        batch = DetectionBatch([image for image, _ in some], [target for _, target in some])
        return {"images to boxes": self.prepare(batch, torch.device("cpu")).images}

    def save_pictures(
        self, folder: Path, models: Mapping[str, nn.Module], data: Data, suites: Sequence[Suite], device: torch.device
    ) -> None:
        """Scenes with boxes under every corruption, and the curves of precision against recall."""
        from adasap.tasks.detection.report.detections import save_detections

        if with_boxes := [suite for suite in suites if isinstance(suite, DetectionSuite)]:
            save_detections(folder, models, self, with_boxes, device)

    def table(self, results: Mapping[str, SuiteResult]) -> Table:
        """Average precision of each cell."""
        from adasap.tasks.detection.report.detection_table import cell_table

        return cell_table(results)

    def more_tables(self, name: str, results: Mapping[str, SuiteResult], suites: Sequence[Suite]) -> dict[str, Table]:
        """P, mPC and rPC, where the first suite is a clean one."""
        from adasap.tasks.detection.report.detection_table import detection_tables

        return {} if len(suites[0].cells) > 1 else detection_tables({name: results})

    def remarks(self, suites: Sequence[Suite]) -> Iterator[str]:
        """How many images and objects there are, and what the score is."""
        yield from dict.fromkeys(suite.images.summary() for suite in suites)
        yield "AP50: area below precision against recall at IoU 0.5, difficult objects ignored; intervals over images"

    def about(self) -> dict[str, Any]:
        """What boxes are."""
        return {"boxes": "x_min, y_min, x_max, y_max in pixels from 0; the ground truth is not warped by corruptions"}

    @classmethod
    def opened(
        cls,
        options: Any,
        spec: ModelSpec,
        *,
        classes: Sequence[str] = (),
        teacher: nn.Module | None = None,
        channels_last: bool = False,
    ) -> DetectionTask:
        """With the model's own preprocessing."""
        return cls(mean=spec.mean, std=spec.std, classes=classes, coco=options.coco)

    @classmethod
    def open_data(cls, asked: DataOptions, of: Opening) -> Data:
        """Images with boxes, suites (the clean test set first), and a zero image of the size of the traced part."""
        if any(source.is_own for source in asked.sources):
            return super().open_data(asked, of)
        size, classes = input_size_of(of.spec), of.classes
        train = open_detection_dataset(asked.train, "train", channels=size[0])
        test = open_detection_dataset(asked.test, "test", channels=size[0])
        names, owner = (classes, str(of.spec.weights)) if classes else (train.classes, "data.train")
        train, match = matched_objects(train, names, where="data.train", of=owner)
        if "clean" in asked.suites:
            raise DataError("data.suites names one `clean`, which is the name of data.test's own; give it another name")
        matching: dict[str, Any] = {"classes": names, "of": owner, "channels": size[0]}
        suites = [open_detection_suite("clean", SuiteSource("clean"), test, **matching)]
        suites += [open_detection_suite(name, source, test, **matching) for name, source in asked.suites.items()]
        summaries = [one.summary() for one in (train, *(suite.images for suite in suites))]
        remarks = [*summaries, match.remark, *(remark for suite in suites for remark in suite.remarks)]
        example = torch.zeros(1, *size)
        return Data(train, suites, example, asked.augmentation, tuple(filter(None, dict.fromkeys(remarks))))

    @classmethod
    def open_suites(cls, sources: Mapping[str, SuiteSource], of: Opening, *, test: Any = None) -> list[Suite]:
        """Suites of images with boxes, and of any data set of (image, target) as torchvision's detectors take them."""
        if not (test is None or isinstance(test, DetectionImages)):
            return super().open_suites(sources, of, test=test)
        channels = input_size_of(of.spec)[0]
        return [
            open_detection_suite(name, source, test, classes=of.classes, channels=channels)
            for name, source in sources.items()
        ]

    @classmethod
    def classes_of(cls, asked: DataOptions, of: Opening) -> tuple[str, ...]:
        """Names of the labels 1, 2, ..."""
        if asked.train.is_own:
            return tuple(super().classes_of(asked, of) or ())
        return open_detection_dataset(asked.train, "train").classes


def without_difficult(target: Target) -> dict[str, Any]:
    """The boxes and labels that are trained on.

    Example:
        >>> from adasap.tasks.detection.data.boxes import make_target
        >>> boxes, labels = torch.tensor([[0, 0, 9, 9], [5, 5, 8, 8]]), torch.tensor([3, 1])
        >>> target = make_target(boxes, labels, torch.tensor([False, True]), image_id=0)
        >>> without_difficult(target)
        {'boxes': tensor([[0., 0., 9., 9.]]), 'labels': tensor([3])}
    """
    easy = ~target["difficult"]
    return {"boxes": target["boxes"][easy], "labels": target["labels"][easy]}
