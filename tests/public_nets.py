"""Networks and wrappers for the contract of public functions: what people hand over beside plain modules."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

IMAGES = torch.zeros(2, 3, 8, 8)


def plain_net() -> nn.Sequential:
    """Two prunable groups, `0` and `3`, and a classifier; always the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": _compiled,
    "data parallel": DataParallel,
    "distributed": DistributedDataParallel,
    "averaged": AveragedModel,
    "averaged compiled": lambda model: AveragedModel(_compiled(model)),
    "compiled distributed": lambda model: _compiled(DistributedDataParallel(model)),
    "distributed compiled data parallel": lambda model: DistributedDataParallel(_compiled(DataParallel(model))),
}


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone, which DistributedDataParallel asks for."""
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


@dataclass
class Notes:
    """A plain object in which a module keeps what it saw."""

    seen: list[Any] = field(default_factory=list)
    last: Any = None


class Head(nn.Module):
    """Writes on itself in forward as detectors of the YOLO family do: anchors, strides, shapes, buffers, counters."""

    anchors: Any
    strides: Any
    stride: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 6, 1)
        self.anchors = self.strides = torch.empty(0)
        self.shape: Any = None
        self.calls = 0
        self.grids: dict[int, Any] = {}
        self.history: list[Any] = [["first"]]
        self.notes = Notes()
        self.temporary: Any = "deleted in forward"
        self.register_buffer("stride", torch.zeros(1), persistent=False)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.shape != y.shape:
            self.anchors, self.strides = torch.arange(y.shape[-1], dtype=x.dtype, device=x.device) + 0.5, torch.ones(1)
            self.shape, self.stride = y.shape, self.strides * 2
        if hasattr(self, "temporary"):
            del self.temporary
        self.calls += 1
        self.count.add_(1)
        self.grids[y.shape[-1]] = self.anchors
        self.history[0].append(y)
        self.history.append({"y": y})
        self.notes.seen.append(y)
        self.notes.last = self.last = y
        self.conv.neighbour = y.mean()  # type: ignore[assignment]
        return y * self.anchors


class YoloLike(nn.Module):
    """A backbone and such a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.backbone(x))
        return output
