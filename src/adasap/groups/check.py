"""The proof that a cut is right: the cut model computes what the masked one computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from adasap.checks import whole_number
from adasap.convolutions import guard_convolutions
from adasap.errors import PlanError
from adasap.groups.bare import require_values, unwrap
from adasap.groups.cutting import (
    cut_,
    cut_tensor,
    kept_masks,
    masks_by_dim,
    named_tensors,
    removed_channels,
)
from adasap.groups.exported import evaluating, require_accepted
from adasap.groups.fake_model import copied, shared_copy
from adasap.groups.group import ChannelGroup, not_exact
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.masking import masked
from adasap.groups.materialise import plain_model
from adasap.groups.norms_masked import outputs_with_masked_norms
from adasap.groups.past import branches_of
from adasap.groups.preserving import preserved
from adasap.groups.redraw import redraw_, scale_statistics_
from adasap.groups.stand_ins import Branch, Removed, kept_of_left, left_of, silenced, take_out_, taken_out
from adasap.groups.without_chance import training_without_chance

MAX_RELATIVE_ERROR = 1e-9
MIN_CONTROL = 1e-4

Mode: TypeAlias = Callable[[nn.Module], AbstractContextManager[None]]


@dataclass(frozen=True)
class CutProof:
    """What `check_cut` found.

    Attributes:
        relative_error: max |masked - cut| / max |masked| over all outputs, float64.
        control: Group name -> relative change of the output when that group keeps the wrong channels instead.
        unproven: Groups whose wrong cut went unseen (`control` at most 1e-4): nothing is known about them.
        training_failure: What went wrong in a training-mode forward and backward of the cut model, or None.
        not_exact: Groups under a norm over their channels that lost some, one sentence each: there the masked model's
            norm sees the channels that stay alone.
    """

    relative_error: float
    control: Mapping[str, float]
    unproven: tuple[str, ...]
    training_failure: str | None
    not_exact: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the cut equals the mask, every control saw its wrong cut, and the cut model trains."""
        return self.relative_error <= MAX_RELATIVE_ERROR and not self.unproven and self.training_failure is None

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
        if self.training_failure:
            parts.append(f"training mode: {self.training_failure}")
        return "; ".join([*parts, *self.not_exact])


def check_cut(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    example_inputs: ExampleInputs,
    *,
    seed: int = 0,
    removed: Removed | None = None,
) -> CutProof:
    """Prove on a re-drawn float64 copy that cutting equals masking and that a wrong cut would be seen.

    Masked means that the input slices that read a removed channel are zero, and that norms over the channels of an
    inexact group see those that stay alone; and that the last parameters of a branch that is taken out are zero. The
    control of a group is the same cut with that group's kept indices shifted by one, cyclically, that of a branch the
    same cut with the branch in place. The model itself is not touched.

    Args:
        model: The model as the groups describe it (dense, or cut before).
        groups: Its groups.
        kept: Group name -> int64 [k] channels that stay; absent groups stay whole and are not controlled.
        example_inputs: As `trace_groups` takes them; floating tensors are drawn anew.
        seed: Of everything drawn.
        removed: Modules that are taken out, of the branches that the groups carry (`plan.removed`).
    Raises:
        PlanError: If `kept` or `removed` do not fit the groups.
        AdasapError: If the model or the inputs are of a kind that cannot be cut.
    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> groups = trace_groups(net, torch.zeros(2, 3, 8, 8))
        >>> check_cut(net, groups, {"0": torch.tensor([0, 2])}, torch.zeros(2, 3, 8, 8)).holds
        True
    """
    whole_number(seed, "seed")
    if not isinstance(kept, Mapping):
        raise PlanError(f"kept is a {type(kept).__name__}; give group name -> channels that stay, such as plan.kept")
    model = plain_model(model)
    require_values(model, "a proof")
    generator = torch.Generator().manual_seed(seed)
    dense = copied(model).cpu().double()
    redraw_(dense, generator)
    inputs = _drawn_inputs(example_inputs, generator)
    require_accepted(dense, inputs)
    scale_statistics_(dense, inputs)
    removed, branches = removed or {}, taken_out(branches_of(groups), removed or {})
    whole, groups, kept = groups, left_of(groups, removed), kept_of_left(groups, kept, removed)
    inexact = _loses_inexactly(groups, kept)
    modes = (evaluating,) if inexact else _modes(dense, inputs)
    with silenced(dense, branches), masked(dense, groups, kept):
        expected = (
            outputs_with_masked_norms(dense, groups, kept, inputs)
            if inexact
            else [output for mode in modes for output in _outputs(dense, inputs, mode)]
        )
    bare = shared_copy(dense)
    take_out_(bare, removed)
    cut = shared_copy(bare)
    cut_(cut, groups, kept)

    def error_of(candidate: nn.Module) -> float:
        return _relative_error(expected, _outputs_if_it_fits(candidate, inputs, modes))

    lossy = removed_channels(groups, kept)
    control = _controls(bare, cut, groups, kept, error_of)
    control |= {
        branch.name: error_of(_cut_without_taking_out(dense, whole, kept, removed, branch)) for branch in branches
    }
    unproven = tuple(name for name, change in control.items() if not change > MIN_CONTROL)
    marked = {group.name: not_exact(group, len(kept[group.name])) for group in groups if group.name in lossy}
    said = tuple(f"{name} is {what}" for name, what in marked.items() if what)
    return CutProof(error_of(cut), control, unproven, _training_failure(cut, inputs, seed), said)


def cut_matches_mask(
    dense_model: nn.Module,
    cut_model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    inputs: ExampleInputs,
    *,
    branches: Sequence[Branch] = (),
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
        branches: What was taken out of `cut_model`; masked means that these are zero.
    Returns:
        max |masked - cut| / max |masked|; about 1e-6 in float32. Infinite where outputs differ in shape or
        are not finite.
    """
    arguments, dense_model, cut_model = as_arguments(inputs), unwrap(dense_model), unwrap(cut_model)
    with preserved(dense_model), preserved(cut_model):
        with silenced(dense_model, branches), masked(dense_model, groups, kept):
            expected = (
                outputs_with_masked_norms(dense_model, groups, kept, arguments)
                if _loses_inexactly(groups, kept)
                else _outputs(dense_model, arguments)
            )
        return _relative_error(expected, _outputs(cut_model, arguments))


def _loses_inexactly(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> bool:
    """Whether a group under a norm over its channels loses any, so that the norm belongs to the mask."""
    lossy = removed_channels(groups, kept)
    return any(group.inexact for group in groups if group.name in lossy)


def _controls(
    dense: nn.Module,
    cut: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    error_of: Callable[[nn.Module], float],
) -> dict[str, float]:
    """Group name -> error of the same cut in which that group keeps its kept channels' neighbours.

    One copy serves all groups where only tensors change, as a copy costs more than a forward; unless its own error is
    another one in the end, because forward wrote something on it: then every group gets a copy of its own.
    """
    lossy = removed_channels(groups, kept)

    def controls(copy_for: Callable[[], nn.Module]) -> dict[str, float]:
        found = {}
        for group in groups:
            if group.name in lossy:
                with _wrongly_cut(dense, copy_for, groups, kept, group) as wrong:
                    found[group.name] = error_of(wrong)
        return found

    reused = shared_copy(cut)
    exact = error_of(reused)
    found = controls(lambda: reused)
    return found if error_of(reused) == exact else controls(lambda: shared_copy(cut))


@contextmanager
def _wrongly_cut(
    dense: nn.Module,
    copy_for: Callable[[], nn.Module],
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    group: ChannelGroup,
) -> Iterator[nn.Module]:
    """The cut model, but one group keeps its kept channels' neighbours; tensors it has no part in stay as they are."""
    wrongly = {**kept, group.name: (kept[group.name] + 1) % group.num_channels}
    if group.extents:
        wrong = shared_copy(dense)
        cut_(wrong, groups, wrongly)
        yield wrong
        return
    names = {slot.name for slot in group.slots}
    near = [other for other in groups if names & {slot.name for slot in other.slots}]
    masks = kept_masks(dense, near, {other.name: wrongly[other.name] for other in near if other.name in wrongly})
    wrong = copy_for()
    whole, parts = named_tensors(dense), named_tensors(wrong)
    before = {name: parts[name].data for name in names}
    for name in names:
        parts[name].data = cut_tensor(whole[name], masks_by_dim(masks, name))
    try:
        yield wrong
    finally:
        for name, data in before.items():
            parts[name].data = data


def _cut_without_taking_out(
    dense: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], removed: Removed, branch: Branch
) -> nn.Module:
    """The same cut with one of the branches in place, and nothing of its own gone."""
    wrong = shared_copy(dense)
    cut_(wrong, groups, kept, {name: gives for name, gives in removed.items() if name not in branch.modules})
    return wrong


def _modes(model: nn.Module, inputs: Arguments) -> tuple[Mode, ...]:
    """Evaluation, and training without chance where that returns more: auxiliary heads, or more queries."""
    try:
        trained = _outputs(model, inputs, training_without_chance)
    except (RuntimeError, ValueError):  # a forward may refuse to train on these inputs, as without targets
        return (evaluating,)
    evaluated = _outputs(model, inputs)
    more = len(trained) > len(evaluated) or _num_entries(trained) > _num_entries(evaluated)
    return (evaluating, training_without_chance) if more else (evaluating,)


def _num_entries(outputs: Sequence[Tensor]) -> int:
    return sum(output.numel() for output in outputs)


def _outputs(model: nn.Module, inputs: Arguments, mode: Mode = evaluating) -> list[Tensor]:
    with mode(model), torch.no_grad():
        outputs = pytree.tree_leaves(inputs.call(model))
    return [leaf for leaf in outputs if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _outputs_if_it_fits(model: nn.Module, inputs: Arguments, modes: Sequence[Mode]) -> list[Tensor]:
    """The outputs in all modes; none where layers of a cut model do not fit together, which nothing equals."""
    try:
        return [output for mode in modes for output in _outputs(model, inputs, mode)]
    except RuntimeError:
        return []


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


def _drawn_inputs(example_inputs: ExampleInputs, generator: torch.Generator) -> Arguments:
    return as_arguments(example_inputs).map(
        lambda tensor: (
            torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.is_floating_point()
            else tensor.cpu()
        )
    )


def _training_failure(model: nn.Module, inputs: Arguments, seed: int) -> str | None:
    """One forward and backward in training mode, on at least four examples so that batch statistics exist."""
    guard_convolutions()
    batch = inputs.batch_size
    inputs = inputs.map(lambda tensor: _at_least_four(tensor) if tensor.ndim and len(tensor) == batch else tensor)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        try:
            leaves: list[Any] = pytree.tree_leaves(inputs.call(model))
        except RuntimeError as error:
            return f"forward fails: {error}"
        loss = sum(leaf.square().mean() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad)
        if not isinstance(loss, Tensor):
            return "no output depends on a trainable parameter"
        loss.backward()  # type: ignore[no-untyped-call]
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"gradients of {', '.join(bad[:3])} are not finite" if bad else None


def _at_least_four(tensor: Tensor) -> Tensor:
    if len(tensor) >= 4:
        return tensor
    copies = [tensor.roll(shift, dims=-1) for shift in range(-(-4 // len(tensor)))]
    return torch.cat(copies)
