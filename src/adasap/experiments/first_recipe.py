"""The first recipe: what follows from a model, a data set and a machine, written down with reasons."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adasap.data import DataSource
from adasap.errors import RecipeError
from adasap.experiments.budgets import budget_named
from adasap.experiments.compress import open_data, open_task, with_input_size
from adasap.experiments.latency import latency_table
from adasap.experiments.look_at_data import SeenData, look_at_data
from adasap.experiments.look_at_model import SeenModel, look_at_model
from adasap.experiments.name_models import builder_options
from adasap.experiments.name_suites import data_options
from adasap.experiments.recipe import DEFAULT_TASK, Recipe, parse_recipe
from adasap.experiments.schema_files import editor_line
from adasap.experiments.terminal import console_of
from adasap.io import atomic_write, parse_yaml
from adasap.machine_memory import free_bytes
from adasap.models import is_trusted
from adasap.processor import native_bf16
from adasap.profiling.timing import Setting
from adasap.report import Shown
from adasap.tasks.data import class_list

_EPOCHS = ((1_000, 40), (5_000, 30), (20_000, 15), (100_000, 8))
"""Up to so many training images -> epochs in all; 6 above."""
_REPEATS = 3
"""How often each layer is timed for a budget of latency; `adasap profile` takes 7."""
_FORWARD_COPIES = 3
"""Bytes of a step for each byte of a layer's output: the output, its gradient, and what operators keep."""


@dataclass(frozen=True)
class Machine:
    """What there is to compute on.

    Attributes:
        name: Of the GPU, or how many cores.
        memory: Free, in bytes: of the GPU, or of the machine.
        cores: Of the processor, that this process may use.
        has_gpu: Whether there is one.
        precision: What `auto` is here.
    """

    name: str
    memory: int
    cores: int
    has_gpu: bool
    precision: str


def look_at_machine() -> Machine:
    """The first GPU, else the processor."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        native = torch.cuda.get_device_capability()[0] >= 8
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
        return Machine(name, memory, cores, True, "bf16" if native else "float32")
    return Machine(f"{cores} cores, no GPU", free_bytes(), cores, False, "bf16" if native_bf16() else "float32")


@dataclass(frozen=True, repr=False)
class FirstRecipe(Shown):
    """A recipe that was written.

    Attributes:
        path: Its file.
        text: What it holds.
        recipe: What that says.
        remarks: What was found, and what is to be looked at.
        command: What to run next.
    """

    path: Path
    text: str
    recipe: Recipe
    remarks: tuple[str, ...]
    command: str

    def parts(self) -> Iterator[str]:
        """What was found, and what to do next."""
        yield from self.remarks
        yield f"{self.path}: read it, then {self.command}"


def init_recipe(
    model: str,
    data: str,
    *,
    weights: str | Path | None = None,
    task: str | None = None,
    budget: Mapping[str, Any] | str = "macs=0.5",
    out: str | Path = "recipe.yaml",
    model_options: Sequence[str] = (),
    data_option: Sequence[str] = (),
    console: Console | bool = False,
) -> FirstRecipe:
    """Looks at a model, a data set and this machine, and writes a short recipe with reasons, as `adasap init` does.

    What it writes passes `adasap compress RECIPE --dry-run`: the model was filled, the data were opened, and both fit.

    Args:
        model: `torchvision:NAME`, `timm:NAME`, `smp:NAME`, `adasap:NAME`, `./mymodel.py:build`, `package.module:build`,
            or a model file that was not cut.
        data: A folder or file, or `KIND:PATH`. Splits are found by their usual names.
        weights: A file (.pth, .pt, .ckpt, .safetensors) of the dense model's weights.
        task: What the data are for, where they do not say it.
        budget: What may be left: `macs=0.5`, `parameters=1000000`, `size_mb=2` (a number of parameters, at four bytes
            each), or `latency=0.5`, for which the layers are timed here, some minutes; in a runtime by
            `latency=0.5,engine=onnxruntime`, in 8 bits with `,int8=true`.
        out: The recipe's file, which must not be there.
        model_options: `KEY=VALUE` for the builder.
        data_option: Further keys of the data source, `KEY=VALUE`.
        console: `True` shows a bar where layers are timed.
    Raises:
        AdasapError: If the model or the data cannot be opened or do not fit, or the file is there.
    """
    out = Path(out)
    if out.exists():
        raise RecipeError(f"{out} is there already; give another --out, or remove it")
    seen = look_at_data(data, task=task or "", options=tuple(data_options(data_option).items()))
    task = task or seen.train.row.task or DEFAULT_TASK
    outputs = len(seen.classes) + (task == "detection" and bool(seen.classes))
    options = builder_options(model_options)
    net = look_at_model(
        model, None if weights is None else str(weights), outputs, seen.sizes, task=task, options=options
    )
    machine = look_at_machine()
    keys = budget_named(budget, net.module)
    if "latency" in keys and "latency_table" not in keys:
        runtime = {name: keys.pop(name) for name in ("engine", "int8") if name in keys}
        device = "cuda" if machine.has_gpu and not runtime else "cpu"
        keys["latency_table"] = _timed(net, Setting(device, **runtime), out, console_of(console))
    choice = _Choice(task, net, seen, machine, keys, _name(model, data))
    own = not is_trusted(net.spec.builder) or seen.train.is_own or ":" in task
    command = f"adasap compress {out} --dry-run{' --trust-builder' * own}"
    text = choice.text(command)
    recipe = _checked(text, net, out)
    with atomic_write(out) as written:
        written.write(text.encode())
    remarks = (*net.remarks, *choice.data_lines(), *seen.remarks, f"machine: {machine.name}")
    return FirstRecipe(out, text, recipe, remarks, command)


def _timed(net: SeenModel, setting: Setting, out: Path, console: Console) -> str:
    """The file of a latency table that is made beside the recipe."""
    path = out.with_name(f"{out.stem}_latency.json")
    latency_table(
        net.spec,
        path,
        seconds=1.0,
        repeats=_REPEATS,
        num_plans=0,
        setting=setting,
        console=console,
        trust_builder=True,
    )
    return str(path)


def _checked(text: str, net: SeenModel, out: Path) -> Recipe:
    """The recipe, after what a dry run checks before it computes: data, classes and outputs fit.

    Raises:
        AdasapError: If not.
    """
    recipe = parse_recipe(parse_yaml(text, where=str(out), error=RecipeError), trust_code=True)
    data = open_data(recipe, net.module, trust_code=True)
    recipe = with_input_size(recipe, data)
    open_task(recipe, classes=class_list(data.train)).check(net.module, data)
    return recipe


def _name(model: str, data: str) -> str:
    words = model.rpartition(":")[2], Path(data.partition(":")[2] or data).stem
    return "_".join("".join(c if c.isalnum() else "_" for c in word).strip("_") for word in words if word).strip("_")


@dataclass(frozen=True)
class _Choice:
    """What follows from what was seen."""

    task: str
    net: SeenModel
    seen: SeenData
    machine: Machine
    budget: Mapping[str, Any]
    name: str

    @property
    def size(self) -> tuple[int, int, int]:
        assert self.net.spec.input_size is not None
        return self.net.spec.input_size

    @property
    def batch(self) -> int:
        """A power of two: what fits into half of the memory, some ten steps an epoch, no more than usual."""
        usual = 128 if max(self.size) <= 64 else 64 if self.machine.has_gpu else 32
        usual = usual if self.task == DEFAULT_TASK else 16 if self.machine.has_gpu else 8
        room = self.machine.memory / 2 - 16 * self.net.parameters
        fitting = room / (_FORWARD_COPIES * self.net.image_bytes) if self.net.image_bytes else usual
        most = min(usual, fitting, max(4, self.seen.count / 10), self.seen.count)
        return int(2 ** int(math.log2(max(1, most))))

    @property
    def epochs(self) -> tuple[int, int, int]:
        """Of the three steps: a tenth, three tenths, six tenths."""
        total = next((epochs for images, epochs in _EPOCHS if self.seen.count <= images), 6)
        warm_up, pruning = max(1, round(0.1 * total)), max(1, round(0.3 * total))
        return warm_up, pruning, total - warm_up - pruning

    @property
    def events(self) -> tuple[int, int]:
        """How many, and steps between two: spread over step 2."""
        steps = self.epochs[1] * max(1, self.seen.count // self.batch)
        events = max(1, min(20, steps // 2))
        return events, max(1, steps // (events + 1))

    @property
    def workers(self) -> int:
        """Processes that read files; arrays need none."""
        arrays = self.seen.train.kind in ("npz", "cifar10", "cifar100", "digits", "cifar10.1", "shapes", "shape-masks")
        if arrays:
            return 0
        return min(8, self.machine.cores) if self.machine.has_gpu else min(4, self.machine.cores // 4)

    @property
    def resized(self) -> bool:
        """Whether images of classes are brought to the model's size: where they are not of it already."""
        fixed = not self.seen.train.row.resizes or self.seen.train.resizing
        return self.task == DEFAULT_TASK and not fixed and self.seen.sizes.single != self.size[1:]

    def sources(self) -> tuple[DataSource, DataSource]:
        """Training and test images, resized where they must be."""
        train, test = self.seen.train, self.seen.test
        if not self.resized:
            return train, test
        prepared, side = self.net.preparation, self.size[-1]
        resize = max(prepared.resize or round(side / 0.875), side)
        return train, replace(test, resize=resize, center_crop=side, interpolation=prepared.interpolation)

    def data_lines(self) -> Iterator[str]:
        """What the data are."""
        seen = self.seen
        names = ", ".join(seen.classes[:5]) + (", ..." if len(seen.classes) > 5 else "")
        images = f"{seen.count:,} training images ({seen.sizes}), {seen.test_count:,} to test on"
        yield f"{images}; {len(seen.classes)} classes: {names}"

    def augmentation(self) -> str:
        """For the task; reasons as a comment behind it."""
        if self.task == "detection":
            return "{photometric: true, iou_crop: true, horizontal_flip: true}"
        if self.task == "segmentation":
            crop = "" if self.seen.sizes.single == self.size[1:] else f"crop: [{self.size[1]}, {self.size[2]}], "
            return f"{{{crop}horizontal_flip: true, colour: 0.3}}"
        if self.task != DEFAULT_TASK:
            return ""
        if self.resized:
            return f"{{random_resized_crop: {self.size[-1]}, horizontal_flip: true}}"
        return f"{{random_crop_padding: {max(1, self.size[-1] // 8)}, horizontal_flip: true}}"

    def optimizer(self) -> str:
        """AdamW for transformers and masks, SGD for others; slow where weights are trained already."""
        trained = self.net.spec.weights is not None
        if self.net.is_transformer or self.task == "segmentation":
            rate = 1e-4 if trained else 5e-4
            return f"{{name: AdamW, learning_rate: {rate:.4f}, weight_decay: 0.05}}"
        rate = (0.01 if trained else 0.05) * max(0.25, self.batch / 128)
        return f"{{name: SGD, learning_rate: {rate:.4g}, weight_decay: 0.0005}}"

    def text(self, command: str) -> str:
        """The recipe, with reasons."""
        return (
            "\n".join([*self._head(command), *self._model(), *self._data(), *self._training(), *self._steps()]) + "\n"
        )

    def _head(self, command: str) -> Iterator[str]:
        yield editor_line()
        yield f"# Written by `adasap init`. First: {command}"
        yield "# Every key: `adasap options`. Change what you know better; lines to look at begin with `# ?`."
        yield f"name: {_flow(self.name)}"
        yield "seed: 0"
        if self.task != DEFAULT_TASK:
            padded = ", multiple_of: 32" * self.net.spec.builder.startswith("smp:")
            yield f"task: {{kind: {_flow(self.task)}{padded}}}" if padded else f"task: {_flow(self.task)}"

    def _model(self) -> Iterator[str]:
        spec, prepared = self.net.spec, self.net.preparation
        yield "model:"
        yield f"  builder: {_flow(spec.builder)}"
        if spec.options:
            yield f"  options: {_flow(spec.options)}"
        if spec.weights is not None:
            yield f"  weights: {_flow(spec.weights)}"
        else:
            yield "  # ? no weights: the model starts from random numbers. Better cut one that is trained:"
            yield "  # weights: best.pth"
        yield f"  input_size: {_flow(list(self.size))}"
        if prepared.said_by:
            yield f"  # of {prepared.said_by}: images are prepared as (x / 255 - mean) / std"
        else:
            yield "  # ? nothing says how the model's images are prepared, (x / 255 - mean) / std; as in its training:"
        yield f"  mean: {_flow(list(spec.mean))}"
        yield f"  std: {_flow(list(spec.std))}"

    def _data(self) -> Iterator[str]:
        seen, (train, test) = self.seen, self.sources()
        yield "data:"
        yield f"  # {next(self.data_lines())}"
        yield f"  train: {_source(train, 'train')}"
        if seen.unsplit:
            yield "  # ? there are no test images, so these are the training images: the scores are too good"
        yield f"  test: {_source(test, 'test')}"
        if seen.validation is not None:
            key = "split" if seen.validation.split else "path"
            yield f"  # to choose, take validation images: --set data.test.{key}={getattr(seen.validation, key)}"
        corrupted = "suites: {corrupted: {kind: corrupted, severities: [3]}}"
        pixels = seen.test_count * self.size[1] * self.size[2]
        if self.task == DEFAULT_TASK and (pixels < 5e6 or (self.machine.has_gpu and pixels < 1e9)):
            yield f"  {corrupted}"
        else:
            yield f"  # also under 15 corruptions, which takes 15 times as long:  {corrupted}"
        if varied := self.augmentation():
            yield f"  augmentation: {varied}"

    def _training(self) -> Iterator[str]:
        taken = self.batch * _FORWARD_COPIES * self.net.image_bytes / 1e9
        yield "training:"
        yield f"  batch_size: {self.batch}  # takes about {taken:.1f} GB; {self.machine.memory / 1e9:.0f} GB are free"
        yield f"  optimizer: {self.optimizer()}"
        yield "  schedule: {name: cosine, warm_up_epochs: 1}"
        if self.task != DEFAULT_TASK:
            yield "  clip_norm: 10.0"
        yield f"  num_workers: {self.workers}  # {self.machine.name}"
        yield f"  runtime: {{precision: auto}}  # here {self.machine.precision}"

    def _steps(self) -> Iterator[str]:
        (warm_up, pruning, fine_tune), (events, every) = self.epochs, self.events
        yield "# Three steps. Each perturbation may raise the loss by 0.1 (docs/radii.md); try 0.03 and 0.3, too."
        yield f"warm_up: {{epochs: {warm_up}, sharpness: {{kind: adaptive, perturbation: {{loss_budget: 0.1}}}}}}"
        yield "pruning:"
        yield f"  epochs: {pruning}"
        yield f"  budget: {_flow(dict(self.budget))}"
        yield "  criterion: l2"
        yield f"  events: {events}"
        yield f"  every: {every}  # steps, of {max(1, self.seen.count // self.batch)} in an epoch"
        yield "  min_kept: 0.1"
        yield (
            f"fine_tune: {{epochs: {fine_tune}, sharpness: {{kind: uniform, rho: 0.5, "
            "perturbation: {loss_budget: 0.1}}}"
        )


def _source(source: DataSource, asked: str) -> str:
    """A data source as it is written, without what is a default."""
    plain = DataSource("digits")
    keys = {f.name: getattr(source, f.name) for f in fields(source)}
    some = {key: value for key, value in keys.items() if key == "kind" or value != getattr(plain, key)}
    if some.get("split") == asked:
        del some["split"]
    return _flow(some)


def _flow(value: Any) -> str:
    """A value in one line of YAML; words that need no quotes have none.

    Example:
        >>> _flow({"kind": "folder", "path": "my photos", "classes": ("a", "no")})
        '{kind: folder, path: "my photos", classes: [a, "no"]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and value.replace("_", "").replace("/", "").replace(".", "a").isalnum():
        plain = parse_yaml(value, where="", error=RecipeError)
        return value if plain == value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
