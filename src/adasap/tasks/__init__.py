"""What "good" means: the loss that is trained and the numbers that are reported."""

from adasap.tasks.classification import ClassificationOptions, ClassificationTask, count_outputs
from adasap.tasks.protocol import Evaluator, Task

__all__ = ["ClassificationOptions", "ClassificationTask", "Evaluator", "Task", "count_outputs"]
