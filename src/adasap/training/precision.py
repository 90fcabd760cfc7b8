"""The precision a run computes in: as asked, what `auto` makes of it, and what bf16 costs where it is emulated."""

from __future__ import annotations

import functools
import time
import warnings
from typing import Literal, get_args

import torch
from torch.nn import functional

from adasap import processor
from adasap.errors import AdasapWarning, RecipeError
from adasap.processor import Precision

Asked = Literal["auto", "float32", "bf16", "fp16"]


def settled(asked: Asked, device: torch.device, *, begun: object = None) -> Precision:
    """The precision to compute in; warns before work starts where it is emulated or was settled on another machine.

    Args:
        asked: `auto` is bf16 where the device computes it natively, else float32.
        device: Where the run computes.
        begun: The precision of the run that goes on here, if any; `auto` stays with it, so that numbers never mix.
    Raises:
        RecipeError: For fp16 without a GPU, and for a precision that does not exist.
    Example:
        >>> settled("float32", torch.device("cpu"))
        'float32'
    """
    if asked not in get_args(Asked):
        raise RecipeError(f"precision is {asked!r:.80}; give one of {', '.join(get_args(Asked))}")
    if asked == "fp16" and device.type == "cpu":
        raise RecipeError("precision fp16 needs a GPU; use auto, bf16 or float32 on the CPU")
    native = _native_bf16(device.type)
    chosen: Precision = ("bf16" if native else "float32") if asked == "auto" else asked
    for known in get_args(Precision):
        if asked == "auto" and begun == known != chosen:
            _warn(f"this run was begun in {known} and goes on in it, though `precision: auto` means {chosen} here")
            chosen = known
    if chosen == "bf16" and not native:
        _warn(
            f"bf16 is emulated on this device: a small convolution step took {emulation_factor(device.type):.1f} times "
            "as long as in float32; `precision: auto` takes float32 here"
        )
    return chosen


def _native_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return processor.native_bf16()


def _warn(sentence: str) -> None:
    warnings.warn(sentence, AdasapWarning, stacklevel=4)


@functools.cache
def emulation_factor(kind: str) -> float:
    """Time of a small convolution's forward and backward under bf16 autocast, over that in float32; under a second."""
    images = torch.ones(4, 16, 16, 16, device=kind).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(16, 16, 3, 3, device=kind, requires_grad=True)

    def seconds(enabled: bool) -> float:
        started = time.perf_counter()
        with torch.enable_grad(), torch.autocast(kind, torch.bfloat16, enabled=enabled):
            loss = functional.conv2d(images, weight, padding=1).float().sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        float(gradient[0, 0, 0, 0])  # waits for the device
        return time.perf_counter() - started

    return min(seconds(True) for _ in range(4)) / min(seconds(False) for _ in range(4))
