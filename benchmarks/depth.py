"""Depth as well as width: cuts at the same cost with and without whole residual branches, on CIFAR-10.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/depth.py --cifar10 .cache/cifar10 --weights ../shared/data/weights    # resumes

The pretrained networks, cut once by L2 scores to shares of their MACs and of their predicted latency at batch 1 (a
table measured and calibrated at the start, on one thread; the same one predicts all plans). *Width*: channels alone.
*Depth*: the budget has `depth: true`, so that whole branches may go, too, where the loss on the batches says so. 512
training images give damage, trials, norm statistics and compensation. Accuracy in per cent on test images 5,000 to
6,999: after norm statistics are renewed; after least-squares compensation and the same; and after 150 steps of plain
SGD on 5,000 other training images (batch 128, rate 0.02 falling to 0 by a cosine, momentum 0.9, seed 0) from the
renewed model. *ms*: the median of a pass of one image on one thread, the two models and the dense one taking turns.
Writes results/depth.json after every point, and docs/results-depth.md from it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_page
from selection import Images, labelled, loss, mean
from torch import Tensor, nn

import adasap
from adasap.evaluation.statistics import paired_difference
from adasap.models import ModelSpec, open_model
from adasap.profiling.timing import Setting, time_models_ms
from adasap.report import Table
from adasap.report.environment import environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "depth.json", ROOT / "docs" / "results-depth.md"
NETWORKS, SHARES, SELECTIONS = ("cifar_resnet20", "cifar_resnet56"), (0.8, 0.65, 0.5), ("ranking", "least_damage")
WAYS = {"width": False, "depth": True}
STAGES = ("renewed", "compensated", "fine-tuned")
STEPS, BATCH, RATE = 150, 128, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument("--weights", type=Path, required=True, help="folder with resnet20_cifar10.safetensors")
    parser.add_argument("--tables", type=Path, default=Path("runs/latency"), help="folder of the latency tables")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--costs", nargs="+", default=["latency", "macs"])
    parser.add_argument("--selections", nargs="+", default=list(SELECTIONS))
    parser.add_argument("--time-again", action="store_true", help="only time the cut models once more")
    arguments = parser.parse_args()
    adasap.guard_convolutions()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"points": {}}
    results["environment"] = environment()
    data, setting = Images.of(arguments.cifar10), Setting(threads=1)
    tuning = labelled(arguments.cifar10 / "train.npz", slice(512, 5512), BATCH)
    for name in arguments.networks:
        weights = arguments.weights / f"{name.removeprefix('cifar_')}_cifar10.safetensors"
        model = open_model(ModelSpec(f"adasap:{name}", input_size=(3, 32, 32), weights=str(weights))).eval()
        results["points"].setdefault(f"{name}/dense", {"renewed": data.right(model)})
        table = arguments.tables / f"{name}-1.json"
        if "latency" in arguments.costs:
            table.parent.mkdir(parents=True, exist_ok=True)
            adasap.latency_table(model, table, batch=1, seconds=5.0, num_plans=0, setting=setting, console=True)
        for cost in arguments.costs:
            budget = {"latency_table": str(table)} if cost == "latency" else {}
            for share in SHARES:
                for selection in arguments.selections:
                    point = f"{name}/{cost}/{share}/{selection}"
                    found = results["points"].setdefault(point, {})
                    for way, depth in WAYS.items():
                        if way not in found:
                            found[way] = cut(model, {cost: share, "depth": depth} | budget, selection, data, tuning)
                            write_json(RESULTS, results)
                            print(point, way, described(found[way]), flush=True)
                    if "ms" not in found or arguments.time_again:
                        found["ms"] = timed(model, {way: found[way]["plan"] for way in WAYS}, data, setting)
                        write_json(RESULTS, results)
    write_page(PAGE, page(results))


def cut(
    model: nn.Module, budget: dict[str, Any], selection: Any, data: Images, tuning: list[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """What the cut model still recognises at every stage, and what was cut."""
    pruned = adasap.prune(
        model,
        data.train[0][0][:1],
        "l2",
        budget,
        selection=selection,
        batches=data.train,
        loss=loss,
        compensate="least_squares",
        renew_norms=True,
    )
    renewed = cut_by(model, pruned.plan, data)
    adasap.recalibrate_(renewed, data.train, forward=loss)
    found = {"plan": pruned.plan.to_json(), "cost": pruned.cost_after, "unit": pruned.cost.unit}
    found |= {"renewed": data.right(renewed), "compensated": data.right(pruned.model.eval())}
    fine_tune_(renewed, tuning)
    return found | {"fine-tuned": data.right(renewed)}


def cut_by(model: nn.Module, plan: adasap.PruningPlan, data: Images) -> nn.Module:
    """A copy of the dense model, cut by a plan."""
    copied = copy.deepcopy(model)
    adasap.apply_plan_(copied, adasap.trace_groups(copied, data.train[0][0][:1]), plan)
    return copied.eval()


def fine_tune_(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Plain SGD without augmentation; the batches of an epoch in an order of its own."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model.train()
    order: list[int] = []
    for _ in range(STEPS):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        optimizer.zero_grad()
        loss(model, batches[order.pop()]).backward()
        optimizer.step()
        schedule.step()
    model.eval()


def timed(model: nn.Module, plans: dict[str, str], data: Images, setting: Setting) -> dict[str, float]:
    """Median milliseconds of a pass of one image."""
    models = {"dense": copy.deepcopy(model)}
    models |= {way: cut_by(model, adasap.PruningPlan.from_json(text), data) for way, text in plans.items()}
    with setting.applied():
        placed = {name: setting.place(one) for name, one in models.items()}
        times = time_models_ms(placed, setting.batch(data.test[0][0], 1), rounds=60, seconds=4.0)
    return {name: statistics.median(found) for name, found in times.items()}


def described(found: dict[str, Any]) -> str:
    plan = adasap.PruningPlan.from_json(found["plan"])
    scores = ", ".join(f"{stage} {100 * mean(found[stage]):.1f}" for stage in STAGES)
    return f"{scores}; out: {', '.join(plan.removed) or 'none'}"


def page(results: dict[str, Any]) -> list[str]:
    """A table for each network and cost."""
    points, parts = results["points"], []
    for name in NETWORKS:
        for cost in ("latency", "macs"):
            rows = []
            for share in SHARES:
                for selection in SELECTIONS:
                    found = points.get(f"{name}/{cost}/{share}/{selection}", {})
                    if "ms" in found:
                        rows += rows_of(f"{share}, {selection}", found)
            if rows:
                dense = 100 * mean(points[f"{name}/dense"]["renewed"])
                title = "MACs" if cost == "macs" else "predicted latency at batch 1"
                header = ["share, selection", "branches out", "ms of dense: width", "depth", "stage"]
                header += ["width, %", "depth, %", "depth - width"]
                parts += [f"## {name}, shares of the {title}", f"Dense: {dense:.1f} %.", str(Table(header, rows))]
    where = results["environment"]
    docs = (__doc__ or "").split("\n\n")
    made = f"Made with torch {where['packages']['torch']} on a processor with {where['processor']['instruction_set']}."
    return ["# Depth as well as width, at the same cost", *docs[:3], *parts, made]


def rows_of(title: str, found: dict[str, Any]) -> list[list[str]]:
    """A row for each stage."""
    ms, removed = found["ms"], adasap.PruningPlan.from_json(found["depth"]["plan"]).removed
    rows = []
    for stage in STAGES:
        width, depth = (torch.tensor([int(c) for c in found[way][stage]]).double() for way in WAYS)
        gain = paired_difference(depth, width)
        rows.append(
            [title, str(len(removed)), *(f"{ms[way] / ms['dense']:.2f}" for way in WAYS), stage]
            + [f"{100 * float(right.mean()):.1f}" for right in (width, depth)]
            + [f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"]
        )
    return rows


if __name__ == "__main__":
    main()
