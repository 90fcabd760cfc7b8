"""The mask of an inexact cut: norms over the channels see those that stay, and no others.

No zeros in the weights do that, so the dense model's graph is run node by node, and each norm or mean over channels is
given the part that stays. Which part that is follows from the labels, as for the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from adasap.groups.cutting import named_tensors, removed_channels
from adasap.groups.exported import described, export_program
from adasap.groups.group import ChannelGroup
from adasap.groups.inputs import Arguments
from adasap.groups.labels import LabelBook
from adasap.groups.operators.call import Mixer, Notes, arguments_by_name
from adasap.groups.walk import Walked, walk_graph


def outputs_with_masked_norms(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], inputs: Arguments
) -> list[Tensor]:
    """The floating outputs in evaluation mode, where norms over channels of `groups` see those that are kept alone.

    Args:
        model: The model of the groups; what reads removed channels is zeroed by the caller (`masked`).
        groups: Its groups.
        kept: Group name -> int64 [k] channels that stay; absent groups stay whole.
        inputs: Arguments of forward, on the model's device.
    Raises:
        TraceError: If the model cannot be exported.
        PlanError: As `kept_masks`.
    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.LayerNorm(3), nn.Linear(3, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [3.0], [100.0]])), nn.init.zeros_(net[0].bias)
        >>> _ = net[2].weight.data.copy_(torch.tensor([[1.0, 2.0, 0.0]])), nn.init.zeros_(net[2].bias)
        >>> groups = trace_groups(net, torch.ones(1, 1), allow_inexact=True)
        >>> inputs = Arguments((torch.ones(1, 1),), {})
        >>> outputs_with_masked_norms(net, groups, {"0": torch.tensor([0, 1])}, inputs)[0].round(decimals=2)
        tensor([[1.]])
    """
    program = export_program(model, inputs)
    exported = described(model, program)
    walked = Walked(LabelBook(allow_inexact=True), Notes(), exported.output_shapes)
    walk_graph(exported, model, walked)
    with torch.no_grad():
        interpreter = _Interpreter(program.graph_module, _kept_of_mixers(walked, groups, kept))
        returned = interpreter.run(*_placeholder_values(program, model, inputs))
    specs = program.graph_signature.output_specs
    outputs = [value for spec, value in zip(specs, returned, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
    return [value for value in outputs if isinstance(value, Tensor) and value.is_floating_point()]


class _Interpreter(fx.Interpreter):
    """Runs a graph, with calls that see all channels restricted to some."""

    def __init__(self, module: fx.GraphModule, restricted: Mapping[fx.Node, tuple[Mixer, Tensor]]) -> None:
        super().__init__(module)
        self.restricted = restricted

    def run_node(self, n: fx.Node) -> Any:
        if n not in self.restricted:
            return super().run_node(n)
        mixer, index = self.restricted[n]
        given = arguments_by_name(n, self.env.__getitem__)
        device = next(value.device for value in given.values() if isinstance(value, Tensor))
        return mixer.over(n.target, given, index.to(device))


def _kept_of_mixers(
    walked: Walked, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]
) -> dict[fx.Node, tuple[Mixer, Tensor]]:
    """The calls of which a channel goes, and the indices that stay."""
    book, roots, removed = walked.book, walked.book.roots(), removed_channels(groups, kept)
    goes = torch.zeros(len(roots), dtype=torch.bool)
    for group in groups:
        for slot in group.slots if group.name in removed else ():
            if (slot.name, slot.dim) in book.axes:
                start = book.axes[slot.name, slot.dim].start
                goes[roots[start + slot.positions[removed[group.name]].flatten()]] = True
    found = {}
    for mixer in walked.notes.mixers:
        gone = goes[roots[mixer.labels.clamp(min=0)]] & (mixer.labels > 0)
        if gone.any():
            found[mixer.node] = (mixer, (~gone).nonzero().flatten())
    return found


def _placeholder_values(program: torch.export.ExportedProgram, model: nn.Module, inputs: Arguments) -> list[Any]:
    tensors, given = named_tensors(model), iter(pytree.tree_leaves((inputs.args, inputs.kwargs)))
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            values.append(next(given))
        elif spec.target in tensors:
            values.append(tensors[str(spec.target)])
        else:
            values.append(program.constants[str(spec.target)])
    return values
