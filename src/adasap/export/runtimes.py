"""Files of other runtimes, opened where they run: modules that answer batches, also in the place of a model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from adasap.errors import ExportError, first_line
from adasap.export.about import ABOUT, INT8, About
from adasap.export.openvino_core import openvino_core
from adasap.export.pte import opened_program
from adasap.registry import Registry


@dataclass(frozen=True)
class RuntimeFile:
    """A file that its runtime has opened on the CPU.

    Attributes:
        runtime: Its name, such as `onnxruntime`.
        run: The inputs on the CPU, contiguous, such as images float32 [B, C, H, W] -> the outputs in their order.
        input_shape: Of the first input, such as batch, channels, height, width; None where any number is taken.
        numbers: Type of most weights: `float32`, `float16`, `int8`; empty where the file does not tell.
        beside: Files that belong to it.
        num_inputs: Tensors that `run` takes.
        about: What it says of its model, where adasap wrote it.
    """

    runtime: str
    run: Callable[..., Sequence[Tensor]]
    input_shape: tuple[int | None, ...]
    numbers: str = ""
    beside: tuple[Path, ...] = ()
    num_inputs: int = 1
    about: About | None = None


def open_onnx(path: Path) -> RuntimeFile:
    """An ONNX file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entries = session.get_inputs()

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = {entry.name: tensor.numpy() for entry, tensor in zip(entries, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    shape = tuple(size if isinstance(size, int) else None for size in entries[0].shape)
    about = _read(session.get_modelmeta().custom_metadata_map.get(ABOUT))
    return RuntimeFile("onnxruntime", run, shape, _onnx_numbers(path), num_inputs=len(entries), about=about)


def _read(text: str | None) -> About | None:
    return None if text is None else About.read(text)


def _onnx_numbers(path: Path) -> str:
    """By the weights' bytes; onnxruntime itself does not tell."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    types = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "int8", onnx.TensorProto.FLOAT16: "float16"}
    types[onnx.TensorProto.FLOAT] = "float32"
    counts: Counter[str] = Counter()
    for tensor in graph.initializer:
        if tensor.data_type in types:
            counts[types[tensor.data_type]] += int(torch.tensor(list(tensor.dims)).prod())
    return _most(counts)


def open_openvino(path: Path) -> RuntimeFile:
    """OpenVINO's graph (.xml), its weights (.bin) beside it, in OpenVINO on the CPU; in float32 where it is no INT8."""
    weights, core = path.with_suffix(".bin"), openvino_core()
    model = core.read_model(path)
    setting = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", {**setting, "PERFORMANCE_HINT": "LATENCY"})

    def run(*inputs: Tensor) -> list[Tensor]:
        found = compiled([tensor.numpy() for tensor in inputs])
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    shape = tuple(axis.get_length() if axis.is_static else None for axis in model.inputs[0].partial_shape)
    counts: Counter[str] = Counter()
    names = {"i8": "int8", "u8": "int8", "f16": "float16", "f32": "float32"}
    for operator in model.get_ops():
        if operator.get_type_name() == "Constant":
            kind = operator.get_element_type().get_type_name()
            counts[names.get(kind, "")] += int(torch.tensor(list(operator.shape)).prod())
    quantised = any(operator.get_type_name() == "FakeQuantize" for operator in model.get_ops())
    numbers = "int8" if quantised else _most(counts)
    about, beside = ABOUT.split("."), (weights,) if weights.is_file() else ()
    said = _read(str(model.get_rt_info(about).value)) if model.has_rt_info(about) else None
    return RuntimeFile("openvino", run, shape, numbers, beside, len(model.inputs), said)


def open_executorch(path: Path) -> RuntimeFile:
    """An ExecuTorch program in the Python runtime of its wheel; a file of several batch sizes gets its largest."""
    program, run = opened_program(path)
    inputs, names = program.metadata("forward"), program.method_names
    about = _read(program.load_method(ABOUT).execute([])[0]) if ABOUT in names else None
    numbers = "int8" if INT8 in names else "" if about is None else "float32"
    shape = tuple(inputs.input_tensor_meta(0).sizes())
    return RuntimeFile("executorch", run, shape, numbers, num_inputs=inputs.num_inputs(), about=about)


def _most(counts: Counter[str]) -> str:
    """The number type of most weights."""
    return max(counts, key=lambda kind: counts[kind], default="") if counts else ""


RUNTIMES: Registry[Callable[[Path], RuntimeFile]] = Registry(
    "runtime",
    {".onnx": open_onnx, ".xml": open_openvino, ".pte": open_executorch},
    at="adasap.export.RUNTIMES",
    error=ExportError,
)
"""Ending of a file, with its dot -> what opens it; the packages are `adasap[onnx]`, `[openvino]`, `[executorch]`."""

WITHOUT_RUNTIME = (".pt2", ".tflite", ".engine", ".mlpackage")
"""Endings of exported files that nothing here runs."""


CLASS_LOGITS = ("cls_logits", "class_logits")
"""Names of a detector's raw output whose last axis is the classes."""


class InItsRuntime(nn.Module):
    """A model that a file computes in its own runtime on the CPU, called as the model that it was exported from.

    Args:
        file: Its path; what opens it is found by its ending (`RUNTIMES`). Or a file that is open.
        like: The model that it was exported from, or that with other numbers, on the CPU. Outputs come in the structure
            that it returns, by default as a tensor or a tuple of several. Called with a list of images, a detector
            (`adasap.models.Detector`) resizes them and finds boxes in what the file computes.

    Attributes:
        file: As its runtime opened it.
        behind: The detector that finds the boxes; None for any other model.
        answers: What the file answered (`answers_of`), where somebody has put a list there.
    Raises:
        ExportError: If it is missing or damaged, takes several inputs, nothing runs such files, or the runtime is not
            installed; or if a detector does not find its boxes from its traced part, or brings images to other sizes.
    """

    content: Tensor
    behind: nn.Module | None

    def __init__(self, file: str | Path | RuntimeFile, like: nn.Module | None = None) -> None:
        super().__init__()
        self.file = file if isinstance(file, RuntimeFile) else opened_file(Path(file))
        self.paths = [] if isinstance(file, RuntimeFile) else [Path(file), *self.file.beside]
        self.title = str(self.paths[0]) if self.paths else f"the file for {self.file.runtime}"
        if self.file.num_inputs != 1:
            raise ExportError(
                f"{self.title} has {self.file.num_inputs} inputs; only files that take one batch of images are run"
            )
        self.register_buffer("content", _digest(self.paths))
        self.answers: list[Tensor] | None = None
        object.__setattr__(self, "behind", None)  # no submodule: its numbers take no part
        self._kept: list[bool] = []
        if like is not None:
            self.answer_like(like)

    def answer_like(self, like: nn.Module) -> None:
        """From now on, as with this `like`."""
        size = self.file.input_shape[1:]
        if None in size:
            raise ExportError(
                f"{self.title} takes images of any size; export the model again, with the size that it has"
            )
        example = torch.zeros(1, *(n or 0 for n in size))
        with torch.no_grad():
            leaves, self._structure = tree_flatten(like(example))
        self._kept = [isinstance(leaf, Tensor) for leaf in leaves]
        if not hasattr(like, "computed_by"):
            return
        object.__setattr__(self, "behind", like.computed_by(self._computed))  # type: ignore[operator]
        self.answers = []
        with torch.no_grad():
            self([example[0]])
        if not self.answers:
            raise ExportError(
                f"{type(like).__name__} does not find its boxes from its traced part, so its file cannot be scored; "
                "evaluate the model itself, or take one of adasap's SSDs"
            )
        self.answers = None

    @property
    def size_bytes(self) -> int:
        """On disk, with the files that belong to it."""
        return sum(path.stat().st_size for path in self.paths)

    def forward(self, images: Any) -> Any:
        """What the model answers; images of any number, on any device.

        A file of one batch size gets its batches cut and filled up.

        Args:
            images: Prepared, float [B, C, H, W]; of a detector also a list of float [C, H, W] of any sizes.
        Raises:
            ExportError: If the file takes images of another size.
        """
        if isinstance(images, Tensor):
            return self._computed(images)
        if self.behind is None:
            raise ExportError(
                f"{self.title} is not known to be a detector's, so nothing finds boxes in its outputs; evaluate it "
                "beside the detector that it was exported from, or export that again"
            )
        found = self.behind([image.cpu() for image in images])
        return [{name: one.to(images[0].device) for name, one in boxes.items()} for boxes in found]

    def _computed(self, images: Tensor) -> Any:
        """What the file computes, in the structure that the model returns."""
        wanted = self.file.input_shape
        if len(wanted) != images.ndim or any(
            n not in (None, m) for n, m in zip(wanted[1:], images.shape[1:], strict=True)
        ):
            raise ExportError(
                f"{self.title} takes images of {' x '.join(str(n or 'any') for n in wanted[1:])}, not "
                f"{' x '.join(map(str, images.shape[1:]))}; {self._remedy(wanted[1:])}"
            )
        batch = images.detach().float().cpu().contiguous()
        outputs: Any = [output.to(images.device) for output in self._outputs(batch, wanted[0])]
        if self._kept:
            found = iter(outputs)
            outputs = tree_unflatten([next(found) if kept else None for kept in self._kept], self._structure)
        else:
            outputs = outputs[0] if len(outputs) == 1 else tuple(outputs)
        if self.answers is not None:
            self.answers.append(answers_of(outputs))
        return outputs

    def _remedy(self, size: Sequence[int | None]) -> str:
        if self.behind is None:
            side = size[-1] or "N"
            resize = (self.file.about and self.file.about.resize) or side
            return f"bring them to that size (`--resize {resize} --center-crop {side}`)"
        sides = ",".join(str(side) for side in size[1:])
        return (
            "export the detector with one size that it brings all images to, of torchvision's "
            f"`--model-option fixed_size=[{sides}]`"
        )

    def _outputs(self, images: Tensor, batch_size: int | None) -> Sequence[Tensor]:
        if batch_size is None:
            return self.file.run(images)
        parts = []
        for rows in torch.split(images, batch_size):
            filled = rows[torch.arange(batch_size) % len(rows)].contiguous()
            parts.append([output[: len(rows)] for output in self.file.run(filled)])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def answers_of(outputs: Any) -> Tensor:
    """The class with the highest score, int64: of images, pixels or boxes; of single numbers their sign.

    Example:
        >>> answers_of(torch.tensor([[0.1, 0.9], [0.8, 0.2]])), answers_of({"cls_logits": torch.zeros(2, 5, 3)}).shape
        (tensor([1, 0]), torch.Size([2, 5]))
    """
    if isinstance(outputs, dict):
        for name in CLASS_LOGITS:
            if name in outputs:
                found: Tensor = outputs[name].argmax(dim=-1)
                return found
        outputs = next(iter(outputs.values()))
    while not isinstance(outputs, Tensor):
        outputs = outputs[0]
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        return (outputs > 0).long()
    return outputs.argmax(dim=1)


def is_exported(name: str | Path) -> bool:
    """Whether a name is that of a file for another runtime.

    Example:
        >>> is_exported("small.onnx"), is_exported("small.safetensors"), is_exported("torchvision:resnet18")
        (True, False, False)
    """
    suffix = Path(name).suffix
    return suffix in WITHOUT_RUNTIME or suffix in RUNTIMES


def opened_file(path: Path) -> RuntimeFile:
    """The file, opened by its runtime; errors as those of `InItsRuntime`."""
    if not path.is_file():
        raise ExportError(f"{path} does not exist; give a file that `adasap export` made")
    if path.suffix not in RUNTIMES:
        raise ExportError(
            f"nothing here runs {path.suffix} files; those of {', '.join(RUNTIMES)} are evaluated, and you can "
            "register a runtime of your own in adasap.export.RUNTIMES"
        )
    try:
        return RUNTIMES.get(path.suffix)(path)
    except ImportError as error:
        extra = {".onnx": "onnx", ".xml": "openvino", ".pte": "executorch"}.get(path.suffix)
        remedy = f"pip install 'adasap[{extra}]'" if extra else "install it"
        package = (error.name or "another package").partition(".")[0]
        raise ExportError(f"{path} needs {package}: {remedy}") from error
    except ExportError:
        raise
    except Exception as error:  # every runtime has errors of its own
        raise ExportError(f"{path} cannot be opened ({first_line(error)}); export it again") from error


def _digest(paths: Sequence[Path]) -> Tensor:
    """SHA-256 of files, uint8 [32]: what a module is known by whose weights lie in a file."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return torch.tensor(list(total.digest()), dtype=torch.uint8)
