"""Readers of images with labels or boxes, and the stream of training batches that a resumed run finds unchanged."""

from adasap.data.augmentation import Augmentation, ExtraTransform, Resizing
from adasap.data.boxes import DetectionBatch, Target
from adasap.data.detection_augmentation import DetectionAugmentation
from adasap.data.detection_batches import detection_batches
from adasap.data.detection_set import Annotations, DetectionImages, Findings
from adasap.data.draws import sample_indices
from adasap.data.evaluation import PreparationTime, evaluation_batches
from adasap.data.images import ImageSet, InMemoryImages, SomeImages, check_image_size, check_labels
from adasap.data.source import WITH_BOXES, DataSource, open_dataset, open_detection_dataset
from adasap.data.stream import TrainingStream

__all__ = [
    "WITH_BOXES",
    "Annotations",
    "Augmentation",
    "DataSource",
    "DetectionAugmentation",
    "DetectionBatch",
    "DetectionImages",
    "ExtraTransform",
    "Findings",
    "ImageSet",
    "InMemoryImages",
    "PreparationTime",
    "Resizing",
    "SomeImages",
    "Target",
    "TrainingStream",
    "check_image_size",
    "check_labels",
    "detection_batches",
    "evaluation_batches",
    "open_dataset",
    "open_detection_dataset",
    "sample_indices",
]
