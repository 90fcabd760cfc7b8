"""What "good" means: the loss that is trained and the numbers that are reported."""

from adasap.tasks.classification import ClassificationOptions, ClassificationTask, count_outputs
from adasap.tasks.classification_metrics import classification_metrics
from adasap.tasks.parts import part_of
from adasap.tasks.protocol import Evaluator, MergeableEvaluator, Task

__all__ = [
    "ClassificationOptions",
    "ClassificationTask",
    "Evaluator",
    "MergeableEvaluator",
    "Task",
    "classification_metrics",
    "count_outputs",
    "part_of",
]
