"""How much faster a pruned model runs, in PyTorch and in runtimes, in float and in 8 bits; batch 1 and 16.

    python benchmarks/speedup.py          # about 90 minutes on two quiet cores; resumes engine by engine
                                          # (on another processor a row begins anew)

Contenders, torchvision architectures with random weights (speed does not depend on them), 224 px, float32:

  dense
  Torch-Pruning, uniform ratio of channels, about half the MACs, `round_to=16` for both of us
  ours at the same MACs, uniform ranking by L2 as the peer's
  ours at the same MACs, the knapsack's widths
  ours at half the latency that a table of the dense model's layers predicts (eager, channels_last, at the same batch)
  ours at half the latency of onnxruntime's own table, at the same batch, widths that are multiples of 8

All of a model's contenders take turns in one run, engine by engine; the ratio is dense time / pruned time, by medians.
INT8 of all contenders is post-training, per channel, by random images (speed does not depend on the scales), with the
settings of `adasap export --int8` for this processor; its ratios are to the dense float file of the same runtime, which
takes its turns with them.

Writes results/speedup.json after every engine and docs/results-speedup.md from it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from files import write_json, write_page
from torch import Tensor, nn

import adasap
from adasap.errors import BudgetError
from adasap.processor import has, saturates_int8
from adasap.profiling.timing import Setting, time_models_ms
from adasap.pruning import MACs
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "speedup.json", ROOT / "docs" / "results-speedup.md"
MODELS, BATCHES = ("resnet50", "mobilenet_v2", "convnext_tiny"), (1, 16)
MULTIPLE = 16
ENGINES = {
    "eager": {"channels_last": False},
    "channels_last": {},
    "compiled": {"compiled": True},
    "onnxruntime": {"engine": "onnxruntime"},
    "onnxruntime INT8": {"engine": "onnxruntime", "int8": True},
    "openvino": {"engine": "openvino"},
    "openvino INT8": {"engine": "openvino", "int8": True},
}
"""Column -> setting."""
FLOAT = "dense, float"
RUNTIME_TITLE = "ours, half the latency in onnxruntime"
Run = Callable[[Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="torchvision's names")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--size", type=int, default=224, help="side of the images; for a trial")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each comparison")
    parser.add_argument("--results", type=Path, default=RESULTS, help="for a trial: another file, and no page")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--tables", type=Path, default=Path("runs/latency"), help="folder of the latency tables")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    arguments.tables.mkdir(parents=True, exist_ok=True)
    path = arguments.results
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"models": {}}
    results["setting"] = Setting(threads=arguments.threads).describe()
    results["setting"].pop("processor")
    packages = ("torch-pruning", "onnxruntime", "openvino", "nncf", "torchvision")
    results["versions"] = {name: importlib.metadata.version(name) for name in packages}
    for name in arguments.models:
        for batch in arguments.batches:
            found = results["models"].setdefault(f"{name}, batch {batch}", {"macs": {}, "ms": {}})
            here = processor()
            if found.setdefault("processor", here) != here:  # ratios are of one processor
                found |= {"macs": {}, "ms": {}, "processor": here}
            todo = [engine for engine in arguments.engines if arguments.again or engine not in found["ms"]]
            if todo:
                for _ in compare(found, name, batch, todo, arguments):
                    write(results, path)
    write(results, path)


def processor() -> str:
    """Its name and what it has for 8 bits."""
    units = "without VNNI" if saturates_int8() else "with VNNI and AMX" if has("amx_tile") else "with VNNI"
    return f"{Setting().describe()['processor']}, {units}"


def compare(
    found: dict[str, Any], name: str, batch: int, engines: list[str], arguments: argparse.Namespace
) -> Iterator[str]:
    """Fills in milliseconds of all contenders under these engines, one after the other."""
    models = contenders(name, batch, arguments)
    example = torch.randn(1, 3, arguments.size, arguments.size)
    found["macs"] |= {title: int(MACs(model, (), example).dense) for title, model in models.items()}
    for engine in engines:
        times = measured(engine, models, example, batch, arguments)
        found["ms"][engine] = {title: statistics.median(values) for title, values in times.items()}
        print(name, f"batch {batch}", engine, {t: round(ms, 1) for t, ms in found["ms"][engine].items()}, flush=True)
        yield engine


def contenders(name: str, batch: int, arguments: argparse.Namespace) -> dict[str, nn.Module]:
    """Dense and pruned; what cannot be made is left out and printed."""
    torch.manual_seed(0)
    dense, size = getattr(torchvision.models, name)().eval(), arguments.size
    example = torch.randn(1, 3, size, size)
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
    for engine, multiple, title in (("torch", 1, "ours, half the latency"), ("onnxruntime", 8, RUNTIME_TITLE)):
        suffix = f"{f'-{size}' if size != 224 else ''}{f'-{engine}' if engine != 'torch' else ''}"
        path = arguments.tables / f"{name}-{batch}{suffix}.json"
        setting = Setting(threads=arguments.threads, engine=engine)
        given: dict[str, Any] = {"size": size, "batch": batch, "seconds": 2 * arguments.seconds, "num_plans": 0}
        adasap.latency_table(dense, path, setting=setting, console=True, **given)
        half = {"latency": 0.5, "latency_table": str(path)}
        try:
            cut = adasap.prune(dense, example, "l2", half, selection="knapsack", multiple_of=multiple)
        except BudgetError as error:  # that a table leaves no plan is a result, too
            print(f"{title}: {error}")
        else:
            models[title] = cut.model
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
    setting = Setting(threads=arguments.threads, **ENGINES[engine])
    images = setting.batch(example, batch)
    with setting.applied():
        placed: dict[str, Run] = {title: setting.ready(model, images) for title, model in models.items()}
        if setting.int8:
            placed[FLOAT] = replace(setting, int8=False).ready(models["dense"], images)
        return time_models_ms(placed, images, rounds=arguments.rounds, seconds=arguments.seconds)


def write(results: dict[str, Any], path: Path) -> None:
    """JSON, and the page made of it."""
    write_json(path, results)
    if path == RESULTS:
        write_page(PAGE, page(results))


def page(results: dict[str, Any]) -> list[str]:
    """One table: how many times faster than dense under the same engine."""
    rows = []
    for model, found in results["models"].items():
        for title, macs in found["macs"].items():
            share = macs / found["macs"]["dense"]
            cells = [cell(found["ms"].get(engine, {}), title) for engine in ENGINES]
            rows.append([f"{model} ({found['processor']})", title, f"{share:.3f}", *cells])
    versions = ", ".join(f"{name} {value}" for name, value in {**results["setting"], **results["versions"]}.items())
    docs = (__doc__ or "").split("\n\n")
    return [
        "# How much faster",
        f"`python benchmarks/speedup.py` made this page ({versions}).",
        docs[2],
        "- " + docs[3].strip().replace("\n  ", "\n- "),
        docs[4],
        str(Table(["model", "contender", "share of MACs", *ENGINES], rows)),
        int8_note(results),
        note(results),
    ]


def cell(ms: dict[str, float], title: str) -> str:
    """Milliseconds of the dense model, ratios of the others; of INT8 always the ratio to the dense float file."""
    if title not in ms:
        return ""
    if FLOAT in ms:
        return f"{ms[FLOAT] / ms[title]:.2f} x"
    return f"{ms['dense']:.1f} ms" if title == "dense" else f"{ms['dense'] / ms[title]:.2f} x"


def int8_note(results: dict[str, Any]) -> str:
    """Pruned and INT8 against the dense float model, each in the runtime that is best for it."""
    lines = []
    for model, found in results["models"].items():
        floats = {engine: ms["dense"] for engine, ms in found["ms"].items() if "INT8" not in engine}
        pruned = {
            (title, engine): ms[title]
            for engine, ms in found["ms"].items()
            if "INT8" in engine
            for title in ms
            if title.startswith("ours")
        }
        if floats and pruned:
            (title, engine), best = min(pruned.items(), key=lambda pair: pair[1])
            dense, least = min(floats.items(), key=lambda pair: pair[1])
            lines.append(
                f"- {model} ({found['processor']}): {least / best:.2f} x "
                f"({title}, {engine}: {best:.1f} ms; {dense}: {least:.1f} ms)"
            )
    if not lines:
        return ""
    head = "Pruned and INT8 against the dense float model, each in its best engine:"
    return "\n".join([head, "", *lines])


def note(results: dict[str, Any]) -> str:
    """Where nothing is gained, said in words."""
    slow = [
        f"{model}, {title}, {engine} ({found['ms'][engine]['dense'] / ms:.2f} x)"
        for model, found in results["models"].items()
        for engine in ENGINES
        if engine in found["ms"]
        for title, ms in found["ms"][engine].items()
        if title not in ("dense", FLOAT) and found["ms"][engine]["dense"] < 1.1 * ms
    ]
    if not slow:
        return "Every pruned model is at least 1.1 times faster than the dense one under every engine."
    return "Nothing, or less than a tenth, is gained here: " + "; ".join(slow) + "."


if __name__ == "__main__":
    main()
