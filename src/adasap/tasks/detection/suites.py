"""Suites of images with boxes: clean, or corrupted on the fly (Michaelis et al., 2019, arXiv:1907.07484)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from adasap.corruptions import corrupt, require_channels
from adasap.data import PreparationTime, sample_indices
from adasap.errors import DataError
from adasap.evaluation import CLEAN, Cell, Loading, SuiteSource
from adasap.tasks.detection.data.batches import detection_batches
from adasap.tasks.detection.data.boxes import DetectionBatch
from adasap.tasks.detection.data.classes import matched_objects
from adasap.tasks.detection.data.detection_set import DetectionImages
from adasap.tasks.detection.data.sources import open_detection_dataset

ON_THE_FLY = "on the fly: 8-bit images at their own size, seeded by the index of the image; boxes as they were"
_BATCH_SIZE = 8


@dataclass(frozen=True)
class DetectionSuite:
    """Images with boxes in cells: as they are, or corrupted on the fly at their own size, boxes unwarped.

    Attributes:
        name: What results are filed under.
        images: The images, the same in every cell.
        cells: In their order.
        seeds: int64 [N], what each image's draws follow from; by default its index.
        record: What a result says about the suite; ready for JSON.
        remarks: Lines for whoever reads the results: how classes were matched.
    """

    name: str
    images: DetectionImages
    cells: tuple[Cell, ...]
    seeds: Tensor | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    outputs: Tensor | None = field(default=None, init=False)
    """Labels are those of the data: no mapping, as in `Suite`."""

    def images_per_batch(self, loading: Loading) -> int:
        """The batch size; 8 by default."""
        return loading.batch_size or _BATCH_SIZE

    def batches(
        self, cell: Cell, device: torch.device, loading: Loading, spent: PreparationTime
    ) -> Iterator[DetectionBatch]:
        """Images uint8 [C, H, W] with targets; corrupted on the device where that is a GPU."""
        corrupted = None if cell.is_clean else _Corrupted(cell, self.seeds)
        ahead = corrupted if device.type == "cpu" else None
        start, size = 0, self.images_per_batch(loading)
        for batch in detection_batches(
            self.images, size, num_workers=loading.num_workers, transform=ahead, spent=spent
        ):
            if corrupted is not None and ahead is None:
                images = [corrupted(image.to(device), start + row) for row, image in enumerate(batch.images)]
                batch = DetectionBatch(images, batch.targets)
            yield batch
            start += len(batch)

    def sampled(self, count: int, *, seed: int) -> DetectionSuite:
        """A sample of the images without replacement, the same in every cell; all of them if there are no more."""
        if count >= len(self.images):
            return self
        record = {**self.record, "sampled": count, "sample_seed": seed}
        return replace(self.chosen(sample_indices(len(self.images), count, seed=seed)), record=record)

    def chosen(self, indices: Tensor) -> DetectionSuite:
        """Some of the images, each with the draws that it has among all."""
        seeds = indices if self.seeds is None else self.seeds[indices]
        return replace(self, images=self.images.some(indices), seeds=seeds)

    def content(self) -> list[Tensor]:
        """All boxes, and four of the images: what an evaluation is bound to."""
        places = sorted({place * (len(self.images) - 1) // 3 for place in range(4)})
        return [*self.images.annotations.tensors(), *(self.images[place][0] for place in places)]


@dataclass(frozen=True)
class _Corrupted:
    """Image uint8 [C, H, W] and its place to the image under a corruption."""

    cell: Cell
    seeds: Tensor | None

    def __call__(self, image: Tensor, index: int) -> Tensor:
        seed = torch.tensor([index]) if self.seeds is None else self.seeds[index : index + 1]
        return corrupt(image[None], self.cell.corruption, self.cell.severity, seeds=seed)[0]


def open_detection_suite(
    name: str,
    source: SuiteSource,
    test: DetectionImages | None = None,
    *,
    classes: Sequence[str] | None = None,
    of: str = "the model",
    channels: int | None = None,
) -> DetectionSuite:
    """Opens a suite of images with boxes: `clean`, `corrupted` (the 15 corruptions) or `corrupted-validation`.

    Args:
        name: What results are filed under.
        source: Which suite, and its data: of kind `voc`, `coco` or `shapes`.
        test: The data set of suites that name none.
        classes: Names of the detector's labels 1, 2, ...; those of the data are matched with them.
        of: Where they come from, for messages.
        channels: Of the detector's input; by default those of the images.
    Raises:
        DataError: Before any evaluation, for anything that is missing or does not hold what it should, and for an
            object of a class that the detector does not know.

    Example:
        >>> from adasap.data import DataSource
        >>> source = SuiteSource("corrupted", DataSource("shapes", count=4), corruptions=("fog",), severities=(1, 5))
        >>> open_detection_suite("corrupted", source).cells
        (Cell(corruption='fog', severity=1), Cell(corruption='fog', severity=5))
    """
    if source.row.on_disk:
        raise DataError(
            f"suite {name!r}: {source.kind} holds images with labels; a detector is evaluated on `clean`, `corrupted` "
            "or `corrupted-validation` of a data set with boxes"
        )
    if source.data is None and test is None:
        raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
    images = test if source.data is None else open_detection_dataset(source.data, "test", channels=channels)
    assert images is not None
    where = "the test data" if source.data is None else f"suite {name!r}"
    images, match = matched_objects(images, classes, where=where, of=of)
    cells: tuple[Cell, ...] = (CLEAN,)
    if source.row.on_the_fly:
        for corruption in source.names():  # unknown names fail here
            corrupt(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), corruption, 1)
        require_channels(source.names(), images.num_channels)
        cells = tuple(source.cells())
    record = {
        "kind": source.kind,
        "images": len(images),
        "published_images": None,
        "objects": int((~images.annotations.difficult).sum()),
        "difficult": int(images.annotations.difficult.sum()),
        "classes": list(images.classes),
        "findings": images.findings.summary(),
        "corruptions": ON_THE_FLY if source.row.on_the_fly else None,
    }
    return DetectionSuite(name, images, cells, record=record, remarks=(match.remark,) if match.remark else ())
