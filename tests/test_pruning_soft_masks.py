"""Soft masks: what is masked is trained as if it were cut, except that it learns on and may come back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

import adasap
from adasap.criteria import GradientCriterion, ReadingSide, build_criterion, reading_side, score
from adasap.errors import RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.extras.soft_mask import SoftMask, SoftMasks
from adasap.groups import masked
from adasap.models import open_model
from adasap.pruning import PruningOptions, PruningPlan
from adasap.sharpness import PerturbationOptions, recalibrate_
from adasap.training import PruneRecord, Record, Runtime, RuntimeOptions, SharpnessOptions, StepRecord, ignore
from adasap.training.checkpoint import read_checkpoint
from adasap.training.loop import Trainer
from adasap.training.optimizer import OptimizerOptions, ScheduleOptions
from adasap.training.options import TrainingOptions
from adasap.training.perturbation_schedule import Perturber
from adasap.training.pruning_event import cut_, hold_back_
from adasap.training.scoring import Scoring
from adasap.training.start import open_state
from adasap.training.state import TrainingState
from criteria_nets import plain_net

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]
Batch = tuple[Tensor, Tensor]
KEPT = {"conv1": [0, 2, 3, 5], "conv2": [1, 2, 3]}


class Labels(adasap.ClassificationTask):
    """Classification of images that are floats already."""

    def prepare(self, batch: Any, device: torch.device) -> Any:
        return batch


TASK = Labels(mean=(0.0,) * 3, std=(1.0,) * 3)


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 6, 6, generator=generator), torch.arange(8) % 3) for _ in range(count)]


def opened(precision: Literal["float32", "bf16"] = "float32", **optimizer: Any) -> tuple[TrainingState, Trainer]:
    """A training state on the small net, and its loop."""
    net, groups = plain_net()
    for norm in (net.bn1, net.bn2):
        nn.init.zeros_(norm.bias)  # so that no channel is dead
    runtime = Runtime(RuntimeOptions(device="cpu", precision=precision, channels_last=False))
    options = TrainingOptions(
        optimizer=OptimizerOptions(learning_rate=0.01, **optimizer), schedule=ScheduleOptions("constant")
    )
    state = open_state(net, groups, options, runtime, None, SoftMasks())
    return state, Trainer(state, TASK, runtime, options, num_steps=9, warm_up_steps=0, seed=0, observe=ignore)


def trained(trainer: Trainer, sharpness: SharpnessOptions, count: int) -> None:
    for batch in batches(count):
        trainer.step(batch, "pruning", Perturber(sharpness), None)


STEPS = {
    "plain": SharpnessOptions(kind="plain"),
    "SAM": SharpnessOptions(kind="uniform", rho=0.5, perturbation=PerturbationOptions(geometry="euclidean")),
    "ASAM": SharpnessOptions(kind="uniform", rho=0.5),
}


@pytest.mark.filterwarnings("ignore:bf16 is emulated")
@pytest.mark.parametrize(
    ("steps", "precision"), [("plain", "float32"), ("SAM", "float32"), ("ASAM", "float32"), ("SAM", "bf16")]
)
def test_what_is_not_masked_is_trained_as_in_the_cut_model(steps: str, precision: Literal["float32", "bf16"]) -> None:
    (hidden, masking), (cut, cutting) = opened(precision), opened(precision)
    close = {"rtol": 1e-3, "atol": 1e-5} if precision == "float32" else {"rtol": 2e-2, "atol": 2e-3}
    plan = PruningPlan.of(hidden.groups, KEPT)
    probe = batches(1)[0][0]
    assert hold_back_(hidden, plan, probe) < 1e-5
    assert cut_(cut, plan, probe)[0] < 1e-5
    trained(masking, STEPS[steps], 4)
    trained(cutting, STEPS[steps], 4)
    assert cut_(hidden, plan, probe)[0] < 1e-5
    for name, tensor in cut.model.state_dict().items():
        torch.testing.assert_close(hidden.model.state_dict()[name], tensor, **close)
    momenta = zip(hidden.optimizer.state.values(), cut.optimizer.state.values(), strict=True)
    for ours, theirs in momenta:
        torch.testing.assert_close(ours["momentum_buffer"], theirs["momentum_buffer"], **close)


def test_readers_of_masked_channels_learn_straight_through_the_mask() -> None:
    state, trainer = opened(weight_decay=0.0, options={"momentum": 0.0})
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    images, labels = batches(1)[0]
    with masked(state.model, state.groups, PruningPlan.of(state.groups, KEPT).kept):
        leaves = {name: p.detach().clone().requires_grad_() for name, p in state.model.named_parameters()}
    state.model.train()
    nn.functional.cross_entropy(functional_call(state.model, leaves, (images,)), labels).backward()
    state.preparation.hold_(state.model, state.groups, PruningPlan.of(state.groups, KEPT))
    trained(trainer, STEPS["plain"], 1)
    for name, parameter in state.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.01 * leaves[name].grad)  # type: ignore[operator]
    masked_readers = state.model.conv2.weight[:, [1, 4]].detach()  # type: ignore[union-attr, index]
    assert (masked_readers != before["conv2.weight"][:, [1, 4]]).any(0).all()


def test_an_ascent_leaves_masked_entries_where_they_are() -> None:
    state, trainer = opened()
    state.preparation.hold_(state.model, state.groups, PruningPlan.of(state.groups, KEPT))
    seen: list[Tensor] = []

    class Watching(Perturber):
        def at(self, *arguments: Any) -> Any:
            perturbation = super().at(*arguments)
            assert perturbation is not None
            offsets_of = perturbation.offsets

            def offsets(parameters: Any, **options: bool) -> Any:
                found = offsets_of(parameters)
                seen.append(dict(zip(found.names, found.multiplied(), strict=True))["conv2.weight"].clone())
                return offsets_of(parameters, **options)

            perturbation.offsets = offsets  # type: ignore[method-assign]
            return perturbation

    trainer.step(batches(1)[0], "pruning", Watching(STEPS["SAM"]), None)
    assert (seen[0][:, [1, 4]] == 0).all()
    assert (seen[0][1:, [0, 2, 3, 5]] != 0).all()


def test_a_plan_counts_what_is_masked_and_what_comes_back() -> None:
    net, groups = plain_net()
    mask = SoftMask(net, groups, PruningPlan.of(groups, KEPT))
    assert mask.num_masked == 3
    assert mask.returning(PruningPlan.of(groups, KEPT)) == 0
    assert mask.returning(PruningPlan.of(groups, {"conv1": [1, 2], "conv2": [0, 1, 2, 3]})) == 2


def test_the_mask_goes_through_a_checkpoint() -> None:
    state, _ = opened()
    hold_back_(state, PruningPlan.of(state.groups, KEPT), batches(1)[0][0])
    other, _ = opened()
    other.load(state.tensors(), state.metadata())
    images = batches(2)[1][0]
    outputs = []
    for opened_state in (state, other):
        with opened_state.preparation.applied():
            outputs.append(opened_state.model.eval()(images))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], state.model(images))


# The side that reads


def test_scores_are_of_the_slices_that_read_a_channel() -> None:
    net, groups = plain_net()
    sums = net.conv2.weight.detach().abs().sum((0, 2, 3))
    scores = score(ReadingSide(build_criterion("l1")), net, groups)
    torch.testing.assert_close(scores["conv1"], sums / sums.mean())
    torch.testing.assert_close(
        scores["conv2"], net.fc.weight.detach().abs().sum(0) / net.fc.weight.detach().abs().sum(0).mean()
    )
    assert reading_side(groups) is reading_side(groups)
    assert reading_side(groups)[2] is groups[2]  # nothing reads the classifier's rows


@pytest.mark.parametrize("name", ["taylor", "taylor2", "fisher"])
def test_masked_channels_have_evidence(name: str) -> None:
    state, trainer = opened()
    hold_back_(state, PruningPlan.of(state.groups, KEPT), batches(1)[0][0])
    for batch in batches(2):
        trainer.step(batch, "pruning", Perturber(STEPS["SAM"]), ReadingSide(build_criterion(name)))
    evidence = state.evidence.mean()
    assert (evidence["conv1"] > 0).all()
    assert (evidence["conv2"] > 0).all()


def test_behind_a_relu_the_products_on_the_reading_side_are_those_of_the_norms() -> None:
    net, groups = plain_net()
    images, labels = batches(1)[0]
    nn.functional.cross_entropy(net(images), labels).backward()
    reading = ReadingSide(build_criterion("taylor")).batch_evidence(net, groups)
    norms = build_criterion("taylor_norm")
    assert isinstance(norms, GradientCriterion)
    for name, evidence in norms.batch_evidence(net, groups[:2]).items():
        torch.testing.assert_close(reading[name], evidence, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["activation_mean", "hutchinson"])
def test_a_look_at_batches_sees_the_dense_model_with_its_own_statistics(name: str) -> None:
    state, trainer = opened()
    criterion = ReadingSide(build_criterion(name, num_batches=1))
    options = PruningOptions(criterion=name, recalibration_batches=2)
    scoring = Scoring(criterion, options, state, TASK, trainer.runtime, batches)
    hold_back_(state, PruningPlan.of(state.groups, KEPT), batches(1)[0][0])
    scoring.recalibrate()
    before = {key: tensor.clone() for key, tensor in state.model.state_dict().items()}
    scores = scoring.score()
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.model.state_dict().items())
    assert state.preparation.num_held
    other, _ = opened()
    dense = other.model
    recalibrate_(dense, batches(2))
    gathered = criterion.gather(dense, state.groups, batches(1), TASK.loss)
    expected = criterion.score(dense, state.groups, gathered)
    torch.testing.assert_close(scores, expected)
    assert not torch.equal(
        before["bn2.running_mean"], dense.state_dict()["bn2.running_mean"]
    )  # the mask shifts what comes after it


# In a run


def soft(**pruning: Any) -> Tree:
    return {"prepare": {"kind": "soft_masks"}, **pruning}


def compressed(tree: Tree, folder: Path | None = None, observe: Callable[[Record], None] = ignore) -> adasap.Result:
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    return adasap.compress(
        open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe
    )


@pytest.mark.slow
def test_channels_come_back_until_the_last_event_cuts(tiny_recipe: TinyRecipe) -> None:
    records: list[Record] = []
    result = compressed(tiny_recipe(pruning=soft(criterion="taylor", events=4)), observe=records.append)
    events = [record for record in records if isinstance(record, PruneRecord)]
    assert [event.removed > 0 for event in events] == [False, False, False, True]
    assert [event.masked > 0 for event in events] == [True, True, True, False]
    assert events[0].returned == 0
    assert sum(event.returned for event in events) > 0
    assert all(0.7 * event.cost_limit < event.cost <= event.cost_limit for event in events)
    assert all(event.mask_error < 1e-5 for event in events)
    assert result.plan.widths() != result.plan.num_channels
    shapes = {name: tuple(p.shape) for name, p in result.model.named_parameters()}
    assert shapes["blocks.0.conv1.weight"][0] == result.plan.widths()["blocks.0.conv1"]


@pytest.mark.slow
@pytest.mark.parametrize(("criterion", "average"), [("taylor", None), ("activation_mean", 0.9)])
def test_a_resumed_run_goes_on_under_its_masks(
    tiny_recipe: TinyRecipe, tmp_path: Path, criterion: str, average: float | None
) -> None:
    """The events come after steps 8, 10, 12 and 14; each leaves a checkpoint."""
    training = {"checkpoint_every": 3, "average_decay": average}
    warm_up = {"sharpness": {"refresh": 3}}
    tree = tiny_recipe(pruning=soft(criterion=criterion, events=4), training=training, warm_up=warm_up)

    def snapshot(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step in (9, 13, 15):
            shutil.copytree(tmp_path / "whole", tmp_path / f"killed{record.step}")

    compressed(tree, tmp_path / "whole", snapshot)
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    for step, begun, masks in ((9, 8, True), (13, 12, True), (15, 14, False)):
        metadata = read_checkpoint(tmp_path / f"killed{step}" / "checkpoint.safetensors")[1]
        assert metadata["counters"]["step"] == begun
        assert (metadata["preparation"] is not None) is masks
        compressed(tree, tmp_path / f"killed{step}")
        resumed = load_file(tmp_path / f"killed{step}" / "checkpoint.safetensors")
        assert whole.keys() == resumed.keys()
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_one_event_leaves_nothing_to_mask(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(RecipeError, match=r"only one; give pruning\.events of at least 2"):
        parse_recipe(tiny_recipe(pruning=soft(schedule="one_shot")))
    with pytest.raises(RecipeError, match=r"only one; give pruning\.events of at least 2"):
        parse_recipe(tiny_recipe(pruning=soft(events=1)))
    with pytest.raises(RecipeError, match=r"only one fits into the window; give a larger pruning\.epochs"):
        compressed(tiny_recipe(pruning=soft(every=30)))
