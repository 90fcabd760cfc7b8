"""One sharpness-aware step: gradient at w, perturbation, gradient at w + eps, back to w."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adasap.checks import finite_number
from adasap.convolutions import guard_convolutions
from adasap.errors import ArgumentError
from adasap.groups.bare import unwrap
from adasap.groups.parameters import members, named_parameters
from adasap.sharpness.batchnorm import RunningStatistics
from adasap.sharpness.budget import Strength
from adasap.sharpness.perturbation import CombiningPerturbation, Perturbation, SinglePassPerturbation
from adasap.sharpness.swap import swapped

Parameters = Sequence[nn.Parameter]
Gradients = dict[nn.Parameter, Tensor]
LossAndBackward = Callable[[], "Tensor | float"]
Hook = Callable[[], None]


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
        linear_rise: <g, eps>, what `gap` would be if the loss were linear; None where nothing was perturbed, NaN where
            the gradient that eps is made of is not finite.
        radius_factor: What a `loss_budget` multiplied the radii with; None without one.
    """

    loss: float
    perturbed_loss: float
    gradient_norm: float
    finite: bool
    num_passes: int
    linear_rise: float | None = None
    radius_factor: float | None = None

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
    loss_scale: float = 1.0,
    part: nn.Module | None = None,
) -> StepLoss:
    """Leaves the gradient at w + eps in `.grad` and everything else as one plain pass would.

    1. A pass at w. `on_clean_gradients` may read its gradients.
    2. eps from these gradients; w <- w + eps.
    3. A pass at w + eps, with the same random numbers.
    4. w <- the saved copy; a `CombiningPerturbation` makes one gradient of the two. Stepping, clipping, scaling and the
       schedule stay the caller's lines.

    Running statistics of norm layers are those of pass 1. Extra memory during the passes: one copy of the
    trainable weights. If the gradient of pass 1 is not finite, eps = 0 and the last pass is made all the
    same, so that all ranks of a data-parallel run make it.

    Cheaper forms: `first_pass` sees a part of the batch; norm statistics are then those of the last pass. Where a
    perturbation `moves` some parameters alone, pass 1 makes no gradients of the others. A `SinglePassPerturbation`
    makes no pass 1: the hook then sees the gradient of the only pass, at w + eps, and norm statistics are its own.

    Gradient accumulation, two forms: (A) call this once per micro-batch with `accumulate=True`: each
    micro-batch has its own eps and its gradient is added to what lies in `.grad`. (B) let `loss_and_backward`
    loop over the micro-batches (each loss divided by their number): one eps for the whole batch, as if it had
    come in one piece. Under data parallelism and form A, wrap all calls but the last in `model.no_sync()`.

    Mixed precision: `loss_and_backward` may scale the loss before `backward`; it returns the loss unscaled. A
    `loss_budget` must know the scale: pass `loss_scale=scaler.get_scale()`. Then call `scaler.step(optimizer)` and
    `scaler.update()` whether or not the step was finite.

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
        loss_scale: What `loss_and_backward` multiplies the loss with before `backward`.
        part: The module inside the model whose parameters are moved, and by whose names the perturbation knows them;
            all of the model by default. The others' gradients are those of the last pass, too.
    Returns:
        Losses, gradient norm and whether it is finite. If not, weights and norm statistics are those before
        the step.
    Raises:
        ArgumentError: If a hook is to see the gradient of one micro-batch, but data parallelism averages it
            together with earlier ones (a plain step with `accumulate=True` outside `no_sync`); for a perturbation
            that remembers or combines gradients and `accumulate=True`; where pass 1 is averaged over the ranks, but
            the perturbation moves some parameters alone: data parallelism waits for all gradients.
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
    guard_convolutions()
    finite_number(loss_scale, "loss_scale", above=0)
    if perturbation is not None and not hasattr(perturbation, "is_zero"):
        raise ArgumentError(
            f"the perturbation is a {type(perturbation).__name__}; give one, such as adasap.UniformPerturbation(0.5)"
        )
    plain = perturbation is None or perturbation.is_zero
    strength = None if perturbation is None else perturbation.strength
    if strength is not None:
        strength.loss_scale = loss_scale
    sync = sync_perturbation or isinstance(perturbation, CombiningPerturbation)
    _refuse(model, perturbation, plain, bool(on_clean_gradients), accumulate, sync)
    step = Step(unwrap(model), loss_and_backward, on_clean_gradients, on_direction, accumulate, part)
    step.owns_gradients = not hasattr(model, "no_sync")  # data parallelism may fill their memory again in pass 2
    before = step.statistics.copy()
    try:
        if perturbation is None or plain:
            loss = perturbed_loss = step.plain()
        elif isinstance(perturbation, SinglePassPerturbation):
            loss = perturbed_loss = step.moved(perturbation)
        else:
            local = nullcontext() if sync else _without_sync(model)
            loss, perturbed_loss = step.two_passes(perturbation, local, first_pass)
    except BaseException:
        step.statistics.write_(before)
        raise
    single = plain or isinstance(perturbation, SinglePassPerturbation)
    used = None if plain else strength
    result, rise = _read(step.parameters, loss, perturbed_loss, used, num_passes=1 if single else 2)
    if used is not None and rise is not None:
        _take_in(used, rise, model)
    if not result.finite or not math.isfinite(result.loss):
        step.statistics.write_(before)
    if isinstance(perturbation, SinglePassPerturbation):
        perturbation.end_step(step.named, finite=result.finite)
    return result


class Step:
    """The passes of one step, over parameters that are looked up once."""

    def __init__(
        self,
        model: nn.Module,
        loss_and_backward: LossAndBackward,
        on_clean_gradients: Hook | None,
        on_direction: Hook | None,
        accumulate: bool,
        part: nn.Module | None,
    ) -> None:
        found = members(model)
        every = named_parameters(found)
        self.named = every if part is None else named_parameters(members(part))
        self.parameters = list(every.values())
        self.statistics = RunningStatistics(module for _, module in found)
        self.random = RandomState(self.parameters)
        self.hook, self.on_direction = on_clean_gradients, on_direction
        self.accumulate = accumulate
        self.owns_gradients = True
        self._loss_and_backward = loss_and_backward

    def two_passes(
        self, perturbation: Perturbation, local: AbstractContextManager[object], first_pass: LossAndBackward | None
    ) -> tuple[Tensor | float, Tensor | float]:
        """The loss at w and at w + eps; the latter's gradient stays in `.grad`, added to the earlier ones."""
        combining = perturbation if isinstance(perturbation, CombiningPerturbation) else None
        with self._same_for_both_passes(whole=first_pass is None) as between:
            earlier = self._take_gradients()
            try:
                with local, self._only(perturbation):  # 1. g = grad L(w)
                    loss = _detached((first_pass or self._loss_and_backward)())
                self._show(self.hook)
                clean = {} if combining is None else self._copied_gradients()
                self._show(self.on_direction)
                offsets = perturbation.offsets(self.named, consume_gradients=self.owns_gradients)  # 2. eps
            finally:
                _clear(self.parameters)
                _add(earlier)
            between()
            with swapped(offsets):  # w <- w + eps
                perturbed_loss = self._pass()  # 3. grad L(w + eps)
            if combining is not None:  # 4. back at w
                combining.combine_(clean, self.named)
            return loss, perturbed_loss

    def plain(self) -> Tensor | float:
        """One pass. Earlier gradients are set aside only where the hook must not see them."""
        if self.accumulate and not self.hook:
            return self._pass()
        earlier = self._take_gradients()
        try:
            loss = self._pass()
            self._show(self.hook)
        finally:
            _add(earlier)
        return loss

    def moved(self, perturbation: SinglePassPerturbation) -> Tensor | float:
        """One pass at w + eps, whose gradient the hook sees."""
        _clear(self.parameters)
        try:
            perturbation.load_gradients_(self.named)
            self._show(self.on_direction)
            offsets = perturbation.offsets(self.named, consume_gradients=True)
        finally:
            _clear(self.parameters)
        with swapped(offsets):
            loss = self._pass()
        self._show(self.hook)
        return loss

    @contextmanager
    def _same_for_both_passes(self, *, whole: bool) -> Iterator[Callable[[], None]]:
        """Both passes draw the same random numbers; inside, what is given is called between them.

        Norm statistics are those of the first pass if it sees the whole batch, otherwise those of the last.
        """
        before, statistics = self.random.get(), [] if whole else self.statistics.copy()
        after: list[Tensor] = []

        def between() -> None:
            nonlocal statistics
            if whole:
                after[:], statistics = self.random.get(), self.statistics.copy()
            else:  # what a part of the batch leaves behind is forgotten
                self.statistics.write_(statistics)
            self.random.set(before)

        try:
            yield between
        finally:
            if after:
                self.random.set(after)
                self.statistics.write_(statistics)

    @contextmanager
    def _only(self, perturbation: Perturbation) -> Iterator[None]:
        """No gradients are made of what the perturbation cannot move."""
        moved = perturbation.moves(self.named)
        others = [] if moved is None else [p for n, p in self.named.items() if n not in moved and p.requires_grad]
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _pass(self) -> Tensor | float:
        return _detached(self._loss_and_backward())

    def _show(self, hook: Hook | None) -> None:
        if hook is not None:
            hook()

    def _take_gradients(self) -> Gradients:
        """Empties `.grad`; what must come back is returned."""
        earlier = {p: p.grad for p in self.parameters if p.grad is not None} if self.accumulate else {}
        _clear(self.parameters)
        return earlier

    def _copied_gradients(self) -> dict[str, Tensor]:
        """Those of pass 1, whose own memory is about to keep the weights."""
        return {name: p.grad.clone() for name, p in self.named.items() if p.grad is not None}


class RandomState:
    """The generators that a pass draws from: the CPU's and those of the CUDA devices of the parameters."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._cuda = sorted({p.device.index for p in parameters if p.is_cuda})

    def get(self) -> list[Tensor]:
        """The states now."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(index) for index in self._cuda)]

    def set(self, states: list[Tensor]) -> None:
        """Goes back to these states."""
        torch.set_rng_state(states[0])
        for index, state in zip(self._cuda, states[1:], strict=True):
            torch.cuda.set_rng_state(state, index)


def _detached(loss: Tensor | float) -> Tensor | float:
    """The loss without its graph, whose activations would live on through the next pass."""
    if isinstance(loss, Tensor):
        return loss.detach()
    if not isinstance(loss, numbers.Real):
        raise ArgumentError(f"loss_and_backward gave a {type(loss).__name__}; return the loss after its backward()")
    return float(loss)


def _clear(parameters: Parameters) -> None:
    for parameter in parameters:
        parameter.grad = None


@torch.no_grad()
def _add(earlier: Gradients) -> None:
    """Puts gradients back, added to those that came since."""
    for parameter, gradient in earlier.items():
        parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)


def _refuse(
    model: nn.Module, perturbation: Perturbation | None, plain: bool, hook: bool, accumulate: bool, sync: bool
) -> None:
    """Raises ArgumentError for what cannot be computed."""
    if plain and accumulate and hook and getattr(model, "require_backward_grad_sync", False):
        raise ArgumentError(
            "a plain step that accumulates under data parallelism cannot show the hook one micro-batch's "
            "gradient; let loss_and_backward loop over the micro-batches instead of accumulate=True"
        )
    if accumulate and isinstance(perturbation, SinglePassPerturbation | CombiningPerturbation):
        raise ArgumentError(
            f"{type(perturbation).__name__} cannot tell one micro-batch's gradient from those before it; let "
            "loss_and_backward loop over the micro-batches instead of accumulate=True"
        )
    if sync and perturbation is not None and hasattr(model, "no_sync") and perturbation.moves({}) is not None:
        raise ArgumentError(
            "norm_only makes no gradients of filters in pass 1, and data parallelism would wait for them; leave out "
            "sync_perturbation, or norm_only"
        )


def _without_sync(model: nn.Module) -> AbstractContextManager[object]:
    """Data parallelism leaves the gradients of this pass alone; it needs the forward inside, too."""
    no_sync = getattr(model, "no_sync", None)
    context: AbstractContextManager[object] = no_sync() if no_sync else nullcontext()
    return context


def _take_in(strength: Strength, rise: float, model: nn.Module) -> None:
    """Adds a rise to the average for a factor of the start; under data parallelism the mean over the ranks, which hence
    agree on the factor."""
    if not strength.is_measuring:
        return
    ranks = getattr(model, "process_group", None)
    if ranks is not None:
        device = next(model.parameters()).device
        total = torch.tensor(rise, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total, group=ranks)
        rise = total.item() / torch.distributed.get_world_size(ranks)
    strength.add(rise)


@torch.no_grad()
def _read(
    parameters: Parameters,
    loss: Tensor | float,
    perturbed_loss: Tensor | float,
    strength: Strength | None,
    *,
    num_passes: int,
) -> tuple[StepLoss, float | None]:
    """The numbers of the step, fetched from the device at once, and the rise for the radii as they are given."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor | float = 0.0
    if gradients:
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        norms = torch._foreach_norm(gradients, 2, dtype=wide)
        norm = torch.linalg.vector_norm(torch.stack(norms))
    device = norm.device if isinstance(norm, Tensor) else torch.device("cpu")
    double = torch.float32 if device.type == "mps" else torch.float64  # it has no float64
    seen = None if strength is None else strength.seen()
    numbers = [torch.as_tensor(x, device=device).to(double) for x in (loss, perturbed_loss, norm, *(seen or ()))]
    first, last, length, *strong = torch.stack(numbers).tolist()
    step = StepLoss(first, last, length, math.isfinite(length), num_passes)
    if strength is None or not strong:
        return step, None
    rise, factor = strong
    step = replace(step, linear_rise=rise * factor, radius_factor=None if strength.budget is None else factor)
    return step, rise
