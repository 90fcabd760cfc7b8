"""What a sharpness-aware step costs in plain steps: AdaSAP beside pytorch-optimizer's SAM and ASAM.

    python benchmarks/step_overhead.py --models resnet20 resnet50 --rounds 15 --out results/step_overhead.json

Two passes cost 2.0 plain steps, less the one optimizer step that they share; the rest is overhead. AdaSAP's
step includes new scores and radii. All contenders train the same model on the same batch in one process, in
interleaved rounds of random order.

Forward and backward passes are the same work for all of them and vary by several percent from one to the next,
more than the overhead that is looked for. So the passes are timed apart: `own` is the median of what a contender
does outside its passes, optimizer step included, and its cost is (passes x pass + own) / (pass + own of plain)
with one median pass over all contenders. The least own work of all rounds stands beside it: other work on the machine
disturbs it least, and a small `--batch-size` gives many rounds soon. The ratio as the clock saw it, within a round,
stands beside it with its quartiles; there the unit is half of two plain steps in a row, since the median of a sum of
two skewed times is more than twice the median of one. The peers' handling of batch-norm statistics is left as it is:
both of their passes update them. The process keeps its memory, as `adasap compress` does: otherwise each pass waits for
the system to map what the one before gave back, and by how much depends on what lies between the two.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_optimizer
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.criteria import build_criterion
from adasap.groups import trace_groups
from adasap.memory import kept_memory
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


class TimedPass:
    """Forward and backward of one batch, and the seconds that they took."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool) -> None:
        self.model, self.images, self.labels, self.bf16 = model, images, labels, bf16
        self.seconds: list[float] = []

    def __call__(self) -> Tensor:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
            loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.seconds.append(time.perf_counter() - start)
        return loss.detach()


def contenders(name: str, *, bf16: bool, batch_size: int) -> tuple[dict[str, Step], TimedPass]:
    """The steps to compare, all on one model and one batch, and their common pass."""
    build, _, pixels, num_classes = SETTINGS[name]
    torch.manual_seed(0)
    model = build()
    images, labels = torch.randn(batch_size, 3, pixels, pixels), torch.randint(num_classes, (batch_size,))
    one_pass = TimedPass(model, images, labels, bf16=bf16)
    adasap = adasap_step(model, one_pass, images)
    model.train()
    steps = {
        "plain": plain_step(model, one_pass),
        "two bare passes": bare_step(model, one_pass),
        "adasap": adasap,
        "pytorch-optimizer SAM": peer_step(model, one_pass, rho=0.05, adaptive=False),
        "pytorch-optimizer ASAM": peer_step(model, one_pass, rho=0.5, adaptive=True),
    }
    return steps, one_pass


@dataclass
class Times:
    """Seconds per step of one contender in each round: all of it, and what lies outside its passes."""

    whole: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)


def measure(steps: dict[str, Step], one_pass: TimedPass, rounds: int) -> dict[str, Times]:
    """Interleaved rounds in random order, after one to warm up."""
    names = list(steps)
    times = {name: Times() for name in names}
    shuffle = random.Random(0).shuffle
    for number in range(rounds + 1):
        shuffle(names)
        for name in names:
            repeats = 2 if name == "plain" else 1
            one_pass.seconds.clear()
            start = time.perf_counter()
            for _ in range(repeats):
                steps[name]()
            whole = time.perf_counter() - start
            if number:
                times[name].whole.append(whole / repeats)
                times[name].own.append((whole - sum(one_pass.seconds)) / repeats)
                times[name].passes += one_pass.seconds
    return times


def summary(times: dict[str, Times]) -> dict[str, dict[str, float]]:
    """Per contender its median milliseconds, its own work, and both forms of its cost in plain steps."""
    one_pass = statistics.median(seconds for t in times.values() for seconds in t.passes)
    unit = one_pass + statistics.median(times["plain"].own)
    rows = {}
    for name, t in times.items():
        ratios = [whole / plain for whole, plain in zip(t.whole, times["plain"].whole, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        own, num_passes = statistics.median(t.own), 1 if name == "plain" else 2
        rows[name] = {
            "plain_steps": (num_passes * one_pass + own) / unit,
            "own_ms": 1e3 * own,
            "own_least_ms": 1e3 * min(t.own),
            "pass_ms": 1e3 * statistics.median(t.passes),
            "median_ms": 1e3 * statistics.median(t.whole),
            "clock_ratio": middle,
            "clock_ratio_lower_quartile": low,
            "clock_ratio_upper_quartile": high,
        }
    return rows


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, help="instead of each model's own")
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
        _, usual_batch_size, pixels, _ = SETTINGS[name]
        batch_size = arguments.batch_size or usual_batch_size
        steps = contenders(name, bf16=arguments.bf16, batch_size=batch_size)
        with kept_memory():
            rows = summary(measure(*steps, arguments.rounds))
        report["models"][name] = {"batch_size": batch_size, "pixels": pixels, "steps": rows}
        for contender, row in rows.items():
            print(
                f"{name:10} {contender:24} {row['plain_steps']:.3f} plain steps   own work {row['own_ms']:6.1f} ms "
                f"(least {row['own_least_ms']:.1f})   "
                f"by the clock {row['clock_ratio']:.3f} ({row['median_ms']:.0f} ms)"
            )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
