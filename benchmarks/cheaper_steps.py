"""What each cheaper form of the sharpness-aware step costs in plain steps, beside the least that its passes can cost.

    python benchmarks/cheaper_steps.py --model resnet20 --threads 2 --out results/cheaper_steps_resnet20.json
    python benchmarks/cheaper_steps.py --model resnet50 --threads 2 --rounds 9 --out results/cheaper_steps_resnet50.json
    python benchmarks/cheaper_steps.py --table results/cheaper_steps_resnet20.json results/cheaper_steps_resnet50.json

All forms train the same model on the same batch in one process, in interleaved rounds of random order; new scores and
radii at every sharpness-aware step, as in a recipe. A ratio is a step's time over half of two plain steps in a row of
the same round; given are its median and quartiles, so other work on the machine, which slows a round as a whole,
matters little. `floor` counts passes alone: 1 + share of the first pass, of which `norm_only` makes about 2/3. A pass
over a quarter of a batch takes more than a quarter of the time where few images fill the processor less: `first pass`
is its median time over that of a whole pass. A form that is not taken at every step (`every`, `window`) costs the mean
of its steps, computed from the exact step's ratio; the plain ones between cost 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.groups import ChannelGroup, trace_groups
from adasap.io import atomic_write
from adasap.memory import kept_memory
from adasap.models.cifar_resnet import cifar_resnet20
from adasap.sharpness import StepForm, sharpness_aware_gradients
from adasap.tasks import part_of
from adasap.training import Perturber, SharpnessOptions

SETTINGS = {"resnet20": (cifar_resnet20, 128, 32, 10), "resnet50": (torchvision.models.resnet50, 32, 96, 1000)}
RATE = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
NORMS: dict[str, dict[str, Any]] = {"norm_only": {}}
FORMS = {
    "plain": SharpnessOptions(kind="plain"),
    "exact": SharpnessOptions(),
    "subbatch: 0.5": SharpnessOptions(form=StepForm(subbatch=0.5)),
    "subbatch: 0.25": SharpnessOptions(form=StepForm(subbatch=0.25)),
    "norm_only": SharpnessOptions(variants=NORMS),
    "norm_only, subbatch: 0.25": SharpnessOptions(variants=NORMS, form=StepForm(subbatch=0.25)),
    "stale": SharpnessOptions(variants={"stale": {}}),
    "stale, norm_only": SharpnessOptions(variants=NORMS | {"stale": {}}),
    "removal: attenuate": SharpnessOptions(variants={"removal": {}}),
    "removal: drop": SharpnessOptions(variants={"removal": {"how": "drop"}}),
}
"""Forms whose every step is alike."""

SPARSE = {"every: 2": 1 / 2, "every: 4": 1 / 4, "window: 0.25 of all steps": 1 / 4}
"""Forms that take the exact step at this share of the steps."""


@dataclass
class Times:
    """Seconds of one form in each round: per step, and per first and last pass."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)


class Contender:
    """A form's step on a batch; all contenders share the model."""

    def __init__(
        self,
        model: nn.Module,
        groups: tuple[ChannelGroup, ...],
        batch: tuple[Tensor, Tensor],
        options: SharpnessOptions,
    ) -> None:
        self.model, self.groups, self.batch = model, groups, batch
        self.options, self.perturber, self.times = options, Perturber(options), Times()
        self.optimizer = torch.optim.SGD(model.parameters(), **RATE)
        self._spent: list[float] = []

    def step(self) -> None:
        """Scores, radii, passes and SGD."""
        subbatch = self.options.form.subbatch
        perturbation = self.perturber.at(0, self.model, self.groups)
        first = None if subbatch == 1 else self._pass_over(part_of(self.batch, subbatch))
        last = self._pass_over(self.batch)
        if sharpness_aware_gradients(self.model, perturbation, last, first_pass=first).finite:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def round(self, repeats: int) -> None:
        """Steps, timed."""
        self._spent.clear()
        start = time.perf_counter()
        for _ in range(repeats):
            self.step()
        self.times.whole.append((time.perf_counter() - start) / repeats)
        passes = len(self._spent) // repeats
        self.times.last.append(self._spent[-1])
        self.times.first.append(self._spent[0] if passes == 2 else 0.0)

    def _pass_over(self, batch: tuple[Tensor, Tensor]) -> Callable[[], Tensor]:
        def loss_and_backward() -> Tensor:
            start = time.perf_counter()
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            loss.backward()
            self._spent.append(time.perf_counter() - start)
            return loss

        return loss_and_backward


def contenders(name: str, batch_size: int, pixels: int) -> dict[str, Contender]:
    """All forms on one model and one batch."""
    build, _, _, num_classes = SETTINGS[name]
    torch.manual_seed(0)
    model = build()
    batch = torch.randn(batch_size, 3, pixels, pixels), torch.randint(num_classes, (batch_size,))
    groups = trace_groups(model, batch[0][:1])
    model.train()
    return {form: Contender(model, groups, batch, options) for form, options in FORMS.items()}


def measure(forms: dict[str, Contender], rounds: int) -> Iterator[int]:
    """Interleaved rounds in random order, after one to warm up; yields after each how many there are.

    A stale direction begins with a form's second step, and the first round is of two.
    """
    names, shuffle = list(forms), random.Random(0).shuffle
    for number in range(rounds + 1):
        shuffle(names)
        for name in names:
            forms[name].round(2 if name == "plain" or number == 0 else 1)
        if number == 0:
            for form in forms.values():
                form.times = Times()
        else:
            yield number


def summary(forms: dict[str, Contender]) -> dict[str, dict[str, float]]:
    """Per form its floor, its ratio to a plain step with quartiles, and the share of its first pass."""
    plain = forms["plain"].times.whole
    one_pass = statistics.median(forms["plain"].times.last)
    rows = {}
    for name, form in forms.items():
        ratios = [whole / unit for whole, unit in zip(form.times.whole, plain, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows[name] = {
            "floor": float(form.options.passes),
            "plain_steps": middle,
            "lower_quartile": low,
            "upper_quartile": high,
            "first_pass": statistics.median(form.times.first) / one_pass,
            "median_ms": 1e3 * statistics.median(form.times.whole),
        }
    exact = rows["exact"]
    for name, share in SPARSE.items():
        mixed = {key: 1 + share * (exact[key] - 1) for key in ("plain_steps", "lower_quartile", "upper_quartile")}
        rows[name] = {"floor": 1 + share, **mixed, "first_pass": exact["first_pass"]}
    return rows


def table(files: list[Path]) -> str:
    """The ratios of several measurements side by side, in Markdown."""
    reports = [json.loads(file.read_text()) for file in files]
    titles = [f"{r['model']}, {r['pixels']} px, batch {r['batch_size']}" for r in reports]
    lines = ["| form | floor | " + " | ".join(titles) + " |", "|---|---:|" + "---:|" * len(reports)]
    for name in reports[0]["forms"]:
        cells = [
            f"{row['plain_steps']:.2f} ({row['lower_quartile']:.2f} to {row['upper_quartile']:.2f})"
            for row in (report["forms"][name] for report in reports)
        ]
        lines.append(f"| {name} | {reports[0]['forms'][name]['floor']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SETTINGS), default="resnet20")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, help="instead of the model's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", nargs="+", type=Path, help="print these results as Markdown instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    torch.set_num_threads(arguments.threads)
    _, usual, pixels, _ = SETTINGS[arguments.model]
    batch_size = arguments.batch_size or usual
    forms = contenders(arguments.model, batch_size, pixels)
    report: dict[str, Any] = {
        "unit": "plain steps (one forward, backward and SGD step), median over interleaved rounds",
        "model": arguments.model,
        "batch_size": batch_size,
        "pixels": pixels,
        "threads": arguments.threads,
        "machine": platform.processor() or platform.machine(),
        "versions": {package: importlib.metadata.version(package) for package in ("adasap", "torch", "torchvision")},
    }
    with kept_memory():
        for done in measure(forms, arguments.rounds):
            if done >= 2 and arguments.out:  # what was measured is kept, should the rest be interrupted
                report |= {"rounds": done, "forms": summary(forms)}
                with atomic_write(arguments.out) as file:
                    file.write((json.dumps(report, indent=2) + "\n").encode())
    for name, row in summary(forms).items():
        spread = f"{row['lower_quartile']:.2f} to {row['upper_quartile']:.2f}"
        first = f"floor {row['floor']:.2f}, first pass {row['first_pass']:.2f}"
        print(f"{name:28} {row['plain_steps']:.3f} ({spread}), {first}")


if __name__ == "__main__":
    main()
