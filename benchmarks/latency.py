"""How well latency tables predict, and what the knapsack buys at equal predicted latency.

    python benchmarks/latency.py                      # about 20 minutes on two quiet cores; resumes
    python benchmarks/latency.py --part engines --engines onnxruntime openvino         # about 40 minutes more

1. For ResNet-50 and MobileNet-V2 at batch 1 and 16 (224 px, float32, channels_last): measures a table, calibrates it
   on eight models, and times ten random plans that it was not made from, interleaved with the dense model. The error
   of a plan is |predicted - measured|, each in units of its own dense time. Also the time of one knapsack for half
   the latency.
2. With --cifar10 FOLDER (from `python ../shared/data/unpack.py FOLDER`) and --weights FOLDER: the pretrained ResNet-20
   and ResNet-56, cut once by L2 and by Taylor scores (2,048 training images) to shares of their predicted latency, by
   ranking and by knapsack. Kept importance, measured latency, and accuracy on the test images after norm statistics
   are estimated anew on 2,048 training images, without fine-tuning.

3. With --engines onnxruntime openvino onnxruntime-int8 openvino-int8: the same error for a table of that engine
   (batch 1 unless --batches says another), and what a plan for half the latency gains there: chosen by L2 and the
   knapsack from the engine's own table, from the eager table, and from its own with widths that are multiples of 8
   and of 16. All plans take turns with the dense model in the engine. Half of the eager time is not half of the
   engine's: the eager table asks for larger cuts, since what each call costs beside its operator does not shrink.

Rows are saved one by one; a row that is there is not made again. `--part` makes some parts alone.

Writes results/latency.json after every step and docs/results-latency.md from it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import write_json, write_page
from torch import Tensor, nn

import adasap
from adasap.criteria import build_criterion, score
from adasap.criteria.gathering import collect_evidence
from adasap.errors import BudgetError
from adasap.groups import ChannelGroup, prunable, trace_groups
from adasap.models import ModelSpec, open_model
from adasap.profiling import LatencyTable
from adasap.profiling.calibration import Accuracy, Bench, cut_copy, prediction_accuracy
from adasap.profiling.timing import Setting, TimingOptions
from adasap.pruning import (
    Budget,
    BudgetOptions,
    PruningPlan,
    apply_plan_,
    build_cost,
    select_channels,
    solve_knapsack,
)
from adasap.report import Table
from adasap.sharpness import recalibrate_

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "latency.json", ROOT / "docs" / "results-latency.md"
NETWORKS, BATCHES = ("resnet50", "mobilenet_v2"), (1, 16)
ENGINES = ("onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8")
CIFAR, SHARES = ("cifar_resnet20", "cifar_resnet56"), (0.8, 0.65, 0.5)
OPTIONS = TimingOptions(rounds=15, seconds=15.0)
NUM_PLANS = 10
"""Random plans, with seeds that the calibration does not use."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path("runs/latency"), help="folder of the tables")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cifar10", type=Path, help="folder with train.npz and test.npz")
    parser.add_argument("--weights", type=Path, help="folder with resnet20_cifar10.safetensors and resnet56_...")
    parser.add_argument("--part", choices=("all", "accuracy", "selection", "engines"), default="all")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="torchvision's names")
    parser.add_argument("--batches", nargs="+", type=int, help="of --part engines; by default 1")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[])
    parser.add_argument("--size", type=int, default=224, help="side of the images; for a trial")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each comparison of whole models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="for a trial: another file, and no page")
    parser.add_argument("--again", action="store_true", help="time the plans again, with the tables that are there")
    arguments = parser.parse_args()
    setting = Setting(threads=arguments.threads)
    arguments.tables.mkdir(parents=True, exist_ok=True)
    path, wanted = arguments.results, lambda part: arguments.part in ("all", part)
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"accuracy": {}, "selection": {}}
    if arguments.again:
        results["accuracy"] = {}
    results.setdefault("setting", setting.describe())
    for name in arguments.networks if wanted("accuracy") else ():
        for batch in BATCHES:
            if f"{name}, batch {batch}" not in results["accuracy"]:
                results["setting"] = setting.describe()
                results["accuracy"][f"{name}, batch {batch}"] = accuracy(name, batch, arguments, setting)
                write(results, path)
    for name in arguments.networks if wanted("engines") else ():
        for batch in arguments.batches or (1,):
            for engine in arguments.engines:
                title = f"{name}, batch {batch}, {engine}"
                if title not in results.setdefault("engines", {}):
                    results["engines"][title] = in_engine(name, batch, engine, arguments)
                    write(results, path)
    if arguments.cifar10 is not None and wanted("selection"):
        for name in CIFAR:
            if name not in results["selection"]:
                weights = arguments.weights / f"{name.removeprefix('cifar_')}_cifar10.safetensors"
                results["selection"][name] = selection(name, weights, arguments.cifar10, arguments.tables, setting)
                write(results, path)
    write(results, path)


def opened(name: str, size: int) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and an image."""
    torch.manual_seed(0)
    spec = ModelSpec(f"torchvision:{name}", input_size=(3, size, size))
    return open_model(spec).eval(), torch.zeros(1, 3, size, size)


def measured_table(
    name: str, batch: int, arguments: argparse.Namespace, setting: Setting
) -> tuple[Path, LatencyTable, float]:
    """The file of a network's table, the table, and the seconds that it took."""
    runtime = f"-{setting.engine}{'-int8' * setting.int8}" if setting.engine != "torch" else ""
    size = f"-{arguments.size}" if arguments.size != 224 else ""
    path, started = arguments.tables / f"{name}-{batch}{size}{runtime}.json", time.perf_counter()
    given: dict[str, Any] = {"size": arguments.size, "batch": batch, "seconds": arguments.seconds, "num_plans": 0}
    adasap.latency_table(opened(name, arguments.size)[0], path, setting=setting, console=True, **given)
    return path, LatencyTable.from_json(path.read_text()), time.perf_counter() - started


def in_engine(name: str, batch: int, engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The error of an engine's table, and what plans for half the latency gain in the engine."""
    runtime, _, int8 = engine.partition("-")
    setting = Setting(threads=arguments.threads, engine=runtime, int8=bool(int8))
    path, table, seconds = measured_table(name, batch, arguments, setting)
    eager, _, _ = measured_table(name, batch, arguments, Setting(threads=arguments.threads))
    model, example = opened(name, arguments.size)
    groups = trace_groups(model, example)
    options = replace(OPTIONS, seconds=arguments.seconds)
    bench = Bench(model, groups, example.repeat(batch, 1, 1, 1), setting, options)
    found = prediction_accuracy(table, bench, num_plans=NUM_PLANS)
    own = bench.cost(table)
    plans = {
        "own table": half_plan(model, groups, example, path, 1),
        "eager table": half_plan(model, groups, example, eager, 1),
        "own table, multiples of 8": half_plan(model, groups, example, path, 8),
        "own table, multiples of 16": half_plan(model, groups, example, path, 16),
    }
    dense_ms, *measured = bench.measure_ms([{}, *(plan.widths() for plan in plans.values() if plan)])
    times = dict(zip((title for title, plan in plans.items() if plan), measured, strict=True))
    gains = {title: dense_ms / ms for title, ms in times.items()}
    predicted = {title: own.dense / own.total(plan.widths()) for title, plan in plans.items() if plan}
    print(name, engine, f"median error {statistics.median(found.errors):.1%}, worst {max(found.errors):.1%}", gains)
    return {
        "setting": {name: value for name, value in table.settings.items() if name != "error"},
        "table_seconds": seconds,
        **figures(table, found),
        "plans_dense_ms": dense_ms,
        "plans_ms": times,
        "gains": gains,
        "predicted_gains": predicted,
    }


def figures(table: LatencyTable, found: Accuracy) -> dict[str, Any]:
    """Of a table, and of how its predictions agree with what was measured."""
    return {
        "points": sum(map(len, table.points.values())),
        "alignment": table.alignment,
        "scale": table.scale,
        "call_ms": table.call_ms,
        "dense_predicted_ms": found.dense.predicted_ms,
        "dense_measured_ms": found.dense.measured_ms,
        "errors": found.errors,
    }


def half_plan(
    model: nn.Module, groups: tuple[ChannelGroup, ...], example: Tensor, table: Path, multiple_of: int
) -> PruningPlan | None:
    """The knapsack's plan for half the latency of a table by L2; None, and a line, where there is none."""
    options = BudgetOptions(latency=0.5, latency_table=str(table))
    budget = options.of(build_cost(options, model, groups, example))
    try:
        return solve_knapsack(groups, score("l2", model, groups), budget, multiple_of=multiple_of).plan
    except BudgetError as error:
        print(error)
        return None


def accuracy(name: str, batch: int, arguments: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Table, ten random plans, and one knapsack."""
    model, example = opened(name, arguments.size)
    path, table, seconds = measured_table(name, batch, arguments, setting)
    inputs = example.repeat(batch, 1, 1, 1)
    groups = trace_groups(model, example)
    bench = Bench(model, groups, inputs, setting, replace(OPTIONS, seconds=arguments.seconds))
    found = prediction_accuracy(table, bench, num_plans=NUM_PLANS)
    scores = score("l2", model, groups)
    options = BudgetOptions(latency=0.5, latency_table=str(path))
    cost = build_cost(options, model, groups, example)
    started = time.perf_counter()
    solved = solve_knapsack(groups, scores, options.of(cost))
    solve_seconds = time.perf_counter() - started
    print(f"{name}, batch {batch}: median error {statistics.median(found.errors):.1%}, worst {max(found.errors):.1%}")
    return {
        "table_seconds": seconds,
        **figures(table, found),
        "predicted_ms": [plan.predicted_ms for plan in found.plans],
        "measured_ms": [plan.measured_ms for plan in found.plans],
        "solve_seconds": solve_seconds,
        "solve_rounds": solved.rounds,
    }


def selection(name: str, weights: Path, data: Path, folder: Path, setting: Setting) -> dict[str, Any]:
    """Ranking and knapsack at the same shares of the dense latency."""
    spec = ModelSpec(f"adasap:{name}", input_size=(3, 32, 32), weights=str(weights))
    model, example = open_model(spec).eval(), torch.zeros(1, 3, 32, 32)
    path, batch = folder / f"{name}-16.json", 16
    adasap.latency_table(model, path, setting=setting, batch=batch, seconds=10.0, num_plans=0, console=True)
    groups = trace_groups(model, example)
    cost = build_cost(BudgetOptions(latency=0.5, latency_table=str(path)), model, groups, example)
    plans: dict[str, PruningPlan] = {}
    importance: dict[str, float] = {}
    for criterion in ("l2", "taylor"):
        scores = scores_of(criterion, model, groups, data)
        whole = sum(float(scores[group.name].sum()) for group in prunable(groups))
        for share in SHARES:
            budget = Budget(cost, kept=share)
            found = {
                f"{criterion}, {share}, ranking": select_channels(groups, scores, budget),
                f"{criterion}, {share}, knapsack": solve_knapsack(groups, scores, budget).plan,
            }
            for title, plan in found.items():
                importance[title] = sum(float(scores[g][kept].sum()) for g, kept in plan.kept.items()) / whole
            plans |= found
    chosen = [{}, *(plan.widths() for plan in plans.values())]
    inputs = example.repeat(batch, 1, 1, 1)
    dense_ms, *measured = Bench(model, groups, inputs, setting, OPTIONS).measure_ms(chosen)
    rows = {"dense": {"clean": correct(model, data)}}
    for (title, plan), ms in zip(plans.items(), measured, strict=True):
        rows[title] = {
            "kept_importance": importance[title],
            "predicted_share": cost.total(plan.widths()) / cost.dense,
            "measured_share": ms / dense_ms,
            "parameters": parameters_of(model, groups, plan),
            "clean": correct(cut_and_recalibrated(model, groups, plan, data), data),
        }
        print(name, title, rows[title])
    return rows


def scores_of(criterion: str, model: nn.Module, groups: tuple[ChannelGroup, ...], data: Path) -> dict[str, Tensor]:
    """L2 of the weights, or Taylor scores from 2,048 training images."""
    measure, train = build_criterion(criterion), np.load(data / "train.npz")
    images, labels = prepared(train["images"][:2048]), torch.from_numpy(train["labels"][:2048]).long()
    batches = zip(images.split(128), labels.split(128), strict=True)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return measure.score(model, groups, collect_evidence(measure, model, groups, batches, loss))


def cut_and_recalibrated(
    model: nn.Module, groups: tuple[ChannelGroup, ...], plan: PruningPlan, data: Path
) -> nn.Module:
    cut = copy.deepcopy(model)
    apply_plan_(cut, groups, plan)
    images = prepared(np.load(data / "train.npz")["images"][:2048])
    recalibrate_(cut, images.split(128))
    return cut.eval()


def parameters_of(model: nn.Module, groups: tuple[ChannelGroup, ...], plan: PruningPlan) -> int:
    return sum(p.numel() for p in cut_copy(model, groups, plan.widths()).parameters())


def prepared(images: np.ndarray[Any, Any]) -> Tensor:
    """uint8 [N, 32, 32, 3] -> float [N, 3, 32, 32], normalised as the weights want it."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)


@torch.inference_mode()
def correct(model: nn.Module, data: Path) -> float:
    """Share of the test images that are classified correctly."""
    test = np.load(data / "test.npz")
    images, labels = prepared(test["images"]), torch.from_numpy(test["labels"]).long()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return right / len(labels)


def write(results: dict[str, Any], path: Path) -> None:
    """JSON, and the page made of it."""
    write_json(path, results)
    if path == RESULTS:
        write_page(PAGE, page(results))


def engines_table(found: dict[str, Any]) -> Table:
    """Error and gains, a row for each engine."""
    titles = ("eager table", "own table", "own table, multiples of 8", "own table, multiples of 16")
    rows = []
    for title, row in found.items():
        errors, setting = row["errors"], row["setting"]
        gains = [f"{row['gains'][name]:.2f} x" if name in row["gains"] else "none" for name in titles]
        times = f"{row['dense_predicted_ms']:.1f} / {row['dense_measured_ms']:.1f}"
        measures = [times, f"{100 * statistics.median(errors):.1f}", f"{100 * max(errors):.1f}", *gains]
        where = f"{setting['processor']}, {setting['threads']} threads, {setting['engine_version']}"
        rows.append([title, where, str(row["points"]), f"{row['table_seconds']:.0f}", *measures])
    names = ["network, engine", "processor, version", "points", "table (s)", "dense, predicted / measured (ms)"]
    return Table([*names, "median error (%)", "worst error (%)", *(f"half: {title}" for title in titles)], rows)


def page(results: dict[str, Any]) -> list[str]:
    """Both tables."""
    rows = [
        [
            title,
            str(r["points"]),
            f"{r['table_seconds']:.0f}",
            f"{r['dense_predicted_ms']:.1f} / {r['dense_measured_ms']:.1f}",
            f"{100 * statistics.median(r['errors']):.1f}",
            f"{100 * max(r['errors']):.1f}",
            f"{r['solve_seconds']:.1f}",
        ]
        for title, r in results["accuracy"].items()
    ]
    names = [
        "network",
        "points",
        "table (s)",
        "dense, predicted / measured (ms)",
        "median error (%)",
        "worst error (%)",
    ]
    accuracy_table = Table([*names, "knapsack (s)"], rows)
    chosen = [
        [
            name,
            title,
            f"{row.get('predicted_share', 1.0):.3f}",
            f"{row.get('measured_share', 1.0):.3f}",
            f"{row.get('kept_importance', 1.0):.3f}",
            f"{row['parameters']:,}" if "parameters" in row else "",
            f"{100 * row['clean']:.2f}",
        ]
        for name, found in results["selection"].items()
        for title, row in found.items()
    ]
    columns = ["network", "plan", "predicted share", "measured share", "kept importance", "parameters", "clean (%)"]
    setting = ", ".join(f"{name} {value}" for name, value in results["setting"].items())
    docs = (__doc__ or "").split("\n\n")
    return [
        "# Latency tables",
        f"`python benchmarks/latency.py` made this page ({setting}).",
        docs[2],
        str(accuracy_table),
        str(Table(columns, chosen)) if chosen else "",
        *engines_parts(results),
    ]


def engines_parts(results: dict[str, Any]) -> list[str]:
    """The engines, if any was measured."""
    found = results.get("engines", {})
    if not found:
        return []
    made = "`python benchmarks/latency.py --part engines --engines ...` made this table."
    return ["## Tables of runtimes", made, (__doc__ or "").split("\n\n")[3], str(engines_table(found))]


if __name__ == "__main__":
    main()
