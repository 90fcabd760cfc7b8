"""Cheaper forms in a run: what they cost, go on from, evaluate and refuse."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import adasap
from adasap.criteria import build_criterion
from adasap.errors import DataError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.extras.soft_mask import SoftMask, SoftMasks
from adasap.models import open_model
from adasap.pruning import PruningOptions, PruningPlan
from adasap.sharpness import PerturbationOptions, StepForm, recalibrate_
from adasap.tasks import part_of
from adasap.training import Compression, PhaseOptions, Record, Runtime, RuntimeOptions, SharpnessOptions, StepRecord
from adasap.training.loop import Trainer
from adasap.training.optimizer import OptimizerOptions, ScheduleOptions
from adasap.training.options import FineTuneOptions, TrainingOptions
from adasap.training.perturbation_schedule import Perturber
from adasap.training.pruning_event import cut_
from adasap.training.run_schedule import Event, Timetable
from adasap.training.scoring import Scoring
from adasap.training.start import open_state
from adasap.training.state import TrainingState
from adasap.training.validation import require_divisible, require_form
from criteria_nets import plain_net
from parallel_nets import no_norms

Tree = dict[str, Any]
KEPT = {"conv1": [0, 2, 3, 5], "conv2": [1, 2, 3]}
NORMS: Tree = {"norm_only": {}}
STALE = SharpnessOptions(variants={"stale": {}})
FORMS = {
    "subbatch": SharpnessOptions(form=StepForm(subbatch=0.25)),
    "every": SharpnessOptions(form=StepForm(every=3), refresh=2),
    "window": SharpnessOptions(form=StepForm(window=0.25)),
    "norm_only": SharpnessOptions(variants=NORMS),
    "all": SharpnessOptions(form=StepForm(subbatch=0.5, every=2, window=0.75), variants=NORMS),
    "stale": STALE,
    "attenuate": SharpnessOptions(variants={"removal": {}}),
    "drop": SharpnessOptions(variants={"removal": {"how": "drop"}}),
}
STEPS = range(4, 12)
"""Those of the phase: its window of a quarter begins with step 10."""


class Labels(adasap.ClassificationTask):
    """Classification of images that are floats already."""

    def prepare(self, batch: Any, device: torch.device) -> Any:
        return batch


TASK = Labels(mean=(0.0,) * 3, std=(1.0,) * 3)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 6, 6, generator=generator), torch.arange(8) % 3) for _ in range(count)]


class Run:
    """A small net, its trainer and what it was told."""

    def __init__(self, sharpness: SharpnessOptions) -> None:
        net, groups = plain_net()
        runtime = Runtime(RuntimeOptions(device="cpu", precision="float32"))
        options = TrainingOptions(optimizer=OptimizerOptions(learning_rate=0.01), schedule=ScheduleOptions("constant"))
        self.sharpness, self.records = sharpness, list[Any]()
        self.state: TrainingState = open_state(net, groups, options, runtime, None)
        self.state.counters.step = STEPS.start
        self.trainer = Trainer(
            self.state, TASK, runtime, options, num_steps=12, warm_up_steps=0, seed=0, observe=self.records.append
        )

    def train(self, first: int, last: int, criterion: str | None = None) -> None:
        """Steps of the phase, counted from 0, on batches of their own."""
        perturber = Perturber(self.sharpness, STEPS, self.state.directions)
        for batch in batches(last)[first:]:
            self.trainer.step(batch, "pruning", perturber, build_criterion(criterion) if criterion else None)

    def cut(self) -> None:
        cut_(self.state, PruningPlan.of(self.state.groups, KEPT), batches(1)[0][0])


# ----- cost


@pytest.mark.parametrize(
    ("name", "aware", "passes"),
    [
        ("subbatch", 8, 1.25),
        ("every", 2, 2),
        ("window", 2, 2),
        ("norm_only", 8, 5 / 3),
        ("all", 3, 4 / 3),
        ("stale", 8, 1),
        ("attenuate", 8, 1),
        ("drop", 8, 1),
    ],
)
def test_a_run_costs_what_is_announced(name: str, aware: int, passes: float) -> None:
    run = Run(FORMS[name])
    run.train(0, 8)
    assert run.state.counters.passes == pytest.approx(8 + aware * (passes - 1))
    assert run.state.counters.passes == pytest.approx(run.sharpness.plain_steps(STEPS))
    assert sum(record.passes for record in run.records) == pytest.approx(run.state.counters.passes)
    with_gap = [record.step - 1 for record in run.records if record.gap is not None]
    due = {"every": [6, 9], "window": [10, 11], "all": [6, 8, 10], "subbatch": list(STEPS), "norm_only": list(STEPS)}
    assert with_gap == due.get(name, [])


@pytest.mark.parametrize("variants", [{}, {"stale": {}}])
def test_a_budget_of_loss_knows_the_scale_of_the_loss(variants: Tree) -> None:
    """Of the scaler that fp16 has, which here grows after every other step."""
    sharpness = SharpnessOptions(perturbation=PerturbationOptions(loss_budget=0.05), variants=variants)
    plain, scaled = Run(sharpness), Run(sharpness)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    scaled.trainer.runtime.accelerator.scaler = scaler
    for run in (plain, scaled):
        run.train(0, 8)
        run.trainer.runtime.accelerator.scaler = None
    assert scaler.get_scale() == 2.0**16
    for one, other in zip(plain.records, scaled.records, strict=True):
        assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)
    assert plain.records[-1].linear_rise == pytest.approx(0.05)
    assert all(map(torch.equal, plain.state.model.parameters(), scaled.state.model.parameters()))


def test_the_first_pass_sees_a_part_of_the_batch() -> None:
    run = Run(FORMS["subbatch"])
    images, labels = batches(1)[0]
    model = copy.deepcopy(run.state.model).train()
    expected = TASK.loss(model, (images[:2], labels[:2])).detach()
    run.train(0, 1)
    assert run.records[0].loss == pytest.approx(float(expected))


def test_the_timetable_counts_both_phases() -> None:
    times = Timetable(8, 16, 24, 0, (Event(1, 10, 1.0), Event(2, 13, 0.5)))
    config = Compression(
        warm_up=PhaseOptions(sharpness=FORMS["all"]),
        fine_tune=FineTuneOptions(sharpness=FORMS["window"]),  # type: ignore[arg-type]
    )
    assert times.plain_steps(config) == pytest.approx(16 + 6 / 3 + 8 + 2)
    assert times.evaluated == {8, 13, 24}


def test_radii_are_refreshed_by_every_second_sharpness_aware_step() -> None:
    (net, groups), refreshed, moved = plain_net(), [], []
    options = SharpnessOptions(form=StepForm(every=2), refresh=2)
    perturber = Perturber(options)
    radii = perturber._radii

    def noted(*of: Any) -> dict[str, Tensor]:
        refreshed.append(step)
        return radii(*of)

    perturber._radii = noted  # type: ignore[method-assign]
    for step in range(14):
        moved += [step] if perturber.at(step, net, groups) is not None else []
    assert moved == [0, 2, 4, 6, 8, 10, 12]
    assert refreshed == [0, 4, 8, 12]
    assert options.interval == 4


# ----- going on


def test_directions_follow_a_cut_and_go_through_a_checkpoint() -> None:
    whole = Run(STALE)
    whole.train(0, 3)
    before = {name: tensor.clone() for name, tensor in whole.state.directions.items()}
    whole.cut()
    for name, dims in {"conv1.weight": (0,), "conv2.weight": (0, 1), "bn2.bias": (0,), "fc.weight": (1,)}.items():
        expected = before[name]
        for dim in dims:
            group = "conv2" if (name, dim) in (("conv2.weight", 0), ("bn2.bias", 0), ("fc.weight", 1)) else "conv1"
            expected = expected.index_select(dim, torch.tensor(KEPT[group]))
        assert torch.equal(whole.state.directions[name], expected)
    resumed = Run(STALE)
    resumed.cut()
    resumed.state.load({k: v.clone().contiguous() for k, v in whole.state.tensors().items()}, whole.state.metadata())
    for run in (whole, resumed):
        run.train(3, 8)
    for name, tensor in whole.state.tensors().items():
        assert torch.equal(tensor, resumed.state.tensors()[name]), name
    assert whole.records[-1].gap is None
    assert whole.records[-1].radius_shares["filters"] > 0


def recipe_of(tiny_recipe: Callable[..., Tree], sharpness: Tree, late: Tree) -> Tree:
    return tiny_recipe(
        training={"batch_size": 32, "checkpoint_every": 5, "average_decay": 0.9, "optimizer": {"learning_rate": 0.02}},
        warm_up={"epochs": 1, "sharpness": sharpness},
        pruning={"criterion": "taylor_norm"},
        fine_tune={"epochs": 1, "sharpness": {"kind": "uniform"} | late},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("late", "last_step"), [({}, 11), ({"form": {"subbatch": 0.5, "every": 2, "window": 0.75}}, 24)]
)
def test_a_run_goes_on_to_the_same_bits(
    tiny_recipe: Callable[..., Tree], tmp_path: Path, late: Tree, last_step: int
) -> None:
    """What a killed run leaves is its folder at that moment; the events come after steps 8, 10 and 13."""
    recipe = parse_recipe(recipe_of(tiny_recipe, {"variants": {"stale": {}}}, late))

    def run(folder: Path, observe: Callable[[Record], None]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = open_model(recipe.model)
        adasap.compress(model, open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe)
        return load_file(folder / "checkpoint.safetensors")

    saved: list[set[str]] = []

    def snapshot(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == last_step:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")
            saved.append(set(load_file(tmp_path / "killed" / "checkpoint.safetensors")))

    steps: list[int] = []
    whole = run(tmp_path / "whole", snapshot)
    killed = run(tmp_path / "killed", lambda record: steps.append(getattr(record, "step", 0)))
    assert min(steps) >= 10
    assert any(name.startswith("direction/") for name in saved[0]) == (last_step == 11)
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []


# ----- statistics and masks


def test_statistics_are_renewed_where_they_are_read() -> None:
    run, first = Run(FORMS["subbatch"]), batches(3)
    run.state.averaged = torch.optim.swa_utils.AveragedModel(run.state.model, use_buffers=True)
    options = PruningOptions(recalibration_batches=3)
    scoring = Scoring(build_criterion("l2"), options, run.state, TASK, run.trainer.runtime, lambda count: first[:count])
    run.train(0, 2)  # to step 6
    perturbed = run.state.model.bn1.running_mean.clone()  # type: ignore[union-attr, operator]
    scoring.renew_statistics(Timetable(5, 9, 12, 0, ()))  # nothing is evaluated now
    assert torch.equal(run.state.model.bn1.running_mean, perturbed)  # type: ignore[union-attr, arg-type]
    scoring.renew_statistics(Timetable(1, 2, 6, 0, ()))
    for model in (run.state.model, run.state.averaged.module):
        found = {name: buffer.clone() for name, buffer in model.named_buffers()}
        recalibrate_(model, first)  # type: ignore[arg-type]
        assert all(torch.equal(buffer, found[name]) for name, buffer in model.named_buffers())
    assert not torch.equal(run.state.model.bn1.running_mean, perturbed)  # type: ignore[union-attr, arg-type]
    assert [FORMS[name].clean_statistics for name in ("every", "window", "norm_only", "subbatch", "stale", "drop")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_masked_entries_take_no_part_in_a_stale_ascent() -> None:
    run = Run(STALE)
    run.state.preparation = masks = SoftMasks()
    masks.mask = SoftMask(run.state.model, run.state.groups, PruningPlan.of(run.state.groups, KEPT))
    seen: list[Tensor] = []

    class Watching(Perturber):
        def at(self, *arguments: Any) -> Any:
            perturbation = super().at(*arguments)
            assert perturbation is not None
            offsets_of = perturbation.offsets

            def offsets(parameters: Any, **options: bool) -> Any:
                seen.append(parameters["conv2.weight"].grad.clone())
                return offsets_of(parameters, **options)

            perturbation.offsets = offsets  # type: ignore[method-assign]
            return perturbation

    perturber = Watching(STALE, STEPS, run.state.directions)
    for batch in batches(2):
        run.trainer.step(batch, "pruning", perturber, None)
    (direction,) = seen  # the first step had none
    assert (direction[:, [1, 4]] == 0).all()
    assert (direction[:, [0, 2, 3, 5]] != 0).any()
    assert (run.state.directions["conv2.weight"][:, [1, 4]] != 0).any()  # what is masked keeps learning


@pytest.mark.parametrize(("name", "criterion"), [("stale", "taylor"), ("drop", "fisher"), ("norm_only", "taylor_norm")])
def test_evidence_is_collected_whatever_the_form(name: str, criterion: str) -> None:
    run = Run(FORMS[name])
    run.train(0, 3, criterion)
    assert run.state.evidence.count == 3
    assert all((mean > 0).any() for name, mean in run.state.evidence.mean().items() if name != "fc")


# ----- batches


def test_parts_of_batches() -> None:
    images, labels = torch.arange(12).view(6, 2), torch.arange(6)
    assert [len(part) for part in part_of((images, labels, ["a"] * 6), 0.5)] == [3, 3, 3]
    assert part_of({"x": images, "y": labels}, 0.01)["y"].tolist() == [0]
    assert part_of(labels, 1.0).tolist() == labels.tolist()


@pytest.mark.parametrize("batch", [[torch.zeros(4)] * 2, (torch.zeros(4), torch.zeros(3)), torch.zeros(()), 3])
def test_batches_that_cannot_be_divided_are_refused(batch: Any) -> None:
    with pytest.raises(DataError, match="cannot be divided"):
        part_of(batch, 0.5)


# ----- what is refused before work starts


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"warm_up": {"sharpness": {"form": {"subbach": 0.25}}}}, "did you mean 'subbatch'"),
        (
            {"warm_up": {"sharpness": {"form": {"every": 0}}}},
            "form.every is 0; give a whole number from 1 to 1,000,000,000",
        ),
        ({"warm_up": {"sharpness": {"kind": "plain", "form": {"every": 2}}}}, "kind plain has no perturbation"),
        ({"warm_up": {"sharpness": {"kind": "plain", "variants": {"stale": {}}}}}, "kind plain has no perturbation"),
        ({"fine_tune": {"sharpness": {"variants": {"removal": {}}}}}, "give kind: adaptive"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(
    tiny_recipe: Callable[..., Tree], sections: Tree, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tiny_recipe(**sections))


def config_of(sharpness: SharpnessOptions, *, sync: bool = False, **pruning: Any) -> Compression:
    training = TrainingOptions(batch_size=32, sync_perturbation=sync)
    return Compression(training=training, warm_up=PhaseOptions(sharpness=sharpness), pruning=PruningOptions(**pruning))


def test_forms_that_do_not_fit_the_run_are_refused() -> None:
    net, taylor, l2 = plain_net()[0], build_criterion("taylor"), build_criterion("l2")
    norm_only, stale = FORMS["norm_only"], FORMS["stale"]
    with pytest.raises(RecipeError, match="use taylor_norm"):
        require_form(config_of(norm_only, criterion="taylor"), taylor, net)
    with pytest.raises(RecipeError, match="the model has none"):
        require_form(config_of(norm_only), l2, no_norms())
    with pytest.raises(RecipeError, match="leave out one of the two"):
        require_form(config_of(norm_only, sync=True), l2, net)
    with pytest.raises(RecipeError, match="recalibration_batches is 0"):
        require_form(config_of(stale, recalibration_batches=0), l2, net)
    require_form(config_of(norm_only), build_criterion("taylor_norm"), net)
    require_form(config_of(SharpnessOptions(variants=NORMS | {"stale": {}})), taylor, net)
    require_form(config_of(stale, recalibration_batches=0), l2, no_norms())


def test_parts_of_one_image_are_refused() -> None:
    config = config_of(SharpnessOptions(form=StepForm(subbatch=0.1)))
    require_divisible(config, batches, 2)
    with pytest.raises(RecipeError, match=r"subbatch 0.1 of 8 images per process is less than two"):
        require_divisible(config, batches, 4)
    with pytest.raises(DataError, match="list cannot be divided"):
        require_divisible(config, lambda count: [list(batches(1)[0])], 1)
