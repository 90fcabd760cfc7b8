"""Small networks whose sharpness, Hessian and removals are known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adasap.analysis import Objective


class Quadratic(nn.Module):
    """loss(w) = w . A w / 2 + b . w, whatever the batch."""

    def __init__(self, matrix: Tensor, slope: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.matrix, self.slope = matrix, slope
        self.w = nn.Parameter(weights.clone())

    def forward(self, scale: float) -> Tensor:
        return scale * (self.w @ self.matrix @ self.w / 2 + self.slope @ self.w)


def quadratic(matrix: Tensor, slope: Tensor, weights: Tensor, scales: tuple[float, ...] = (1.0,)) -> Objective:
    return Objective(Quadratic(matrix, slope, weights), scales, lambda model, batch: model(batch))


def symmetric(size: int, seed: int = 0) -> Tensor:
    entries = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return entries + entries.T


def small_net() -> nn.Module:
    """Convolutions with norms and smooth activations; norm statistics and parameters are not the initial ones."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 3, 2),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    with torch.no_grad():
        for norm in (net[1], net[4]):
            for tensor in (norm.weight, norm.running_var):
                tensor.uniform_(0.5, 2.0)
            for tensor in (norm.bias, norm.running_mean):
                tensor.normal_(0.0, 0.3)
    return net


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def small_batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(5, 2, 5, 5, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (5,), generator=generator),
        )
        for _ in range(count)
    ]


def small_objective() -> Objective:
    return Objective(small_net(), small_batches(), cross_entropy)


class Once(torch.autograd.Function):
    """The sine, with a gradient that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].cos()


class OnceNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4).double()
        self.second = nn.Linear(4, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(Once.apply(self.first(x))).square().mean()


def exact_hessian(objective: Objective) -> Tensor:
    """By torch.autograd.functional.hessian over all weights, as one matrix."""
    names, shapes = list(objective.parameters), [p.shape for p in objective.parameters.values()]

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        state = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}

        class Bound(nn.Module):
            def forward(self, *inputs: Tensor) -> Tensor:
                return torch.func.functional_call(objective.model, state, inputs)

        losses = [objective.loss(Bound(), batch) for batch in objective.batches]
        return torch.stack(losses).mean()

    with objective.measuring():
        return torch.autograd.functional.hessian(loss, torch.cat([w.flatten() for w in objective.weights]))
