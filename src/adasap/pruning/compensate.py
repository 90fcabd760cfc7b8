"""Compensation at a cut: what reads the channels that went makes up for them, without training.

`least_squares`    (OSSCAR, arXiv:2403.12983; CORP, arXiv:2602.05243)

Each convolution with groups = 1 and each linear layer that lost inputs is refitted in closed form:

V = argmin E||W x - V x_k||^2 + lambda ||V - W_k||^2 = W_k + W_r C_rk (C_kk + lambda I)^-1

where k are the inputs that stay, r those that went, and lambda is a fraction of the mean diagonal of C_kk.

*Which x.* The layers are taken in order of execution. x are the (unfolded) inputs of the layer in the network before
the cut, in which every layer before this one has its new weights on the kept inputs and zeros on the removed ones. So
the removed channels are still computed and still seen at this layer, by rows that were refitted like all others, and
W x is what the layer gives there. Once a layer is done, zeros take the place of its removed inputs. All batches advance
through the network together, each one running once, so that C is over all of them when a layer is solved. Of the
positions of a layer's outputs at most 32,768 are looked at, drawn by a fixed seed.

*Means.* A layer with a bias gives the mean to it, and C is the covariance. Without a bias, a batch norm right behind
the layer that keeps running statistics takes the mean into its running mean, which is the same. Where there is neither,
C is E[x x^T] and the mean is fitted like the rest.

*Check.* The error E||W x - V x_k||^2 is computed from the same moments with the weights as they will be stored. Where
it would be larger than with the old weights, these stay.

`fold`    (after arXiv:2602.18116, which clusters channels and merges each cluster)

Without data. Each removed channel r is given to the kept channel j of its group whose rows are most alike: W_j + s W_r
takes the place of W_j in everything that reads the group. Rows are compared by the cosine of what computes a channel:
filter and bias of all producers, a batch norm right behind one folded into it, depthwise filters, and what other
norms and activations keep of the channel, each of them divided by its mean length over the group. s is the
least-squares factor from the filters of j to those of r, through depthwise filters the product of the factors; not
below 0, as activations keep positive factors alone. Shifts have no part in it: they mostly move the mean, which renewed
norms take away. It is 1 for units of several rows, such as heads, and where other norms and activations have numbers of
the channel. A channel that is a copy of a kept one goes without loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from adasap.errors import ArgumentError, suggestion
from adasap.groups.cutting import cut_tensor, kept_masks, masks_by_dim, named_tensors, removed_channels
from adasap.groups.exported import evaluating
from adasap.groups.fake_model import shared_copy
from adasap.groups.group import ChannelGroup, Slot
from adasap.groups.heads import fit_heads_
from adasap.pruning.least_squares import MAX_ROWS, Fit, Moments, add_inputs, fitted, unfolded_size, why_not
from adasap.pruning.lockstep import Stop, in_lockstep

Compensate = Literal["none", "least_squares", "fold"]

Forward = Callable[[nn.Module, Any], object]
"""`forward(model, batch)` runs the model on a batch."""


@dataclass(frozen=True)
class LayerError:
    """What the removed inputs of a layer cost it on the batches: E||W x - V x_k||^2 / E||W x||^2.

    Attributes:
        before: With the weights as they were.
        after: With the new ones; never above `before`.
        grew: Whether new weights would have been worse, or there were none, so that the old ones stayed.
    """

    before: float
    after: float
    grew: bool = False


@dataclass(frozen=True)
class Compensation:
    """What was done at a cut.

    Attributes:
        how: `least_squares` or `fold`.
        layers: Layer -> its error on the batches before and after, in order of execution; empty for `fold`.
        left: Layer that lost inputs -> why it has its old weights on the others.
        changed: Names of the parameters and buffers that have new values.
    """

    how: Compensate
    layers: Mapping[str, LayerError] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    @property
    def errors(self) -> dict[str, tuple[float, float]]:
        """Layer -> its error before and after."""
        return {name: (error.before, error.after) for name, error in self.layers.items()}

    @property
    def as_they_were(self) -> dict[str, str]:
        """Layer that lost inputs and has its old weights on the others -> why."""
        grew = {name: "its error would have grown" for name, error in self.layers.items() if error.grew}
        return {**self.left, **grew}

    def __str__(self) -> str:
        """One line."""
        if self.how == "fold":
            return f"folded into {len(self.changed)} layers"
        errors, left = self.layers.values(), self.as_they_were
        said = f"{sum(not error.grew for error in errors)} layers refitted"
        if errors:
            before, after = fmean(error.before for error in errors), fmean(error.after for error in errors)
            said += f", mean error {100 * before:.1f} % -> {100 * after:.1f} %"
        reasons = ", ".join(f"{name or 'the model'} ({why})" for name, why in left.items())
        return f"{said}; not refitted: {reasons}" if left else said


def require_known(how: str) -> None:
    """Raises ArgumentError unless this is a way of compensation.

    Example:
        >>> require_known("lstsq")
        Traceback (most recent call last):
        adasap.errors.ArgumentError: compensate is 'lstsq'; there are: none, least_squares, fold
    """
    if how not in get_args(Compensate):
        raise ArgumentError(f"compensate is {how!r}; {suggestion(str(how), get_args(Compensate))}")


def compensate_(
    before: nn.Module,
    cut: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    how: Compensate,
    *,
    norms: Mapping[str, str],
    batches: Sequence[Any] = (),
    forward: Forward | None = None,
) -> Compensation:
    """Gives the layers of a cut model new weights in place, so that they make up for the channels that went.

    Parameters stay the objects that they are, so optimizers and their state stay valid. Norm statistics are those of
    the uncut model still (but for means that take part): renew them afterwards (`adasap.recalibrate_`).

    Args:
        before: The model before the cut, a plain module on the batches' device. It is used up: its weights change.
        cut: The model after it.
        groups: Those of `before`.
        kept: Group name -> int64 [k] channels that stayed; absent groups stayed whole.
        how: `least_squares` or `fold`.
        norms: `norms_behind(before, example_inputs)`, also of an earlier model of the same layers.
        batches: For `least_squares`; all are in the network at the same time, so give a few hundred images.
        forward: How a batch is run; by default `model(batch)`, or `model(batch[0])` for a tuple or list.
    Raises:
        ArgumentError: For `least_squares` without batches.
        PlanError: If `kept` does not fit the groups.
    Example:
        >>> from adasap.groups.cutting import cut_
        >>> from adasap.groups.fake_model import copied
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> for layer in (net[0], net[2]):
        ...     _ = nn.init.ones_(layer.weight)
        >>> _ = nn.init.zeros_(net[0].bias)
        >>> groups, kept, cut = trace_groups(net, torch.zeros(1, 1)), {"0": torch.tensor([1])}, copied(net)
        >>> _ = cut_(cut, groups, kept)
        >>> print(compensate_(net, cut, groups, kept, "fold", norms={}))
        folded into 1 layers
        >>> cut[2].weight.tolist()
        [[2.0]]
    """
    require_known(how)
    layers: dict[str, LayerError]
    left: dict[str, str]
    if how == "fold":
        changed, layers, left = _fold_(before, groups, kept, norms), {}, {}
    elif how == "least_squares":
        if not batches:
            raise ArgumentError("compensate='least_squares' measures on batches and was given none; pass a few")
        changed, layers, left = _refit_(before, groups, kept, norms, list(batches), forward or forward_images)
    else:
        return Compensation(how)
    masks, old, new = kept_masks(before, groups, kept), named_tensors(before), named_tensors(cut)
    for name in changed:
        new[name].data.copy_(cut_tensor(old[name], masks_by_dim(masks, name)))
    return Compensation(how, layers, left, changed)


def forward_images(model: nn.Module, batch: Any) -> object:
    """Runs a batch that is the model's input, or has it as its first part."""
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


# Least squares


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer that lost inputs and can be refitted."""

    layer: Any
    kept: Tensor  # bool [D]
    norm: _BatchNorm | None  # right behind, where the layer has no bias


def _refit_(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    norms: Mapping[str, str],
    batches: Sequence[Any],
    forward: Forward,
) -> tuple[tuple[str, ...], dict[str, LayerError], dict[str, str]]:
    """Names of changed tensors, errors by layer, and what was left; the model is then the cut one, masked."""
    fit_heads_(model, whole=True)  # attention calls its last layer as a module then
    readers, left = _readers(model, groups, kept, norms)
    with evaluating(model):
        for name, calls in _calls(model, list(readers), batches[0], forward).items():
            if calls != 1:
                left[name] = f"it is called {calls} times in a forward" if calls else "its forward is not called"
    readers = {name: reader for name, reader in readers.items() if name not in left}
    _mask_(model, groups, kept, left)
    layers: dict[str, LayerError] = {}
    changed: list[str] = []
    for name, fit in _fits(model, readers, batches, forward):
        layers[name] = LayerError(fit.error_before, fit.error_after, fit.grew)
        if not fit.grew:
            changed += _told(name, readers[name], norms)
    return tuple(changed), layers, left


def _readers(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], norms: Mapping[str, str]
) -> tuple[dict[str, _Reader], dict[str, str]]:
    """Layer -> how it is refitted, and layer -> why not, of all that lose inputs."""
    masks, tensors = kept_masks(model, groups, kept), named_tensors(model)
    owners: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        owners.setdefault(id(tensor), []).append(name)
    readers, left = {}, {}
    inexact = {(slot.name, slot.dim) for group in groups if group.inexact for slot in group.slots}
    for slot in _lost_slots(groups, kept):
        path, _, parameter = slot.name.rpartition(".")
        layer, others = model.get_submodule(path), [n for n in owners[id(tensors[slot.name])] if n != slot.name]
        reason = why_not(layer, parameter) if not others else f"its weight is also {others[0]}"
        if (slot.name, slot.dim) in inexact:
            reason = "what it reads is normalised without the channels that went"
        if reason is not None:
            left[path] = reason
            continue
        mask = masks[slot.name, slot.dim].to(tensors[slot.name].device)
        entries = layer.get_parameter("weight")[0, 0].numel()
        readers[path] = _Reader(
            layer, mask.repeat_interleave(entries), _norm_behind(model, path, norms) if layer.bias is None else None
        )
    return readers, left


def _norm_behind(model: nn.Module, layer: str, norms: Mapping[str, str]) -> _BatchNorm | None:
    """The batch norm right behind a layer, if it keeps running statistics."""
    norm = model.get_submodule(norms[layer]) if layer in norms else None
    return norm if isinstance(norm, _BatchNorm) and norm.running_mean is not None else None


def _lost_slots(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> Iterator[Slot]:
    """Consumer slots that lose inputs, one of each axis."""
    removed = removed_channels(groups, kept)
    found = {(s.name, s.dim): s for g in groups if g.name in removed for s in g.with_role("consumer")}
    yield from found.values()


def _mask_(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], layers: Mapping[str, str]
) -> None:
    """Layers that stay as they are no longer read what goes."""
    masks, tensors = kept_masks(model, groups, kept), named_tensors(model)
    for slot in _lost_slots(groups, kept):
        if slot.name.rpartition(".")[0] in layers:
            gone = (~masks[slot.name, slot.dim]).nonzero().flatten()
            tensor = tensors[slot.name].data
            tensor.index_fill_(slot.dim, gone.to(tensor.device), 0.0)


def _calls(model: nn.Module, names: Sequence[str], batch: Any, forward: Forward) -> dict[str, int]:
    """Layer -> how often a forward pass calls it."""
    counts = dict.fromkeys(names, 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            counts[name] += 1

        return hook

    watched = shared_copy(model)
    with torch.no_grad(), ExitStack() as hooks:
        for name in names:
            hooks.callback(watched.get_submodule(name).register_forward_pre_hook(count(name)).remove)
        forward(watched, batch)
    return counts


def _fits(
    model: nn.Module, readers: Mapping[str, _Reader], batches: Sequence[Any], forward: Forward
) -> Iterator[tuple[str, Fit]]:
    """Layer and its fit in order of execution; its weights in the model are the new ones, with zeros for what goes."""
    moments: dict[str, Moments] = {}
    place = {name: index for index, name in enumerate(readers)}
    most = -(-MAX_ROWS // len(batches))

    def one(index: int, batch: Any) -> Callable[[Stop], object]:
        def work(stop: Stop) -> None:
            copy = shared_copy(model).eval()  # forward may write on its modules, not on those of another pass
            for name in readers:
                layer = copy.get_submodule(name)
                layer.register_forward_pre_hook(watch(name, layer, index, stop), with_kwargs=True)
            forward(copy, batch)

        return work

    def watch(name: str, layer: Any, index: int, stop: Stop) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            inputs = args[0] if args else kwargs["input"]
            if name not in moments:
                moments[name] = Moments(unfolded_size(layer), inputs.device)
            seed = place[name] * len(batches) + index
            add_inputs(moments[name], layer, inputs.detach(), most=most, seed=seed)
            stop(name)

        return hook

    with in_lockstep([one(index, batch) for index, batch in enumerate(batches)]) as names:
        for name in names:
            yield name, _take_(readers[name], moments.pop(name))


@torch.no_grad()
def _take_(reader: _Reader, moments: Moments) -> Fit:
    """Solves and writes into the model before the cut."""
    weight, bias = reader.layer.weight.data, reader.layer.bias
    rows = weight.flatten(1)
    fit = fitted(rows, moments, reader.kept, takes_mean=bias is not None or reader.norm is not None)
    new = torch.zeros_like(rows)
    new[:, reader.kept] = fit.weight
    weight.copy_(new.view(weight.shape))
    if bias is not None:
        bias.data.add_(fit.shift)
    elif reader.norm is not None and reader.norm.running_mean is not None:
        reader.norm.running_mean.sub_(fit.shift)
    return fit


def _told(name: str, reader: _Reader, norms: Mapping[str, str]) -> Iterator[str]:
    """Names of the tensors that a fit has changed."""
    yield f"{name}.weight"
    if reader.layer.bias is not None:
        yield f"{name}.bias"
    elif reader.norm is not None:
        yield f"{norms[name]}.running_mean"


# Folding


@dataclass(frozen=True, eq=False)
class _Stage:
    """One of the maps that compute a group's channels: rows [C, F] and shifts [C, K]."""

    rows: Tensor
    shifts: Tensor
    kind: Literal["producer", "depthwise", "other"] = "producer"

    @property
    def features(self) -> Tensor:
        """float64 [C, F + K], of mean length 1."""
        both = torch.cat([self.rows, self.shifts], 1)
        mean_length: Tensor = both.norm(dim=1).mean()
        return both / mean_length.clamp_min(torch.finfo(both.dtype).tiny)


@torch.no_grad()
def _fold_(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], norms: Mapping[str, str]
) -> tuple[str, ...]:
    """Adds the columns of what goes to those of what stays, in place; names of the changed weights."""
    removed, tensors = removed_channels(groups, kept), named_tensors(model)
    partners = {
        group.name: _partners(_stages(model, group, norms), kept[group.name].cpu(), removed[group.name])
        for group in groups
        if group.name in removed
    }
    changed: dict[str, None] = {}
    for group in groups:
        if group.name not in removed:
            continue
        gone, (takers, factors) = removed[group.name], partners[group.name]
        for slot in {(s.name, s.dim): s for s in group.with_role("consumer")}.values():
            tensor = tensors[slot.name].data
            source, target = (slot.positions[which].flatten().to(tensor.device) for which in (gone, takers))
            shape = [-1 if dim == slot.dim else 1 for dim in range(tensor.ndim)]
            factor = factors.repeat_interleave(slot.positions.shape[1]).to(tensor).view(shape)
            tensor.index_add_(slot.dim, target, tensor.index_select(slot.dim, source) * factor)
            changed[slot.name] = None
    return tuple(changed)


def _partners(stages: Sequence[_Stage], kept: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """For each channel that goes the one that takes it, int64 [r], and the factor, float64 [r]."""
    ones = torch.ones(len(gone), dtype=torch.float64)
    if not stages:
        return kept[:1].expand(len(gone)), torch.zeros_like(ones)
    features = F.normalize(torch.cat([stage.features for stage in stages], 1), dim=1)
    takers = kept[(features[gone] @ features[kept].T).argmax(1)]
    if any(stage.shifts.shape[1] > 1 or stage.kind == "other" for stage in stages):
        return takers, ones
    first = [stage.rows for stage in stages if stage.kind == "producer"]
    factors = _factor(*(torch.cat(first, 1)[which] for which in (gone, takers))) if first else ones
    for stage in stages:
        if stage.kind == "depthwise":
            factors = _factor(stage.rows[gone] * factors[:, None], stage.rows[takers])
    return takers, factors


def _factor(ours: Tensor, theirs: Tensor) -> Tensor:
    """Least-squares s >= 0 of ours = s theirs, row by row, float64 [r]."""
    square = theirs.square().sum(1).clamp_min(torch.finfo(theirs.dtype).tiny)
    return ((ours * theirs).sum(1) / square).clamp_min(0.0)


def _stages(model: nn.Module, group: ChannelGroup, norms: Mapping[str, str]) -> list[_Stage]:
    """What computes the group's channels, in float64 on the processor, in the order of the slots."""
    tensors = {name: tensor.detach().double().cpu() for name, tensor in _of_slots(model, group).items()}
    stages, told = [], set()
    for slot in group.with_role("producer"):
        path, _, parameter = slot.name.rpartition(".")
        layer = model.get_submodule(path)
        table = tensors[slot.name].movedim(slot.dim, 0).flatten(1)
        shift = torch.zeros(len(table), dtype=torch.float64)
        bias = f"{path}.bias" if path else "bias"
        if parameter == "weight" and bias in tensors:
            shift = tensors[bias]
            told.add(bias)
        norm = _norm_behind(model, path, norms)
        if norm is not None:
            scale, offset = _affine(norm)
            table, shift = table * scale[:, None], shift * scale + offset
            told |= {f"{norms[path]}.{name}" for name in norm.state_dict()}
        kind = "depthwise" if isinstance(layer, _ConvNd) and layer.groups > 1 else "producer"
        rows = table[slot.positions.flatten()].reshape(group.num_channels, -1)
        stages.append(_Stage(rows, shift[slot.positions], kind))  # type: ignore[arg-type]
    for slot in group.with_role("scale", "shift", "statistic"):
        if slot.name not in told:
            table = tensors[slot.name].movedim(slot.dim, 0)[slot.positions.flatten()]
            rows = table.reshape(group.num_channels, -1)
            stages.append(_Stage(rows, rows.new_zeros(len(rows), 1), "other"))
    return stages


def _of_slots(model: nn.Module, group: ChannelGroup) -> dict[str, Tensor]:
    tensors = named_tensors(model)
    return {slot.name: tensors[slot.name] for slot in group.slots}


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in evaluation mode, float64 [C]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale.cpu(), (shift if norm.bias is None else shift + norm.bias.detach().double()).cpu()
