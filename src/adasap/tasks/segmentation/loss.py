"""Losses over pixels: cross-entropy, Dice, their sum; auxiliary heads; class weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.checks import require_declared, require_within
from adasap.errors import DataError, RecipeError
from adasap.tasks.segmentation.data.segmentation_set import IGNORED


@dataclass(frozen=True)
class SegmentationLoss:
    """How the loss is made: a weighted sum of cross-entropy and Dice.

    Attributes:
        cross_entropy: Weight of the cross-entropy over pixels.
        dice: Weight of the Dice loss.
        class_weights: Weight of each class in the cross-entropy, which is divided by the sum of the pixels' weights;
            None weighs them equally.
        auxiliary: Weight of each auxiliary output (`aux`) that the model gives while it trains.
    """

    cross_entropy: float = 1.0
    dice: float = 0.0
    class_weights: tuple[float, ...] | None = None
    auxiliary: float = 0.4

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_within(RecipeError, 0, 1e6, cross_entropy=self.cross_entropy, dice=self.dice, auxiliary=self.auxiliary)
        require_within(RecipeError, 0, 1e6, class_weights=self.class_weights)
        if self.cross_entropy == self.dice == 0 or (self.class_weights is not None and not any(self.class_weights)):
            raise RecipeError("all weights of the loss are 0; give one of cross_entropy and dice a weight above 0")

    def __call__(self, output: Any, masks: Tensor) -> Tensor:
        """The loss of a model's output, a scalar.

        Args:
            output: float [N, C, h, w], or {"out": ..., "aux": ...} with as many; smaller ones are resized to the masks.
            masks: int64 [N, H, W], `IGNORED` where a pixel takes no part.
        Raises:
            DataError: For an output of another kind, or another number of classes than weights.
        """
        main, auxiliary = outputs_of(output)
        loss = self._of_logits(main, masks)
        for logits in auxiliary:
            loss = loss + self.auxiliary * self._of_logits(logits, masks)
        return loss

    def _of_logits(self, logits: Tensor, masks: Tensor) -> Tensor:
        logits = resized(logits.float(), masks.shape[-2:])
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
        if weights is not None and len(weights) != logits.shape[1]:
            raise DataError(
                f"class_weights has {len(weights)} numbers, the model {logits.shape[1]} classes; give one each"
            )
        loss = logits.new_zeros(())
        if self.cross_entropy:
            loss = loss + self.cross_entropy * pixel_cross_entropy(logits, masks, weights)
        if self.dice:
            loss = loss + self.dice * dice_loss(logits, masks)
        return loss


def pixel_cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, mean over the pixels that count, in nats; 0 with a graph where none does.

    Args:
        logits: float [N, C, H, W].
        masks: int64 [N, H, W].
        weights: Of each class, float [C].

    Example:
        >>> logits = torch.zeros(1, 2, 1, 2)
        >>> pixel_cross_entropy(logits, torch.tensor([[[0, 255]]]))
        tensor(0.6931)
    """
    total = F.cross_entropy(logits, masks, weights, ignore_index=IGNORED, reduction="sum")
    counted = masks != IGNORED
    weight = counted.sum() if weights is None else weights[masks[counted]].sum()
    return total / torch.where(weight > 0, weight, 1)


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - mean over classes of 2 sum(p t) / (sum(p) + sum(t)), with probabilities p and targets t in {0, 1}.

    Sums go over all pixels of the batch that count, the mean over the classes that occur in its masks (Milletari et
    al., 2016, arXiv:1606.04797, with plain sums below the line); 0 with a graph where no pixel counts.

    Args:
        logits: float [N, C, H, W].
        masks: int64 [N, H, W].

    Example:
        >>> sure = torch.tensor([[[[50.0, -50.0]], [[-50.0, 50.0]]]])
        >>> dice_loss(sure, torch.tensor([[[0, 1]]])), dice_loss(sure, torch.tensor([[[1, 0]]]))
        (tensor(0.), tensor(1.))
    """
    counts = (masks != IGNORED)[:, None]
    target = F.one_hot(masks.masked_fill(masks == IGNORED, 0), logits.shape[1]).movedim(-1, 1) * counts
    probabilities = logits.softmax(dim=1) * counts
    common = (probabilities * target).sum(dim=(0, 2, 3))
    labelled = target.sum(dim=(0, 2, 3))
    sums = probabilities.sum(dim=(0, 2, 3)) + labelled
    present = labelled > 0
    share = torch.where(present, 2 * common / sums.clamp(min=1e-6), 0.0)
    number = present.sum()
    return torch.where(number > 0, 1 - share.sum() / number.clamp(min=1), 0.0 * share.sum())


def outputs_of(output: Any) -> tuple[Tensor, list[Tensor]]:
    """The logits [N, C, h, w] of a model, and those of its auxiliary heads.

    Raises:
        DataError: For an output of another kind.
    """
    auxiliary: list[Tensor] = []
    if isinstance(output, dict):
        auxiliary = [value for name, value in output.items() if name.startswith("aux")]
        output = output.get("out", output.get("logits"))
    elif hasattr(output, "logits"):
        output = output.logits
    if not isinstance(output, Tensor) or output.ndim != 4:
        given = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"a segmentation network must return logits [N, C, H, W] or a dictionary with them as `out`, not {given}"
        )
    return output, auxiliary


def resized(logits: Tensor, size: Iterable[int]) -> Tensor:
    """Logits [N, C, h, w] at another height and width, bilinear; those of the right size as they are."""
    height, width = size
    if logits.shape[-2:] == (height, width):
        return logits
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def median_frequency_weights(masks: Iterable[Tensor], num_classes: int) -> tuple[float, ...]:
    """Class weights median(f) / f_c; f_c is the share of class c in the pixels of the images that show it.

    As Eigen and Fergus (2015, arXiv:1411.4734, section 4.3.2) weigh classes; a class that never occurs has weight 0.

    Args:
        masks: uint8 or int64 [H, W] each, such as those of the training set.
        num_classes: Number of classes.

    Example:
        >>> median_frequency_weights([torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 0, 255]])], 3)
        (0.64583..., 2.21428..., 0.0)
    """
    pixels, shown = torch.zeros(num_classes, dtype=torch.float64), torch.zeros(num_classes, dtype=torch.float64)
    for mask in masks:
        counts = torch.bincount(mask[mask != IGNORED].flatten().long(), minlength=num_classes)
        pixels += counts
        shown += counts.sum() * (counts > 0)
    present = pixels > 0
    shares = pixels[present] / shown[present]
    weights = torch.zeros(num_classes, dtype=torch.float64)
    weights[present] = shares.quantile(0.5) / shares
    return tuple(weights.tolist())
