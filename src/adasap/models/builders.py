"""From the name of a builder to the function; which names may run, and with which options."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from adasap.errors import ModelError, suggestion
from adasap.models.own_code import imported
from adasap.registry import Registry

Builder = Callable[..., nn.Module]

MODELS: Registry[Builder] = Registry(
    "model of adasap",
    {"digits_net": "adasap.models.digits:digits_net"}
    | {f"cifar_resnet{n}": f"adasap.models.cifar_resnet:cifar_resnet{n}" for n in (20, 32, 44, 56, 110)}
    | {f"mobilenet_v{n}_tf": f"adasap.models.mobilenet:mobilenet_v{n}_tf" for n in (1, 2)},
    at="adasap.models.MODELS",
    packages="adasap.tasks",
    error=ModelError,
)
"""This package's own models, `adasap:NAME`; tasks register theirs."""
FAMILIES: Registry[Callable[[str], Builder]] = Registry(
    "family of models",
    {family: f"adasap.models.builders:_{family}" for family in ("adasap", "torchvision", "timm")},
    at="adasap.models.builders.FAMILIES",
    packages="adasap.tasks",
    error=ModelError,
)
"""What builds `FAMILY:NAME`, by the family: a function of the name, whose code runs without being trusted first."""
ADAPTERS: Registry[Callable[[nn.Module], nn.Module]] = Registry(
    "adapter of torchvision's models", packages="adasap.tasks", error=ModelError
)
"""What torchvision's models of a kind need to be traced, by the name of their module in `torchvision.models`."""
_FETCHING = frozenset(
    {"pretrained", "checkpoint", "ckpt", "weights", "url", "uri", "cache", "file", "dir", "hub", "hf", "download"}
)
MOST = 10_000_000
"""An option's integer is at most so large: more classes or channels than any model has."""
MOST_TEXT = 10_000


def is_trusted(builder: str) -> bool:
    """Whether a name runs only code of this package and of registered families, such as torchvision and timm.

    Example:
        >>> is_trusted("torchvision:resnet18"), is_trusted("somebody.code:build")
        (True, False)
    """
    return ".py:" not in builder and builder.partition(":")[0] in FAMILIES


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
    source, colon, name = builder.rpartition(":") if ".py:" in builder else builder.partition(":")
    if not colon or not name or not source:
        raise ModelError(
            f"{builder!r:.90} names no builder; write adasap:NAME, torchvision:NAME, timm:NAME, smp:NAME, "
            "package.module:function or path/to/file.py:function"
        )
    if source in FAMILIES:
        return FAMILIES.get(source)(name)
    if not trust_builder:
        raise ModelError(
            f"{builder:.90} would run code from {source!r:.80}, which is not trusted; pass builder=<the function>, "
            f"or trust_builder=True if you know that code"
        )
    return imported(builder, what="model", error=ModelError)


def check_options(builder: str, options: Mapping[str, Any]) -> None:
    """Checks that options are plain data and fetch nothing: they may come from somebody else's file.

    Raises:
        ModelError: On a value that JSON does not know, a number or list beyond all sizes, or an option, also within
            another one, that reads files or downloads.

    Example:
        >>> check_options("timm:resnet18", {"pretrained": True})
        Traceback (most recent call last):
        ...
        adasap.errors.ModelError: timm:resnet18: option 'pretrained' would read or download a file;
        leave it out and give the spec's `weights`
    """
    for name, value in options.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
            raise ModelError(f"{builder:.80}: {name!r:.80} is no name of an option; give keyword arguments")
        if not _is_plain(value):
            raise ModelError(
                f"{builder:.80}: option {name!r:.80} is {_shown(value)}; give plain values (numbers up to {MOST:,}, "
                f"text, true, false, null, lists)"
            )
    if is_trusted(builder) and (fetching := _fetching(options)):
        raise ModelError(
            f"{builder:.80}: option {fetching!r:.80} would read or download a file; leave it out and give the spec's "
            f"`weights`"
        )


def _shown(value: Any) -> str:
    """The beginning of a value; numbers of thousands of digits cannot even be printed."""
    return (
        f"a number of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > MOST else f"{value!r:.80}"
    )


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= MOST
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    if isinstance(value, float):
        return math.isfinite(value)
    if depth > 8:
        return False
    if isinstance(value, list | tuple):
        return len(value) <= MOST_TEXT and all(_is_plain(item, depth + 1) for item in value)
    return isinstance(value, dict) and all(
        isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items()
    )


def _fetching(value: Any, name: str = "") -> str | None:
    """The name of an option that would fetch something, at any depth; None if there is none."""
    if name and value is not None and value is not False and name != "init_weights":
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        if _FETCHING & words or ("path" in words and "drop" not in words):  # drop_path_rate drops layers
            return name
    if isinstance(value, Mapping):
        inner = [(str(key), item) for key, item in value.items()]
    else:
        inner = [("", item) for item in value] if isinstance(value, list | tuple) else []
    return next((found for key, item in inner if (found := _fetching(item, key))), None)


def _adasap(name: str) -> Builder:
    if name not in MODELS:
        raise _unknown("adasap", name, MODELS)
    return MODELS.get(name)


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
    kind = next((kind for kind in ADAPTERS if name in models.list_models(module=getattr(models, kind))), None)
    return plain if kind is None else partial(_adapted, plain, kind)


def _adapted(build: Builder, kind: str, **options: Any) -> nn.Module:
    return ADAPTERS.get(kind)(build(**options))


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


def _unknown(source: str, name: str, known: Iterable[str]) -> ModelError:
    return ModelError(f"{source} has no model {name!r}; {suggestion(name, known)}")
