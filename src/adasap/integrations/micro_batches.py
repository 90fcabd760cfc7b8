"""Gradient accumulation in a trainer that runs micro-batches by itself: one perturbation for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adasap.integrations.loop import LoopCompression
from adasap.sharpness import StepLoss
from adasap.sharpness.batchnorm import RunningStatistics
from adasap.sharpness.step import RandomState

Again = Callable[[bool], Tensor]
"""Runs a micro-batch forward and backward once more; whether it is the last one of the step, which data parallelism
reduces, is its argument. Returns the loss, divided by the number of micro-batches."""


class MicroBatches:
    """Those of one optimizer step: run once as the trainer does, and then all again at the perturbed weights.

    Args:
        model: All of the model, whose gradients the trainer accumulates.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._run: list[tuple[list[Tensor], Again]] = []
        self._losses: list[Tensor] = []
        self._statistics: tuple[RunningStatistics, list[Tensor]] | None = None

    @contextmanager
    def recording(self, again: Again, losses: list[Tensor]) -> Iterator[None]:
        """Around a clean pass, which puts its loss into `losses`; without one it is not run again."""
        before = RandomState(self.model.parameters()).get()
        if self._statistics is None:
            statistics = RunningStatistics(self.model.modules())
            self._statistics = statistics, statistics.copy()
        yield
        if losses:
            self._losses += [loss.detach() for loss in losses]
            self._run.append((before, again))

    def gradients(
        self, compression: LoopCompression, last: Callable[[], object], *, loss_scale: float = 1.0
    ) -> StepLoss:
        """Leaves in `.grad` the mean gradient of all micro-batches at the perturbed weights.

        Args:
            compression: Which perturbation the step has.
            last: The clean pass of the last micro-batch; the gradients of the others lie in `.grad`. Data parallelism
                reduces their sum together with that of the last one.
            loss_scale: What losses are multiplied with before `backward`. At 1 a gradient that is not finite is
                removed, so that the optimizer leaves everything as it is; a scaler sees it by itself.
        """
        parameters = list(self.model.parameters())
        earlier = {p: p.grad for p in parameters if p.grad is not None} if self._run else {}
        passes = 0

        def loss_and_backward() -> Tensor:
            nonlocal passes
            passes += 1
            if passes > 1:
                return self._second_pass()
            for parameter, gradient in earlier.items():
                parameter.grad = gradient
            last()
            return torch.stack(self._losses).sum() if self._losses else torch.zeros(())

        try:
            result = compression.gradients(loss_and_backward, loss_scale=loss_scale)
            if not result.finite and self._statistics is not None:
                self._statistics[0].write_(self._statistics[1])
        finally:
            self._run, self._losses, self._statistics = [], [], None
        if not result.finite and loss_scale == 1:
            for parameter in parameters:
                parameter.grad = None
        return result

    def _second_pass(self) -> Tensor:
        """With the random numbers of the first."""
        state, losses = RandomState(self.model.parameters()), []
        for index, (before, again) in enumerate(self._run):
            state.set(before)
            losses.append(again(index == len(self._run) - 1).detach())
        return torch.stack(losses).sum() if losses else torch.zeros(())
