"""Networks of segmentation-models-pytorch by name: `smp:Unet/resnet18`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from adasap.errors import ModelError, suggestion


def smp_builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds `ARCHITECTURE/ENCODER` with that package's options, such as `classes`; fetches nothing.

    Raises:
        ModelError: If the package is not installed, or has no such architecture or encoder.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ModelError(
            f"smp:{name:.80} needs the package segmentation-models-pytorch; install it: pip install "
            "'adasap[segmentation]'"
        ) from error
    architecture, slash, encoder = name.partition("/")
    known = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if architecture not in known or not slash:
        raise ModelError(
            f"smp has no architecture {architecture!r:.80} (write smp:ARCHITECTURE/ENCODER, such as "
            f"smp:Unet/resnet18); {suggestion(architecture, known)}"
        )
    encoders = smp.encoders.get_encoder_names()
    if encoder not in encoders and not encoder.startswith("tu-"):
        raise ModelError(f"smp has no encoder {encoder!r:.80}; {suggestion(encoder, encoders)}")
    return partial(_built, known[architecture], encoder)


def _built(kind: Callable[..., nn.Module], encoder: str, **options: Any) -> nn.Module:
    return kind(**(options | {"encoder_name": encoder, "encoder_weights": None}))
