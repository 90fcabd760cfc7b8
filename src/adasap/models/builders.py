"""From the name of a builder to the function; which names may run, and with which options."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from adasap.errors import ModelError, suggestion

Builder = Callable[..., nn.Module]

_OWN = ("adasap", "torchvision", "timm")
_OWN_MODELS = (
    {"digits_net": "digits"}
    | {f"cifar_resnet{depth}": "cifar_resnet" for depth in (20, 32, 44, 56, 110)}
    | {f"mobilenet_v{version}_tf": "mobilenet" for version in (1, 2)}
    | {f"ssd_{backbone}": "ssd" for backbone in ("resnet50", "mobilenet_v1", "mobilenet_v2")}
)
_FETCHING = frozenset({"pretrained", "checkpoint", "weights", "url", "cache", "file", "hub", "download"})


def is_trusted(builder: str) -> bool:
    """Whether a name runs only code of this package, torchvision or timm.

    Example:
        >>> is_trusted("torchvision:resnet18"), is_trusted("somebody.code:build")
        (True, False)
    """
    return builder.partition(":")[0] in _OWN


def resolve_builder(builder: str, *, trust_builder: bool = False) -> Builder:
    """The function that builds the model.

    Raises:
        ModelError: If there is none of that name (the message gives the nearest), its package is not
            installed, or it is `package.module:function` and not trusted.

    Example:
        >>> resolve_builder("adasap:digit_net")
        Traceback (most recent call last):
        ...
        adasap.errors.ModelError: adasap has no model 'digit_net'; did you mean 'digits_net'?
    """
    source, colon, name = builder.partition(":")
    if not colon or not name or not source:
        raise ModelError(
            f"{builder!r} names no builder; write adasap:NAME, torchvision:NAME, timm:NAME or package.module:function"
        )
    if source == "adasap":
        return _own(name)
    if source == "torchvision":
        return _torchvision(name)
    if source == "timm":
        return _timm(name)
    if not trust_builder:
        raise ModelError(
            f"{builder} would run code from the module {source!r}, which is not trusted; pass builder=<the "
            f"function>, "
            f"or trust_builder=True if you know that code"
        )
    return _imported(source, name)


def check_options(builder: str, options: Mapping[str, Any]) -> None:
    """Checks that options are plain data and fetch nothing: they may come from somebody else's file.

    Raises:
        ModelError: On a value that JSON does not know, or an option that reads files or downloads.

    Example:
        >>> check_options("timm:resnet18", {"pretrained": True})
        Traceback (most recent call last):
        ...
        adasap.errors.ModelError: timm:resnet18: option 'pretrained' would read or download a file;
        leave it out and give the spec's `weights`
    """
    for name, value in options.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
            raise ModelError(f"{builder}: {name!r} is no name of an option; give keyword arguments")
        if not _is_plain(value):
            raise ModelError(
                f"{builder}: option {name!r} is {value!r:.80}; give plain values (numbers, text, true, "
                f"false, null, lists)"
            )
        off = value is None or value is False
        if is_trusted(builder) and not off and name != "init_weights" and _FETCHING & set(name.lower().split("_")):
            raise ModelError(
                f"{builder}: option {name!r} would read or download a file; leave it out and give the spec's `weights`"
            )


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool | str | int):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if depth > 8:
        return False
    if isinstance(value, list | tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    return isinstance(value, dict) and all(
        isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items()
    )


def _own(name: str) -> Builder:
    if name not in _OWN_MODELS:
        raise _unknown("adasap", name, _OWN_MODELS)
    build: Builder = getattr(importlib.import_module(f"adasap.models.{_OWN_MODELS[name]}"), name)
    return build


def _torchvision(name: str) -> Builder:
    from torchvision import models

    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    build = models.get_model_builder(name)
    fixed = {
        option: None  # some models fetch a backbone unless they are told not to
        for option in ("weights", "weights_backbone")
        if option in inspect.signature(build).parameters
    }
    plain = partial(_without_fetching, build, fixed)
    return partial(_detector, plain) if name in _detector_names() else plain


def _detector_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models.detection)
    return names


def _detector(build: Builder, **options: Any) -> nn.Module:
    from adasap.models.detectors import traced

    return traced(build(**options))


def _timm(name: str) -> Builder:
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"timm:{name} needs the package timm; install it: pip install 'adasap[timm]'") from error
    if not timm.is_model(name) or ":" in name or "/" in name:
        raise _unknown("timm", name, timm.list_models())
    return partial(_without_fetching, partial(timm.create_model, name), {"pretrained": False})


def _without_fetching(build: Builder, fixed: dict[str, Any], **options: Any) -> nn.Module:
    return build(**(options | fixed))


def _imported(source: str, name: str) -> Builder:
    try:
        module = importlib.import_module(source)
    except ImportError as error:
        raise ModelError(
            f"{source}:{name}: cannot import {source!r} ({error}); run from the folder that holds it, or install it"
        ) from error
    build = getattr(module, name, None)
    if not callable(build):
        raise _unknown(source, name, [key for key, value in vars(module).items() if callable(value)])
    found: Builder = build
    return found


def _unknown(source: str, name: str, known: Iterable[str]) -> ModelError:
    return ModelError(f"{source} has no model {name!r}; {suggestion(name, known)}")
