"""Suites of images with boxes: clean, or corrupted on the fly (Michaelis et al., 2019, arXiv:1907.07484)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from adasap.corruptions import corrupt
from adasap.data import (
    DetectionBatch,
    DetectionImages,
    PreparationTime,
    detection_batches,
    open_detection_dataset,
    sample_indices,
)
from adasap.errors import DataError
from adasap.robustness.suites import Loading
from adasap.robustness.suites_disk import cell_keys
from adasap.robustness.suites_registry import SuiteSource

ON_THE_FLY = "on the fly: 8-bit images at their own size, seeded by the index of the image; boxes as they were"
_BATCH_SIZE = 8


@dataclass(frozen=True)
class DetectionSuite:
    """Images with boxes in cells: as they are, or corrupted on the fly at their own size, boxes unwarped.

    Attributes:
        name: What results are filed under.
        images: The images, the same in every cell.
        corruption_of: Cell name -> corruption (None leaves images as they are) and severity.
        seeds: int64 [N], what each image's draws follow from; by default its index.
        record: What a result says about the suite; ready for JSON.
    """

    name: str
    images: DetectionImages
    corruption_of: Mapping[str, tuple[str | None, int]]
    seeds: Tensor | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    outputs: Tensor | None = field(default=None, init=False)
    """Labels are those of the data: no mapping, as in `Suite`."""

    def cell_names(self) -> tuple[str, ...]:
        return tuple(self.corruption_of)

    def images_per_batch(self, loading: Loading) -> int:
        """The batch size; 8 by default."""
        return loading.batch_size or _BATCH_SIZE

    def batches(
        self, cell: str, device: torch.device, loading: Loading, spent: PreparationTime
    ) -> Iterator[DetectionBatch]:
        """Images uint8 [3, H, W] with targets; corrupted on the device where that is a GPU."""
        corrupted = _Corrupted(*self.corruption_of[cell], self.seeds)
        ahead = corrupted if corrupted.name is not None and device.type == "cpu" else None
        start, size = 0, self.images_per_batch(loading)
        for batch in detection_batches(
            self.images, size, num_workers=loading.num_workers, transform=ahead, spent=spent
        ):
            if ahead is None and corrupted.name is not None:
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
    """Image uint8 [3, H, W] and its place to the image under a corruption."""

    name: str | None
    severity: int
    seeds: Tensor | None

    def __call__(self, image: Tensor, index: int) -> Tensor:
        assert self.name is not None
        seed = torch.tensor([index]) if self.seeds is None else self.seeds[index : index + 1]
        return corrupt(image[None], self.name, self.severity, seeds=seed)[0]


def open_detection_suite(name: str, source: SuiteSource, test: DetectionImages | None = None) -> DetectionSuite:
    """Opens a suite of images with boxes: `clean`, `corrupted` (the 15 corruptions) or `corrupted-validation`.

    Args:
        name: What results are filed under.
        source: Which suite, and its data: of kind `voc`, `coco` or `shapes`.
        test: The data set of suites that name none.
    Raises:
        DataError: Before any evaluation, for anything that is missing or does not hold what it should.

    Example:
        >>> from adasap.data import DataSource
        >>> source = SuiteSource("corrupted", DataSource("shapes", count=4), corruptions=("fog",), severities=(1, 5))
        >>> open_detection_suite("corrupted", source).cell_names()
        ('fog/1', 'fog/5')
    """
    if source.row.on_disk:
        raise DataError(
            f"suite {name!r}: {source.kind} holds images with labels; a detector is evaluated on `clean`, `corrupted` "
            "or `corrupted-validation` of a data set with boxes"
        )
    if source.data is None and test is None:
        raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
    images = test if source.data is None else open_detection_dataset(source.data, "test")
    assert images is not None
    cells: dict[str, tuple[str | None, int]] = {"clean": (None, 0)}
    on_the_fly = source.row.layout == "on the fly"
    if on_the_fly:
        for corruption in source.names():  # unknown names fail here
            corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), corruption, 1)
        cells = {key: (corruption, severity) for key, corruption, severity in cell_keys(source)}
    record = {
        "kind": source.kind,
        "images": len(images),
        "published_images": None,
        "objects": int((~images.annotations.difficult).sum()),
        "difficult": int(images.annotations.difficult.sum()),
        "classes": list(images.classes),
        "findings": images.findings.summary(),
        "corruptions": ON_THE_FLY if on_the_fly else None,
    }
    return DetectionSuite(name, images, cells, record=record)
