"""Exporting a model to its ATen graph, in evaluation mode and without leaving a trace on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from adasap.errors import TraceError

ExampleInputs = Tensor | tuple[Tensor, ...]
"""One tensor, or the positional arguments of forward; values do not matter, shapes do."""


@dataclass(frozen=True)
class ExportedGraph:
    """An ATen graph and what its placeholders stand for.

    Attributes:
        graph: The graph, with shapes in each node's `meta["val"]`.
        parameters: Placeholder name -> first qualified name of the parameter.
        buffers: Placeholder name -> first qualified name of the buffer.
        inputs: Placeholder names of the model's inputs.
        outputs: Names of the nodes the model returns.
        unreached: First names of parameters that no operator reads.
    """

    graph: fx.Graph
    parameters: dict[str, str]
    buffers: dict[str, str]
    inputs: frozenset[str]
    outputs: tuple[fx.Node, ...]
    unreached: tuple[str, ...]


def export_graph(model: nn.Module, example_inputs: ExampleInputs, *, training: bool = False) -> ExportedGraph:
    """Export with `torch.export`; train/eval flags come back as they were.

    Raises:
        TraceError: If the model cannot be exported.
    """
    return _described(model, export_program(model, as_arguments(example_inputs), training=training))


def export_program(
    model: nn.Module,
    arguments: tuple[Tensor, ...],
    *,
    training: bool = False,
    dynamic_shapes: tuple[dict[int, Any] | None, ...] | None = None,
) -> torch.export.ExportedProgram:
    """What `torch.export` makes of the model; train/eval flags come back as they were.

    Args:
        model: Left as it is.
        arguments: Of forward, by position.
        training: Export the training graph.
        dynamic_shapes: For each argument axis -> `torch.export.Dim`; axes that are not named are fixed.
    Raises:
        TraceError: If the model cannot be exported.
    """
    try:
        with in_mode(model, training), torch.no_grad(), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, arguments, strict=False, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # torch.export raises errors of many kinds
        first_line = str(error).strip().split("\n")[0]
        raise TraceError(
            f"torch.export cannot follow {type(model).__name__} on inputs of shape "
            f"{[tuple(argument.shape) for argument in arguments]}: {first_line}; remove data-dependent "
            f"control flow from forward, or trace the part of the model without it"
        ) from error


def _described(model: nn.Module, program: torch.export.ExportedProgram) -> ExportedGraph:
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
    return ExportedGraph(graph, parameters, buffers, frozenset(inputs), outputs, unreached)


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


def as_arguments(example_inputs: ExampleInputs) -> tuple[Tensor, ...]:
    """The positional arguments of forward."""
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode for a while; the flag of every submodule comes back as it was."""
    return in_mode(model, training=False)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; the flag of every submodule comes back as it was."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def quiet() -> Iterator[None]:
    """Trials are meant to fail at times: torch need not log a traceback for each shape that does not fit."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
