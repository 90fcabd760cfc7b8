"""Labels: cross-entropy, distillation, accuracy and calibration, tables and example images."""

from adasap.tasks.panels import TASK_PANELS
from adasap.tasks.task import TASKS

TASKS.register("classification", "adasap.tasks.classification.task:ClassificationTask")
TASK_PANELS.register("classification", "adasap.tasks.classification.report.panels:PANELS")
