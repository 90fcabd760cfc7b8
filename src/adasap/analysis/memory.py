"""How much memory an analysis needs, said before it begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adasap.analysis.objective import Objective
from adasap.analysis.options import AnalysisOptions

ASCENT_COPIES = 6
"""Of the weights: gradient, place, best place, its gradient, stretch, offset."""

WORK_SPACE = 0.5
"""What operators and allocator take beside saved tensors: so much did the process grow on ResNet-20, on a CPU."""

VECTORS_BESIDE = 4
"""Vectors of a Lanczos step beside the basis: product, direction, its shaped copy, a temporary one."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes beyond model and data, by what holds them; not all at the same time.

    Attributes:
        weights: One copy of the trainable weights.
        ascent: What worst-case ascent holds.
        vectors: The Lanczos basis and the vectors beside it.
        num_vectors: How many these are.
        graph: What one batch's gradient with its graph holds, measured.
        graphs_kept: How many of these are kept at a time.
    """

    weights: int
    ascent: int
    vectors: int
    num_vectors: int
    graph: int
    graphs_kept: int

    @property
    def peak(self) -> int:
        """The most that is held at a time: a backward pass needs about its graph once more."""
        return max(self.ascent + self.graph, self.vectors + (self.graphs_kept + 1) * self.graph)

    def __str__(self) -> str:
        return (
            f"at most about {size(self.peak)} beyond model and data: {self.num_vectors} vectors of "
            f"{size(self.weights)}, {self.graphs_kept} graphs of {size(self.graph)} and one in work; ascent holds "
            f"{size(self.ascent)}"
        )


def memory_need(objective: Objective, options: AnalysisOptions) -> MemoryNeed:
    """An estimate, from one gradient of the first batch; vectors are counted, the graph is measured."""
    chosen = options.hessian
    weights = sum(w.numel() * w.element_size() for w in objective.weights)
    longest = min(objective.size, max(chosen.max_products, chosen.density_steps)) + VECTORS_BESIDE
    graph, batches = graph_bytes(objective), min(chosen.batches, len(objective.batches))
    return MemoryNeed(
        weights=weights,
        ascent=ASCENT_COPIES * weights,
        vectors=longest * weights,
        num_vectors=longest,
        graph=graph,
        graphs_kept=batches if batches * graph <= chosen.graph_bytes else 1,
    )


def graph_bytes(objective: Objective) -> int:
    """What one batch's gradient with its graph holds: tensors saved for backward, and `WORK_SPACE` times as much."""
    seen: dict[int, int] = {}
    own = {w.untyped_storage().data_ptr() for w in objective.weights}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with objective.measuring(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = objective.loss(objective.model, objective.batches[0])
        found = torch.autograd.grad(loss, list(objective.parameters.values()), create_graph=True, allow_unused=True)
    del found
    return int((1 + WORK_SPACE) * sum(seen.values()))


def size(count: float) -> str:
    """Bytes as people read them.

    Example:
        >>> size(1_500_000), size(2.25e9)
        ('1.5 MB', '2.2 GB')
    """
    for unit, bytes_in_it in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_in_it:
            return f"{count / bytes_in_it:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
