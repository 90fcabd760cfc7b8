"""What a detector is here: a module whose call on a fixed-size batch is a plain tensor program, the traced part.

Everything that looks at `forward` (groups, costs, latency, masked = cut, export) sees backbone, neck and heads, because
that is what a detector computes from a tensor. What depends on the data (matching, losses, suppression of boxes) lies
behind the call with a list of images, on the same modules, so surgery on the traced part is surgery on the detector.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import DataError
from adasap.groups.fake_model import copied

RawOutputs = dict[str, Tensor]
Losses = dict[str, Tensor]
Target = dict[str, Any]
"""`boxes` float [N, 4] (x_min, y_min, x_max, y_max in pixels), `labels` int64 [N] from 1; more keys do not matter."""
Detections = dict[str, Tensor]
"""`boxes` float [N, 4] in pixels of the image as it was given, `labels` int64 [N], `scores` float [N]."""

CLASS_LOGITS = ("cls_logits", "class_logits")
"""Names of the raw output whose last axis is the classes."""


class Detector(nn.Module):
    """One module, called in three ways; labels count from 1, 0 is background.

    Images are float, normalised by the mean and standard deviation of the model's spec.

    - `detector(batch)`, float [N, 3, H, W] of the size it works at: the raw outputs of its heads, name -> tensor.
    - `detector(images, targets)`, a list of images of any sizes: losses by name, in any mode. In evaluation mode norm
      layers and dropout hold still, so that a cut can be judged by the loss.
    - `detector(images)`: detections, one dictionary per image.
    """

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Raw outputs of a tensor, losses of images with targets, detections of images alone."""
        if isinstance(images, Tensor):
            return self.raw(images)
        return self.detect(images) if targets is None else self.losses(images, targets)

    @abstractmethod
    def raw(self, images: Tensor) -> RawOutputs:
        """What the heads compute from float [N, 3, H, W]."""

    @abstractmethod
    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Losses:
        """Name -> loss, scalars with a graph, each a mean over the batch as its paper defines it."""

    @abstractmethod
    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """What it finds in each image, the most certain first."""

    def computed_by(self, raw: Callable[[Tensor], RawOutputs]) -> Detector:
        """A copy in evaluation mode that finds boxes in what a function computes, such as a file in its runtime.

        Of use where `detect` calls `raw`; override it where it does not.

        Args:
            raw: In the place of `raw`.
        """
        changed: Any = copied(self).eval()
        object.__setattr__(changed, "raw", raw)  # a module would take a bound module's method for a submodule's
        return changed  # type: ignore[no-any-return]

    def post_processing(self) -> dict[str, Any]:
        """How boxes come of the raw outputs, for whoever has only a file: plain JSON values; by default a name."""
        return {"kind": f"{type(self).__module__}:{type(self).__qualname__}.detect"}

    def backbone_tensors(self) -> dict[str, str]:
        """Name of a tensor in an ImageNet classifier's file -> its name here, for all that the backbone takes."""
        return below(self, "backbone")


def below(model: nn.Module, prefix: str) -> dict[str, str]:
    """The names of the state below a module, without and with the prefix.

    Example:
        >>> below(nn.Sequential(nn.Sequential(nn.Linear(1, 1))), "0")
        {'0.weight': '0.0.weight', '0.bias': '0.0.bias'}
    """
    start = f"{prefix}."
    return {name.removeprefix(start): name for name in model.state_dict() if name.startswith(start)}


@contextmanager
def containers_training(model: nn.Module) -> Iterator[None]:
    """Training mode for modules that have submodules; layers stay as they are, and all flags come back.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm2d(1)).eval()
        >>> with containers_training(net):
        ...     net.training, net[0].training
        (True, False)
    """
    flags = [(module, module.training) for module in model.modules() if any(True for _ in module.children())]
    try:
        for module, _ in flags:
            module.training = True
        yield
    finally:
        for module, training in flags:
            module.training = training


def count_classes(detector: nn.Module, input_size: Sequence[int]) -> int:
    """How many classes a detector's heads answer with, background included, by one pass over a black image.

    Args:
        detector: On the CPU.
        input_size: Channels, height, width.
    Raises:
        DataError: If it is no detector, or does not take images of that size.
    Example:
        >>> from adasap.models import ModelSpec, open_model
        >>> options = {"num_classes": 4, "image_size": 64, "width": 0.25}
        >>> model = open_model(ModelSpec("adasap:ssd_mobilenet_v1", options))
        >>> count_classes(model, (3, 64, 64))
        4
    """
    if not isinstance(getattr(detector, "behind", detector), Detector):  # behind a file in its place
        raise DataError(
            f"{type(detector).__name__} is no detector; choose adasap:ssd_mobilenet_v1, torchvision:ssd300_vgg16 or "
            "another one of docs/detectors.md, or derive your own from adasap.models.Detector"
        )
    flags = [(module, module.training) for module in detector.modules()]
    try:
        detector.eval()
        with torch.no_grad():
            outputs = detector(torch.zeros(1, *input_size))
    except RuntimeError as error:
        raise DataError(
            f"the detector does not take images of {' x '.join(map(str, input_size))}: {error}; correct "
            "`model.input_size`"
        ) from error
    finally:
        for module, training in flags:
            module.training = training
    return next(int(outputs[name].shape[-1]) for name in CLASS_LOGITS if name in outputs)
