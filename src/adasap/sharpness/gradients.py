"""One sharpness-aware step: gradient at w, perturbation, gradient at w + eps, back to w."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.sharpness.passes import LossAndBackward, Parameters, Step
from adasap.sharpness.perturbation import Perturbation
from adasap.sharpness.single_pass import SinglePassPerturbation
from adasap.sharpness.wrappers import unwrap


@dataclass(frozen=True)
class StepLoss:
    """What one step saw; numbers are on the host, read with a single wait.

    Attributes:
        loss: L(w), of the first pass; of a single pass its loss, wherever it was made.
        perturbed_loss: L(w + eps), of the last pass; equal to `loss` after a single pass.
        gradient_norm: Norm of all that lies in `.grad` now, loss scale included.
        finite: Whether that norm is finite. If not, skip the optimizer's step (a GradScaler does it by
            itself).
        num_passes: 2, or 1 for a plain step and for one whose perturbation needs no first pass.
    """

    loss: float
    perturbed_loss: float
    gradient_norm: float
    finite: bool
    num_passes: int

    @property
    def gap(self) -> float:
        """L(w + eps) - L(w), the one-step sharpness; 0 after a single pass. If the first pass saw a part of the batch,
        the two losses are of different images: right in the mean over batches, and noisier."""
        return self.perturbed_loss - self.loss


def sharpness_aware_gradients(
    model: nn.Module,
    perturbation: Perturbation | None,
    loss_and_backward: LossAndBackward,
    *,
    first_pass: LossAndBackward | None = None,
    on_clean_gradients: Callable[[], None] | None = None,
    on_direction: Callable[[], None] | None = None,
    accumulate: bool = False,
    sync_perturbation: bool = False,
) -> StepLoss:
    """Leaves the gradient at w + eps in `.grad` and everything else as one plain pass would.

    1. A pass at w. `on_clean_gradients` may read its gradients.
    2. eps from these gradients; w <- w + eps.
    3. A pass at w + eps, with the same random numbers.
    4. w <- the saved copy. Stepping, clipping, scaling and the schedule stay the caller's lines.

    Running statistics of norm layers are those of pass 1. Extra memory during the passes: one copy of the
    trainable weights. If the gradient of pass 1 is not finite, eps = 0 and the last pass is made all the
    same, so that all ranks of a data-parallel run make it.

    Cheaper forms: `first_pass` sees a part of the batch; norm statistics are then those of the last pass. A
    perturbation with `norm_only` makes pass 1 without the gradients that it does not use. A `SinglePassPerturbation`
    makes no pass 1: the hook then sees the gradient of the only pass, at w + eps, and norm statistics are its own.

    Gradient accumulation, two forms: (A) call this once per micro-batch with `accumulate=True`: each
    micro-batch has its own eps and its gradient is added to what lies in `.grad`. (B) let `loss_and_backward`
    loop over the micro-batches (each loss divided by their number): one eps for the whole batch, as if it had
    come in one piece. Under data parallelism and form A, wrap all calls but the last in `model.no_sync()`.

    Mixed precision: `loss_and_backward` may scale the loss before `backward`; it returns the loss unscaled.
    Then call `scaler.step(optimizer)` and `scaler.update()` whether or not the step was finite.

    Args:
        model: The model, also when wrapped by `torch.compile` or DistributedDataParallel.
        perturbation: Where to go for pass 2; None, or one whose radii are all zero, makes a plain step of one
            pass.
        loss_and_backward: Computes the loss of the batch, calls `backward`, returns the loss. Called once per
            pass; must neither clear gradients nor step.
        first_pass: Used for pass 1 in place of `loss_and_backward`, under the same terms.
        on_clean_gradients: Called after pass 1, when `.grad` holds this batch's gradient at w (times the loss
            scale). What it keeps of a gradient it must clone.
        on_direction: Called when `.grad` holds what eps is made of, and may change it; not in a plain step.
        accumulate: Add to the gradients that are there; otherwise they are cleared first.
        sync_perturbation: Under data parallelism, average the gradient of pass 1 over the ranks; by default
            each rank perturbs by its own.
    Returns:
        Losses, gradient norm and whether it is finite. If not, weights and norm statistics are those before
        the step.
    Raises:
        ValueError: If a hook is to see the gradient of one micro-batch, but data parallelism averages it
            together with earlier ones (a plain step with `accumulate=True` outside `no_sync`); for a perturbation
            that remembers gradients and `accumulate=True`; for `norm_only` and `sync_perturbation` under data
            parallelism, which waits for all gradients.
    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> def loss_and_backward():
        ...     loss = layer.weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> from adasap.sharpness import PerturbationOptions, UniformPerturbation
        >>> sam = UniformPerturbation(0.5, PerturbationOptions(geometry="euclidean"))
        >>> step = sharpness_aware_gradients(layer, sam, loss_and_backward)
        >>> step.loss, step.gap, layer.weight.grad.item(), layer.weight.item()
        (1.0, 1.25, 3.0, 1.0)
    """
    plain = perturbation is None or perturbation.is_zero
    _refuse(model, perturbation, plain, bool(on_clean_gradients), accumulate, sync_perturbation)
    step = Step(unwrap(model), loss_and_backward, on_clean_gradients, on_direction, accumulate)
    step.owns_gradients = not hasattr(model, "no_sync")  # data parallelism may fill their memory again in pass 2
    before = step.statistics.copy()
    try:
        if perturbation is None or plain:
            loss = perturbed_loss = step.plain()
        elif isinstance(perturbation, SinglePassPerturbation):
            loss = perturbed_loss = step.moved(perturbation)
        else:
            local = nullcontext() if sync_perturbation else _without_sync(model)
            loss, perturbed_loss = step.two_passes(perturbation, local, first_pass)
    except BaseException:
        step.statistics.write_(before)
        raise
    single = plain or isinstance(perturbation, SinglePassPerturbation)
    result = _read(step.parameters, loss, perturbed_loss, num_passes=1 if single else 2)
    if not result.finite or not math.isfinite(result.loss):
        step.statistics.write_(before)
    if isinstance(perturbation, SinglePassPerturbation):
        perturbation.end_step(step.named, finite=result.finite)
    return result


def _refuse(
    model: nn.Module, perturbation: Perturbation | None, plain: bool, hook: bool, accumulate: bool, sync: bool
) -> None:
    """Raises ValueError for what cannot be computed."""
    if plain and accumulate and hook and getattr(model, "require_backward_grad_sync", False):
        raise ValueError(
            "a plain step that accumulates under data parallelism cannot show the hook one micro-batch's "
            "gradient; let loss_and_backward loop over the micro-batches instead of accumulate=True"
        )
    if accumulate and isinstance(perturbation, SinglePassPerturbation):
        raise ValueError(
            f"{type(perturbation).__name__} cannot tell one micro-batch's gradient from those before it; let "
            "loss_and_backward loop over the micro-batches instead of accumulate=True"
        )
    if sync and perturbation is not None and hasattr(model, "no_sync") and perturbation.moves({}) is not None:
        raise ValueError(
            "norm_only makes no gradients of filters in pass 1, and data parallelism would wait for them; leave out "
            "sync_perturbation, or norm_only"
        )


def _without_sync(model: nn.Module) -> AbstractContextManager[object]:
    """Data parallelism leaves the gradients of this pass alone; it needs the forward inside, too."""
    no_sync = getattr(model, "no_sync", None)
    context: AbstractContextManager[object] = no_sync() if no_sync else nullcontext()
    return context


@torch.no_grad()
def _read(parameters: Parameters, loss: Tensor | float, perturbed_loss: Tensor | float, *, num_passes: int) -> StepLoss:
    """The numbers of the step, fetched from the device at once."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor | float = 0.0
    if gradients:
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        norms = torch._foreach_norm(gradients, 2, dtype=wide)
        norm = torch.linalg.vector_norm(torch.stack(norms))
    device = norm.device if isinstance(norm, Tensor) else torch.device("cpu")
    double = torch.float32 if device.type == "mps" else torch.float64  # it has no float64
    numbers = [torch.as_tensor(x, device=device).to(double) for x in (loss, perturbed_loss, norm)]
    first, last, length = torch.stack(numbers).tolist()
    return StepLoss(first, last, length, math.isfinite(length), num_passes)
