"""What INT8 costs, clean and corrupted: networks, float and of 8 bits by each library.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/int8.py                    # resumes cell by cell; files of the networks stay in runs/int8
    python benchmarks/int8.py --no-times         # scores alone; the same call without it measures the times
    python benchmarks/int8.py --small            # some images and corruptions, into runs/int8/small: does it run?

A detector and a network for masks are those of a recipe; one without a finished run is trained by `adasap compress`.

Writes results/int8.json after every cell and docs/results-int8.md from it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_page
from torch import Tensor, nn

import adasap
from adasap.corruptions import BENCHMARK
from adasap.data import DataSource, PreparationTime, SomeImages, open_dataset
from adasap.evaluation import Cell, Loading, SuiteSource, open_suite
from adasap.evaluation.statistics import Interval, paired_difference
from adasap.experiments.export_options import Int8Options
from adasap.experiments.int8 import open_calibration
from adasap.experiments.name_models import open_any
from adasap.export import Calibration, Check, export_model
from adasap.export.runtimes import InItsRuntime
from adasap.export.targets import ExecuTorch, Onnx, OpenVino
from adasap.processor import saturates_int8
from adasap.profiling.timing import Setting, time_models_ms
from adasap.report import Table
from adasap.report.environment import environment
from adasap.tasks.classification.task import ClassificationTask

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "int8.json", ROOT / "docs" / "results-int8.md"
SEVERITY, HALF = 3, (0.5, 0.5, 0.5)
FLOAT = "float, onnxruntime"
FULL, REDUCED = "INT8 onnxruntime, per channel, full range", "INT8 onnxruntime, per channel, reduce_range"
TENSOR, NNCF = "INT8 onnxruntime, per tensor, full range", "INT8 OpenVINO, NNCF"
FOUR_BITS, FLOAT_OPENVINO = "weights of 4 bits, simulated", "float, OpenVINO"
FLOAT_EXECUTORCH, TORCHAO = "float, ExecuTorch", "INT8 ExecuTorch, torchao"
VARIANTS = (FLOAT, FULL, REDUCED, TENSOR, NNCF, FOUR_BITS)
SCORED = (FLOAT, FULL, REDUCED, TENSOR, NNCF, TORCHAO, FOUR_BITS)
TIMED = (*SCORED[:-1], FLOAT_OPENVINO, FLOAT_EXECUTORCH)
TARGETS: dict[str, Any] = {NNCF: OpenVino, FLOAT_OPENVINO: OpenVino, TORCHAO: ExecuTorch, FLOAT_EXECUTORCH: ExecuTorch}
"""Of all other variants onnxruntime's."""
ENDINGS: dict[Any, str] = {Onnx: ".onnx", OpenVino: ".xml", ExecuTorch: ".pte"}


@dataclass(frozen=True)
class Network:
    """A pretrained network, the images it is calibrated and checked by, and how many."""

    builder: str
    weights: str
    data: str
    calibrate: int
    check: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A network that a recipe trains, its data, and how many images it is calibrated and checked by.

    Attributes:
        recipe: Below `recipes/`; its run lies in `runs/`, by its name.
        data: Kind and folder below the shared data.
        block: Neighbouring images that the bootstrap draws together.
    """

    recipe: str
    data: str
    calibrate: int
    check: int
    metric: str
    block: int = 1


NETWORKS: dict[str, Network | Trained] = {
    "ResNet-20": Network("adasap:cifar_resnet20", "resnet20_cifar10", "cifar10", 256, 500, {}),
    "ResNet-56": Network("adasap:cifar_resnet56", "resnet56_cifar10", "cifar10", 256, 200, {}),
    "MobileNet V1 0.75": Network(
        "adasap:mobilenet_v1_tf", "mobilenet_v1_0.75_imagenet", "imagenet_sample", 64, 64, {"width": 0.75}
    ),
    "MobileNet V2": Network("adasap:mobilenet_v2_tf", "mobilenet_v2_1.0_imagenet", "imagenet_sample", 64, 64, {}),
    "SSD MobileNet V1 0.75, bccd": Trained("bccd/bccd_dense.yaml", "voc:bccd", 64, 72, "AP50"),
    "U-Net MobileNet V2, camvid": Trained("segmentation/camvid_dense.yaml", "masks:camvid", 64, 233, "mIoU", block=30),
}


@dataclass(frozen=True)
class Subject:
    """A network that is open: prepared calibration images, task and suites in one."""

    model: nn.Module
    calibration: Calibration

    @property
    def example(self) -> Tensor:
        """A black image, float [1, C, H, W]."""
        return torch.zeros_like(self.calibration.images[:1])

    @property
    def cells(self) -> list[tuple[Any, Cell]]:
        """Suite and cell of all images that are scored."""
        return [(suite, cell) for suite in self.calibration.check.suites for cell in suite.cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--cifar10", type=Path, default=Path(".cache/cifar10"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    parser.add_argument("--no-times", action="store_true", help="scores alone")
    parser.add_argument("--small", action="store_true", help="some images and corruptions, one epoch of training")
    parser.add_argument("--page", action="store_true", help="write the page of what is there, run nothing")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.out /= "small"
        arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.results = arguments.out / "int8.json" if arguments.small else RESULTS
    results: dict[str, Any] = {"networks": {}}
    if arguments.results.is_file():
        results = json.loads(arguments.results.read_text())
    if not arguments.page:
        results["environment"] = environment()
        results["setting"] = Setting().describe()
        results["saturates"] = saturates_int8()
        for name in arguments.networks:
            measure(name, results, arguments)
    write(results, arguments)


def measure(name: str, results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Every score of one network that is missing, then sizes, and times unless they are left out."""
    kept = results["networks"].setdefault(name, {"right": {}})
    wanted = [str(cell) for cell in (Cell(), *(Cell(one, SEVERITY) for one in BENCHMARK))]
    wanted = wanted[:3] if arguments.small else wanted
    scored = all(set(SCORED) <= set(kept["right"].get(cell, ())) for cell in wanted)
    timed = arguments.no_times or set(TIMED) <= set(kept.get("ms", {}).get("1", ()))
    if scored and timed:
        return
    network = NETWORKS[name]
    stem = network.weights if isinstance(network, Network) else Path(network.recipe).stem
    folder = arguments.out / stem
    folder.mkdir(parents=True, exist_ok=True)
    subject = opened_network(network, arguments) if isinstance(network, Network) else trained(network, arguments)
    runs = variants(subject.model, subject.calibration, folder, subject.example, (*SCORED, *TIMED))
    for suite, cell in subject.cells:
        found = kept["right"].setdefault(str(cell), {})
        missing = [variant for variant in SCORED if variant not in found]
        if str(cell) in wanted and missing:
            found |= scores(subject, suite, cell, {variant: runs[variant] for variant in missing})
            shown = {v: f"{100 * right(kept, str(cell), v).mean():.1f}" for v in SCORED}
            print(name, cell, shown, flush=True)
            write(results, arguments)
    images = len(right(kept, "clean", FLOAT))
    kept["calibration_images"], kept["images"] = len(subject.calibration.images), images
    kept["mb"] = {
        variant: sum(p.stat().st_size for p in folder.iterdir() if p.stem == stem_of(variant)) / 1e6
        for variant in TIMED
    }
    if not arguments.no_times:
        kept["ms"] = times({variant: runs[variant] for variant in TIMED}, subject.example, arguments.small)
    write(results, arguments)


def scores(subject: Subject, suite: Any, cell: Cell, runs: dict[str, Any]) -> dict[str, Any]:
    """Variant -> what each image contributes to the score; of labelled images a text of ones (right) and zeros."""
    task, cpu = subject.calibration.check.task, torch.device("cpu")
    evaluators = {variant: task.evaluator() for variant in runs}
    for batch in suite.batches(cell, cpu, Loading(32), PreparationTime()):
        prepared = task.prepare(batch, cpu)
        with torch.inference_mode():
            for variant, run in runs.items():
                evaluators[variant].update(run, prepared)
    found = {variant: evaluator.per_image().tolist() for variant, evaluator in evaluators.items()}
    if isinstance(task, ClassificationTask):
        return {variant: "".join(str(int(one)) for one in each) for variant, each in found.items()}
    return {variant: [round(one, 6) for one in each] for variant, each in found.items()}


def times(runs: dict[str, Any], example: Tensor, small: bool) -> dict[str, Any]:
    """Batch size -> variant -> median and 95th percentile, ms, by turns; of a detector of the traced part."""
    found, setting = {}, Setting(channels_last=False)
    for size in (1, 16):
        with setting.applied():
            rounds, seconds = (3, 0.1) if small else (15, 3.0)
            taken = time_models_ms(runs, setting.batch(example, size), rounds=rounds, seconds=seconds)
        found[str(size)] = {v: [statistics.median(ms), statistics.quantiles(ms, n=20)[-1]] for v, ms in taken.items()}
    return found


def opened_network(network: Network, arguments: argparse.Namespace) -> Subject:
    """A network with published weights."""
    weights = str(arguments.shared / "weights" / f"{network.weights}.safetensors")
    scale: dict[str, Any] = {"mean": HALF, "std": HALF, "input_size": (3, 224, 224)}
    scale = {} if network.data == "cifar10" else scale
    spec = adasap.ModelSpec(network.builder, network.options, weights=weights, **scale)
    if arguments.small:
        network = replace(network, calibrate=8, check=4)
    calibration, _ = opened_images(network, arguments, ClassificationTask(mean=spec.mean, std=spec.std))
    return Subject(adasap.open_model(spec).eval(), calibration)


def trained(network: Trained, arguments: argparse.Namespace) -> Subject:
    """A network of a recipe, trained where no finished run is there."""
    runs = arguments.out / "runs" if arguments.small else ROOT / "runs"
    run = runs / Path(network.recipe).stem
    if not (run / "model.safetensors").is_file():
        words = ["compress", str(ROOT / "recipes" / network.recipe), "--out", str(runs.resolve())]
        words += ["--set", "fine_tune.epochs=1", "--set", "data.suites={}"] if arguments.small else []
        subprocess.run([sys.executable, "-m", "adasap", *words], check=True, cwd=ROOT)
    kind, _, folder = network.data.partition(":")
    images, limit = (8, 4) if arguments.small else (network.calibrate, network.check)
    opened = open_any(run / "model.safetensors")
    asked = Int8Options(calibrate=f"{kind}:{arguments.shared / folder}", images=images, limit=limit, severity=SEVERITY)
    return Subject(opened.model, open_calibration(opened, asked)[0])


def opened_images(
    network: Network, arguments: argparse.Namespace, task: ClassificationTask, *, first: int = 0
) -> tuple[Calibration, Any]:
    """Calibration images, and the suite of other images, of CIFAR-10 the test images from `first`."""
    if network.data == "cifar10":
        train = open_dataset(DataSource("npz", str(arguments.cifar10 / "train.npz")))
        test: Any = open_dataset(DataSource("npz", str(arguments.cifar10 / "test.npz")))
        chosen = torch.arange(network.calibrate) * (len(train) // network.calibrate)
        tested = torch.arange(first, len(test))
    else:
        train = test = open_dataset(DataSource("csv", str(arguments.shared / "imagenet_sample"), center_crop=224))
        chosen = torch.arange(network.calibrate) * 4
        tested = torch.tensor([index for index in range(len(test)) if index % 4])
    suite = open_suite("corrupted", SuiteSource("corrupted", severities=(SEVERITY,)), SomeImages(test, tested))
    clean = open_suite("clean", SuiteSource("clean"), SomeImages(test, tested))
    both = replace(suite, images_of={**clean.images_of, **suite.images_of}).sampled(network.check, seed=0)
    raw = torch.stack([train[int(index)][0] for index in chosen])
    images = task.prepare((raw, torch.zeros(len(raw), dtype=torch.long)), torch.device("cpu"))[0]
    return Calibration(images, Check(task, [both])), both


def variants(
    model: nn.Module, calibration: Calibration, folder: Path, example: Tensor, names: Sequence[str] = VARIANTS
) -> dict[str, Callable[[Any], Any]]:
    """Variant -> what runs it; files that are there already are taken."""
    full, reduced = replace(calibration, reduce_range=False), replace(calibration, reduce_range=True)
    asked = {FULL: full, REDUCED: reduced, TENSOR: replace(full, per_channel=False)}
    floats = {Onnx: FLOAT, OpenVino: FLOAT_OPENVINO, ExecuTorch: FLOAT_EXECUTORCH}
    runs: dict[str, Callable[[Any], Any]] = {}
    for variant in dict.fromkeys((FLOAT, FLOAT_OPENVINO, *names)):
        if variant == FOUR_BITS:
            runs[variant] = rounded(model, bits=4).to(memory_format=torch.channels_last)
            continue
        target = TARGETS.get(variant, Onnx)
        path, source = (folder / f"{stem_of(v)}{ENDINGS[target]}" for v in (variant, floats[target]))
        if not path.is_file():
            print("writing", path, flush=True)
            if variant in floats.values():
                export_model(model, example, path, to=target.name)
            else:
                target().quantise(model, source, path, asked.get(variant, calibration), None)
        runs[variant] = InItsRuntime(path, model)
    return runs


def rounded(model: nn.Module, *, bits: int) -> nn.Module:
    """A copy whose weights are rounded to the nearest of 2^bits - 1 levels, symmetric, a scale per output channel."""
    changed, most = copy.deepcopy(model), 2 ** (bits - 1) - 1
    for module in changed.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.data
            scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1)) / most
            weight.copy_((weight / scale).round().clamp(-most, most) * scale)
    return changed


def stem_of(variant: str) -> str:
    return variant.replace(",", "").replace(" ", "-")


def write(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """JSON, and the page made of it."""
    write_json(arguments.results, results)
    write_page(arguments.out / "page.md" if arguments.small else PAGE, page(results))


def page(results: dict[str, Any]) -> list[str]:
    """Scores with paired intervals, kinds of corruption, sizes and times."""
    processor = "without VNNI, so that pairs of 8-bit products can overflow" if results["saturates"] else "with VNNI"
    threads, name = results["setting"]["threads"], results["setting"]["processor"]
    parts = [
        "# INT8, clean and corrupted",
        "`python benchmarks/int8.py` made this page on one "
        f"{name} ({processor}), {threads} thread{'s' * (threads > 1)}. Networks with published weights and of recipes, "
        f"none of them cut; clean images and the 15 corruptions at severity {SEVERITY}. Changes are INT8 minus float "
        "on the same images, with bootstrap intervals paired by image; an interval that holds 0 shows no difference.",
    ]
    whole = {name: results["networks"][name] for name in NETWORKS if len(right_of(results, name)) > 1}
    parts += summary(whole)
    for name, kept in whole.items():
        done = [cell for cell in kept["right"] if cell != "clean"]
        network, count = NETWORKS[name], len(kept["right"]["clean"][FLOAT])
        said = f"{count} images, {len(done)} of 15 corruptions"
        if isinstance(network, Trained):
            said += f", {network.metric}; trained by `recipes/{network.recipe}`"
            said += f"; intervals over blocks of {network.block} neighbouring images" if network.block > 1 else ""
        if "calibration_images" in kept:
            said += f", calibrated by {kept['calibration_images']} others"
        parts += [f"## {name}", said + ".", str(_scores(name, kept, done))]
        if len(done) > 1:
            parts += ["Change by kind of corruption, points:", str(_kinds(kept, done))]
        if "ms" in kept:
            parts.append(str(_costs(kept)))
    return [*parts, *notes(results)]


def right_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    """Cell -> variant -> scores of a network; nothing of one that was not run."""
    found: dict[str, Any] = results["networks"].get(name, {}).get("right", {})
    return found


def summary(whole: dict[str, Any]) -> list[str]:
    """Whose interval of the change is below 0, clean and corrupted."""
    lines = []
    for variant in SCORED[1:]:
        found = {
            name: [changed.high < 0 for changed in changes(name, kept, variant)]
            for name, kept in whole.items()
            if variant in shown(kept)
        }
        if not found:
            continue
        said = [", ".join(name for name, lost in found.items() if lost[place]) or "none" for place in (0, 1)]
        lines.append(f"- {variant}: clean {said[0]}; corrupted {said[1]}" + _left_out(whole, found))
    return ["Networks that lose, by an interval wholly below 0:", "\n".join(lines)]


def _left_out(whole: dict[str, Any], found: dict[str, Any]) -> str:
    missing = [name for name in whole if name not in found]
    return f" (not run: {', '.join(missing)})" if missing else ""


def shown(kept: dict[str, Any]) -> list[str]:
    """The variants that every cell has."""
    return [variant for variant in SCORED if all(variant in found for found in kept["right"].values())]


def changes(name: str, kept: dict[str, Any], variant: str) -> tuple[Interval, Interval]:
    """Points that a variant gains on clean and on corrupted images."""
    done = [cell for cell in kept["right"] if cell != "clean"]
    clean = (100 * right(kept, "clean", v) for v in (variant, FLOAT))
    corrupted = (100 * torch.stack([right(kept, c, v) for c in done]).mean(0) for v in (variant, FLOAT))
    block = getattr(NETWORKS[name], "block", 1)
    return paired_difference(*clean, block_length=block), paired_difference(*corrupted, block_length=block)


def right(kept: dict[str, Any], cell: str, variant: str) -> Tensor:
    return torch.tensor([float(one) for one in kept["right"][cell][variant]])


def _scores(name: str, kept: dict[str, Any], done: list[str]) -> Table:
    rows = []
    for variant in shown(kept):
        clean = right(kept, "clean", variant).mean()
        corrupted = torch.stack([right(kept, cell, variant) for cell in done]).mean()
        said = ["", ""] if variant == FLOAT else [_interval(one) for one in changes(name, kept, variant)]
        rows.append([variant, f"{100 * clean:.1f}", said[0], f"{100 * corrupted:.1f}", said[1]])
    return Table(["", "clean, %", "change, points", "corrupted, %", "change, points"], rows)


def _interval(found: Interval) -> str:
    return f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _kinds(kept: dict[str, Any], done: list[str]) -> Table:
    rows = []
    for cell in sorted(done):
        plain = right(kept, cell, FLOAT).mean()
        changes = [f"{100 * (right(kept, cell, v).mean() - plain):+.1f}" for v in shown(kept)[1:]]
        rows.append([cell.partition("/")[0], f"{100 * plain:.1f}", *changes])
    short = ["float, %", *(v.removeprefix("INT8 ") for v in shown(kept)[1:])]
    return Table(["corruption", *short], rows)


def _costs(kept: dict[str, Any]) -> Table:
    rows = []
    for variant in kept["ms"]["1"]:
        times = [f"{ms:.1f}" for batch in ("1", "16") for ms in kept["ms"][batch][variant]]
        rows.append([variant, f"{kept['mb'][variant]:.2f}", *times])
    header = ["", "MB", *(f"batch {batch}, ms, {p}" for batch in (1, 16) for p in ("p50", "p95"))]
    return Table(header, rows)


def notes(results: dict[str, Any]) -> list[str]:
    """What the numbers are not."""
    missing = [name for name in NETWORKS if len(right_of(results, name)) < 16]
    partly = [name for name in NETWORKS if name not in missing and TORCHAO not in shown(results["networks"][name])]
    return [
        "## What was not run",
        (f"Not run to the end: {', '.join(missing)}. " if missing else "")
        + (f"ExecuTorch was not run for {', '.join(partly)}. " if partly else "")
        + "No network of this page was trained sharpness-aware or cut: whether AdaSAP's networks lose less is not "
        "answered here. There are two CIFAR networks with published weights, not three. "
        "Photos of `imagenet_sample` are very probably training images of both MobileNets. MobileNet V2's weights are "
        "those of an 8-bit model, dequantised. A file of ExecuTorch takes one image at a "
        "time: its batch 16 is 16 calls. Times were taken by turns on a core that "
        "other processes used, too: a short pass fits between their turns and a long one does not, so batch 1 flatters "
        "what is fast; only ratios at batch 16 mean something.",
    ]


if __name__ == "__main__":
    main()
