"""The proof that a cut is right: the cut model computes what the masked one computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from adasap.errors import PlanError
from adasap.groups.copies import shared_copy
from adasap.groups.cutting import (
    cut_,
    cut_tensor,
    kept_masks,
    masked,
    masks_by_dim,
    named_tensors,
    removed_channels,
)
from adasap.groups.exported import ExampleInputs, as_arguments, evaluating
from adasap.groups.group import ChannelGroup
from adasap.groups.redraw import redraw_, scale_statistics_

MAX_RELATIVE_ERROR = 1e-9
MIN_CONTROL = 1e-4


@dataclass(frozen=True)
class CutProof:
    """What `check_cut` found.

    Attributes:
        relative_error: max |masked - cut| / max |masked| over all outputs, float64.
        control: Group name -> relative change of the output when that group keeps the wrong channels instead.
        unproven: Groups whose wrong cut went unseen (`control` at most 1e-4): nothing is known about them.
        trains: Whether a training-mode forward and backward of the cut model gave finite gradients.
    """

    relative_error: float
    control: Mapping[str, float]
    unproven: tuple[str, ...]
    trains: bool

    @property
    def holds(self) -> bool:
        """Whether the cut equals the mask, every control saw its wrong cut, and the cut model trains."""
        return self.relative_error <= MAX_RELATIVE_ERROR and not self.unproven and self.trains

    def __str__(self) -> str:
        """One line."""
        smallest = min(self.control.values(), default=float("inf"))
        parts = [
            f"masked = cut {'holds' if self.holds else 'does NOT hold'}",
            f"relative error {self.relative_error:.1e} (allowed {MAX_RELATIVE_ERROR:.0e})",
            f"{len(self.control)} groups, smallest control {smallest:.1e}",
        ]
        if self.unproven:
            parts.append(f"not proven: {', '.join(self.unproven)}")
        if not self.trains:
            parts.append("no finite gradients in training mode")
        return "; ".join(parts)


def check_cut(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    example_inputs: ExampleInputs,
    *,
    seed: int = 0,
) -> CutProof:
    """Prove on a re-drawn float64 copy that cutting equals masking and that a wrong cut would be seen.

    Masked means that the input slices that read a removed channel are zero. The control of a group is the
    same cut with that group's kept indices shifted by one, cyclically. The model itself is not touched.

    Args:
        model: The model as the groups describe it (dense, or cut before).
        groups: Its groups.
        kept: Group name -> int64 [k] channels that stay; absent groups stay whole and are not controlled.
        example_inputs: Shapes and types of the inputs; floating ones are drawn anew.
        seed: Of everything drawn.
    Raises:
        PlanError: If `kept` does not fit the groups.
    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> groups = trace_groups(net, torch.zeros(2, 3, 8, 8))
        >>> check_cut(net, groups, {"0": torch.tensor([0, 2])}, torch.zeros(2, 3, 8, 8)).holds
        True
    """
    generator = torch.Generator().manual_seed(seed)
    dense = copy.deepcopy(model).cpu().double()
    redraw_(dense, generator)
    inputs = _drawn_inputs(example_inputs, generator)
    scale_statistics_(dense, inputs)
    with masked(dense, groups, kept):
        expected = _outputs(dense, inputs)
    cut = shared_copy(dense)
    cut_(cut, groups, kept)
    error = _relative_error(expected, _outputs(cut, inputs))
    lossy = removed_channels(groups, kept)
    control = {
        group.name: _relative_error(expected, _outputs(_wrongly_cut(dense, cut, groups, kept, group), inputs))
        for group in groups
        if group.name in lossy
    }
    unproven = tuple(name for name, change in control.items() if not change > MIN_CONTROL)
    return CutProof(error, control, unproven, _trains(cut, inputs, seed))


def cut_matches_mask(
    dense_model: nn.Module,
    cut_model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    inputs: ExampleInputs,
) -> float:
    """The light form of the proof, on the real weights: how far the cut model is from the masked dense one.

    Both run in evaluation mode on the same batch. The dense model is masked in place for the time of one
    forward and restored bit for bit, so that nothing but the zeroed entries is copied.

    Args:
        dense_model: The model before the cut.
        cut_model: The model after it.
        groups: The groups of `dense_model`.
        kept: Group name -> int64 [k] channels that stayed.
        inputs: A batch on the models' device.
    Returns:
        max |masked - cut| / max |masked|; about 1e-6 in float32. Infinite where outputs differ in shape or
        are not finite.
    """
    arguments = as_arguments(inputs)
    with masked(dense_model, groups, kept):
        expected = _outputs(dense_model, arguments)
    return _relative_error(expected, _outputs(cut_model, arguments))


def _wrongly_cut(
    dense: nn.Module,
    cut: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    group: ChannelGroup,
) -> nn.Module:
    """The same cut, but one group keeps its kept channels' neighbours; tensors it has no part in are shared."""
    wrongly = {**kept, group.name: (kept[group.name] + 1) % group.num_channels}
    if group.extents:
        wrong = shared_copy(dense)
        cut_(wrong, groups, wrongly)
        return wrong
    wrong = shared_copy(cut)
    masks, whole, parts = kept_masks(dense, groups, wrongly), named_tensors(dense), named_tensors(wrong)
    for name in {slot.name for slot in group.slots}:
        parts[name].data = cut_tensor(whole[name], masks_by_dim(masks, name))
    return wrong


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with evaluating(model), torch.no_grad():
        outputs = pytree.tree_leaves(model(*inputs))
    return [leaf for leaf in outputs if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _relative_error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """max |a - b| / max |a| over all tensors; infinite for other shapes, non-finite numbers, or all zeros."""
    if not expected:
        raise PlanError("the model returns no floating-point tensor, so a cut cannot be checked on it")
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in actual]:
        return float("inf")
    largest = max(float(tensor.abs().max()) for tensor in expected)
    change = max(float((a - b).abs().max()) for a, b in zip(expected, actual, strict=True))
    finite = all(bool(tensor.isfinite().all()) for tensor in (*expected, *actual))
    return change / largest if finite and largest > 0 else float("inf")


def _drawn_inputs(example_inputs: ExampleInputs, generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.is_floating_point()
        else tensor.cpu()
        for tensor in as_arguments(example_inputs)
    )


def _trains(model: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> bool:
    """One forward and backward in training mode, on at least four examples so that batch statistics exist."""
    inputs = tuple(_at_least_four(tensor) for tensor in inputs)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        leaves: list[Any] = pytree.tree_leaves(model(*inputs))
        loss = sum(leaf.square().mean() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad)
        if not isinstance(loss, Tensor):
            return False
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(gradients) and all(bool(gradient.isfinite().all()) for gradient in gradients)


def _at_least_four(tensor: Tensor) -> Tensor:
    if tensor.dim() == 0 or len(tensor) >= 4:
        return tensor
    copies = [tensor.roll(shift, dims=-1) for shift in range(-(-4 // len(tensor)))]
    return torch.cat(copies)
