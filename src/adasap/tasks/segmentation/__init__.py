"""Masks: readers, augmentation, losses, intersection over union, corruptions, models and panels."""

from adasap.data.source import SOURCES
from adasap.models.builders import FAMILIES, MODELS
from adasap.tasks.panels import TASK_PANELS
from adasap.tasks.task import TASKS

TASKS.register("segmentation", "adasap.tasks.segmentation.task:SegmentationTask")
for kind in ("masks", "voc-masks", "cityscapes", "coco-masks", "shape-masks", "wds-masks", "hf-masks"):
    SOURCES.register(kind, f"adasap.tasks.segmentation.data.sources:{kind.upper().replace('-', '_')}")
for network in ("unet", "unet_mobilenet_v2"):
    MODELS.register(network, f"adasap.tasks.segmentation.models.unet:{network}")
FAMILIES.register("smp", "adasap.tasks.segmentation.models.smp:smp_builder")
TASK_PANELS.register("segmentation", "adasap.tasks.segmentation.report.panels:PANELS")
