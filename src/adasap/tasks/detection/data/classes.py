"""The labels of objects as numbers of another data set's or a model's classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from adasap.data.classes import ClassMatch, match_classes
from adasap.tasks.detection.data.detection_set import DetectionImages


def matched_objects(
    data: DetectionImages, reference: Sequence[str] | None, *, where: str, of: str
) -> tuple[DetectionImages, ClassMatch]:
    """Images with boxes whose labels 1, 2, ... are those of the reference's classes, and how they came about.

    Raises:
        DataError: As `match_classes`, for a class of which there is an object.
    """
    labels = data.annotations.labels - 1
    match = match_classes(reference, data.classes, set(labels.tolist()), where=where, of=of)
    if match.classes is None or (match.numbers is None and match.classes == data.classes):
        return data, match
    same = copy.copy(data)
    if match.numbers is not None:
        same.annotations = replace(data.annotations, labels=torch.tensor(match.numbers)[labels] + 1)
    same.classes = match.classes
    return same, match
