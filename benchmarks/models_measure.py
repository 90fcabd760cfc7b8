"""Everything that benchmarks/models.py asks of one model."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import adasap
from adasap.errors import AdasapError
from adasap.export import load, save
from adasap.groups import ChannelGroup, check_cut, materialise_weights_, prunable, trace_groups
from adasap.groups.check import MAX_RELATIVE_ERROR
from adasap.models import ModelSpec, open_model
from adasap.pruning import Budget, MACs, Parameters, PruningPlan, apply_plan_, select_channels

KEPT = 0.5
LEAST_KEPT = 0.45
LEAST_WIDTH = 0.25
PROOF_SIZES = (64, 96, 128, 160)
BUILD_SIZES = {"torchvision:inception_v3": 299}


def measured(name: str) -> dict[str, Any]:
    """Everything about one model; `outcome` is "works" or says what does not."""
    torch.manual_seed(0)
    model = opened(name)
    images = torch.randn(1, 3, *[input_size(name, model)] * 2)
    materialised = materialise_weights_(model, images)
    row: dict[str, Any] = {"image_size": images.shape[-1], "materialised": len(materialised)}
    start = time.perf_counter()
    groups = trace_groups(model, images)
    row["trace_s"] = time.perf_counter() - start
    row |= {"groups": len(groups), "prunable_groups": len(prunable(groups)), "frozen": frozen_because(groups)}
    row["prunable_share"] = prunable_share(model, groups)
    row["macs_reachable"] = reachable(model, groups, images)
    try:
        plan = half_plan(model, groups, images)
    except AdasapError as error:
        return row | {"outcome": f"fails: {error}"}
    problems = [
        *proof_problems(model, groups, plan, images, row),
        *use_problems(name, model, groups, plan, images, row),
    ]
    return row | {"outcome": "; ".join(problems) or "works"}


def opened(name: str, **options: Any) -> nn.Module:
    """The model of that name, in evaluation mode."""
    return open_model(ModelSpec(name, options)).eval()


def plain(name: str, images: Tensor, **options: Any) -> nn.Module:
    """The model with every weight that forward computes replaced by its value: the builder of a saved one."""
    model = opened(name, **options)
    materialise_weights_(model, images)
    return model


def input_size(name: str, model: nn.Module) -> int:
    """The side of the image that the model was made for."""
    own = getattr(model, "default_cfg", None) or {}
    return int(BUILD_SIZES.get(name) or own.get("input_size", (3, 224, 224))[-1])


def prunable_share(model: nn.Module, groups: Sequence[ChannelGroup]) -> float:
    """Share of the parameters' entries that go with some channel of a prunable group."""
    fixed = total = 0.0
    touched: dict[tuple[str, int], set[int]] = {}
    for group in prunable(groups):
        for slot in group.slots:
            touched.setdefault((slot.name, slot.dim), set()).update(slot.positions.flatten().tolist())
    for name, parameter in model.named_parameters():
        left = [size - len(touched.get((name, dim), ())) for dim, size in enumerate(parameter.shape)]
        total, fixed = total + parameter.numel(), fixed + math.prod(left)
    return 1 - fixed / total


def frozen_because(groups: Sequence[ChannelGroup]) -> dict[str, list[str]]:
    """Reason -> names of the groups it freezes, outputs left out."""
    reasons: dict[str, list[str]] = {}
    for group in groups:
        for reason in group.frozen:
            if not group.is_output:
                reasons.setdefault(reason, []).append(group.name)
    return reasons


def floors(groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """A quarter of each width."""
    return {group.name: math.ceil(LEAST_WIDTH * group.num_channels) for group in prunable(groups)}


def reachable(model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> float:
    """Share of the multiply-accumulates that is left with every group at its floor."""
    macs = MACs(model, groups, images)
    return macs.total(floors(groups)) / macs.dense


def half_plan(model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> PruningPlan:
    """Global L2 ranking down to half of the multiply-accumulates, every group at a quarter of its width or more."""
    budget = Budget(MACs(model, groups, images), kept=KEPT)
    return select_channels(groups, adasap.score("l2", model, groups), budget, floors=floors(groups))


def proof_problems(
    model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan, images: Tensor, row: dict[str, Any]
) -> list[str]:
    """Masked = cut on the smallest image that the model takes; the groups that lose nothing are not part of it."""
    inputs = smallest_inputs(model, images)
    start = time.perf_counter()
    proofs = [check_cut(model, groups, plan.kept, inputs)]
    if proofs[0].unproven:  # behind a ReLU all units that a control exchanges may be off: draw again
        proofs += [check_cut(model, groups, plan.kept, inputs, seed=seed) for seed in (1, 2)]
    control = {name: max(proof.control[name] for proof in proofs) for name in proofs[0].control}
    row |= {
        "proof_size": inputs.shape[-1],
        "proof_s": time.perf_counter() - start,
        "proof_error": max(proof.relative_error for proof in proofs),
        "proof_draws": len(proofs),
        "controlled_groups": len(control),
        "smallest_control": min(control.values(), default=None),
    }
    unproven = set.intersection(*(set(proof.unproven) for proof in proofs))
    holds = row["proof_error"] <= MAX_RELATIVE_ERROR and not unproven
    failures = [proof.training_failure for proof in proofs if proof.training_failure]
    return failures + ([] if holds else [str(proofs[-1])])


def smallest_inputs(model: nn.Module, images: Tensor) -> Tensor:
    """Two images of the smallest of a few sizes at which forward works in both modes."""
    trial = copy.deepcopy(model)
    for size in (*PROOF_SIZES, images.shape[-1]):
        inputs = torch.zeros(2, 3, size, size)
        try:
            with torch.no_grad():
                for training in (True, False):
                    trial.train(training)(inputs)
        except (RuntimeError, AssertionError, ValueError):
            continue
        return inputs
    return torch.zeros(2, *images.shape[1:])


def use_problems(
    name: str,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    images: Tensor,
    row: dict[str, Any],
) -> list[str]:
    """Cut, count, run both modes, save, load and export; what did not work."""
    dense = Parameters(model, groups).dense, MACs(model, groups, images).dense
    cut = copy.deepcopy(model)
    after = apply_plan_(cut, groups, plan)
    row["parameters_kept"] = Parameters(cut, after).dense / dense[0]
    row["macs_kept"] = MACs(cut, after, images).dense / dense[1]
    least = floors(groups)
    narrow = [g.name for g in prunable(after) if g.num_channels < least[g.name]]
    problems = [f"below a quarter: {', '.join(narrow)}"] if narrow else []
    if not LEAST_KEPT <= row["macs_kept"] <= KEPT:
        problems.append(f"MACs kept {row['macs_kept']:.3f}")
    expected = evaluated(cut, images)

    def saved_and_loaded() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cut.safetensors"
            save(path, cut, spec=ModelSpec(name), plan=plan, groups=groups)
            again = load(path, builder=partial(plain, name, images) if row["materialised"] else None)
        return "works" if torch.equal(evaluated(again, images), expected) else "gives other outputs"

    def exported() -> str:
        outputs = torch.export.export(cut.eval(), (images,)).module()(images)
        return "works" if torch.allclose(outputs, expected, rtol=1e-4, atol=1e-5) else "gives other outputs"

    steps = {"backward": partial(run_backward, cut, images), "file": saved_and_loaded, "export": exported}
    row["uses"] = {what: tried(step) for what, step in steps.items()}
    problems += [f"{what} {result}" for what, result in row["uses"].items() if result != "works"]
    return problems


def tried(step: Callable[[], str]) -> str:
    """What the step says, or how it failed."""
    try:
        return step()
    except Exception as error:  # whatever it is, the other steps are measured too
        return f"fails: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"


def run_backward(model: nn.Module, images: Tensor) -> str:
    """Forward and backward in training and evaluation mode on two images, without a trace in the statistics."""
    trial = copy.deepcopy(model)
    for training in (True, False):
        outputs = trial.train(training)(torch.cat([images, images.flip(-1)]))
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        torch.stack([leaf.square().mean() for leaf in leaves]).sum().backward()
    return "works"


def evaluated(model: nn.Module, images: Tensor) -> Tensor:
    """The output in evaluation mode."""
    with torch.no_grad():
        output: Tensor = model.eval()(images)
    return output
