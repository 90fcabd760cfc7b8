"""Readers of labelled images, and the stream of training batches that a resumed run finds unchanged."""

from adasap.data.augmentation import Augmentation, ExtraTransform, Resizing
from adasap.data.draws import sample_indices
from adasap.data.evaluation import PreparationTime, evaluation_batches
from adasap.data.images import ImageSet, InMemoryImages, SomeImages, check_image_size, check_labels
from adasap.data.source import DataSource, open_dataset
from adasap.data.stream import TrainingStream

__all__ = [
    "Augmentation",
    "DataSource",
    "ExtraTransform",
    "ImageSet",
    "InMemoryImages",
    "PreparationTime",
    "Resizing",
    "SomeImages",
    "TrainingStream",
    "check_image_size",
    "check_labels",
    "evaluation_batches",
    "open_dataset",
    "sample_indices",
]
