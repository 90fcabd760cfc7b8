"""Names that help and shell completion show without importing what they stand for, and how a word may go on.

Tests hold the names to the registries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]
DemoTask = Literal["classification", "detection", "segmentation"]
Precision = Literal["float32", "bf16", "fp16"]
AskedPrecision = Literal["float32", "auto", "bf16", "fp16"]
Ranking = Literal["global", "uniform", "isomorphic"]
Compensate = Literal["none", "fold", "least_squares"]

BUILDERS = (
    "adasap:cifar_resnet20",
    "adasap:cifar_resnet32",
    "adasap:cifar_resnet44",
    "adasap:cifar_resnet56",
    "adasap:cifar_resnet110",
    "adasap:digits_net",
    "adasap:mobilenet_v1_tf",
    "adasap:mobilenet_v2_tf",
    "adasap:ssd_mobilenet_v1",
    "adasap:ssd_mobilenet_v2",
    "adasap:ssd_resnet50",
    "adasap:unet",
    "adasap:unet_mobilenet_v2",
)
DATA_KINDS = (
    "npz",
    "folder",
    "csv",
    "cifar10",
    "cifar100",
    "cifar10.1",
    "imagenet",
    "imagenet-v2",
    "objectnet",
    "wds",
    "hf",
    "digits",
    "voc",
    "coco",
    "shapes",
    "wds-boxes",
    "hf-boxes",
    "masks",
    "voc-masks",
    "cityscapes",
    "coco-masks",
    "shape-masks",
    "wds-masks",
    "hf-masks",
)
INSTRUMENTS = (
    "loss",
    "worst_case",
    "average_case",
    "eigenvalues",
    "trace",
    "density",
    "blocks",
    "channels",
    "landscape",
)
SUITES = (
    "clean",
    "corrupted",
    "corrupted-validation",
    "corruption-arrays",
    "imagenet-val",
    "imagenet-c",
    "imagenet-v2",
    "imagenet-v2-threshold0.7",
    "imagenet-v2-top-images",
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "objectnet",
    "cifar10-c",
    "cifar100-c",
    "cifar10.1",
    "cifar10.1-v4",
    "tiny-imagenet-c",
)
ENGINES = ("torch", "onnxruntime", "openvino")
TARGETS = ("onnx", "openvino", "executorch", "torch-export", "safetensors")

Complete = Callable[[str], list[str]]
"""From the beginning of a word to the words it may become."""


def one_of(names: Sequence[str]) -> Complete:
    """Completes a name; of a list with commas, its last name.

    Example:
        >>> one_of(("fog", "frost", "snow"))("snow,f")
        ['snow,fog', 'snow,frost']
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [before + comma + name for name in names if name.startswith(begun)]

    return complete


def complete_path(incomplete: str) -> list[str]:
    """Files and folders, these with a slash at their end; hidden ones where the word begins with a dot."""
    folder, begun = os.path.split(incomplete)
    try:
        found = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    shown = [e for e in found if e.name.startswith(begun) and (begun.startswith(".") or not e.name.startswith("."))]
    return [os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "") for entry in shown]


def complete_model(incomplete: str) -> list[str]:
    """The builders of this package, the beginnings of others, and paths."""
    names = (*BUILDERS, "torchvision:", "timm:", "smp:")
    return [name for name in names if name.startswith(incomplete)] + complete_path(incomplete)


def complete_data(incomplete: str) -> list[str]:
    """`KIND:` of a data set, and after it a path."""
    kind, colon, path = incomplete.partition(":")
    if colon:
        return [f"{kind}:{found}" for found in complete_path(path)]
    return [f"{name}:" for name in DATA_KINDS if name.startswith(kind)]
