"""Which architectures can be traced, cut, proven, trained, saved and exported: one row of docs/models.md each.

    python benchmarks/models.py                        # every model of benchmarks/models.txt that has no result yet
    python benchmarks/models.py --only timm:dla34      # this one, anew
    python benchmarks/models.py --report               # write docs/models.md from results/models.json only

A model passes if its channels are followed, half of its multiply-accumulates go with every group at a quarter of its
width or more, the cut equals the mask in float64 on re-drawn parameters while every wrong cut is seen, the cut model
runs forward and backward in both modes, survives saving and loading, and is exported by `torch.export` again. Each
model runs in a process of its own, with a time limit; results are written as they come, so the script can be stopped
and started again. Weights are random.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import models_report
import torch
from torch import Tensor, nn

import adasap
from adasap.errors import AdasapError
from adasap.export import atomic_write, load, save
from adasap.groups import ChannelGroup, check_cut, materialise_weights_, prunable, trace_groups, widths
from adasap.groups.check import MAX_RELATIVE_ERROR
from adasap.models import ModelSpec, open_model
from adasap.pruning import Budget, MACs, Parameters, PruningPlan, apply_plan_, select_channels

HERE = Path(__file__).parent
KEPT = 0.5
LEAST_KEPT = 0.45
LEAST_WIDTH = 0.25
PROOF_SIZES = (64, 96, 128, 160)
BUILD_SIZES = {"torchvision:inception_v3": 299}


def main() -> None:
    """Reads the options, measures what is missing, writes results and document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=HERE / "models.txt", help="file with one model name per line")
    parser.add_argument("--only", nargs="+", default=None, help="measure these anew")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--limit-s", type=float, default=1200, help="time limit per model")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "models.json")
    parser.add_argument("--document", type=Path, default=HERE.parent / "docs" / "models.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one model, in this process, to standard output
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    names = options.list.read_text().split()
    rows = json.loads(options.out.read_text())["models"] if options.out.exists() else {}
    for name in [] if options.report else options.only or [name for name in names if name not in rows]:
        rows[name] = in_own_process(name, options.limit_s)
        print(f"{name:36} {rows[name]['outcome']}", flush=True)
        write_results(options.out, {name: rows[name] for name in (*names, *rows) if name in rows})
    peer = json.loads((HERE / "models_peer.json").read_text())
    with atomic_write(options.document) as file:
        file.write(models_report.document(json.loads(options.out.read_text()), names, peer).encode())


def write_results(path: Path, rows: Mapping[str, Any]) -> None:
    """All rows and the machine, whole or not at all."""
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "adasap": adasap.__version__,
    }
    with atomic_write(path) as file:
        file.write((json.dumps({"machine": machine, "models": rows}, indent=1) + "\n").encode())


def in_own_process(name: str, limit_s: float) -> dict[str, Any]:
    """The row of one model; a crash or a timeout is a row too."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": f"over {limit_s:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"outcome": f"fails: {last[:300]}"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


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


def half_plan(model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor) -> PruningPlan:
    """Global L2 ranking down to half of the multiply-accumulates, every group at a quarter of its width or more."""
    floors = {group.name: math.ceil(LEAST_WIDTH * group.num_channels) for group in prunable(groups)}
    scores = adasap.score("l2", model, groups)
    return select_channels(groups, scores, Budget(MACs(model, groups, images), kept=KEPT), floors=floors)


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
    whole = widths(groups)
    narrow = [g.name for g in prunable(after) if g.num_channels < math.ceil(LEAST_WIDTH * whole[g.name])]
    problems = [f"below a quarter: {', '.join(narrow)}"] if narrow else []
    if not LEAST_KEPT <= row["macs_kept"] <= KEPT:
        problems.append(f"MACs kept {row['macs_kept']:.3f}")
    run_backward(cut, images)
    expected = evaluated(cut, images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.safetensors"
        save(path, cut, spec=ModelSpec(name), plan=plan, groups=groups)
        again = load(path, builder=partial(plain, name, images) if row["materialised"] else None)
    if not torch.equal(evaluated(again, images), expected):
        problems.append("the loaded model gives other outputs")
    exported = torch.export.export(cut.eval(), (images,)).module()(images)
    if not torch.allclose(exported, expected, rtol=1e-4, atol=1e-5):
        problems.append("the exported model gives other outputs")
    return problems


def run_backward(model: nn.Module, images: Tensor) -> None:
    """Forward and backward in training and evaluation mode on two images, without a trace in the statistics."""
    trial = copy.deepcopy(model)
    for training in (True, False):
        outputs = trial.train(training)(torch.cat([images, images.flip(-1)]))
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        torch.stack([leaf.square().mean() for leaf in leaves]).sum().backward()


def evaluated(model: nn.Module, images: Tensor) -> Tensor:
    """The output in evaluation mode."""
    with torch.no_grad():
        output: Tensor = model.eval()(images)
    return output


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # builders and torch.export warn about themselves
    main()
