"""A model by its name: `ModelSpec` says which and how, `open_model` builds it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from adasap.checks import MOST_PIXELS, require_declared, require_within
from adasap.errors import ModelError
from adasap.groups.past import past_of, remember
from adasap.models.builders import check_options, is_trusted, resolve_builder
from adasap.models.own_code import where_it_failed
from adasap.models.published import is_published, published_tensors
from adasap.models.size_guard import built_within_bounds, skeleton
from adasap.models.weights import fill_, load_backbone_, load_weights_

_log = logging.getLogger(__name__)

MOST_VALUES = 2**27
"""Numbers in one image: half a gigabyte."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """How to build a dense model, and what it wants as input.

    Attributes:
        builder: `adasap:NAME`, `torchvision:NAME`, `timm:NAME`, `smp:ARCHITECTURE/ENCODER`,
            `package.module:function` or `path/to/file.py:function`.
        options: Keyword arguments of the builder: plain JSON values.
        input_size: Channels, height, width; None: not said (see `input_size_of`).
        mean: Per channel; an image is prepared as (x / 255 - mean) / std. By default what timm's configuration says of
            a model of timm's, else ImageNet's for three channels, and 0.5 for any other number.
        std: Per channel; likewise.
        weights: A file of weights on this machine to fill the model with (see `load_weights_`), or `DEFAULT` or another
            name of weights that torchvision or timm publish for it; None keeps the random start.
        backbone_weights: Likewise a file of an ImageNet classifier, which fills the backbone of a detector.
    """

    builder: str
    options: dict[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    weights: str | None = None
    backbone_weights: str | None = None

    def __post_init__(self) -> None:
        require_declared(self, ModelError)
        if self.weights is not None and self.backbone_weights is not None:
            raise ModelError("weights fill the whole model, so backbone_weights would be lost; give one of the two")
        size = self.input_size
        if size is not None and (len(size) != 3 or min(size) < 1):
            raise ModelError(f"input_size is {size}; give channels, height and width, such as (3, 32, 32)")
        require_within(ModelError, 1, MOST_PIXELS, input_size=size)
        if size is not None and math.prod(size) > MOST_VALUES:
            raise ModelError(f"input_size {size} has over {MOST_VALUES:,} values; give smaller images")
        channels = size[0] if size is not None else max(len(self.mean), len(self.std)) or 3
        if not (self.mean and self.std):
            for name, default in zip(("mean", "std"), _usual(self.builder, channels), strict=True):
                object.__setattr__(self, name, getattr(self, name) or default)
        if not len(self.mean) == len(self.std) == channels or not min(self.std) > 0:
            raise ModelError(
                f"mean is {self.mean} and std is {self.std}; give one number for each of the {channels} channels of "
                "the input, and std above 0"
            )

    def of_size(self, size: tuple[int, int, int] | None) -> ModelSpec:
        """The same with an input size that was found; mean and std that nobody gave follow its channels.

        Example:
            >>> ModelSpec("mine:net").of_size((1, 28, 28)).mean
            (0.5,)
        """
        unsaid = size is not None and size[0] != 3 and (self.mean, self.std) == _usual(self.builder, 3)
        return replace(self, input_size=size, mean=(), std=()) if unsaid else replace(self, input_size=size)


def _usual(builder: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std where nobody says them."""
    family, _, name = builder.partition(":")
    if family == "timm" and (carried := timm_mean_std(timm_config(name), channels)):
        return carried
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels,) * 2


def timm_config(name: str) -> Any:
    """What timm says of a model's published weights; None if there are none, or timm is not installed."""
    try:
        import timm

        return timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except (ImportError, RuntimeError, ValueError):
        return None


def timm_mean_std(config: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std in a configuration of timm's, as timm or a model of its kind has it; None if it says none."""
    said = config if isinstance(config, Mapping) else vars(config) if hasattr(config, "__dict__") else {}
    mean, std = (tuple(float(number) for number in said.get(key) or ()) for key in ("mean", "std"))
    return (mean, std) if len(mean) == len(std) == channels else None


def open_model(
    spec: ModelSpec | str,
    *,
    builder: Callable[..., nn.Module] | None = None,
    trust_builder: bool = False,
    download: bool = True,
    most_numbers: int | None = None,
    say: Callable[[str], None] = _log.info,
) -> nn.Module:
    """Builds the model and fills it with the spec's weights.

    Args:
        spec: Which model; a name such as `torchvision:resnet18` is its builder.
        builder: Called in place of `spec.builder`, with the same options.
        trust_builder: Import `package.module:function` if that is what the spec names: say so for names that
            the user gave himself, not for names that came in a file from somebody else.
        download: Whether published weights may be fetched; say no for a spec from somebody else.
        most_numbers: The model may have so many numbers; None: what free memory holds. Not asked of own functions.
        say: Told in one line what was found in a file of weights.
    Raises:
        ModelError: If it is no spec, the builder is unknown, is not trusted, refuses its options, describes a model
            that does not fit into memory, or the weights do not fit.

    Example:
        >>> model = open_model(ModelSpec("adasap:digits_net"))
        >>> sum(parameter.numel() for parameter in model.parameters())
        78330
    """
    spec = _as_spec(spec)
    model = build_model(spec, builder=builder, trust_builder=trust_builder, most_numbers=most_numbers)
    if spec.weights is not None:
        if is_published(spec.builder, spec.weights):
            _fill_published_(model, spec.builder, spec.weights, download)
        else:
            say(load_weights_(model, spec.weights))
    if spec.backbone_weights is not None:
        load_backbone_(model, spec.backbone_weights)
    remember(model, replace(past_of(model), spec=spec))
    return model


def _as_spec(spec: Any) -> ModelSpec:
    if isinstance(spec, str):
        if spec.endswith(".safetensors"):
            raise ModelError(f"{spec:.90} is a model file; open it by adasap.load")
        return ModelSpec(spec)
    if not isinstance(spec, ModelSpec):
        raise ModelError(
            f"a model is opened by a ModelSpec or a builder's name, such as torchvision:resnet18; got a "
            f"{type(spec).__name__}"
        )
    return spec


def build_model(
    spec: ModelSpec,
    *,
    builder: Callable[..., nn.Module] | None = None,
    trust_builder: bool = False,
    most_numbers: int | None = None,
    without_numbers: bool = False,
) -> nn.Module:
    """The model with its random start; arguments and errors as `open_model`'s.

    Args:
        without_numbers: On the meta device, if the builder can do that: shapes only, in no time.
    """
    check_options(spec.builder, spec.options)
    build = builder or resolve_builder(spec.builder, trust_builder=trust_builder)
    guarded = builder is None and is_trusted(spec.builder)
    try:
        if without_numbers:
            model = skeleton(build, spec.options)
        elif guarded:
            model = built_within_bounds(build, spec.options, most_numbers=most_numbers)
        else:
            model = build(**spec.options)
    except ModelError:
        raise
    except Exception as error:
        failure = f"{type(error).__name__}: {error}" if guarded else where_it_failed(error)
        raise ModelError(
            f"{spec.builder:.80} could not build a model from the options {spec.options!r:.300} ({failure}); "
            f"correct the options"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec.builder} returned a {type(model).__name__}; wanted a torch.nn.Module")
    return model


def _fill_published_(model: nn.Module, builder: str, weights: str, download: bool) -> None:
    if not download:
        raise ModelError(
            f"{builder} with the published weights {weights!r} comes from a file, which may not download; open it from "
            "a recipe of your own, or give --weights"
        )
    fill_(model, published_tensors(builder, weights), f"{builder} {weights}")
