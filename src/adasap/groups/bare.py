"""Which models can be worked on: the plain module inside wrappers, and sentences for what cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from adasap.errors import ModelError

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, data-parallel and averaging wrappers, in any order and depth.

    Its parameter names are those of the channel groups.

    Raises:
        ModelError: If this is no module, or a wrapper that has taken the weights apart.
    Example:
        >>> inner = nn.Linear(2, 2)
        >>> unwrap(DataParallel(AveragedModel(inner))).weight.shape, unwrap(inner) is inner
        (torch.Size([2, 2]), True)
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}; build it first" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"a model is a torch.nn.Module, got {what}; open_model and load give one")
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        elif "_orig_mod" in model._modules:  # torch.compile; importing its class would load the compiler
            model = model.get_submodule("_orig_mod")
        elif type(model).__module__ == "timm.utils.model_ema" and "module" in model._modules:
            model = model.get_submodule("module")
        elif type(model).__name__ == "FullyShardedDataParallel":
            raise ModelError(
                "FullyShardedDataParallel has flattened the weights, so they have no channels; give the module that "
                "was wrapped, or use DistributedDataParallel"
            )
        else:
            return model


def workable(model: nn.Module) -> nn.Module:
    """The plain module, if its weights are tensors of numbers with channels that can go.

    Raises:
        ModelError: For scripts, quantised, lazy, complex and otherwise disguised weights, naming the first.
    """
    bare = unwrap(model)
    for problem in _problems(bare):
        raise ModelError(problem)
    return bare


def require_values(model: nn.Module, what: str) -> None:
    """Raises ModelError, naming the first tensor, if weights have no numbers or numbers that are not finite.

    Example:
        >>> require_values(nn.Linear(2, 2, device="meta"), "scores")
        Traceback (most recent call last):
        adasap.errors.ModelError: scores need numbers, and weight is on the meta device, which keeps shapes alone; call
        model.to_empty(device='cpu') and load weights
    """
    require_numbers(model, what)
    floating = [
        (name, tensor)
        for name, tensor in _named_tensors(unwrap(model))
        if tensor.is_floating_point() and tensor.numel()
    ]
    for name, tensor in floating:
        if bad := tensor.numel() - int(tensor.detach().isfinite().sum()):
            raise ModelError(
                f"{what} need finite weights, and {name} has {bad:,} of {tensor.numel():,} entries that are NaN or "
                "infinite; load the weights from before they diverged"
            )


def require_numbers(model: nn.Module, what: str) -> None:
    """Raises ModelError, naming the first tensor, if weights have shapes alone, or not even these."""
    for name, tensor in _named_tensors(unwrap(model)):
        if is_lazy(tensor):
            raise ModelError(f"{what} need numbers, and {name} {_LAZY}")
        if tensor.is_meta:
            raise ModelError(
                f"{what} need numbers, and {name} is on the meta device, which keeps shapes alone; call "
                "model.to_empty(device='cpu') and load weights"
            )


_LAZY = "has no shape yet (a lazy module); run one forward first: model(example_inputs)"


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _problems(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        where = f"{path} is" if path else "the model is"
        if isinstance(module, torch.jit.ScriptModule):
            yield f"{where} a {type(module).__name__}, whose code is fixed; give the Python model that it was made from"
        if type(module).__module__.startswith(_QUANTISED):
            yield f"{where} quantised ({type(module).__name__}); cut the floating-point model, then quantise it"
    for name, tensor in _named_tensors(model):
        if is_lazy(tensor):
            yield f"{name} {_LAZY}"
        elif tensor.is_quantized or type(tensor.data) is not Tensor:
            kind = "quantised" if tensor.is_quantized else f"a {type(tensor.data).__name__}"
            yield f"{name} is {kind}, which has no rows to remove; cut the plain floating-point model first"
        elif tensor.is_complex() and isinstance(tensor, nn.Parameter):
            yield (
                f"{name} is complex ({tensor.dtype}), and channels of complex weights are not followed; keep such a "
                "model whole, or give the part of it with real weights"
            )
