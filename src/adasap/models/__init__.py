"""Opens any model: built-in, torchvision's, timm's, or the user's own function; and fills it with weights."""

from adasap.models.builders import check_options, is_trusted, resolve_builder
from adasap.models.inputs import default_input_size, input_size_of
from adasap.models.open import ModelSpec, open_model
from adasap.models.weights import load_weights_

__all__ = [
    "ModelSpec",
    "check_options",
    "default_input_size",
    "input_size_of",
    "is_trusted",
    "load_weights_",
    "open_model",
    "resolve_builder",
]
