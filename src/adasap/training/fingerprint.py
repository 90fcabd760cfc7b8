"""What must not change between a run and its resumption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.data.items import content_of
from adasap.groups import ChannelGroup, fingerprint
from adasap.processor import Precision
from adasap.tasks import Task
from adasap.tasks.data import Data, class_list
from adasap.training.options import Compression

OPEN_KEYS = ("criterion_options", "selection_options", "prepare", "variants")
"""Options whose keys belong to what is named beside them: defaults of others have no place there."""


def identity(
    config: Compression,
    groups: Sequence[ChannelGroup],
    dense_model: nn.Module,
    task: Task[Any],
    data: Data,
    precision: Precision,
) -> dict[str, Any]:
    """All that a run's numbers depend on, under names that a message can use; ready for JSON.

    A task takes part by its `repr`, if its class defines one.
    """
    described = type(task).__repr__ is not object.__repr__
    return {
        "groups": fingerprint(groups),
        "weights": digest(dense_model.state_dict().values()),
        "precision": precision,
        **_options(config),
        "task": repr(task) if described else type(task).__qualname__,
        "augmentation": repr(data.augmentation),
        "labels": digest(content_of(data.train)),
        "classes": list(class_list(data.train)),
        **_latency_table(config.pruning.budget.latency_table),
    }


def _options(config: Compression) -> dict[str, Any]:
    """The keys of the three steps and what they share, as a recipe nests them, but those that change no number."""
    anywhere = replace(config.training.runtime, device="auto", precision="auto")
    scored = replace(config.training.evaluation, num_workers=0)
    training = replace(
        config.training,
        num_workers=0,
        checkpoint_every=1,
        max_skipped=1,
        runtime=anywhere,
        evaluation=scored,
        trackers=(),
    )
    named = {field.name: getattr(config, field.name) for field in fields(Compression)} | {"training": training}
    options: dict[str, Any] = json.loads(json.dumps(named, default=_plain))
    return options


def with_later_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A run's identity as an earlier version kept it, with the defaults of later options, which change no number.

    Example:
        >>> with_later_options({"seed": 3, "pruning": {"criterion": "taylor"}})["pruning"]["compensate"]
        'none'
    """
    return _filled(saved, {name: options for name, options in _options(Compression()).items() if name in saved})


def _filled(saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the defaults of keys that it lacks, at every depth."""
    found = {**defaults, **saved}
    for key, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(found[key], Mapping) and key not in OPEN_KEYS:
            found[key] = _filled(found[key], default)
    return found


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else repr(value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, dotted, with both; an absent one, which an earlier version did not know, is None.

    Example:
        >>> differences({"training": {"batch_size": 32}, "seed": 0}, {"training": {"batch_size": 64}, "seed": 0})
        ['training.batch_size (32 there, 64 here)']
    """
    old, new = flat_keys(before), flat_keys(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key} ({_shown(old, key)} there, {_shown(new, key)} here)" for key in keys]


def flat_keys(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones.

    Example:
        >>> flat_keys({"a": {"b": 1, "c": {}}})
        {'a.b': 1, 'a.c': {}}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= (
            flat_keys(value, f"{above}{key}.") if isinstance(value, Mapping) and value else {f"{above}{key}": value}
        )
    return found


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "absent"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _latency_table(path: str | None) -> dict[str, str]:
    return {} if path is None else {"latency table": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the tensors' bytes, one after the other."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
