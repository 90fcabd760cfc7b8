"""Weights that torchvision or timm publish for a model, by their own download and cache."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from adasap.errors import ModelError, suggestion


def is_published(builder: str, weights: str) -> bool:
    """Whether these are published weights by name, such as `DEFAULT` or `IMAGENET1K_V1`, and not a file.

    Example:
        >>> is_published("torchvision:resnet18", "DEFAULT"), is_published("torchvision:resnet18", "mine.pth")
        (True, False)
    """
    known = builder.partition(":")[0] in ("torchvision", "timm")
    return known and not Path(weights).suffix and not Path(weights).exists() and "/" not in weights


def published_tensors(builder: str, weights: str) -> dict[str, Tensor]:
    """Name -> tensor of published weights; they are downloaded unless the library finds them in its cache.

    Raises:
        ModelError: If there are none of that name (the message gives those there are), or they cannot be had.
    """
    source, _, name = builder.partition(":")
    return _of_torchvision(name, weights) if source == "torchvision" else _of_timm(name, weights)


def _of_torchvision(name: str, weights: str) -> dict[str, Tensor]:
    from torchvision import models

    members = models.get_model_weights(name).__members__
    wanted = weights.rpartition(".")[2]
    if wanted not in members:
        known = suggestion(wanted, members) if members else "none are published for it"
        raise ModelError(f"torchvision:{name} has no weights {weights!r}; {known}; or give the path of a file")
    try:
        tensors: dict[str, Tensor] = members[wanted].get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise _unavailable(f"torchvision:{name}", weights, error) from error
    return tensors


def _of_timm(name: str, weights: str) -> dict[str, Tensor]:
    import timm

    tags = [
        tag.partition(".")[2] or "DEFAULT"
        for tag in timm.list_pretrained(f"{name.partition('.')[0]}*")
        if tag.partition(".")[0] == name.partition(".")[0]
    ]
    if weights != "DEFAULT" and weights not in tags:
        known = suggestion(weights, tags) if tags else "none are published for it"
        raise ModelError(f"timm:{name} has no weights {weights!r}; {known}; or give the path of a file")
    full = name if weights == "DEFAULT" else f"{name.partition('.')[0]}.{weights}"
    try:
        tensors: dict[str, Tensor] = timm.create_model(full, pretrained=True).state_dict()
    except Exception as error:
        raise _unavailable(f"timm:{name}", weights, error) from error
    return tensors


def _unavailable(builder: str, weights: str, error: Exception) -> ModelError:
    return ModelError(
        f"the published weights {weights!r} of {builder} cannot be had ({type(error).__name__}: {str(error)[:200]}); "
        "connect to the network once, or give the path of a file"
    )
