"""Fresh random numbers for every parameter and buffer, so that no branch hides behind a scale of zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adasap.groups.exported import evaluating
from adasap.groups.inputs import Arguments

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)

MIN_POSITIONS = 8


def redraw_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every floating parameter and buffer anew, in place, such that signals stay alive.

    Norm and layer scales and running variances are uniform in 0.5..1.5; biases, shifts and running means
    normal with standard deviation 0.2; filters and matrices normal with variance 2 / fan-in.

    Args:
        model: Any model on the CPU.
        generator: Source of the numbers, a CPU generator.
    """
    seen: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or not tensor.is_floating_point() or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                tensor.copy_(_drawn(module, name, tensor, generator))


def scale_statistics_(model: nn.Module, inputs: Arguments) -> None:
    """Let each norm's running mean and variance stray around those of what reaches it, in one forward.

    With numbers drawn blindly, activations grow from block to block until gates saturate, or constants outgrow
    the signal: early and hidden channels stop to matter, and their control could not see a wrong cut.
    """
    handles = [
        module.register_forward_pre_hook(_scale_to_input_)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_var is not None
    ]
    try:
        with evaluating(model), torch.no_grad():
            inputs.call(model)
    finally:
        for handle in handles:
            handle.remove()


def _scale_to_input_(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    channels = arguments[0].transpose(0, 1).flatten(1)
    center, spread = torch.zeros(()), channels.square().mean()
    if channels.shape[1] >= MIN_POSITIONS:
        center, spread = channels.mean(1), channels.var(1).clamp(min=0.1 * channels.var(1).mean())
    if bool((spread > 0).all()) and bool(spread.isfinite().all()):
        module.get_buffer("running_mean").mul_(spread.sqrt()).add_(center)
        module.get_buffer("running_var").mul_(spread)


def _drawn(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bias") or name in ("running_mean", "mean"):
        return 0.2 * _normal(tensor, generator)
    is_scale = isinstance(module, _NORMS) or tensor.numel() == max(tensor.shape, default=1)
    if is_scale or name in module._buffers:
        return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
    fan_in = max(1, tensor.numel() / max(1, tensor.shape[0]))
    return _normal(tensor, generator) * math.sqrt(2 / fan_in)


def _normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
