"""Readers of images with labels, items of any data set, and the training batches that a resumed run finds again."""

from adasap.data.augmentation import Augmentation, ExtraTransform, Resizing
from adasap.data.draws import sample_indices
from adasap.data.evaluation import PreparationTime, evaluation_batches
from adasap.data.images import ImageSet, InMemoryImages, SomeImages, check_image_size, check_labels
from adasap.data.source import SOURCES, DataSource, SourceKind, open_dataset, open_source
from adasap.data.stream import TrainingStream

__all__ = [
    "SOURCES",
    "Augmentation",
    "DataSource",
    "ExtraTransform",
    "ImageSet",
    "InMemoryImages",
    "PreparationTime",
    "Resizing",
    "SomeImages",
    "SourceKind",
    "TrainingStream",
    "check_image_size",
    "check_labels",
    "evaluation_batches",
    "open_dataset",
    "open_source",
    "sample_indices",
]
