"""Opens any model: built-in, torchvision's, timm's, or the user's own function; and fills it with weights."""

from adasap.models.builders import check_options, is_trusted, resolve_builder
from adasap.models.detector import Detector
from adasap.models.open import ModelSpec, open_model
from adasap.models.weights import load_weights_

__all__ = ["Detector", "ModelSpec", "check_options", "is_trusted", "load_weights_", "open_model", "resolve_builder"]
