"""Where a run computes: device, precision and data parallelism, on Hugging Face Accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.convolutions import guard_convolutions
from adasap.errors import RecipeError
from adasap.processor import Precision
from adasap.training.precision import Asked, settled
from adasap.training.processes import Processes


def is_main_process() -> bool:
    """Whether this process writes and prints, also before a `Runtime` is opened; launchers number their processes."""
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how precisely.

    Attributes:
        device: `auto` (a GPU if there is one) or `cpu`.
        precision: `float32`, or automatic mixed precision in `bf16` or `fp16` (GPU only). `auto` is bf16 where the
            device computes it natively (GPUs since Ampere, processors with AVX-512 BF16 or AMX), else float32.
        channels_last: Lay weights and images out channels last; faster on most devices.
    """

    device: Literal["auto", "cpu"] = "auto"
    precision: Asked = "auto"
    channels_last: bool = True

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)


class Runtime(Processes):
    """One process of a run: started alone, or by `torchrun` / `accelerate launch` with the same recipe.

    Args:
        options: Where and how precisely.
        begun: The precision of the run that goes on here, if any.
    Raises:
        RecipeError: If the precision cannot be had here, or if the processes settle on different ones.
    """

    def __init__(self, options: RuntimeOptions, *, begun: object = None) -> None:
        guard_convolutions()
        on_cpu = options.device == "cpu" or not torch.cuda.is_available()
        self.precision = settled(options.precision, torch.device("cpu" if on_cpu else "cuda"), begun=begun)
        AcceleratorState._reset_state(reset_partial_state=False)  # a second run in this process may differ
        precision = "no" if self.precision == "float32" else self.precision
        self.accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
        super().__init__(self.accelerator.autocast)
        self.options = options
        share = self.average(torch.tensor(float(self.precision == "bf16"), device=self.device)).item()
        if 0 < share < 1:
            raise RecipeError("`precision: auto` means bf16 on some of these machines only; give bf16 or float32")

    def settled(self, asked: Precision | Literal["training"]) -> Precision:
        """The precision of an evaluation; `training` is that of the steps.

        Raises:
            RecipeError: If it cannot be had here.
        """
        return self.precision if asked == "training" else settled(asked, self.device)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The loss scaler of fp16, else None."""
        scaler: torch.amp.GradScaler | None = self.accelerator.scaler
        return scaler

    @property
    def loss_scale(self) -> float:
        """What fp16 multiplies the loss with, else 1."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def backward(self, loss: Tensor) -> None:
        """Backward of the (scaled) loss."""
        self.accelerator.backward(loss)

    def unscaled_gradients(self, model: nn.Module) -> AbstractContextManager[None]:
        """Gradients without the loss scale of fp16 while it lasts; the scaled ones come back untouched."""
        return nullcontext() if self.scaler is None else without_scale(model, self.loss_scale)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device and in the layout of this run; parameters stay the same objects."""
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model under data parallelism; called anew after every cut, which changes the shapes it reduces."""
        if self.world_size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Norm statistics follow each rank's own clean pass and are averaged before they are used.
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def average(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, the same bits on all of them."""
        reduced: Tensor = self.accelerator.reduce(tensor, "mean")
        return reduced

    def wait(self) -> None:
        """Until every rank is here."""
        self.accelerator.wait_for_everyone()


@contextmanager
def without_scale(model: nn.Module, scale: float) -> Iterator[None]:
    """Other gradient tensors, divided by the scale, lie in `.grad` while it lasts.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[8.0]])
        >>> with without_scale(layer, 4.0):
        ...     layer.weight.grad
        tensor([[2.]])
        >>> layer.weight.grad
        tensor([[8.]])
    """
    scaled = {parameter: parameter.grad for parameter in model.parameters() if parameter.grad is not None}
    try:
        for parameter, gradient in scaled.items():
            parameter.grad = gradient / scale
        yield
    finally:
        for parameter, gradient in scaled.items():
            parameter.grad = gradient
