"""What a sharpness-aware step costs in plain steps: AdaSAP beside pytorch-optimizer's SAM and ASAM.

    python benchmarks/step_overhead.py --models resnet20 resnet50 --rounds 15 --out results/step_overhead.json

Two passes cost 2.0 plain steps, less the one optimizer step that they share; the rest is overhead. AdaSAP's
step includes new scores and radii. All contenders train the same model on the same batch in one process, in
interleaved rounds; the ratio is taken within a round and its median over the rounds is reported. The peers'
handling of batch-norm statistics is left as it is: both of their passes update them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytorch_optimizer
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.criteria import build_criterion
from adasap.groups import trace_groups
from adasap.models.cifar_resnet import cifar_resnet20
from adasap.sharpness import AdaptivePerturbation, adaptive_radius, sharpness_aware_gradients

SETTINGS = {
    "resnet20": (cifar_resnet20, 128, 32, 10),
    "resnet50": (torchvision.models.resnet50, 8, 224, 1000),
}
RATE = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
PACKAGES = ("adasap", "torch", "torchvision", "pytorch-optimizer")

Step = Callable[[], object]


def plain_step(model: nn.Module, loss_and_backward: Callable[[], Tensor]) -> Step:
    """One pass and SGD."""
    optimizer = torch.optim.SGD(model.parameters(), **RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss_and_backward()
        optimizer.step()

    return step


def bare_step(model: nn.Module, loss_and_backward: Callable[[], Tensor]) -> Step:
    """Two passes and SGD, nothing between them: what no sharpness-aware step can fall below."""
    optimizer = torch.optim.SGD(model.parameters(), **RATE)

    def step() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            loss_and_backward()
        optimizer.step()

    return step


def adasap_step(model: nn.Module, loss_and_backward: Callable[[], Tensor], images: Tensor) -> Step:
    """Scores, radii, two passes and SGD."""
    optimizer = torch.optim.SGD(model.parameters(), **RATE)
    groups = trace_groups(model, images[:1])
    scored = [group for group in groups if not group.is_output]
    criterion = build_criterion("l2")

    def radii() -> dict[str, Tensor]:
        return adaptive_radius(criterion.score(model, scored, None), rho_min=0.01, rho_max=2.0)

    perturbation = AdaptivePerturbation(groups, radii(), midpoint=1.005)

    def step() -> None:
        perturbation.update(radii())
        if sharpness_aware_gradients(model, perturbation, loss_and_backward).finite:
            optimizer.step()

    return step


def peer_step(model: nn.Module, loss_and_backward: Callable[[], Tensor], *, rho: float, adaptive: bool) -> Step:
    """pytorch-optimizer's SAM around the same SGD, as its documentation shows it."""
    optimizer = pytorch_optimizer.SAM(model.parameters(), torch.optim.SGD, rho=rho, adaptive=adaptive, **RATE)

    def closure() -> Tensor:
        optimizer.zero_grad()
        return loss_and_backward()

    def step() -> None:
        closure()
        optimizer.step(closure)

    return step


def contenders(name: str, *, bf16: bool) -> dict[str, Step]:
    """The steps to compare, all on one model and one batch."""
    build, batch_size, pixels, num_classes = SETTINGS[name]
    torch.manual_seed(0)
    model = build()
    images, labels = torch.randn(batch_size, 3, pixels, pixels), torch.randint(num_classes, (batch_size,))

    def loss_and_backward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    adasap = adasap_step(model, loss_and_backward, images)
    model.train()
    return {
        "plain": plain_step(model, loss_and_backward),
        "two bare passes": bare_step(model, loss_and_backward),
        "adasap": adasap,
        "pytorch-optimizer SAM": peer_step(model, loss_and_backward, rho=0.05, adaptive=False),
        "pytorch-optimizer ASAM": peer_step(model, loss_and_backward, rho=0.5, adaptive=True),
    }


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round to warm up; the order rotates."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            steps[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Per contender the median milliseconds, and the median and quartiles of its ratio to the plain step."""
    rows = {}
    for name, times in seconds.items():
        ratios = [t / plain for t, plain in zip(times, seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        of_medians = statistics.median(times) / statistics.median(seconds["plain"])
        rows[name] = {
            "median_ms": 1e3 * statistics.median(times),
            "plain_steps": middle,
            "plain_steps_lower_quartile": low,
            "plain_steps_upper_quartile": high,
            "ratio_of_medians": of_medians,
        }
    return rows


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = {
        "unit": "plain steps (one forward, backward and SGD step)",
        "floor": 2.0,
        "precision": "bfloat16 autocast" if arguments.bf16 else "float32",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "models": {},
    }
    for name in arguments.models:
        _, batch_size, pixels, _ = SETTINGS[name]
        rows = summary(measure(contenders(name, bf16=arguments.bf16), arguments.rounds))
        report["models"][name] = {"batch_size": batch_size, "pixels": pixels, "steps": rows}
        for contender, row in rows.items():
            print(f"{name:10} {contender:24} {row['median_ms']:9.1f} ms  {row['plain_steps']:.3f} plain steps")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
