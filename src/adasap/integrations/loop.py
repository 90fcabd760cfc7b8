"""The three steps in a loop that somebody else runs: which perturbation a step gets, and when channels go."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from adasap.convolutions import guard_convolutions
from adasap.criteria import Evidence, GradientCriterion, build_criterion
from adasap.criteria.gathering import require_batches
from adasap.errors import AdasapWarning, ArgumentError, CheckpointError, RecipeError, TrainingError
from adasap.groups import ChannelGroup, trace_groups, widths
from adasap.groups.bare import unwrap
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.past import branches_of, removed_before
from adasap.groups.serialization import groups_to_json
from adasap.pruning import PruningPlan, Selection, apply_plan_
from adasap.pruning.compensate import forward_images
from adasap.pruning.one_shot import require_taken
from adasap.pruning.plan import absent
from adasap.pruning.proof import probe_images
from adasap.report.records import PruneRecord
from adasap.sharpness import StepLoss, sharpness_aware_gradients
from adasap.sharpness.batchnorm import keeps_statistics
from adasap.training import (
    Compression,
    Counters,
    Event,
    Observer,
    Perturber,
    StepRecord,
    Timetable,
    TrainingOptions,
    TrainingState,
    ignore,
)
from adasap.training.optimizer import require_cuttable
from adasap.training.processes import Processes
from adasap.training.pruning_event import build_make_up, choose, cut_
from adasap.training.run import SearchingMethod
from adasap.training.runtime import without_scale
from adasap.training.scoring import Scoring
from adasap.training.validation import require_feasible, warn_of_thin_groups

_TAKEN = ("sync_perturbation", "max_skipped")
"""Options of `training` that count in somebody else's loop; the others are the loop's own."""


class LoopCompression:
    """Warm-up, pruning and fine-tuning inside a training loop that keeps its optimizer, schedule and data.

    In place of `loss.backward()` call `gradients(loss_and_backward)`, and after the optimizer's step `step()`, which
    cuts the model where an event is due: parameters stay the objects they were, so optimizer and schedulers go on.

    Args:
        model: The dense model; trained by the loop, cut in place. Under DistributedDataParallel wrap it anew after
            every cut and set `wrapped`.
        example_inputs: As `adasap.trace_groups` takes them, such as images, float [1, C, H, W].
        config: The three steps; also a recipe. Of `training` only `sync_perturbation` and `max_skipped` count.
        optimizer: The loop's own; without one call `begin` before the first step.
        steps_per_epoch: Optimizer steps in an epoch; by default the `epochs` of the configuration are steps.
        num_steps: Optimizer steps of the whole loop. Fine-tuning is what is left of them after the pruning; by default
            `fine_tune.epochs`. A loop that goes on after that goes on fine-tuning.
        averaged: Moving averages of the weights that the loop keeps; cut with the model.
        batches: A few prepared training batches on the model's device: for norm statistics after a cut, compensation,
            and criteria that look at batches. The same ones on every process.
        loss: `loss(model, batch)` of such a batch; by default `model(batch)`, or `model(batch[0])` of a tuple or list,
            which is enough for norms and compensation.
        processes: What data-parallel processes agree on; by default torch's process group.
        observe: Called with a `StepRecord` for each step and a `PruneRecord` for each event.
    Raises:
        AdasapError: For a model, configuration or budget that cannot work.
    Example:
        >>> from adasap.pruning import BudgetOptions, PruningOptions
        >>> from adasap.training import FineTuneOptions, PhaseOptions
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> images, labels = torch.ones(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> _ = model(images)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> pruning = PruningOptions(epochs=2, events=2, every=1, budget=BudgetOptions(macs=0.5))
        >>> config = Compression(warm_up=PhaseOptions(epochs=1), pruning=pruning, fine_tune=FineTuneOptions(epochs=1))
        >>> compression = LoopCompression(model, images, config, optimizer)
        >>> def loss_and_backward():
        ...     loss = nn.functional.cross_entropy(model(images), labels)
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(4):
        ...     result = compression.gradients(loss_and_backward)
        ...     optimizer.step()
        ...     event = compression.step()
        >>> compression.kept_fraction <= 0.5
        True
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        config: Compression,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        steps_per_epoch: int | None = None,
        num_steps: int | None = None,
        averaged: Sequence[nn.Module] = (),
        batches: Iterable[Any] = (),
        loss: Callable[[nn.Module, Any], Any] | None = None,
        processes: Processes | None = None,
        observe: Observer = ignore,
    ) -> None:
        guard_convolutions()
        if not isinstance(config, Compression):
            raise ArgumentError(
                f"config is a {type(config).__name__}; give adasap.Compression(...), or adasap.read_recipe(path)"
            )
        self.wrapped, self.model, self.config = model, unwrap(model), config
        self.processes, self.observe = processes or Processes(), observe
        self.batches, self._loss = list(batches), loss
        self.criterion = build_criterion(config.pruning.criterion, **config.pruning.criterion_options)
        self._refuse()
        self._inputs = as_arguments(example_inputs)
        inputs = self._inputs.to_model(self.model)
        with own_forward(self.model):
            self._trace(inputs)
        if optimizer is not None:
            self.begin(optimizer, steps_per_epoch=steps_per_epoch, num_steps=num_steps, averaged=averaged)

    def _trace(self, inputs: Arguments) -> None:
        config = self.config
        pruning = config.pruning
        self.dense_groups = trace_groups(
            self.model,
            inputs,
            keep=pruning.keep,
            allow_inexact=pruning.allow_inexact,
            depth=pruning.budget.depth,
        )
        self.selection = Selection.of(config.pruning, self.model, self.dense_groups, inputs)
        self.cost = self.selection.cost
        self.state = TrainingState(
            self.model,
            self.dense_groups,
            torch.optim.SGD(self.model.parameters(), lr=0.0),  # until `begin`
            PruningPlan.of(self.dense_groups),
            Evidence(),
            strengths=config.strengths(),
        )
        self._make_up = build_make_up(config.pruning, self.model, inputs, self.first_batches, self.loss, self.processes)
        self.scoring = Scoring(self.criterion, config.pruning, self.state, self, self.processes, self.first_batches)
        self.timetable: Timetable | None = None
        self._lengths: list[int] | None = None  # of a checkpoint
        self._perturber: tuple[str, Sequence[ChannelGroup], Perturber] | None = None
        self._skipped_in_a_row = 0

    # The loop's calls

    def begin(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        steps_per_epoch: int | None = None,
        num_steps: int | None = None,
        averaged: Sequence[nn.Module] = (),
    ) -> PruneRecord | None:
        """Takes the loop's optimizer and lengths, as the arguments of the class; once more for another optimizer.

        Returns:
            The event, if one comes before the first step.
        Raises:
            AdasapError: If the loop is shorter than warm-up and pruning, or the optimizer's state cannot be cut.
        """
        state, timetable = self.state, Timetable.of(self.config, steps_per_epoch or 1, self.cost)
        if num_steps is not None:
            if num_steps < timetable.pruning_end:
                raise RecipeError(
                    f"the loop makes {num_steps} steps, and warm_up and pruning take {timetable.pruning_end}; train "
                    "for longer, or give fewer warm_up.epochs and pruning.epochs"
                )
            timetable = replace(timetable, num_steps=num_steps)
        if self._lengths is not None and self._lengths != _lengths(timetable):
            raise CheckpointError(
                "the checkpoint was made with other lengths of warm-up, pruning or epochs; go on with the "
                "configuration, batch size and number of processes that it was made with"
            )
        require_cuttable(optimizer)
        self._require_batches()
        self.timetable, state.optimizer, state.companions = timetable, optimizer, averaged
        self._to_device()
        if state.counters.step == state.counters.events == 0:
            require_feasible(self.config, self.criterion, self.model, self.selection, timetable, steps_per_epoch or 1)
            self.scoring.try_gathering()
            if not self.criterion.needs:
                plan = self.selection.plan(self.dense_groups, self.scoring.score(), timetable.events[-1].limit)
                warn_of_thin_groups(plan, self.dense_groups)
        return self._prune_if_due()

    def gradients(self, loss_and_backward: Callable[[], Tensor | float], *, loss_scale: float = 1.0) -> StepLoss:
        """Leaves in `.grad` what the optimizer is to step with: `loss_and_backward` is called once or twice.

        Args:
            loss_and_backward: As for `adasap.sharpness_aware_gradients`: computes the loss, calls `backward`, returns
                the loss. With gradient accumulation it loops over the micro-batches, each loss divided by their number:
                one perturbation for all of them.
            loss_scale: What it multiplies the loss with before `backward` (`scaler.get_scale()`).
        Returns:
            Losses, gap and strength. Leave out the optimizer's step if it is not `finite`; a scaler does so by itself.
        Raises:
            TrainingError: If too many steps in a row had gradients that are not finite.
        """
        state, started, phase = self.state, time.perf_counter(), self.phase
        perturber = self._perturber_of(phase)
        try:
            perturbation = perturber.at(state.counters.step, self.model, state.groups)
        except ValueError as error:  # scores that are not finite
            raise state.divergence(str(error)) from error
        result = sharpness_aware_gradients(
            self.wrapped,
            perturbation,
            loss_and_backward,
            on_clean_gradients=self._collector(loss_scale),
            sync_perturbation=self.config.training.sync_perturbation,
            loss_scale=loss_scale,
            part=self.model,
        )
        moved = perturbation is not None and not perturbation.is_zero
        passes = perturber.options.passes if moved else 1
        state.counters.passes += passes
        self._count_skipped(result)
        self.observe(
            StepRecord(
                step=state.counters.step + 1,
                phase=phase,
                loss=result.loss,
                gap=None if result.num_passes == 1 else result.gap,
                learning_rate=state.optimizer.param_groups[0]["lr"],
                gradient_norm=result.gradient_norm / loss_scale,
                finite=result.finite,
                passes=passes,
                seconds=time.perf_counter() - started,
                radius_shares=perturbation.shares() if moved and perturbation is not None else None,
                linear_rise=result.linear_rise,
                radius_factor=result.radius_factor,
            )
        )
        return result

    def step(self) -> PruneRecord | None:
        """Counts the optimizer's step that was just made, and cuts where an event is due: not inside accumulation.

        Returns:
            The event, after which data parallelism has to wrap the model anew; None if nothing was cut.
        """
        counters, times, sharpness = self.state.counters, self._times, self.config.sharpness(self.phase)
        counters.step += 1
        ends = {*times.evaluated, times.pruning_end, *(event.step for event in times.events)}
        if counters.step in ends and not sharpness.clean_statistics:
            self.scoring.renew_statistics(times)
        return self._prune_if_due()

    # What the loop may ask

    @property
    def phase(self) -> str:
        """`warm-up`, `pruning` or `fine-tuning`: that of the next step."""
        step = self.state.counters.step
        if step < self._times.warm_up_end:
            return "warm-up"
        return "pruning" if step < self._times.pruning_end else "fine-tuning"

    @property
    def groups(self) -> Sequence[ChannelGroup]:
        """The model's groups as it is now, for `adasap.save(path, model, groups=...)`."""
        return self.state.groups

    @property
    def plan(self) -> PruningPlan:
        """What has been kept so far, in the dense model's indices."""
        return self.state.plan

    @property
    def kept_fraction(self) -> float:
        """What is left of the cost that the budget limits, a fraction of the dense model's."""
        return self.cost.total({**widths(self.dense_groups), **self.plan.widths()}) / self.cost.dense

    @property
    def num_batches(self) -> int:
        """How many batches norms, compensation and the criterion look at; 0 if none."""
        pruning = self.config.pruning
        return max(
            pruning.recalibration_batches * keeps_statistics(self.model),
            pruning.compensation_batches * (pruning.compensate == "least_squares"),
            int(pruning.budget.depth),
            int(getattr(self.criterion, "num_batches", 0)),
        )

    # Checkpoints

    def agree(self) -> None:
        """Evidence becomes that of all processes: call it on each of them before one of them saves `state_dict`."""
        if self.processes.world_size > 1 and self.state.evidence.count:
            self.state.evidence.reduce(self.processes.average)

    def state_dict(self) -> dict[str, Any]:
        """The plan and all else that the loop's own checkpoint lacks: plain values and tensors."""
        state = self.state
        return {
            "plan": state.plan.to_json(),
            "groups": groups_to_json(self.dense_groups),
            "counters": asdict(state.counters),
            "strengths": {phase: strength.state() for phase, strength in state.strengths.items()},
            "evidence": state.evidence.state(),
            "directions": dict(state.directions),
            "lengths": None if self.timetable is None else _lengths(self.timetable),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Cuts the dense model to the plan and goes on from there; call it before weights and optimizer are loaded.

        Raises:
            CheckpointError: If the model is already cut, or the state belongs to another one.
        """
        state = self.state
        if not state.plan.keeps_all:
            raise CheckpointError("the model was cut already; build it and LoopCompression anew, then load the state")
        try:
            plan = PruningPlan.from_json(saved["plan"])
            state.groups = apply_plan_(self.model, self.dense_groups, plan, companions=state.copies)
            state.plan, state.counters = plan, Counters(**saved["counters"])
            state.evidence.load(saved["evidence"])
            parameters = dict(self.model.named_parameters())
            state.directions |= {
                name: torch.empty_like(parameters[name]).copy_(tensor) for name, tensor in saved["directions"].items()
            }
            for phase, strength in state.strengths.items():
                strength.load(saved["strengths"][phase])
            self._lengths = saved["lengths"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"this state does not fit the model or the configuration: {error}; build the model anew, "
                "as it was before it was cut, and give the configuration that the state was made with"
            ) from error
        if self.timetable is not None and self._lengths != _lengths(self.timetable):
            self.begin(self.state.optimizer)  # raises

    # What scoring looks through

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of one of the batches, or the outputs if no loss was given."""
        found: Any = self._loss(model, batch) if self._loss else forward_images(model, batch)
        return cast(Tensor, found)

    def first_batches(self, count: int) -> list[Any]:
        """So many of the batches that were given."""
        return self.batches[:count]

    # Small helpers

    @property
    def _times(self) -> Timetable:
        if self.timetable is None:
            raise ArgumentError("LoopCompression was not begun; pass the optimizer, or call begin(optimizer) first")
        return self.timetable

    def _refuse(self) -> None:
        """What cannot be done in somebody else's loop."""
        pruning = self.config.pruning
        if pruning.prepare["kind"] != "none" or isinstance(pruning.method, SearchingMethod):
            odd = "pruning.prepare" if pruning.prepare["kind"] != "none" else f"selection {pruning.selection}"
            raise RecipeError(f"{odd} needs adasap's own loop; use adasap.compress, or leave it out")
        if any(sharpness.form.subbatch < 1 for sharpness in self.config.sharpnesses):
            raise RecipeError(
                "form.subbatch divides batches, which are the loop's here; use adasap.compress, or leave it out"
            )
        default = TrainingOptions()
        odd_ones = [
            f"training.{field.name}"
            for field in fields(default)
            if field.name not in _TAKEN and getattr(self.config.training, field.name) != getattr(default, field.name)
        ]
        if odd_ones:
            warnings.warn(
                f"{', '.join(odd_ones)} of the configuration do not count here: they are the training loop's own",
                AdasapWarning,
                stacklevel=3,
            )

    def _require_batches(self) -> None:
        """Whether what looks at batches has some, and the model takes them."""
        pruning, needed = self.config.pruning, []
        if pruning.recalibration_batches and keeps_statistics(self.model):
            needed.append("norm statistics after a cut (pruning.recalibration_batches)")
        if pruning.compensate == "least_squares":
            needed.append("pruning.compensate: least_squares")
        if pruning.budget.depth:
            needed.append("pruning.budget.depth")
            if self._loss is None:
                raise RecipeError("pruning.budget.depth tries plans by their loss; pass loss=<of a model and a batch>")
        if needed and not self.batches:
            raise RecipeError(
                f"batches are missing for {' and '.join(needed)}; pass batches=<a list of prepared training batches>, "
                "a few hundred images, or set these options off"
            )
        if "batches" in self.criterion.needs:
            require_batches(self.criterion, self.batches or None, self._loss)
        if self.batches:
            require_taken(self.model, self.batches[0], self.loss)

    def _to_device(self) -> None:
        """What a checkpoint brought goes where the model is by now."""
        device = next(self.model.parameters()).device
        self.state.evidence.load({name: tensor.to(device) for name, tensor in self.state.evidence.state().items()})
        self.state.directions |= {name: tensor.to(device) for name, tensor in self.state.directions.items()}

    def _perturber_of(self, phase: str) -> Perturber:
        """A new one for each phase and after each cut, as in a run."""
        state = self.state
        if self._perturber is None or self._perturber[0] != phase or self._perturber[1] is not state.groups:
            sharpness = self.config.sharpness(phase)
            if not any(variant.remembers for variant in sharpness.varied):
                state.directions.clear()
            steps = self._times.steps_of(phase, self.config)
            strength = state.strengths.get(self.config.perturbed_with(phase))
            made = Perturber(sharpness, steps, state.directions, seed=self.config.seed, strength=strength)
            self._perturber = (phase, state.groups, made)
        return self._perturber[2]

    def _collector(self, loss_scale: float) -> Callable[[], None] | None:
        """Takes the evidence of the gradients in `.grad`, while events are to come, for a criterion that needs any."""
        state, criterion = self.state, self.criterion
        if "gradients" not in criterion.needs or state.counters.events == len(self._times.events):
            return None
        assert isinstance(criterion, GradientCriterion)

        def collect() -> None:
            with without_scale(self.model, loss_scale):
                state.evidence.add(criterion.batch_evidence(self.model, state.groups))

        return collect

    def _count_skipped(self, result: StepLoss) -> None:
        if result.finite:
            self._skipped_in_a_row = 0
            return
        self.state.counters.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.config.training.max_skipped:
            raise TrainingError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row (step "
                f"{self.state.counters.step + 1}, loss {result.loss}); lower the learning rate or rho, and check the "
                "images' normalisation"
            )

    def _prune_if_due(self) -> PruneRecord | None:
        """The event of this step, if there is one that was not carried out yet."""
        counters, events = self.state.counters, self._times.events
        if counters.events == len(events) or events[counters.events].step != counters.step:
            return None
        with own_forward(self.model):
            return self._prune(events[counters.events])

    def _prune(self, event: Event) -> PruneRecord:
        """As `CompressionRun.prune`: what matters least goes, the cut is proven, norms are estimated anew."""
        started, state = time.perf_counter(), self.state
        state.require_finite()
        self.processes.average_buffers_(self.model)
        self.agree()
        groups = state.groups
        scores, batches = self.scoring.score(), self.first_batches
        plan = choose(self.selection, state, scores, event.limit, batches, self.loss, self.processes)
        mode = self.model.training
        error, compensation = cut_(state, plan, self._probe(), self._make_up)
        state.evidence.reset()
        state.counters.events = event.number
        if self.batches:
            self.scoring.recalibrate()
        self.model.train(mode)
        record = PruneRecord(
            step=state.counters.step,
            event=event.number,
            events=len(self._times.events),
            cost=self.cost.total({**widths(groups), **absent(removed_before(groups)), **plan.widths()}),
            cost_limit=event.limit,
            unit=self.cost.unit,
            removed=sum(widths(groups).values()) - sum(widths(state.groups).values()),
            mask_error=error,
            seconds=time.perf_counter() - started,
            branches=len(branches_of(groups)) - len(branches_of(state.groups)),
            layer_errors=None if compensation is None else compensation.errors,
            uncompensated=None if compensation is None else compensation.as_they_were,
        )
        self.observe(record)
        return record

    def _probe(self) -> Arguments:
        """Eight random images, the same at every event."""
        return probe_images(self._inputs.to_model(self.model), seed=self.config.seed)


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Inside, forward is in full precision, where Accelerate has hung mixed precision over it."""
    patched = vars(model).pop("forward", None) if hasattr(model, "_original_forward") else None
    try:
        yield
    finally:
        if patched is not None:
            vars(model)["forward"] = patched


def _lengths(timetable: Timetable) -> list[int]:
    """What a checkpoint's counters are counted in."""
    return [timetable.warm_up_end, timetable.pruning_end, *(event.step for event in timetable.events)]
