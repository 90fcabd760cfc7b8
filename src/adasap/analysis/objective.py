"""The loss over fixed batches as a function of the weights: what every instrument looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adasap.convolutions import guard_convolutions
from adasap.errors import DataError, ModelError
from adasap.groups import evaluating
from adasap.groups.bare import unwrap
from adasap.sharpness.swap import perturbed
from adasap.tasks import Task

Loss = Callable[[nn.Module, Any], Tensor]
"""`loss(model, batch)`: the mean loss over a prepared batch, a scalar with a graph."""


class Objective:
    """Mean loss over batches, seen as a function of the trainable weights.

    The model is in evaluation mode while it is looked at: batch norms use their running statistics and dropout is
    off, so that the loss is a function of the weights alone. Products are computed without TF32, attention by its
    formula, because the fused kernels have no second derivative. Weights, modes and `.grad` are left as they were.

    Args:
        model: Any module, also wrapped by `torch.compile` or data parallelism.
        batches: Prepared batches on the model's device; each counts the same.
        loss: `loss(model, batch)`, such as `Task.loss`.
    Raises:
        DataError: If there are no batches.
        ModelError: If no parameter requires a gradient.
    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 2.0)
        >>> objective = Objective(layer, [torch.ones(4, 1)], lambda model, batch: model(batch).square().mean())
        >>> objective.losses(), objective.gradient(0)
        (tensor([4.], dtype=torch.float64), (4.0, [tensor([[4.]])]))
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any], loss: Loss) -> None:
        guard_convolutions()
        self.model = unwrap(model)
        self.batches = list(batches)
        self.loss = loss
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.batches:
            raise DataError("an analysis needs at least one batch; give more images, or fewer images per batch")
        if not self.parameters:
            raise ModelError("no parameter of the model requires a gradient; call model.requires_grad_(True) first")

    @classmethod
    def of_task(cls, model: nn.Module, task: Task[Any], batches: Iterable[Any]) -> Self:
        """The task's own loss over raw batches, which are prepared for the model's device once."""
        device = next(model.parameters()).device
        return cls(model, [task.prepare(batch, device) for batch in batches], task.loss)

    def first(self, num_batches: int) -> Objective:
        """The same over the first batches only; all of them if there are fewer."""
        return Objective(self.model, self.batches[:num_batches], self.loss)

    @property
    def size(self) -> int:
        """Number of trainable weights."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def weights(self) -> list[Tensor]:
        """The trainable parameters in order, without a graph."""
        return [p.detach() for p in self.parameters.values()]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Evaluation mode, full precision and double-differentiable attention for a while."""
        cuda = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        with evaluating(self.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            try:
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
                yield
            finally:
                torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = cuda

    def losses(self, offsets: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean loss of each batch at w, or at w + offsets; float64 [batches], on the CPU.

        Args:
            offsets: Parameter name -> offset, as `adasap.perturbed` takes them; consumed.
        """
        with self.measuring(), torch.no_grad(), self._moved(offsets):
            found = [self.loss(self.model, batch).double() for batch in self.batches]
        return torch.stack(found).cpu()

    def gradient(self, batch: int, offsets: Mapping[str, Tensor] | None = None) -> tuple[float, list[Tensor]]:
        """Loss and gradient of one batch at w, or at w + offsets; zeros for parameters that take no part."""
        with self.measuring(), self._moved(offsets):
            loss = self.loss(self.model, self.batches[batch])
            found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        return loss.item(), [
            torch.zeros_like(p) if g is None else g.detach()
            for p, g in zip(self.parameters.values(), found, strict=True)
        ]

    def _moved(self, offsets: Mapping[str, Tensor] | None) -> AbstractContextManager[None]:
        return perturbed(self.model, offsets) if offsets else nullcontext()

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """One tensor per trainable parameter, under its name."""
        return dict(zip(self.parameters, tensors, strict=True))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors one after the other in one vector.

    Example:
        >>> flat([torch.ones(1, 2), torch.zeros(1)])
        tensor([1., 1., 0.])
    """
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflat(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `flat`: parts of the shapes of `like`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
