"""How long tracing and one pruning event take, beside Torch-Pruning on the same model in the same run.

    python benchmarks/surgery.py --model resnet50 --repeats 5 --out results/surgery.json

Both cut a fresh torchvision model by L2 norms in a global ranking, without an optimizer, down to the same share of its
parameters: the peer goes first with its channel ratio, and what it leaves is our budget. An event is score + select +
cut for us and `step()` for the peer, which does the same three things in one call. Repeats are interleaved, medians
are reported with all values beside them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from adasap.criteria import score
from adasap.groups import trace_groups
from adasap.pruning import Budget, Parameters, apply_plan_, select_channels

Seconds = dict[str, list[float]]


def main() -> None:
    """Reads the options, runs the repeats, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50", help="name of a torchvision classifier")
    parser.add_argument("--size", type=int, default=224, help="side of the example image")
    parser.add_argument("--ratio", type=float, default=0.3, help="share of channels the peer removes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = compare(options.model, options.size, options.ratio, options.repeats, options.device)
    text = json.dumps(report, indent=2)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


def compare(name: str, size: int, ratio: float, repeats: int, device: str) -> dict[str, Any]:
    """Medians in seconds of each stage of both, and how many times faster we are."""
    images = torch.randn(1, 3, size, size, device=device)
    ours: Seconds = defaultdict(list)
    peer: Seconds = defaultdict(list)
    kept = {}
    for repeat in range(repeats + 1):  # the first is thrown away: it pays for imports and allocations
        kept["torch_pruning"] = prune_with_peer(fresh(name, device), images, ratio, peer)
        kept["adasap"] = prune_with_ours(fresh(name, device), images, kept["torch_pruning"], ours)
        if repeat == 0:
            ours.clear()
            peer.clear()
    event = [sum(stages) for stages in zip(ours["score"], ours["select"], ours["cut"], strict=True)]
    return {
        "model": name,
        "image_size": size,
        "parameters_kept": kept,
        "adasap_s": {**medians(ours), "event": statistics.median(event)},
        "torch_pruning_s": medians(peer),
        "event_speed_up": statistics.median(peer["step"]) / statistics.median(event),
        "all_values_s": {"adasap": ours, "torch_pruning": peer},
        "machine": {
            "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_pruning": importlib.metadata.version("torch-pruning"),
        },
    }


def prune_with_ours(model: nn.Module, images: Tensor, kept_fraction: float, seconds: Seconds) -> float:
    """Trace, score, select and cut once; returns the share of parameters that is left."""
    groups = timed(seconds["trace"], lambda: trace_groups(model, images))
    cost = Parameters(model, groups)
    scores = timed(seconds["score"], lambda: score("l2", model, groups))
    plan = timed(seconds["select"], lambda: select_channels(groups, scores, Budget(cost, kept=kept_fraction)))
    timed(seconds["cut"], lambda: apply_plan_(model, groups, plan))
    return sum(p.numel() for p in model.parameters()) / cost.dense


def prune_with_peer(model: nn.Module, images: Tensor, ratio: float, seconds: Seconds) -> float:
    """Build the peer's pruner and make one step; returns the share of parameters that is left."""
    dense = sum(p.numel() for p in model.parameters())
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]

    def build() -> Any:
        return torch_pruning.pruner.BasePruner(
            model,
            images,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            global_pruning=True,
            ignored_layers=[last],
        )

    pruner = timed(seconds["build"], build)
    timed(seconds["step"], pruner.step)
    return sum(p.numel() for p in model.parameters()) / dense


def fresh(name: str, device: str) -> nn.Module:
    """The model with random weights, the same ones every time."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name).to(device).eval()


def timed(into: list[float], work: Callable[[], Any]) -> Any:
    """Runs the work and appends its seconds, the device's own included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    into.append(time.perf_counter() - start)
    return result


def medians(seconds: Seconds) -> dict[str, float]:
    """Stage -> median."""
    return {stage: statistics.median(values) for stage, values in seconds.items()}


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer's
        main()
