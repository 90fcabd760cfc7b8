"""How the model to be saved came to be, in the words of the file; and the proof that the file will load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from adasap.errors import AdasapError, ModelFileError, PlanError
from adasap.groups.bare import unwrap
from adasap.groups.cutting import cut_
from adasap.groups.group import ChannelGroup, fingerprint, prunable
from adasap.groups.materialise import computed_weights, materialise_weights_
from adasap.groups.past import Past, past_of, past_with
from adasap.groups.stand_ins import is_within
from adasap.models.builders import check_options, is_trusted
from adasap.models.inputs import default_input_size
from adasap.models.open import ModelSpec, build_model
from adasap.pruning.plan import PruningPlan

CURE = (
    "save with the spec that the model was built by, without `plan` and with the groups that trace_groups or the last "
    "apply_plan_ gave: they carry the plan of all cuts"
)


@dataclass(frozen=True, eq=False)
class Origin:
    """What leads to the model: build by the spec, cut by the plan, if there is one, in the indices of these groups.

    Between the two, if `plain_weights` says so, weights that are computed in forward are made plain.
    """

    spec: ModelSpec
    plan: PruningPlan | None
    groups: tuple[ChannelGroup, ...]
    plain_weights: bool


def origin_of(
    model: nn.Module,
    spec: ModelSpec | None,
    plan: PruningPlan | None,
    groups: Sequence[ChannelGroup] | None,
    *,
    builder: Callable[..., nn.Module] | None = None,
    trust_builder: bool = False,
) -> Origin:
    """Puts together what was given and what model and groups remember, and tries it.

    The arguments are those of `adasap.save`; the model is without wrappers.

    Raises:
        PlanError: If plan and groups do not belong together, or the cuts cannot be told.
        ModelFileError: If the spec is not known, or does not lead to a model of these shapes.
    """
    past = _past(model, plan, groups)
    spec = spec if spec is not None else past.spec
    if not isinstance(spec, ModelSpec):
        raise ModelFileError(
            "it is not known how the dense model was built; pass spec=ModelSpec(builder, options); models that "
            "open_model or load gave know it by themselves"
        )
    check_options(spec.builder, spec.options)
    if spec.input_size is None:
        spec = spec.of_size(_image(past.input_size) or default_input_size(spec))
    if past.lost:
        raise PlanError(f"the cuts cannot be told in the dense model's indices: {past.lost}; {CURE}")
    whole = PruningPlan.of(past.dense, past.kept, past.removed) if plan is not None or past.is_cut else None
    plain = _require_loadable(model, spec, past, builder, trust_builder)
    return Origin(spec, whole, past.dense, plain)


def require_together(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> None:
    """Raises PlanError unless the plan was made for these groups."""
    if plan.fingerprint != fingerprint(groups):
        raise PlanError(f"the plan belongs to other groups than the ones given; {CURE}")
    widths = {group.name: group.num_channels for group in prunable(groups)}
    for name, num_channels in plan.num_channels.items():
        if widths.get(name) != num_channels:
            raise PlanError(
                f"the plan cuts group {name[:80]!r} of {num_channels} channels, which the model does not have"
            )


def make_plain_(model: nn.Module, spec: ModelSpec) -> tuple[str, ...]:
    """Makes computed weights plain, also those that forward computes if the spec knows the image size; their layers."""
    image = None if spec.input_size is None else torch.zeros(1, *spec.input_size)
    return materialise_weights_(model.eval(), image)


def _past(model: nn.Module, plan: PruningPlan | None, groups: Sequence[ChannelGroup] | None) -> Past:
    """Of a plan and the groups it was made for, else what the model knows of its cuts, else what the groups carry."""
    known = past_of(model)
    if plan is not None:
        if groups is None:
            raise PlanError(
                "a plan cannot be read without groups; leave it out, or pass groups=<those it was made for>"
            )
        require_together(plan, groups)
        carried = getattr(groups, "past", None)
        anew = Past(known.spec, None, tuple(groups), plain_weights=known.plain_weights)
        before = carried if isinstance(carried, Past) and carried.dense else anew
        return replace(before, now=tuple(groups)).then(plan.kept, (), plan.removed)
    if known.dense or groups is None:
        return known
    return past_with(model, groups)


def _image(size: tuple[int, ...] | None) -> tuple[int, int, int] | None:
    if size is None or len(size) != 3:
        return None
    channels, height, width = size
    return channels, height, width


def _require_loadable(
    model: nn.Module, spec: ModelSpec, past: Past, builder: Callable[..., nn.Module] | None, trust_builder: bool
) -> bool:
    """Builds and cuts without numbers, and compares shapes; code that is not trusted is not run for it.

    Returns:
        Whether the weights have to be made plain in between.
    """
    wanted = _shapes(model)
    if builder is not None or trust_builder or is_trusted(spec.builder):
        found, plain = _rebuilt(model, spec, past, builder, trust_builder)
    elif past.shapes:
        cut = _shapes_after(past)
        found = {name: cut.get(name, shape) for name, shape in wanted.items() if not is_within(name, past.removed)}
        plain = past.plain_weights
    else:
        return past.plain_weights
    wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        raise ModelFileError(
            f"the file could not be loaded, so it is not written: {len(wrong)} of {len(wanted)} tensors would have "
            f"another shape, such as {name}: {_said(wanted.get(name))} in the model, {_said(found.get(name))} by spec "
            f"and plan; {CURE}"
        )
    return plain


def _rebuilt(
    model: nn.Module, spec: ModelSpec, past: Past, builder: Callable[..., nn.Module] | None, trust_builder: bool
) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Name -> shape of the state of what `load` will build and cut, and whether weights are made plain in between."""
    try:
        with torch.random.fork_rng(devices=[]):
            built = unwrap(build_model(spec, builder=builder, trust_builder=trust_builder, without_numbers=True))
            plain = past.plain_weights or _computes_weights(built, model)
            if plain:
                built = unwrap(build_model(spec, builder=builder, trust_builder=trust_builder))
                plain = bool(make_plain_(built, spec))
            if past.kept or past.removed:
                cut_(built, past.dense, past.kept, past.removed)
    except (AdasapError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the file could not be loaded, so it is not written: {error}; {CURE}") from error
    return _shapes(built), plain


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _computes_weights(built: nn.Module, model: nn.Module) -> bool:
    """Whether weights that are plain in the model are computed from others as its builder makes it."""
    if set(computed_weights(built)) - set(computed_weights(model)):
        return True
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    kinds = {name: type(module) for name, module in built.named_modules()}
    return any(type(m) in plain and kinds.get(name, type(m)) is not type(m) for name, m in model.named_modules())


def _shapes_after(past: Past) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the dense model's tensors after all cuts."""
    shapes, gone = {name: list(shape) for name, shape in past.shapes.items()}, dict[tuple[str, int], set[int]]()
    for group in past.dense:
        stays = torch.ones(group.num_channels, dtype=torch.bool)
        if group.name in past.kept:
            stays[:] = False
            stays[past.kept[group.name]] = True
        for slot in group.slots:
            gone.setdefault((slot.name, slot.dim), set()).update(slot.positions[~stays].flatten().tolist())
    for (name, dim), positions in gone.items():
        shapes[name][dim] -= len(positions)
    return {name: tuple(shape) for name, shape in shapes.items()}


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
