"""How much faster a pruned model runs: eager, channels_last, compiled, onnxruntime; batch 1 and 16.

    python benchmarks/speedup.py                      # about half an hour on two quiet cores; resumes model by model

Contenders, torchvision architectures with random weights (speed does not depend on them), 224 px, float32:

  dense
  Torch-Pruning, uniform ratio of channels, about half the MACs, `round_to=16` for both of us
  ours at the same MACs, uniform ranking by L2 as the peer's
  ours at the same MACs, the knapsack's widths
  ours at half the latency that a table of the dense model's layers predicts (eager, channels_last, at the same batch)

All of a model's contenders take turns in one run, engine by engine; the ratio is dense time / pruned time, by medians.

Writes results/speedup.json after every model and docs/results-speedup.md from it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from files import write_json, write_page
from torch import Tensor, nn

import adasap
from adasap.export import export_model
from adasap.profiling.timing import Setting, time_models_ms
from adasap.pruning import MACs
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "speedup.json", ROOT / "docs" / "results-speedup.md"
MODELS, BATCHES = ("resnet50", "mobilenet_v2", "convnext_tiny"), (1, 16)
MULTIPLE = 16
ENGINES = ("eager", "channels_last", "compiled", "onnxruntime")
Run = Callable[[Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tables", type=Path, default=Path("runs/latency"), help="folder of the latency tables")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    arguments.tables.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"models": {}}
    results["setting"] = Setting(threads=arguments.threads).describe()
    packages = ("torch-pruning", "onnxruntime", "torchvision")
    results["versions"] = {name: importlib.metadata.version(name) for name in packages}
    for name in arguments.models:
        for batch in BATCHES:
            title = f"{name}, batch {batch}"
            if title not in results["models"]:
                results["models"][title] = compare(name, batch, arguments)
                write(results)
    write(results)


def compare(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of all contenders under all engines."""
    models = contenders(name, batch, arguments)
    example = torch.randn(1, 3, 224, 224)
    found: dict[str, Any] = {"macs": {t: int(MACs(m, (), example).dense) for t, m in models.items()}, "ms": {}}
    for engine in ENGINES:
        times = measured(engine, models, example, batch, arguments)
        found["ms"][engine] = {title: statistics.median(values) for title, values in times.items()}
        print(name, f"batch {batch}", engine, {t: round(ms, 1) for t, ms in found["ms"][engine].items()}, flush=True)
    return found


def contenders(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, nn.Module]:
    """Dense and pruned; what cannot be made is left out and printed."""
    torch.manual_seed(0)
    dense, example = getattr(torchvision.models, name)().eval(), torch.randn(1, 3, 224, 224)
    models = {"dense": dense}
    whole = MACs(dense, (), example).dense
    share = 0.5
    try:
        models["Torch-Pruning"] = peer(getattr(torchvision.models, name)().eval(), example)
        share = MACs(models["Torch-Pruning"], (), example).dense / whole
    except Exception as error:  # the peer's own failure is a result
        print(f"Torch-Pruning on {name}: {type(error).__name__}: {error}")
    budget = {"macs": share}
    same = adasap.prune(dense, example, "l2", budget, ranking="uniform", multiple_of=MULTIPLE)
    models["ours, same MACs"] = same.model
    solved = adasap.prune(dense, example, "l2", budget, selection="knapsack", multiple_of=MULTIPLE, min_kept=0.25)
    models["ours, same MACs, knapsack"] = solved.model
    path = arguments.tables / f"{name}-{batch}.json"
    setting = Setting(threads=arguments.threads)
    adasap.latency_table(dense, path, setting=setting, size=224, batch=batch, seconds=10.0, num_plans=0, console=True)
    half = {"latency": 0.5, "latency_table": str(path)}
    models["ours, half the latency"] = adasap.prune(dense, example, "l2", half, selection="knapsack").model
    return models


def peer(model: nn.Module, example: Tensor) -> nn.Module:
    """Torch-Pruning's quick start at a ratio of about half the MACs."""
    ignored = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.3,
        ignored_layers=ignored,
        round_to=MULTIPLE,
    ).step()
    model(example)
    return model


def measured(
    engine: str, models: dict[str, nn.Module], example: Tensor, batch: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Interleaved times of one engine."""
    compiled, channels_last = engine == "compiled", engine in ("channels_last", "compiled")
    setting = Setting(threads=arguments.threads, channels_last=channels_last, compiled=compiled)
    images = setting.batch(example, batch)
    if engine == "onnxruntime":
        with tempfile.TemporaryDirectory() as folder:
            runs = {title: onnx_run(m, example, Path(folder), arguments.threads) for title, m in models.items()}
            return time_models_ms(runs, images, rounds=arguments.rounds, seconds=5.0)
    placed: dict[str, Run] = {title: setting.place(model) for title, model in models.items()}
    with setting.applied():
        return time_models_ms(placed, images, rounds=arguments.rounds, seconds=5.0)


def onnx_run(model: nn.Module, example: Tensor, folder: Path, threads: int) -> Run:
    import onnxruntime

    path = folder / "model.onnx"
    export_model(model, example, path, to="onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})


def write(results: dict[str, Any]) -> None:
    """JSON, and the page made of it."""
    write_json(RESULTS, results)
    write_page(PAGE, page(results))


def page(results: dict[str, Any]) -> list[str]:
    """One table: how many times faster than dense under the same engine."""
    rows = []
    for model, found in results["models"].items():
        for title, macs in found["macs"].items():
            times = [found["ms"][engine] for engine in ENGINES]
            share = macs / found["macs"]["dense"]
            row = [model, title, f"{share:.3f}"]
            if title == "dense":
                row += [f"{ms['dense']:.1f} ms" for ms in times]
            else:
                row += [f"{ms['dense'] / ms[title]:.2f} x" for ms in times]
            rows.append(row)
    versions = ", ".join(f"{name} {value}" for name, value in {**results["setting"], **results["versions"]}.items())
    docs = (__doc__ or "").split("\n\n")
    return [
        "# How much faster",
        f"`python benchmarks/speedup.py` made this page ({versions}).",
        docs[2],
        "- " + docs[3].strip().replace("\n  ", "\n- "),
        docs[4],
        str(Table(["model", "contender", "share of MACs", *ENGINES], rows)),
        note(results),
    ]


def note(results: dict[str, Any]) -> str:
    """Where nothing is gained, said in words."""
    slow = [
        f"{model}, {title}, {engine} ({found['ms'][engine]['dense'] / ms:.2f} x)"
        for model, found in results["models"].items()
        for engine in ENGINES
        for title, ms in found["ms"][engine].items()
        if title != "dense" and found["ms"][engine]["dense"] < 1.1 * ms
    ]
    if not slow:
        return "Every pruned model is at least 1.1 times faster than the dense one under every engine."
    return "Nothing, or less than a tenth, is gained here: " + "; ".join(slow) + "."


if __name__ == "__main__":
    main()
