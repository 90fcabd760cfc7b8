"""Files of a model: the package's own without pickle, and those of other runtimes, compared before they are kept."""

from adasap.export.about import About
from adasap.export.deploy import ExportedFile, export_model
from adasap.export.hub_folder import from_pretrained, save_pretrained
from adasap.export.int8 import Calibration
from adasap.export.int8_check import Check, Int8LossError, Int8Report
from adasap.export.model_file import load, save
from adasap.export.model_file_reader import ModelFile, kept_classes, read_header
from adasap.export.runtimes import RUNTIMES, InItsRuntime, RuntimeFile
from adasap.export.targets import TARGETS, Safetensors, Target, state_bytes

__all__ = [
    "RUNTIMES",
    "TARGETS",
    "About",
    "Calibration",
    "Check",
    "ExportedFile",
    "InItsRuntime",
    "Int8LossError",
    "Int8Report",
    "ModelFile",
    "RuntimeFile",
    "Safetensors",
    "Target",
    "export_model",
    "from_pretrained",
    "kept_classes",
    "load",
    "read_header",
    "save",
    "save_pretrained",
    "state_bytes",
]
