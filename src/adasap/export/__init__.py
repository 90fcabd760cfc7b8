"""The model file: weights, plan and how to build the dense model in one .safetensors file, without pickle."""

from adasap.export.atomic import atomic_write
from adasap.export.groups_json import groups_from_json, groups_to_json
from adasap.export.model_file import load, save
from adasap.export.reading import ModelFile, read_header

__all__ = ["ModelFile", "atomic_write", "groups_from_json", "groups_to_json", "load", "read_header", "save"]
