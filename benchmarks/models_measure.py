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

import models_transformers
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
CLIPS = frozenset(f"torchvision:{name}" for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "mvit_v2_s"))
CLIP_FRAMES = 16
BUILD_SIZES = {"torchvision:inception_v3": 299, "torchvision:ssd300_vgg16": 300, "torchvision:mvit_v2_s": 224}


def measured(name: str) -> dict[str, Any]:
    """Everything about one model; `outcome` is "works" or says what does not.

    A name may have options of its builder behind it: `timm:vit_small_patch14_dinov2 img_size=224`.
    """
    torch.manual_seed(0)
    model = opened(name)
    images = example_of(name, model)
    materialised = materialise_weights_(model, images)
    row: dict[str, Any] = {"image_size": images.shape[-1], "materialised": len(materialised)}
    start = time.process_time()
    groups = trace_groups(model, images)
    row["trace_cpu_s"] = time.process_time() - start
    row |= {"groups": len(groups), "prunable_groups": len(prunable(groups)), "frozen": frozen_because(groups)}
    row["prunable_share"] = prunable_share(model, groups)
    row["inexact_share"] = inexact_share(model, groups, images)
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
    builder, *given = name.split()
    family, _, inner = builder.partition(":")
    if family == "transformers":
        return open_model(ModelSpec(builder, options), builder=partial(models_transformers.build, inner)).eval()
    return open_model(ModelSpec(builder, {**_options(given), **options})).eval()


def _options(given: Sequence[str]) -> dict[str, Any]:
    return {key: int(value) for key, _, value in (text.partition("=") for text in given)}


def plain(name: str, images: Tensor, **options: Any) -> nn.Module:
    """The model with every weight that forward computes replaced by its value: the builder of a saved one."""
    model = opened(name, **options)
    materialise_weights_(model, images)
    return model


def example_of(name: str, model: nn.Module) -> Tensor:
    """One image or clip: of the smallest of a few sizes that the model takes, or of the size it was made for."""
    family, _, inner = name.partition(":")
    if family == "transformers":
        size = models_transformers.image_size(inner, model)
        clip = models_transformers.frames(model)
        return torch.randn(1, *((clip, 3) if clip else (3,)), size, size)
    own = getattr(model, "default_cfg", None) or {}
    told = _options(name.split()[1:]).get("img_size") or BUILD_SIZES.get(name)
    made_for = told or int(own.get("input_size", (3, 224, 224))[-1])
    lead = (1, 3, CLIP_FRAMES) if name in CLIPS else (1, 3)
    for size in (128, 160, 192):
        images = torch.randn(*lead, size, size)
        if size < made_for and not told and _runs(model, images):
            return images
    return torch.randn(*lead, made_for, made_for)


def _runs(model: nn.Module, images: Tensor) -> bool:
    trial = copy.deepcopy(model)
    try:
        with torch.no_grad():
            for training in (True, False):
                trial.train(training)(torch.cat([images, images]))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True


def inexact_share(model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> float:
    """`prunable_share` with the groups under a norm over their channels."""
    mixed = ("normalises over", "mixes the channels")
    if not any(word in reason for group in groups for reason in group.frozen for word in mixed):
        return prunable_share(model, groups)
    return prunable_share(model, trace_groups(model, images, allow_inexact=True))


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
    start = time.process_time()
    proofs = [check_cut(model, groups, plan.kept, inputs)]
    if proofs[0].unproven:  # behind a ReLU all units that a control exchanges may be off: draw again
        proofs += [check_cut(model, groups, plan.kept, inputs, seed=seed) for seed in (1, 2)]
    control = {name: max(proof.control[name] for proof in proofs) for name in proofs[0].control}
    row |= {
        "proof_size": inputs.shape[-1],
        "proof_cpu_s": time.process_time() - start,
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
    for size in PROOF_SIZES:
        inputs = torch.zeros(1, *images.shape[1:-2], size, size)
        if size < images.shape[-1] and _runs(model, inputs):
            return torch.cat([inputs, inputs])
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
    spec = ModelSpec(name.split()[0], _options(name.split()[1:]))
    own = row["materialised"] or name.startswith("transformers:")

    def saved_and_loaded() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cut.safetensors"
            save(path, cut, spec=spec, plan=plan, groups=groups)
            again = load(path, builder=partial(plain, name.split()[0], images) if own else None)
        return "works" if all(map(torch.equal, evaluated(again, images), expected)) else "gives other outputs"

    def exported() -> str:
        outputs = tensors_of(torch.export.export(cut.eval(), (images,)).module()(images))
        same = partial(torch.allclose, rtol=1e-4, atol=1e-5)
        return "works" if all(map(same, outputs, expected)) else "gives other outputs"

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
        torch.stack([leaf.square().mean() for leaf in tensors_of(outputs) if leaf.requires_grad]).sum().backward()
    return "works"


def evaluated(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The outputs in evaluation mode."""
    with torch.no_grad():
        return tensors_of(model.eval()(images))


def tensors_of(outputs: Any) -> list[Tensor]:
    """All tensors of floating point that a model returns, in order."""
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
