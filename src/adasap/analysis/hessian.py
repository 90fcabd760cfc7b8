"""Products with the Hessian of the loss, or with a diagonal block of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from adasap.analysis.objective import Objective, flat, unflat
from adasap.errors import ArgumentError, ModelError

Method = Literal["double backward", "finite differences"]

DIFFERENCE = 0.5
"""The half width of a central difference is this times the cube root of the machine precision, in weight units."""


class Hessian:
    """v to H v, where H is the Hessian of the mean loss over an objective's batches.

    `double backward` differentiates the gradient (Pearlmutter 1994). It is exact up to rounding; kinks, as of ReLU,
    take no part. `finite differences` is (g(w + h v) - g(w - h v)) / 2h with v scaled to length 1 and
    h = cbrt(machine precision) / 2, 0.0025 in float32: its error is of order h^2, and kinks within h do take part. On
    ReLU networks it gives the largest eigenvalues within some percent, but products with random vectors, and so trace
    and density, are mostly kinks.

    Args:
        objective: The loss.
        coordinates: int64 positions among all trainable weights, ascending: the block of H over these; all by default.
        method: Double backward where the model supports it, unless one is named.
        keep_graphs: Keep each batch's gradient with its graph between products. A product then takes about two thirds
            of the time; the memory of one pass is held for every batch, and the weights must not be changed meanwhile.
    Attributes:
        size: Number of coordinates.
        method: What is used.
        reason: Why, where double backward had to be given up.
    Example:
        >>> w = torch.nn.Linear(2, 1, bias=False)
        >>> objective = Objective(w, [torch.diag(torch.tensor([1.0, 2.0]))], lambda m, x: m(x).square().sum() / 2)
        >>> Hessian(objective)(torch.tensor([1.0, 1.0])), Hessian(objective, coordinates=torch.tensor([1])).size
        (tensor([1., 4.]), 1)
    """

    def __init__(
        self,
        objective: Objective,
        *,
        coordinates: Tensor | None = None,
        method: Method | None = None,
        keep_graphs: bool = False,
    ) -> None:
        self._objective, self._keep = objective, keep_graphs
        self._tensors, self._chosen = _touched(list(objective.parameters.values()), coordinates)
        self.size = sum(p.numel() for p in self._tensors) if self._chosen is None else len(self._chosen)
        self._graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self.reason = ""
        self.method: Method = method or self._supported()

    def __call__(self, vector: Tensor) -> Tensor:
        """H v, float [size]."""
        directions = unflat(self._spread(vector), self._tensors)
        count = len(self._objective.batches)
        product = self._differentiated if self.method == "double backward" else self._differenced
        total: Tensor | None = None
        with self._objective.measuring():
            for batch in range(count):
                found = flat(product(batch, directions))
                total = found if total is None else total.add_(found)
        assert total is not None
        total /= count
        return total if self._chosen is None else total[self._chosen]

    def random_start(self, seed: int = 0) -> Tensor:
        """A normal vector of the right size, type and device, drawn on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.size, generator=generator).to(self._tensors[0].detach())

    @property
    def like(self) -> Tensor:
        """A tensor of the type and device of the vectors."""
        return self._tensors[0].detach()

    def _supported(self) -> Method:
        """Tries one product with the first batch."""
        try:
            with self._objective.measuring():
                gradients, _ = self._gradients(0)
                if dead_end := _dead_end(gradients):
                    self.reason = f"an operator of the model can be differentiated only once ({dead_end})"
                    return "finite differences"
                del gradients
                self._differentiated(0, [torch.ones_like(p) for p in self._tensors])
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._graphs.clear()
            self.reason = str(error).strip().splitlines()[0]
            return "finite differences"
        return "double backward"

    def _spread(self, vector: Tensor) -> Tensor:
        """The vector over all entries of the touched tensors, zero outside the block."""
        if vector.shape != (self.size,):
            raise ArgumentError(f"the vector must have shape [{self.size}], got {tuple(vector.shape)}")
        if self._chosen is None:
            return vector
        whole = vector.new_zeros(sum(p.numel() for p in self._tensors))
        whole[self._chosen] = vector
        return whole

    def _differentiated(self, batch: int, directions: Sequence[Tensor]) -> list[Tensor]:
        gradients, weights = self._graphs[batch] if batch in self._graphs else self._gradients(batch)
        if self._keep:
            self._graphs[batch] = gradients, weights
        position = {id(w): i for i, w in enumerate(self._tensors)}
        found = (
            torch.autograd.grad(
                gradients,
                weights,
                [directions[position[id(w)]] for w in weights],
                retain_graph=self._keep,
                allow_unused=True,
            )
            if gradients
            else ()
        )
        products = {id(w): p for w, p in zip(weights, found, strict=True) if p is not None}
        return [products[id(w)].detach() if id(w) in products else torch.zeros_like(w) for w in self._tensors]

    def _gradients(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients that depend on the weights, with their graph, and their parameters."""
        loss = self._objective.loss(self._objective.model, self._objective.batches[batch])
        found = torch.autograd.grad(loss, self._tensors, create_graph=True, allow_unused=True)
        pairs = [(g, w) for g, w in zip(found, self._tensors, strict=True) if g is not None and g.requires_grad]
        return [g for g, _ in pairs], [w for _, w in pairs]

    def _differenced(self, batch: int, directions: Sequence[Tensor]) -> list[Tensor]:
        length = torch.stack([torch.linalg.vector_norm(d.double()) for d in directions]).norm().item()
        if length == 0:
            return [torch.zeros_like(d) for d in directions]
        step = DIFFERENCE * torch.finfo(directions[0].dtype).eps ** (1 / 3)
        names = {id(p): name for name, p in self._objective.parameters.items()}
        places = {name: i for i, name in enumerate(self._objective.parameters)}
        ends = []
        for sign in (1, -1):
            moves = {names[id(w)]: sign * step / length * d for w, d in zip(self._tensors, directions, strict=True)}
            gradient = self._objective.gradient(batch, moves)[1]
            ends.append([gradient[places[names[id(w)]]] for w in self._tensors])
        return [(up - down) * (length / (2 * step)) for up, down in zip(*ends, strict=True)]


def _dead_end(gradients: Sequence[Tensor]) -> str:
    """A node in place of a missing derivative. It need not raise: what passes through it may just be left out."""
    seen: set[object] = set()
    waiting = [gradient.grad_fn for gradient in gradients]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith(("Error", "NotImplemented")):
            return node.name()
        waiting += [before for before, _ in node.next_functions]
    return ""


def _touched(parameters: list[Tensor], coordinates: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """The parameters that the coordinates lie in, and their positions among these parameters' entries."""
    if coordinates is None:
        return parameters, None
    total = sum(p.numel() for p in parameters)
    if not len(coordinates) or int(coordinates.min()) < 0 or int(coordinates.max()) >= total:
        raise ModelError(
            f"a block needs at least one coordinate within 0 to {total - 1}; trace the groups of this model"
        )
    tensors, chosen, start, kept = [], [], 0, 0
    for parameter in parameters:
        inside = coordinates[(coordinates >= start) & (coordinates < start + parameter.numel())]
        if len(inside):
            tensors.append(parameter)
            chosen.append(inside - start + kept)
            kept += parameter.numel()
        start += parameter.numel()
    return tensors, torch.cat(chosen).to(parameters[0].device)
