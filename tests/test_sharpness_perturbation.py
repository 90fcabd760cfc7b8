"""Where the weights go: closed forms of every scope, geometry and weighting."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from adasap.groups.group import ChannelGroup
from adasap.sharpness import AdaptivePerturbation, PerturbationOptions, UniformPerturbation, perturbed, swap
from sharpness_nets import (
    MIDPOINT,
    Toy,
    each,
    slot,
    slow_epsilon,
    toy_groups,
    toy_radii,
    toy_with_gradients,
)

GRID = [
    PerturbationOptions(*choice)
    for choice in itertools.product(
        ("euclidean", "elementwise"),
        ("model", "group", "channel"),
        ("ellipsoid", "linear"),
        (True, False),
        ("channel", "midpoint", "none"),
    )
]


def name_of(options: PerturbationOptions) -> str:
    rescale = "rescaled" if options.rescale else "raw"
    return f"{options.geometry}-{options.scope}-{options.weighting}-{rescale}-{options.norms}"


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            actual[name], expected[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def adaptive(options: PerturbationOptions) -> AdaptivePerturbation:
    return AdaptivePerturbation(toy_groups(), toy_radii(), options, midpoint=MIDPOINT)


@pytest.mark.parametrize("options", GRID, ids=name_of)
def test_adaptive_epsilon_matches_the_formula_number_by_number(options):
    model = toy_with_gradients()
    actual = adaptive(options).epsilon(model)
    assert_same(actual, slow_epsilon(model, toy_groups(), toy_radii(), options))


@pytest.mark.parametrize("options", GRID, ids=name_of)
def test_offsets_written_over_the_gradients_are_the_same_bits(options):
    model = toy_with_gradients()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    untouched = {name: gradient.clone() for name, gradient in gradients.items()}
    fresh = adaptive(options).epsilon(model)
    assert all(torch.equal(gradients[name], untouched[name]) for name in gradients)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    consumed = adaptive(options).offsets(dict(model.named_parameters()), consume_gradients=True)
    with swap.swapped(consumed):
        kept = dict(zip(consumed.names, consumed.directions, strict=True))
        assert fresh.keys() == kept.keys()
        assert all(torch.equal(p, weights[n] + fresh[n]) for n, p in model.named_parameters() if n in fresh)
        assert all(torch.equal(kept[name], weights[name]) for name in kept)
        assert all(kept[name].data_ptr() == gradients[name].data_ptr() for name in kept)


def test_gradients_that_share_memory_are_not_written_over():
    model = toy_with_gradients()
    parameters = [p for p in model.parameters() if p.grad is not None]
    bucket, start = torch.cat([p.grad.flatten() for p in parameters]), 0
    for parameter in parameters:  # as data parallelism does with gradient_as_bucket_view
        parameter.grad = bucket[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    before = bucket.clone()
    for geometry in ("euclidean", "elementwise"):
        with swap.swapped(
            adaptive(PerturbationOptions(geometry=geometry)).offsets(
                dict(model.named_parameters()), consume_gradients=True
            )
        ):
            assert torch.equal(bucket, before)


@pytest.mark.parametrize("numel", [1, 7])
@pytest.mark.parametrize("scope", ["model", "group", "channel"])
def test_tensors_that_are_worked_on_in_pieces_give_the_same(scope, numel, monkeypatch):
    options, model = PerturbationOptions(scope=scope), toy_with_gradients()
    whole = adaptive(options).epsilon(model)
    monkeypatch.setattr(swap, "_CACHED_NUMEL", numel)
    in_pieces = adaptive(options).epsilon(model)
    assert all(torch.equal(in_pieces[name], whole[name]) for name in whole)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with perturbed(model, in_pieces):
        assert all(torch.equal(p, before[n] + whole[n]) for n, p in model.named_parameters() if n in whole)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("options", GRID, ids=name_of)
def test_uniform_epsilon_matches_the_formula_number_by_number(options):
    model = toy_with_gradients()
    actual = UniformPerturbation(0.3, options, toy_groups()).epsilon(model)
    assert_same(actual, slow_epsilon(model, toy_groups(), 0.3, options))


def test_uniform_model_euclidean_is_sam():
    model = toy_with_gradients()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
    epsilon = UniformPerturbation(0.05, PerturbationOptions(geometry="euclidean")).epsilon(model)
    assert_same(epsilon, {name: 0.05 * p.grad / norm for name, p in model.named_parameters()})


@pytest.mark.parametrize("groups", [(), toy_groups()], ids=["without-groups", "with-groups"])
def test_uniform_model_elementwise_is_asam(groups):
    model = toy_with_gradients()
    stretch = {n: torch.ones_like(p) if "bias" in n else p.abs() + 0.01 for n, p in model.named_parameters()}
    squares = sum((stretch[n] * p.grad).double().square().sum() for n, p in model.named_parameters())
    epsilon = UniformPerturbation(0.5, groups=groups).epsilon(model)
    expected = {n: 0.5 * stretch[n] ** 2 * p.grad / squares.sqrt().float() for n, p in model.named_parameters()}
    assert_same(epsilon, expected)


def stretches(model, options):
    return {
        name: torch.ones_like(p)
        if options.geometry == "euclidean" or "bias" in name
        else p.detach().abs() + options.eta
        for name, p in model.named_parameters()
    }


def row_radii(model):
    """Radius of each number, from the toy's groups."""
    radii = {name: torch.full_like(p, MIDPOINT) for name, p in model.named_parameters()}
    for group in toy_groups():
        for s in group.with_role("producer", "scale", "shift"):
            if not group.is_output:
                for channel, positions in enumerate(s.positions.tolist()):
                    radii[s.name].index_fill_(s.dim, torch.tensor(positions), toy_radii()[group.name][channel].item())
    return radii


@pytest.mark.parametrize("geometry", ["euclidean", "elementwise"])
def test_no_feasible_point_beats_the_ellipsoid(geometry):
    options = PerturbationOptions(geometry=geometry)
    model = toy_with_gradients()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    scale = torch.cat([(row_radii(model)[n] * t).flatten() for n, t in stretches(model, options).items()]).double()
    best = torch.cat([e.flatten() for e in adaptive(options).epsilon(model).values()]).double()
    used = scale > 0
    assert float((best[used] / scale[used]).norm()) == pytest.approx(1.0, rel=1e-5)
    gain = float(best @ gradient)
    torch.manual_seed(1)
    for spread in (1e-3, 1e-1, 10.0):
        for _ in range(50):
            point = torch.where(used, best / scale, 0.0) + spread * torch.randn_like(best)
            assert float((point / point.norm() * scale) @ gradient) < gain


@pytest.mark.parametrize("scope", ["model", "group", "channel"])
@pytest.mark.parametrize("factor", [2.0**-20, 3.0, 2.0**16])
def test_epsilon_ignores_the_scale_of_the_loss(scope, factor):
    model = toy_with_gradients()
    perturbation = adaptive(PerturbationOptions(scope=scope))
    plain = perturbation.epsilon(model)
    for p in model.parameters():
        p.grad.mul_(factor)
    assert_same(perturbation.epsilon(model), plain)


@pytest.mark.parametrize("scope", ["model", "group", "channel"])
def test_epsilon_follows_a_permutation_of_the_channels(scope):
    order = torch.tensor([2, 0, 3, 1])
    model, radii = toy_with_gradients(), toy_radii()
    options = PerturbationOptions(scope=scope)
    plain = AdaptivePerturbation(toy_groups(), radii, options, midpoint=MIDPOINT).epsilon(model)
    shuffled = copy.deepcopy(model)
    for source, target in zip(model.parameters(), shuffled.parameters(), strict=True):
        target.grad = source.grad.clone()  # not copied along
    for name, dim in (("conv1.weight", 0), ("bn1.weight", 0), ("bn1.bias", 0), ("conv2.weight", 1)):
        for source, target in zip(model.named_parameters(), shuffled.parameters(), strict=True):
            if source[0] == name:
                target.data = source[1].data.index_select(dim, order)
                target.grad = source[1].grad.index_select(dim, order)
                plain[name] = plain[name].index_select(dim, order)
    radii["conv1"] = radii["conv1"][order]
    moved = AdaptivePerturbation(toy_groups(), radii, options, midpoint=MIDPOINT).epsilon(shuffled)
    assert_same(moved, plain)


@pytest.mark.parametrize("options", GRID, ids=name_of)
def test_zero_gradient_moves_nothing(options):
    model = toy_with_gradients()
    for p in model.parameters():
        p.grad.zero_()
    perturbation = adaptive(options)
    assert all(not e.any() for e in perturbation.epsilon(model).values())
    assert perturbation.shares() == {"filters": 0.0, "scales": 0.0, "shifts": 0.0}


def test_zero_gradient_of_one_channel_leaves_the_others_alone():
    model = toy_with_gradients()
    for name in ("conv1.weight", "bn1.weight", "bn1.bias"):
        model.get_parameter(name).grad[1] = 0
    options = PerturbationOptions(scope="channel")
    epsilon = adaptive(options).epsilon(model)
    assert not epsilon["conv1.weight"][1].any()
    assert_same(epsilon, slow_epsilon(model, toy_groups(), toy_radii(), options))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("scope", ["model", "group", "channel"])
def test_gradient_that_is_not_finite_moves_nothing(scope, bad):
    model = toy_with_gradients()
    model.conv2.weight.grad[0, 0, 0, 0] = bad
    perturbation = adaptive(PerturbationOptions(scope=scope))
    epsilon = perturbation.epsilon(model)
    assert not any(perturbation.shares().values())
    assert len(epsilon) == len(list(model.parameters()))
    assert all(torch.equal(e, torch.zeros_like(e)) for e in epsilon.values())


def test_weights_and_gradients_are_left_as_they_are():
    model = toy_with_gradients()
    before = {n: (p.detach().clone(), p.grad.clone()) for n, p in model.named_parameters()}
    for geometry in ("euclidean", "elementwise"):
        epsilon = adaptive(PerturbationOptions(geometry=geometry)).epsilon(model)
        memory = {p.grad.data_ptr() for p in model.parameters()} | {p.data_ptr() for p in model.parameters()}
        assert not memory & {e.data_ptr() for e in epsilon.values()}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name][0])
        assert torch.equal(p.grad, before[name][1])


def ellipsoids(perturbation, model) -> float:
    """Their number, read off the rescaling."""
    full = type(perturbation)
    raw = PerturbationOptions(scope=perturbation.options.scope, rescale=False)
    assert full is UniformPerturbation
    name = next(iter(perturbation.epsilon(model)))
    scaled = perturbation.epsilon(model)[name]
    unscaled = UniformPerturbation(perturbation.rho, raw, toy_groups()).epsilon(model)[name]
    return float((unscaled.norm() / scaled.norm()).square())


@pytest.mark.parametrize(("scope", "count"), [("group", 4 + 2), ("channel", 4 + 3 + 2 + 3 + 2)])
def test_rescale_counts_groups_or_channels_and_each_loose_tensor(scope, count):
    perturbation = UniformPerturbation(1.0, PerturbationOptions(scope=scope), toy_groups())
    assert ellipsoids(perturbation, toy_with_gradients()) == pytest.approx(count, rel=1e-4)


def test_a_tensor_that_takes_no_part_is_not_counted():
    model = toy_with_gradients()
    model.table.grad = None
    model.temperature.requires_grad_(False)
    model.bn1.weight.requires_grad_(False)  # its channels still have filters
    perturbation = UniformPerturbation(1.0, PerturbationOptions(scope="channel"), toy_groups())
    assert ellipsoids(perturbation, model) == pytest.approx(4 + 3 + 2 + 3, rel=1e-4)
    assert not {"table", "temperature", "bn1.weight"} & perturbation.epsilon(model).keys()


def test_total_radius_of_rescaled_scopes_is_that_of_the_model_scope():
    model = toy_with_gradients()
    for scope in ("model", "group", "channel"):
        options = PerturbationOptions("euclidean", scope)
        epsilon = UniformPerturbation(0.7, options, toy_groups()).epsilon(model)
        length = torch.cat([e.flatten() for e in epsilon.values()]).norm()
        assert length.item() == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize("weighting", ["ellipsoid", "linear"])
@pytest.mark.parametrize("scope", ["model", "group", "channel"])
def test_shares_sum_to_one_and_match_their_definition(scope, weighting):
    model, options = toy_with_gradients(), PerturbationOptions(scope=scope, weighting=weighting)
    perturbation = adaptive(options)
    epsilon, radii, stretch = perturbation.epsilon(model), row_radii(model), stretches(model, options)
    spent = dict.fromkeys(("filters", "scales", "shifts"), 0.0)
    for name, e in epsilon.items():
        kind = "shifts" if "bias" in name else "scales" if name in ("bn1.weight", "temperature") else "filters"
        spent[kind] += float((e / stretch[name] / radii[name]).square().nan_to_num(0).sum())
    shares = perturbation.shares()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == pytest.approx({kind: value / sum(spent.values()) for kind, value in spent.items()}, rel=1e-4)


def test_updated_radii_are_used_and_equal_a_new_object():
    model = toy_with_gradients()
    perturbation = adaptive(PerturbationOptions(scope="group"))
    perturbation.epsilon(model)
    other = {name: radius.flip(0) + 0.1 for name, radius in toy_radii().items()}
    perturbation.update(other)
    expected = AdaptivePerturbation(toy_groups(), other, PerturbationOptions(scope="group"), midpoint=MIDPOINT)
    assert_same(perturbation.epsilon(model), expected.epsilon(model))


def test_midpoint_is_inferred_from_the_radii():
    model = toy_with_gradients()
    inferred = AdaptivePerturbation(toy_groups(), toy_radii())  # radii from 0 to 2: 1 in the middle
    assert_same(inferred.epsilon(model), adaptive(PerturbationOptions()).epsilon(model))


def test_radii_of_the_classifier_are_ignored():
    model = toy_with_gradients()
    radii = toy_radii() | {"fc": torch.tensor([9.0, 9.0, 9.0])}
    perturbation = AdaptivePerturbation(toy_groups(), radii, midpoint=MIDPOINT)
    assert_same(perturbation.epsilon(model), adaptive(PerturbationOptions()).epsilon(model))


def test_a_tensor_owned_in_part_takes_the_midpoint_elsewhere():
    layer = nn.Linear(2, 3, bias=False)
    layer.weight.grad = torch.ones(3, 2)
    group = ChannelGroup("layer", 1, (slot("weight", 0, "producer", [[1]]),))
    options = PerturbationOptions("euclidean", weighting="linear")
    epsilon = AdaptivePerturbation((group,), {"layer": torch.tensor([5.0])}, options, midpoint=1.0).epsilon(layer)
    assert (epsilon["weight"][:, 0] * math.sqrt(6)).tolist() == pytest.approx([1.0, 5.0, 1.0])


def test_shared_parameters_are_moved_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False)
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x))

    model = Tied()
    model(torch.randn(5, 3)).square().sum().backward()
    group = ChannelGroup("one", 3, (slot("one.weight", 0, "producer", each(3)),))
    epsilon = AdaptivePerturbation((group,), {"one": torch.tensor([1.0, 2.0, 3.0])}).epsilon(model)
    assert list(epsilon) == ["one.weight"]
    before = model.one.weight.detach().clone()
    offset = epsilon["one.weight"].clone()
    with perturbed(model, epsilon):
        assert torch.equal(model.two.weight, before + offset)
    assert torch.equal(model.two.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_norms_of_half_precision_weights_are_taken_in_float32(dtype):
    torch.manual_seed(0)
    model = nn.Linear(300, 300, dtype=dtype)
    for p in model.parameters():
        p.grad = (torch.rand(p.shape) * 1000).to(dtype)  # their squares overflow float16
    epsilon = UniformPerturbation(0.5).epsilon(model)
    reference = copy.deepcopy(model).double()
    for p, original in zip(reference.parameters(), model.parameters(), strict=True):
        p.grad = original.grad.double()
    for name, expected in UniformPerturbation(0.5).epsilon(reference).items():
        assert epsilon[name].dtype == dtype
        tolerance = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-12
        torch.testing.assert_close(epsilon[name].double(), expected, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("geometry", ["euclidean", "elementwise"])
def test_memory_format_is_kept(geometry):
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    model(torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)).sum().backward()
    epsilon = UniformPerturbation(0.5, PerturbationOptions(geometry=geometry)).epsilon(model)
    assert epsilon["weight"].is_contiguous(memory_format=torch.channels_last)


def test_model_without_gradients_yields_no_offsets():
    assert UniformPerturbation(0.5).epsilon(Toy()) == {}


def test_perturbation_outlives_a_change_of_the_trainable_parameters():
    model, perturbation = toy_with_gradients(), adaptive(PerturbationOptions(scope="channel"))
    perturbation.epsilon(model)
    model.conv2.weight.grad = None
    options = PerturbationOptions(scope="channel")
    assert_same(perturbation.epsilon(model), slow_epsilon(model, toy_groups(), toy_radii(), options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"geometry": "spherical"}, "geometry is 'spherical'; give one of euclidean, elementwise"),
        ({"scope": "layer"}, "scope is 'layer'; give one of model, group, channel"),
        ({"weighting": "quadratic"}, "weighting is 'quadratic'; give one of"),
        ({"norms": "all"}, "norms is 'all'; give one of"),
        ({"eta": -1.0}, "eta is -1.0; give a number of at least 0"),
        ({"eta": math.nan}, "eta is nan; give a finite number"),
    ],
)
def test_options_refuse_what_they_do_not_know(change, message):
    with pytest.raises(ValueError, match=message):
        PerturbationOptions(**change)


def test_mistakes_are_named_before_the_first_step():
    groups, radii = toy_groups(), toy_radii()
    with pytest.raises(ValueError, match="rho is"):
        UniformPerturbation(-1.0)
    with pytest.raises(ValueError, match="needs the channel groups"):
        UniformPerturbation(1.0, PerturbationOptions(scope="group"))
    with pytest.raises(ValueError, match="no radii for group 'up'"):
        AdaptivePerturbation(groups, {"conv1": radii["conv1"], "conv2": radii["conv2"]})
    with pytest.raises(ValueError, match="'conv2' has 3 channels"):
        AdaptivePerturbation(groups, radii | {"conv2": torch.ones(4)})
    with pytest.raises(ValueError, match="same name"):
        AdaptivePerturbation(groups + groups, radii)
    with pytest.raises(ValueError, match="midpoint"):
        AdaptivePerturbation(groups, radii, midpoint=-1.0)
    with pytest.raises(ValueError, match="no midpoint to infer"):
        AdaptivePerturbation((), {})


def test_groups_of_another_model_are_refused():
    model = toy_with_gradients()
    model.conv1.weight = nn.Parameter(model.conv1.weight[:3].detach())
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    with pytest.raises(ValueError, match=r"'conv1\.weight', which has 3 rows"):
        adaptive(PerturbationOptions()).epsilon(model)


def test_swapped_weights_keep_their_memory_and_come_back_exactly():
    model = toy_with_gradients()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    memory = {n: p.data_ptr() for n, p in model.named_parameters()}
    epsilon = adaptive(PerturbationOptions()).epsilon(model)
    offsets = {n: e.clone() for n, e in epsilon.items()}

    def look_and_fail():
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name] + offsets[name])
            assert p.data_ptr() == memory[name]
            assert torch.equal(epsilon[name], before[name])
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), perturbed(model, epsilon):
        look_and_fail()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.data_ptr() == memory[name]


def test_offsets_that_do_not_fit_change_nothing():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    for wrong in ({"weight": torch.ones(3)}, {"weight": torch.ones(2, 2), "nobody": torch.ones(1)}):
        with pytest.raises(ValueError, match="no parameter"), perturbed(model, wrong):
            pass
        assert torch.equal(model.weight, before)


def test_weights_inside_an_autocast_region_are_the_moved_ones():
    model, x = nn.Linear(4, 4, bias=False), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        with perturbed(model, {"weight": torch.ones(4, 4)}):
            assert not torch.equal(model(x), before)
        assert torch.equal(model(x), before)
