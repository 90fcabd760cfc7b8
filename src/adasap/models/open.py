"""A model by its name: `ModelSpec` says which and how, `open_model` builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from adasap.errors import ModelError
from adasap.models.builders import check_options, resolve_builder
from adasap.models.weights import load_backbone_, load_weights_


@dataclass(frozen=True)
class ModelSpec:
    """How to build a dense model, and what it wants as input.

    Attributes:
        builder: `adasap:NAME`, `torchvision:NAME`, `timm:NAME`, or `package.module:function`.
        options: Keyword arguments of the builder: plain JSON values.
        input_size: Channels, height, width.
        mean: Per colour; an image is prepared as (x / 255 - mean) / std.
        std: Per colour.
        weights: A `.safetensors` file on this machine to fill the model with; None keeps the random start.
        backbone_weights: Likewise one of an ImageNet classifier, which fills the backbone of a detector.
    """

    builder: str
    options: dict[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] = (3, 32, 32)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    weights: str | None = None
    backbone_weights: str | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and self.backbone_weights is not None:
            raise ModelError("weights fill the whole model, so backbone_weights would be lost; give one of the two")
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise ModelError(f"input_size is {self.input_size}; give channels, height and width, such as (3, 32, 32)")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelError(f"mean is {self.mean} and std is {self.std}; give one number per colour, and std above 0")


def open_model(
    spec: ModelSpec, *, builder: Callable[..., nn.Module] | None = None, trust_builder: bool = False
) -> nn.Module:
    """Builds the model and fills it with the spec's weights; nothing is downloaded.

    Args:
        spec: Which model.
        builder: Called in place of `spec.builder`, with the same options.
        trust_builder: Import `package.module:function` if that is what the spec names: say so for names that
            the user gave himself, not for names that came in a file from somebody else.
    Raises:
        ModelError: If the builder is unknown, is not trusted, refuses its options, or the weights do not fit.

    Example:
        >>> model = open_model(ModelSpec("adasap:digits_net"))
        >>> sum(parameter.numel() for parameter in model.parameters())
        78330
    """
    check_options(spec.builder, spec.options)
    build = builder or resolve_builder(spec.builder, trust_builder=trust_builder)
    try:
        model = build(**spec.options)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise ModelError(
            f"{spec.builder} could not build a model from the options {spec.options} "
            f"({type(error).__name__}: {error}); correct the options"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec.builder} returned a {type(model).__name__}; wanted a torch.nn.Module")
    if spec.weights is not None:
        load_weights_(model, spec.weights)
    if spec.backbone_weights is not None:
        load_backbone_(model, spec.backbone_weights)
    return model
