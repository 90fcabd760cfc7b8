"""Exporting a model to its ATen graph, in evaluation mode and without leaving a trace on it."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from adasap.errors import TraceError
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.preserving import preserved, without_remembering
from adasap.groups.regions import inline_regions_


@dataclass(frozen=True)
class ExportedGraph:
    """An ATen graph and what its placeholders stand for.

    Attributes:
        graph: The graph, with shapes in each node's `meta["val"]`.
        parameters: Placeholder name -> first qualified name of the parameter.
        buffers: Placeholder name -> first qualified name of the buffer.
        inputs: Placeholder names of the model's inputs.
        outputs: The nodes the model returns, in the order of the graph.
        output_shapes: Shapes of all tensors that it returns, in the order in which it returns them.
        unreached: First names of parameters that no operator reads.
    """

    graph: fx.Graph
    parameters: dict[str, str]
    buffers: dict[str, str]
    inputs: frozenset[str]
    outputs: tuple[fx.Node, ...]
    output_shapes: list[tuple[int, ...]]
    unreached: tuple[str, ...]


def export_graph(
    model: nn.Module, example_inputs: ExampleInputs, *, training: bool | frozenset[str] = False
) -> ExportedGraph:
    """Export with `torch.export`; the model is left as it was.

    Args:
        model: The model.
        example_inputs: As for `trace_groups`.
        training: Whether in training mode, or the names of the modules that are, the others being in evaluation mode.
    Raises:
        TraceError: If the model cannot be exported.
    """
    with _without_stack_traces():
        return described(model, export_program(model, as_arguments(example_inputs), training=training))


def export_program(
    model: nn.Module,
    arguments: Arguments,
    *,
    training: bool | frozenset[str] = False,
    dynamic_shapes: Any = None,
    keep_regions: bool = False,
) -> torch.export.ExportedProgram:
    """What `torch.export` makes of the model; everything that forward writes on the modules is taken back.

    Args:
        model: Left as it is.
        arguments: Of forward.
        training: Export the training graph; names of modules: of those alone.
        dynamic_shapes: As `torch.export` takes them; axes that are not named are fixed.
        keep_regions: Leave `with torch.autocast(...)` and the like in the graph, for a program that is to be run; for
            one that is read they are replaced by the calls inside.
    Raises:
        TraceError: If the model does not take these inputs, takes one image without a batch, or cannot be exported.
    """
    try:
        with (
            preserved(model),
            without_remembering(model),
            in_mode(model, training),
            torch.no_grad(),
            quiet(),
            _uncollected(),
            redirect_stderr(StringIO()),  # there torch prints the whole graph of a forward that it cannot follow
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            program = torch.export.export(
                model, arguments.args, arguments.kwargs, strict=False, dynamic_shapes=dynamic_shapes
            )
    except Exception as error:  # torch.export raises errors of many kinds
        shapes = [tuple(tensor.shape) for tensor in arguments.tensors]
        require_accepted(model, arguments, training=training)
        first_line = str(error).strip().split("\n")[0]
        raise TraceError(
            f"torch.export cannot follow {type(model).__name__} on inputs of shape {shapes}: {first_line}; remove "
            "data-dependent control flow from forward, or trace the part of the model without it"
        ) from error
    if not keep_regions:
        inline_regions_(program)
    _require_batch(program)
    return program


def require_accepted(model: nn.Module, arguments: Arguments, *, training: bool | frozenset[str] = False) -> None:
    """Raises TraceError, with what the model's own forward says, if it does not take these inputs."""
    try:
        with preserved(model), in_mode(model, training), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments.call(model)
    except Exception as error:  # whatever the model's own code raises
        said = (str(error).strip() or "no message").splitlines()[0]
        raise TraceError(
            f"the forward of {type(model).__name__} does not take these example inputs ({arguments.describe()}): "
            f"{type(error).__name__}: {said}; give them as a forward pass of the model gets them: prepared, with its "
            "number of channels, image size and type, on its device"
        ) from error


def _require_batch(program: torch.export.ExportedProgram) -> None:
    """Convolutions take one image without a batch axis, too; its colours would be counted as images."""
    ranks = {"conv1d": 3, "conv2d": 4, "conv3d": 5}
    for node in program.graph.nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "").partition("::")[2]
        image: Any = node.args[0] if name in ranks else None
        if image is not None and len(image.meta["val"].shape) < ranks[name]:
            raise TraceError(
                f"a convolution gets an input of shape {tuple(image.meta['val'].shape)}, which has no batch axis; give "
                "a batch of example inputs: images.unsqueeze(0)"
            )


def described(model: nn.Module, program: torch.export.ExportedProgram) -> ExportedGraph:
    """The graph of an exported program of this model."""
    first_names = canonical_names(model)
    parameters, buffers, inputs = {}, {}, set()
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.PARAMETER and spec.target is not None:
            parameters[spec.arg.name] = first_names.get(spec.target, spec.target)
        elif spec.kind is InputKind.BUFFER and spec.target is not None:
            buffers[spec.arg.name] = first_names.get(spec.target, spec.target)
        elif spec.kind is InputKind.USER_INPUT:
            inputs.add(spec.arg.name)
    graph = program.graph_module.graph
    returned = {spec.arg.name for spec in program.graph_signature.output_specs}
    outputs = tuple(node for node in graph.nodes if node.op != "output" and node.name in returned)
    reached = {parameters[node.name] for node in graph.nodes if node.name in parameters and node.users}
    unreached = tuple(name for name, _ in model.named_parameters() if name not in reached)
    return ExportedGraph(graph, parameters, buffers, frozenset(inputs), outputs, _output_shapes(program), unreached)


def _output_shapes(program: torch.export.ExportedProgram) -> list[tuple[int, ...]]:
    values = {node.name: node.meta.get("val") for node in program.graph_module.graph.nodes}
    returned = [values.get(name) for name in program.graph_signature.user_outputs if isinstance(name, str)]
    return [tuple(value.shape) for value in returned if isinstance(value, Tensor)]


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every qualified name of a parameter or buffer -> the first name of the same tensor."""
    names: dict[str, str] = {}
    for tensors in (
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        first: dict[int, str] = {}
        for name, tensor in tensors:
            names[name] = first.setdefault(id(tensor), name)
    return names


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode for a while; the flag of every submodule comes back as it was."""
    return in_mode(model, training=False)


@contextmanager
def in_mode(model: nn.Module, training: bool | frozenset[str]) -> Iterator[None]:
    """Training or evaluation mode for a while; the flag of every submodule comes back as it was.

    With names of modules, these are in training mode, and the others in evaluation mode.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.train(training is True)
        for name in training if isinstance(training, frozenset) else ():
            model.get_submodule(name).training = True
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Inside, torch does not look up the lines of code that each node of a graph comes from: nobody reads them."""
    before = getattr(fx.config, "do_not_emit_stack_traces", None)  # torch 2.9 has no such switch
    try:
        if before is not None:
            fx.config.do_not_emit_stack_traces = True
        yield
    finally:
        if before is not None:
            fx.config.do_not_emit_stack_traces = before


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, no garbage is collected: an export makes objects without end, keeps most, and looks through them again
    and again, a seventh of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Trials are meant to fail at times: torch need not log tracebacks of shapes that do not fit, nor whole graphs."""
    loggers = [
        logging.getLogger(f"torch.{name}") for name in ("_subclasses.fake_tensor", "fx.experimental.symbolic_shapes")
    ]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
