"""What common functions give for tensors on the meta device, without the Python code that torch runs for their shape.

A layer norm without numbers takes torch a millisecond, as it goes through its decomposition; a trial of a cut calls
hundreds. Answers are given where the arguments fit, and are contiguous or laid out like the input, as the results of
the processor's own kernels are. Where they do not fit, torch is asked, for its sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quick_result(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The result of a call on the meta device, None if torch is to be asked.

    Example:
        >>> x = torch.empty(2, 5, 8, device="meta")
        >>> quick_result(torch.nn.functional.linear, (x, torch.empty(3, 8, device="meta")), {}).shape
        torch.Size([2, 5, 3])
        >>> quick_result(torch.nn.functional.linear, (x, torch.empty(3, 7, device="meta")), {}) is None
        True
    """
    answer = _ANSWERS.get(function)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if answer is None or not tensors or not all(_is_plain(tensor, tensors[0].dtype) for tensor in tensors):
        return None
    try:
        return answer(*args, **kwargs)
    except (TypeError, IndexError):  # arguments of another kind than these functions take
        return None


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.is_meta and type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == dtype


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if input.ndim < 2 or weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def _layer_norm(
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    shape = tuple(normalized_shape)
    fits = bool(shape) and input.shape[-len(shape) :] == shape
    fits = fits and all(tensor is None or tensor.shape == shape for tensor in (weight, bias))
    return input.new_empty(input.shape) if fits else None


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    one_each = (running_mean, running_var, weight, bias)
    fits = all(tensor is None or tensor.shape == input.shape[1:2] for tensor in one_each)
    return torch.empty_like(input) if fits and not training and running_mean is not None else None


def _like_input(input: Tensor, *_: Any, **options: Any) -> Tensor | None:
    return None if options.get("out") is not None or options.get("inplace") else torch.empty_like(input)


_ANSWERS: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.gelu: _like_input,
    F.normalize: _like_input,
}
