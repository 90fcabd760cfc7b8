"""A guard against the convolutions whose weight gradients oneDNN computes wrongly on x86 processors.

The backward pass over the weights of a 1x1 convolution of stride 2 or more, channels last, writes past its workspace
where the input has fewer channels than one vector holds (uxlfoundation/oneDNN#6035, in torch 2.9 to 2.14 and later):
the heap is corrupted, the process hangs, or gradients are silently wrong. Fewer than 8 channels do it with AVX2, fewer
than 16 with AVX-512. Cut networks get there by themselves, also in contiguous layout: the weights of a 1x1 convolution
are both, so that torch may choose channels last for them.

A 1x1 convolution of stride s is one of stride 1 on every s-th pixel. So the guard asks for the weight gradient of that,
which another kernel computes, and for everything else as before.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adasap import processor
from adasap.errors import AdasapWarning

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
_lock = threading.Lock()
_installed: list[torch.library.Library] = []  # a library that is collected takes its kernel with it


def fewest_channels() -> int:
    """The number of input channels from which on the weight gradients of strided 1x1 convolutions are right; 0: always.

    Example:
        >>> fewest_channels() in (0, 8, 16)
        True
    """
    if not processor.has_onednn() or processor.has("avx2") is False:
        return 0  # Arm, or no oneDNN
    return 8 if processor.has("avx512") is False else 16


def guard_convolutions() -> bool:
    """Makes the weight gradients of narrow strided 1x1 convolutions right on this process's processor, from now on.

    Everything of adasap that runs a backward pass, or cuts a model, calls it. A loop of one's own on a processor that
    `environment()` lists as guarded calls it once, at its start. It replaces torch's CPU kernel of
    `aten::convolution_backward` by one that passes every other shape on (20 microseconds a call), so it holds for
    every layer, functional call, layout and thread. Calling it again does nothing.

    Returns:
        Whether the processor needs it.
    Example:
        >>> guard_convolutions() == (fewest_channels() > 0)
        True
    """
    fewest = fewest_channels()
    with _lock:
        if fewest and not _installed:
            _installed.append(library_of(fewest))
    return fewest > 0


def library_of(fewest: int) -> torch.library.Library:
    """The guard, in force until it is collected."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        original = torch.library.get_kernel("aten::convolution_backward", "CPU")
        kernel = guarded(original.call_boxed, fewest)
        library.impl("convolution_backward", kernel, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError) as error:  # another torch, or another library was faster
        warnings.warn(
            f"strided convolutions with fewer than {fewest} channels may crash on this processor, and cannot be "
            f"guarded ({error}); set ONEDNN_MAX_CPU_ISA=AVX before the start",
            AdasapWarning,
            stacklevel=3,
        )
    return library


def guarded(original: Callable[..., Gradients], fewest: int) -> Callable[..., Gradients]:
    """The kernel of `aten::convolution_backward` that calls the original one with safe shapes only."""

    def convolution_backward(
        keys: Any,
        slope: Tensor,
        images: Tensor,
        weight: Tensor,
        bias_sizes: Sequence[int] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
        mask: Sequence[bool],
    ) -> Gradients:
        risky = (
            weight.shape[1] < fewest  # of a transposed convolution: its outputs, which play the part of the inputs
            and groups == 1
            and mask[1]
            and max(stride) > 1
            and max(weight.shape[2:]) == 1
            and max(padding) == 0
        )
        rest = padding, dilation, transposed
        if not risky:
            return original(keys, slope, images, weight, bias_sizes, stride, *rest, output_padding, groups, mask)
        # oneDNN computes weight and bias gradients together, so the bias has no part in this call either
        only_images = [mask[0], False, False]
        image_slope = original(
            keys, slope, images, weight, bias_sizes, stride, *rest, output_padding, groups, only_images
        )[0]
        dims = weight.dim() - 2
        bias_slope = slope.sum([0, *range(2, slope.dim())]) if mask[2] else None
        every = [slice(None, None, step) for step in (list(stride) * dims)[:dims]]
        seen = (slice(None), slice(None), *every)
        slope, images = (slope[seen], images) if transposed else (slope, images[seen])
        only_weight, ones, zeros = [False, True, False], [1] * dims, [0] * dims
        weight_slope = original(keys, slope, images, weight, bias_sizes, ones, *rest, zeros, groups, only_weight)[1]
        return image_slope, weight_slope, bias_slope

    return convolution_backward
