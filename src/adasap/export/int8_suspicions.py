"""Why a file of INT8 may have lost what it lost, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adasap.export.int8 import Calibration

OUTLIER = 4.0
"""A largest activation so many times the 99.9th percentile leaves two bits fewer to all others."""
NARROW = 0.5
"""Calibration images that reach less than this share of what the checked images reach."""
_IMAGES, _ENTRIES = 32, 100_000


@dataclass(frozen=True)
class Range:
    """What a layer reads: the largest absolute value, and that which one in a thousand exceeds."""

    largest: float
    percentile: float


def suspicions(
    model: nn.Module, calibration: Calibration, target: str, checked: Tensor | None = None
) -> tuple[str, ...]:
    """One sentence for each suspicion, with the next try.

    Args:
        model: The float one, on the CPU, in evaluation mode.
        calibration: As the file was made.
        target: What it was made for: `onnx`, `openvino` or `executorch`.
        checked: Some prepared images that it was compared by, float [N, C, H, W].
    """
    found, other = [], "--to openvino" if target == "onnx" else "--to onnx"
    if target == "onnx" and calibration.saturates and not calibration.halves:
        found.append(
            "suspicion: saturation, for weights use the full range and the processor has no VNNI; next try: reduce the "
            "range (`--target avx2`, in Python reduce_range=True)"
        )
    depthwise = [name for name, module in model.named_modules() if _is_depthwise(module)]
    if depthwise and not calibration.per_channel:
        found.append(
            f"suspicion: one scale for all channels of {len(depthwise)} depthwise convolutions such as {depthwise[0]}; "
            "next try: per channel"
        )
    ranges = read_ranges(model, calibration.images)
    wide = {name: one for name, one in ranges.items() if one.largest > OUTLIER * one.percentile > 0}
    if wide:
        name = max(wide, key=lambda one: wide[one].largest / wide[one].percentile)
        found.append(
            f"suspicion: outliers, for {name} reads values up to {wide[name].largest:.3g} where 99.9 % are below "
            f"{wide[name].percentile:.3g}; next try: {other}, or leave this layer in float"
        )
    narrow = {} if checked is None else _narrow(ranges, read_ranges(model, checked))
    if narrow:
        name = min(narrow, key=lambda one: narrow[one])
        found.append(
            f"suspicion: the calibration images: {name} reads values up to {100 * narrow[name]:.0f} % of those that it "
            "reads of the checked images; next try: more of them, from all classes"
        )
    return tuple(found or [f"no usual suspicion; next try: {other}, or more calibration images"])


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _narrow(calibrated: Mapping[str, Range], checked: Mapping[str, Range]) -> dict[str, float]:
    shares = {name: calibrated[name].largest / one.largest for name, one in checked.items() if one.largest > 0}
    return {name: share for name, share in shares.items() if share < NARROW}


def read_ranges(model: nn.Module, images: Tensor) -> dict[str, Range]:
    """Name of a convolution or linear layer -> what it reads of some images.

    Example:
        >>> found = read_ranges(nn.Sequential(nn.Linear(2, 1)), torch.tensor([[1.0, -3.0]]))
        >>> found["0"].largest
        3.0
    """
    found: dict[str, Range] = {}

    def look(name: str, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().abs().flatten()
        some = values[:: max(1, len(values) // _ENTRIES)]
        found[name] = Range(float(values.max()), float(torch.quantile(some.float(), 0.999)))

    layers = {name: one for name, one in model.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs))
        for name, module in layers.items()
    ]
    try:
        with torch.no_grad():
            model(images[:_IMAGES])
    finally:
        for handle in handles:
            handle.remove()
    return found
