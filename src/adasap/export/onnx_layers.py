"""Single layers as ONNX files at any widths: converted once at the dense widths, then resized."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adasap.errors import ExportError, first_line
from adasap.export.int8 import quantise_prepared, quiet
from adasap.processor import saturates_int8
from adasap.profiling.layers import MAX_COPIES, LayerCall, Operand

LEAST_COPIES = 4
"""Of a layer in one file, so that the first one, for which threads wake up, counts little."""
MOST_OUTPUT_BYTES = 256_000_000
"""What the results of all copies take, unless these are the least."""
PRELUDE = "prelude"
"""In the names of kernels that do not belong to the layer."""
Follows = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LayerFile:
    """Copies of one layer at its widths, side by side.

    Attributes:
        content: An ONNX file.
        inputs: Name of an input -> numbers.
        copies: How many; each has weights of its own, or inputs of its own where there are none.
        shape: Of the result of each.
    """

    content: bytes
    inputs: dict[str, np.ndarray[Any, Any]]
    copies: int
    shape: tuple[int, ...]


class OnnxLayers:
    """Layers of a model, ready to be written at any of their widths.

    Args:
        calls: The layers.
        int8: Quantise them, by random activations.
    Raises:
        ExportError: If one cannot be converted; names it.
    """

    def __init__(self, calls: Sequence[LayerCall], *, int8: bool) -> None:
        self.int8 = int8
        found = _converted([(call, call.dense) for call in calls])
        self._templates = dict(zip((call.key for call in calls), map(self._finished, calls, found), strict=True))

    def file(self, call: LayerCall, at: Sequence[float], *, weight_bytes: int, anew: bool = False) -> LayerFile:
        """A layer at these widths.

        Args:
            call: One of the layers.
            at: Its widths.
            weight_bytes: What the weights of all copies take together, if that is not too many copies.
            anew: Convert it at these widths, for layers that do not run once they are resized.
        """
        template = self._templates[call.key]
        if anew:
            template = self._finished(call, _converted([(call, at)])[0], at)
        shape = _result(call, at)
        weights = sum(weight.nbytes for weight in template.sized(call, at, 0).values()) if template.has_weights else 0
        most = MOST_OUTPUT_BYTES // max(1, 4 * int(np.prod(shape)))
        copies = max(LEAST_COPIES, min(MAX_COPIES, most, weight_bytes // weights if weights else LEAST_COPIES))
        return LayerFile(*template.file(call, at, copies), copies, shape)

    def _finished(self, call: LayerCall, template: _Template, at: Sequence[float] | None = None) -> _Template:
        return template.quantised(call, call.dense if at is None else at) if self.int8 else template


@dataclass(frozen=True)
class _Template:
    """A converted layer.

    Attributes:
        nodes: Of the graph, without those of other layers.
        weights: Name -> numbers at the converted widths, and the axes that follow widths of the call.
        activations: Name -> operand.
        output: Name of the result.
        has_weights: Whether copies differ by weights; else they do by inputs.
        model: What it was converted in, for versions.
    """

    nodes: tuple[Any, ...]
    weights: Mapping[str, tuple[np.ndarray[Any, Any], Follows]]
    activations: Mapping[str, Operand]
    output: str
    has_weights: bool
    model: Any

    def sized(self, call: LayerCall, at: Sequence[float], turn: int) -> dict[str, np.ndarray[Any, Any]]:
        """The weights at these widths, other numbers for every turn."""
        found = {}
        for name, (weight, follows) in self.weights.items():
            shape, ratios = list(weight.shape), call.ratios(at)
            for axis, place in follows:
                shape[axis] = max(1, round(shape[axis] * ratios[place]))
            moved = np.roll(weight, turn) if weight.size > 1 else weight
            found[name] = moved if moved.shape == tuple(shape) else np.resize(moved, shape)
        return found

    def file(self, call: LayerCall, at: Sequence[float], copies: int) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
        """Copies side by side as an ONNX file, and its inputs."""
        import onnx

        nodes, initializers, outputs = [], [], []
        inputs: dict[str, np.ndarray[Any, Any]] = {}
        draw, ratios = np.random.default_rng(0), call.ratios(at)
        groups = {count.dense: count.at(ratios) for count in call.counts if not count.parts_of}
        for turn in range(copies):
            own = {name: f"k{turn}_{name}" for node in self.nodes for name in node.output}
            own |= {name: f"k{turn}_{name}" for name in self.weights}
            shown = {name: f"k{0 if self.has_weights else turn}_{name}" for name in self.activations}
            for name, operand in self.activations.items():
                if shown[name] not in inputs:
                    inputs[shown[name]] = _numbers(operand, operand.sizes(ratios), draw)
            for node in self.nodes:
                nodes.append(_renamed(node, {**own, **shown}, f"k{turn}_", groups))
            weights = self.sized(call, at, turn)
            initializers += [onnx.numpy_helper.from_array(weight, own[name]) for name, weight in weights.items()]
            outputs.append(onnx.helper.make_empty_tensor_value_info(own[self.output]))
        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
        given = [onnx.helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in inputs.items()]
        graph = onnx.helper.make_graph(nodes, "layer", given, outputs, initializers)
        made = onnx.helper.make_model(graph, opset_imports=self.model.opset_import, functions=self.model.functions)
        made.ir_version = self.model.ir_version
        return made.SerializeToString(), inputs

    def quantised(self, call: LayerCall, at: Sequence[float]) -> _Template:
        """The same with weights and activations of 8 bits."""
        import onnx

        content, inputs = self.file(call, at, 1)
        with quiet(), tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(onnx.shape_inference.infer_shapes(onnx.load_from_string(content)).SerializeToString())
            quantise_prepared(source, out, [inputs], per_channel=True, halves=saturates_int8())
            model = onnx.load(out)
        arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        weights = {name: (array, self._follows(name, array)) for name, array in arrays.items()}
        activations = {f"k0_{name}": operand for name, operand in self.activations.items()}
        return _Template(tuple(model.graph.node), weights, activations, f"k0_{self.output}", self.has_weights, model)

    def _follows(self, name: str, array: np.ndarray[Any, Any]) -> Follows:
        """Axes of what quantising made of a weight: the weight itself, or scales of its rows."""
        for own, (weight, follows) in self.weights.items():
            if name == f"k0_{own}" or name.startswith(f"k0_{own}_"):
                if array.shape == weight.shape:
                    return follows
                return tuple(pair for pair in follows if pair[0] == 0) if array.shape == weight.shape[:1] else ()
        return ()


class _Bag(nn.Module):
    """Layers that share nothing, called with the tensors of all."""

    def __init__(self, calls: Sequence[tuple[LayerCall, Sequence[float]]]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest, found = iter(tensors), []
        for call, at in self.calls:
            found.append(_first(call.on([next(rest) for _ in call.operands], at)))
        return tuple(found)


def _converted(calls: Sequence[tuple[LayerCall, Sequence[float]]]) -> list[_Template]:
    """Layers at their widths, in one conversion, which takes seconds however few they are."""
    if not calls:
        return []
    model = _convert(calls)
    names = iter([entry.name for entry in model.graph.input])
    return [
        _template(call, at, [next(names) for _ in call.operands], entry.name, model)
        for (call, at), entry in zip(calls, model.graph.output, strict=True)
    ]


def _convert(calls: Sequence[tuple[LayerCall, Sequence[float]]]) -> Any:
    """An ONNX model whose inputs are the operands of all calls."""
    tensors = [
        operand.drawn(call.ratios(at), torch.device("cpu"), torch.float32, channels_last=False)
        for call, at in calls
        for operand in call.operands
    ]
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            program = torch.export.export(_Bag(calls), tuple(tensors))
            converted = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:  # the converter raises errors of many kinds
        if len(calls) > 1:
            for pair in calls:
                _convert([pair])
        call = calls[0][0]
        raise ExportError(
            f"the ONNX converter cannot follow {call.key.partition(' ')[0]} in {call.where}: {first_line(error)}; time "
            "PyTorch in place of a runtime, or replace the operator"
        ) from error
    assert converted is not None
    return converted.model_proto


def _template(call: LayerCall, at: Sequence[float], names: Sequence[str], output: str, model: Any) -> _Template:
    """The part of a converted model that computes one output; its weights become constants."""
    import onnx

    constants = {one.name: one for one in model.graph.initializer}
    is_dense = list(at) == list(call.dense)
    needed = {output}
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    nodes = tuple(node for node in model.graph.node if needed & set(node.output))
    draw = np.random.default_rng(0)
    weights: dict[str, tuple[np.ndarray[Any, Any], Follows]] = {
        name: (onnx.numpy_helper.to_array(constants[name]), ()) for name in needed if name in constants
    }
    activations: dict[str, Operand] = {}
    for name, operand in zip(names, call.operands, strict=True):
        if operand.is_weight:
            numbers = _numbers(operand, operand.sizes(call.ratios(at)), draw)
            weights[name] = (numbers, operand.follows if is_dense else ())
        else:
            activations[name] = operand
    has_weights = any(operand.is_weight for operand in call.operands)
    return _Template((*_preludes(nodes, activations), *nodes), weights, activations, output, has_weights, model)


def _preludes(nodes: Sequence[Any], activations: Mapping[str, Operand]) -> list[Any]:
    """What computes all images but the first that a layer reads, so that they lie in blocks, as in a network.

    Runtimes add them up within the layer then. The nodes are changed to read what these compute.
    """
    import onnx

    found = []
    for name, operand in list(activations.items())[1:]:
        if len(operand.shape) == 4 and operand.dtype.is_floating_point:
            made = f"{name}_{PRELUDE}"
            pool: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
            found.append(onnx.helper.make_node("MaxPool", [name], [made], name=made, **pool))
            for node in nodes:
                for place, given in enumerate(node.input):
                    if given == name:
                        node.input[place] = made
    return found


def _renamed(node: Any, names: Mapping[str, str], prefix: str, groups: Mapping[int, int]) -> Any:
    """A copy of a node with other names, and other groups of channels."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{prefix}{node.name}"
    copy.ClearField("input")
    copy.ClearField("output")
    copy.input.extend(names.get(name, name) for name in node.input)
    copy.output.extend(names.get(name, name) for name in node.output)
    for attribute in copy.attribute:
        if attribute.name == "group" and attribute.i in groups:
            attribute.i = groups[attribute.i]
    return copy


def _numbers(operand: Operand, shape: Iterable[int], draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """Random numbers above 0, as variances must be; zeros for integers."""
    kind = torch.empty(0, dtype=operand.dtype).numpy().dtype
    if not operand.dtype.is_floating_point:
        return np.zeros(tuple(shape), kind)
    return (draw.random(tuple(shape), np.float32) * 0.1 + 0.01).astype(kind)


def _result(call: LayerCall, at: Sequence[float]) -> tuple[int, ...]:
    """The shape of what a layer computes at these widths."""
    ratios = call.ratios(at)
    made = [torch.empty(operand.sizes(ratios), dtype=operand.dtype, device="meta") for operand in call.operands]
    with torch.no_grad():
        return tuple(_first(call.on(made, at)).shape)


def _first(result: Any) -> Tensor:
    found: Tensor = result if isinstance(result, Tensor) else result[0]
    return found
