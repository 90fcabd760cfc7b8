"""The passes of one step, and what lies between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from adasap.groups.members import members, named_parameters
from adasap.sharpness.batchnorm import RunningStatistics
from adasap.sharpness.perturbation import Perturbation
from adasap.sharpness.randomness import RandomState
from adasap.sharpness.single_pass import SinglePassPerturbation
from adasap.sharpness.swap import Offsets, swapped

Parameters = Sequence[nn.Parameter]
Gradients = dict[nn.Parameter, Tensor]
LossAndBackward = Callable[[], "Tensor | float"]
Hook = Callable[[], None]


class Step:
    """The passes of one step, over parameters that are looked up once."""

    def __init__(
        self,
        model: nn.Module,
        loss_and_backward: LossAndBackward,
        on_clean_gradients: Hook | None,
        on_direction: Hook | None,
        accumulate: bool,
    ) -> None:
        found = members(model)
        self.named = named_parameters(found)
        self.parameters = list(self.named.values())
        self.statistics = RunningStatistics(module for _, module in found)
        self.random = RandomState(self.parameters)
        self.hook, self.on_direction = on_clean_gradients, on_direction
        self.accumulate = accumulate
        self.owns_gradients = True
        self._loss_and_backward = loss_and_backward

    def plain(self) -> Tensor | float:
        """One pass. Earlier gradients are set aside only where the hook must not see them."""
        if self.accumulate and not self.hook:
            return self._pass()
        earlier = self._take_gradients()
        try:
            loss = self._pass()
            if self.hook:
                self.hook()
        finally:
            _add(earlier)
        return loss

    def moved(self, perturbation: SinglePassPerturbation) -> Tensor | float:
        """One pass at w + eps, whose gradient the hook sees."""
        _clear(self.parameters)
        try:
            perturbation.load_gradients_(self.named)
            if self.on_direction:
                self.on_direction()
            offsets = perturbation.offsets(self.named, consume_gradients=True)
        finally:
            _clear(self.parameters)
        with swapped(offsets):
            loss = self._pass()
        if self.hook:
            self.hook()
        return loss

    def two_passes(
        self, perturbation: Perturbation, local: AbstractContextManager[object], first_pass: LossAndBackward | None
    ) -> tuple[Tensor | float, Tensor | float]:
        """The loss at w and at w + eps; the latter's gradient stays in `.grad`, added to the earlier ones."""
        before = self.random.get()
        whole = first_pass is None
        statistics = [] if whole else self.statistics.copy()
        loss, offsets = self._clean_pass(perturbation, local, first_pass or self._loss_and_backward)
        if not whole:  # what a part of the batch leaves behind is forgotten
            self.statistics.write_(statistics)
            self.random.set(before)
            with swapped(offsets):
                return loss, self._pass()
        after, statistics = self.random.get(), self.statistics.copy()
        self.random.set(before)
        try:
            with swapped(offsets):
                return loss, self._pass()
        finally:
            self.random.set(after)
            self.statistics.write_(statistics)

    def _clean_pass(
        self, perturbation: Perturbation, local: AbstractContextManager[object], first_pass: LossAndBackward
    ) -> tuple[Tensor | float, Offsets]:
        """The loss at w and the offsets; `.grad` is as before the pass, or empty."""
        earlier = self._take_gradients()
        try:
            with local, self._only(perturbation):
                loss = _detached(first_pass())
            if self.hook:
                self.hook()
            if self.on_direction:
                self.on_direction()
            return loss, perturbation.offsets(self.named, consume_gradients=self.owns_gradients)
        finally:
            _clear(self.parameters)
            _add(earlier)

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

    def _take_gradients(self) -> Gradients:
        """Empties `.grad`; what must come back is returned."""
        earlier = {p: p.grad for p in self.parameters if p.grad is not None} if self.accumulate else {}
        _clear(self.parameters)
        return earlier


def _detached(loss: Tensor | float) -> Tensor | float:
    """The loss without its graph, whose activations would live on through the next pass."""
    return loss.detach() if isinstance(loss, Tensor) else float(loss)


def _clear(parameters: Parameters) -> None:
    for parameter in parameters:
        parameter.grad = None


@torch.no_grad()
def _add(earlier: Gradients) -> None:
    """Puts gradients back, added to those that came since."""
    for parameter, gradient in earlier.items():
        parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
