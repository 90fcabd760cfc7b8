"""What "good" means: the loss that is trained and the numbers that are reported."""

from adasap.tasks.classification import ClassificationOptions, ClassificationTask, count_outputs
from adasap.tasks.classification_metrics import classification_metrics
from adasap.tasks.coco_metrics import coco_average_precisions
from adasap.tasks.detection import DetectionTask
from adasap.tasks.detection_evaluator import DetectionEvaluator
from adasap.tasks.detection_matching import Detection, detection_records, match_boxes
from adasap.tasks.detection_metrics import (
    average_precision,
    class_average_precisions,
    detection_metrics,
    image_influences,
    precision_recall,
    weighted_map,
)
from adasap.tasks.parts import part_of
from adasap.tasks.protocol import Evaluator, MergeableEvaluator, Task

__all__ = [
    "ClassificationOptions",
    "ClassificationTask",
    "Detection",
    "DetectionEvaluator",
    "DetectionTask",
    "Evaluator",
    "MergeableEvaluator",
    "Task",
    "average_precision",
    "class_average_precisions",
    "classification_metrics",
    "coco_average_precisions",
    "count_outputs",
    "detection_metrics",
    "detection_records",
    "image_influences",
    "match_boxes",
    "part_of",
    "precision_recall",
    "weighted_map",
]
