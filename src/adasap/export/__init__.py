"""Files of a model: the package's own without pickle, and those of other runtimes, compared before they are kept."""

from adasap.export.atomic import atomic_write
from adasap.export.deploy import ExportedFile, export_model
from adasap.export.groups_json import groups_from_json, groups_to_json
from adasap.export.model_file import load, save
from adasap.export.reading import ModelFile, read_header
from adasap.export.targets import Safetensors, Target, state_bytes

__all__ = [
    "ExportedFile",
    "ModelFile",
    "Safetensors",
    "Target",
    "atomic_write",
    "export_model",
    "groups_from_json",
    "groups_to_json",
    "load",
    "read_header",
    "save",
    "state_bytes",
]
