"""Whether a file computes in its own runtime what the model computes in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adasap.errors import ExportError
from adasap.groups.exported import require_accepted
from adasap.groups.inputs import Arguments

MAX_DIFFERENCE = 1e-4
"""Largest relative difference between the model and its file that is taken for rounding."""

Runner = Callable[[Arguments], list[Tensor]]
"""Runs a file: the arguments of forward -> the tensors it returns, in order."""


def random_inputs(arguments: Arguments, batch_size: int, *, seed: int = 0) -> Arguments:
    """Inputs of the same kind and another batch size: standard normal as preprocessed images are, or rows repeated.

    Args:
        arguments: Of forward; the first axis of each tensor is the batch.
        batch_size: Wanted.
        seed: Of what is drawn.
    Returns:
        On the CPU; floating tensors drawn anew, rows of others repeated.

    Example:
        >>> [tuple(t.shape) for t in random_inputs(Arguments((torch.zeros(1, 3, 8, 8),), {}), 5).tensors]
        [(5, 3, 8, 8)]
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn((batch_size, *tensor.shape[1:]), generator=generator).to(tensor.dtype)
        return tensor.cpu()[torch.arange(batch_size) % len(tensor)]

    return arguments.map(drawn)


def run_in_torch(model: nn.Module, inputs: Arguments) -> list[Tensor]:
    """The tensors that a module returns, in order, without gradients; TraceError if it does not take these inputs."""
    try:
        with torch.no_grad():
            return [leaf for leaf in tree_leaves(inputs.call(model)) if isinstance(leaf, Tensor)]
    except Exception:  # whatever the model's own code raises
        require_accepted(model, inputs)
        raise


def require_parity(expected: Sequence[Tensor], found: Sequence[Tensor], *, where: str) -> float:
    """The worst relative difference of all outputs, if it is small enough.

    The difference of one output is max |found - expected| / max |expected|, so that small outputs are held to the
    same number of digits; an output that is all zeros must be all zeros in the file.

    Args:
        expected: What the model returns.
        found: What the file returns.
        where: Names runtime and batch size in messages.
    Raises:
        ExportError: If it is above 1e-4, shapes differ, numbers are not finite, or every output is all zeros, which
            would prove nothing.

    Example:
        >>> round(require_parity([torch.tensor([4.0, 2.0])], [torch.tensor([4.0, 2.0001])], where="here"), 7)
        2.5e-05
    """
    shapes = [tuple(t.shape) for t in expected], [tuple(t.shape) for t in found]
    if shapes[0] != shapes[1]:
        raise ExportError(f"{where}: the model returns shapes {shapes[0]}, the file {shapes[1]}; no file was kept")
    if not all(bool(t.isfinite().all()) for t in expected):
        raise ExportError(f"{where}: the model's own outputs are not finite, so there is nothing to compare with")
    if not any(bool(t.any()) for t in expected):
        raise ExportError(
            f"{where}: all outputs of the model are zero, which any file would match; give it trained weights first"
        )
    worst = max(_difference(a.double(), b.double()) for a, b in zip(expected, found, strict=True))
    if not worst <= MAX_DIFFERENCE:
        raise ExportError(
            f"{where}: the file differs from the model by {worst:.1e} of its largest output (allowed "
            f"{MAX_DIFFERENCE:g}); no file was kept; export to another target and report the model"
        )
    return worst


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.numel() == 0:
        return 0.0
    largest, change = float(expected.abs().max()), float((found - expected).abs().max())
    if largest == 0:
        return 0.0 if change == 0 else float("inf")
    return change / largest
