"""The training loop: batches in, sharpness-aware steps, records out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from adasap.criteria import Criterion, GradientCriterion
from adasap.errors import TrainingError
from adasap.pruning import Preparation
from adasap.report.records import Observer, StepRecord
from adasap.sharpness import StepLoss, sharpness_aware_gradients
from adasap.tasks import Task, part_of
from adasap.training.optimizer import learning_rate_factor
from adasap.training.options import TrainingOptions
from adasap.training.perturbation_schedule import Perturber
from adasap.training.runtime import Runtime
from adasap.training.seed import seed_step
from adasap.training.state import TrainingState


class Trainer:
    """Takes one step after the other on a state; knows nothing of phases' lengths or of pruning.

    Args:
        state: What moves.
        task: The loss.
        runtime: Device, precision, ranks.
        options: Optimizer, schedule, clipping.
        num_steps: Length of the whole run, for the learning rate.
        warm_up_steps: Steps of linear learning-rate increase.
        seed: Of dropout masks.
    """

    def __init__(
        self,
        state: TrainingState,
        task: Task[Any],
        runtime: Runtime,
        options: TrainingOptions,
        *,
        num_steps: int,
        warm_up_steps: int,
        seed: int,
        observe: Observer,
    ) -> None:
        self.state, self.task, self.runtime, self.options = state, task, runtime, options
        self.num_steps, self.warm_up_steps, self.seed, self.observe = num_steps, warm_up_steps, seed, observe
        self.wrapped: nn.Module = runtime.wrap(state.model)
        self._skipped_in_a_row = 0

    def rewrap(self) -> None:
        """After a cut: data parallelism has to learn the new shapes."""
        self.wrapped = self.runtime.wrap(self.state.model)

    def step(
        self,
        batch: Any,
        phase: str,
        perturber: Perturber,
        criterion: Criterion | None,
        preparation: Preparation | None = None,
    ) -> None:
        """One optimizer step; with a criterion that needs gradients its evidence is collected on the way."""
        started = time.perf_counter()
        counters, model = self.state.counters, self.state.model
        seed_step(self.seed, counters.step, self.runtime.rank)
        rate = self._set_learning_rate(counters.step)
        model.train()
        prepared, subbatch = self.task.prepare(batch, self.runtime.device), perturber.options.form.subbatch
        try:
            perturbation = perturber.at(counters.step, model, self.state.groups)
        except ValueError as error:  # scores that are not finite
            raise self.state.divergence(str(error)) from error
        plain, scale = perturbation is None or perturbation.is_zero, self.runtime.loss_scale
        result = sharpness_aware_gradients(
            self.wrapped,
            perturbation,
            self._closure(prepared),
            first_pass=None if subbatch == 1 else self._closure(part_of(prepared, subbatch)),
            on_clean_gradients=self._collector(criterion),
            on_direction=self.state.preparation.before_ascent_,
            sync_perturbation=self.options.sync_perturbation,
            loss_scale=scale,
        )
        self._update(result, rate, preparation)
        counters.step += 1
        moved = perturbation is not None and not plain
        passes = perturber.options.passes if moved else 1
        counters.passes += passes
        seconds = time.perf_counter() - started
        counters.training_seconds += seconds
        shares = perturbation.shares() if moved and perturbation is not None else None
        self.observe(
            StepRecord(
                step=counters.step,
                phase=phase,
                loss=result.loss,
                gap=None if result.num_passes == 1 else result.gap,
                learning_rate=rate,
                gradient_norm=result.gradient_norm / scale,
                finite=result.finite,
                passes=passes,
                seconds=seconds,
                radius_shares=shares,
                linear_rise=result.linear_rise,
                radius_factor=result.radius_factor,
            )
        )

    def _closure(self, batch: Any) -> Callable[[], Tensor]:
        def loss_and_backward() -> Tensor:
            with self.state.preparation.applied():
                with self.runtime.autocast():
                    loss = self.task.loss(self.wrapped, batch)
                self.runtime.backward(loss)
            return loss.detach()

        return loss_and_backward

    def _collector(self, criterion: Criterion | None) -> Callable[[], None] | None:
        """Takes the evidence of the gradients that lie in `.grad`, for a criterion that needs any."""
        if criterion is None or "gradients" not in criterion.needs:
            return None
        assert isinstance(criterion, GradientCriterion)

        def collect() -> None:
            with self.runtime.unscaled_gradients(self.state.model):
                self.state.evidence.add(criterion.batch_evidence(self.state.model, self.state.groups))

        return collect

    def _set_learning_rate(self, step: int) -> float:
        factor = learning_rate_factor(step, self.num_steps, self.options.schedule, warm_up_steps=self.warm_up_steps)
        rate = self.options.optimizer.learning_rate * factor
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _update(self, result: StepLoss, rate: float, preparation: Preparation | None) -> None:
        """The optimizer's step, or the count of a skipped one."""
        optimizer, scaler = self.state.optimizer, self.runtime.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        if result.finite:
            if self.options.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.state.model.parameters(), self.options.clip_norm)
            self._skipped_in_a_row = 0
        else:
            self.state.counters.skipped += 1
            self._skipped_in_a_row += 1
        if preparation is not None:
            preparation.before_step_(self.state.counters.step, self.state.model, self.state.groups)
        if scaler is not None:
            scaler.step(optimizer)  # skips by itself where the gradient is not finite
            scaler.update()
        elif result.finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.state.averaged is not None and result.finite:
            self.state.averaged.update_parameters(self.state.model)
        if self._skipped_in_a_row >= self.options.max_skipped:
            raise TrainingError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row (step "
                f"{self.state.counters.step + 1}, loss {result.loss}, learning rate {rate:.3g}); "
                "lower training.optimizer.learning_rate or rho, and check the images' normalisation"
            )
