"""Boxes: readers, augmentation, detectors, average precision, suites, tables and cards."""

from adasap.data.source import SOURCES
from adasap.models.builders import ADAPTERS, MODELS
from adasap.tasks.panels import TASK_PANELS
from adasap.tasks.task import TASKS

TASKS.register("detection", "adasap.tasks.detection.task:DetectionTask")
for kind in ("voc", "coco", "shapes", "wds-boxes", "hf-boxes"):
    SOURCES.register(kind, f"adasap.tasks.detection.data.sources:{kind.upper().replace('-', '_')}")
for backbone in ("resnet50", "mobilenet_v1", "mobilenet_v2"):
    MODELS.register(f"ssd_{backbone}", f"adasap.tasks.detection.models.ssd:ssd_{backbone}")
ADAPTERS.register("detection", "adasap.tasks.detection.models.detectors:traced")
TASK_PANELS.register("detection", "adasap.tasks.detection.report.panels:PANELS")
