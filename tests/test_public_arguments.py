"""Public functions say in a sentence what is wrong with what they are given, before any work."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import adasap
from adasap.cli.messages import for_command_line
from adasap.corruptions import corrupt
from adasap.errors import AdasapError, ArgumentError, BudgetError, DataError, ModelError, RecipeError, TraceError
from adasap.groups import materialise_weights_
from adasap.groups.past import past_of
from adasap.integrations import LoopCompression
from adasap.models.builders import resolve_builder
from adasap.profiling.profile import profile_models
from adasap.pruning import BudgetOptions, PruningOptions
from adasap.sharpness import StepForm
from adasap.tasks.classification.task import ClassificationOptions
from adasap.training.optimizer import OptimizerOptions
from public_nets import IMAGES, plain_net

# Example inputs


class TwoInputs(nn.Module):
    """An image by position or name, and a mask by name alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.head(self.stem(image).relu())
        return y if mask is None else y * mask[:, None]


class OfAList(TwoInputs):
    def forward(self, images: Any, *, mask: Tensor | None = None) -> Tensor:
        return super().forward(images[0], mask=mask)


IMAGE, MASK = torch.zeros(1, 3, 8, 8), torch.ones(1, 6, 6)
FORMS = {
    "tensor": (TwoInputs, IMAGE),
    "tuple": (TwoInputs, (IMAGE,)),
    "list": (TwoInputs, [IMAGE]),
    "dictionary": (TwoInputs, {"image": IMAGE}),
    "names in another order": (TwoInputs, {"mask": MASK, "image": IMAGE}),
    "a list as argument": (OfAList, ([IMAGE],)),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_inputs_give_the_same_in_every_function(form: str, tmp_path: Path) -> None:
    build, inputs = FORMS[form]
    groups = adasap.trace_groups(build(), inputs)
    assert [(group.name, group.num_channels, bool(group.frozen)) for group in groups] == [
        ("stem", 8, False),
        ("head", 4, True),
    ]
    assert adasap.MACs(build(), groups, inputs).dense == 36 * (8 * 3 * 9 + 4 * 8)
    pruned = adasap.prune(build(), inputs, "l2", {"macs": 0.5})
    assert pruned.plan.widths()["stem"] == 4
    assert adasap.check_cut(build(), groups, pruned.plan.kept, inputs).holds
    file = adasap.export_model(pruned.model, inputs, tmp_path / "it.pt2", to="torch-export")
    assert max(file.differences.values()) < 1e-4
    profile = profile_models({"it": build()}, inputs, batch_sizes=(1, 3), seconds=0.0)["it"]
    assert (profile.macs, [timing.batch_size for timing in profile.latency]) == (36 * 248, [1, 3])


WRONG_INPUTS: list[tuple[Any, type[AdasapError], str]] = [
    (torch.zeros(1, 4, 8, 8), TraceError, r"does not take .*float32 \(\d, 4, 8, 8\).*to have 3 channels"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TraceError, r"does not take .*uint8"),
    (torch.zeros(1, 3, 8, 8).double(), TraceError, "does not take .*float64"),
    (torch.zeros(3, 8, 8), TraceError, r"no batch axis; .*unsqueeze|does not take"),
    ({"picture": IMAGE}, TraceError, "unexpected keyword argument 'picture'"),
    ((IMAGE, MASK), TraceError, "takes 2 positional arguments"),
    (torch.zeros(0, 3, 8, 8), ArgumentError, "holds no example"),
    (np.zeros((1, 3, 8, 8)), ArgumentError, r"numpy ndarray: give torch.from_numpy"),
    ((1, 3, 8, 8), ArgumentError, r"if they are a shape, give torch.zeros\(1, 3, 8, 8\)"),
    (torch.Size((1, 3, 8, 8)), ArgumentError, "if they are a shape"),
    (None, ArgumentError, "hold a NoneType"),
    ({0: IMAGE}, ArgumentError, r"the keys \[0\]"),
    ([], ArgumentError, "hold no tensor"),
]


@pytest.mark.parametrize(("inputs", "error", "message"), WRONG_INPUTS)
def test_inputs_that_forward_does_not_take_are_refused_by_every_function(
    inputs: Any, error: type[AdasapError], message: str, tmp_path: Path
) -> None:
    net = TwoInputs()
    groups = adasap.trace_groups(net, IMAGE)
    functions: list[Callable[[], Any]] = [
        lambda: adasap.trace_groups(net, inputs),
        lambda: adasap.MACs(net, groups, inputs),
        lambda: profile_models({"it": net}, inputs, seconds=0.0),
        lambda: adasap.export_model(net, inputs, tmp_path / "it.pt2", to="torch-export"),
    ]
    for function in functions:
        with pytest.raises(error, match=message):
            function()
    if not (isinstance(inputs, Tensor) and inputs.dtype == torch.float64):  # prune moves types, a proof draws its own
        with pytest.raises(error, match=message):
            adasap.prune(net, inputs, "l2", {"macs": 0.5})
    assert not list(tmp_path.iterdir())


# Budgets


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("50%", r"macs is '50%'; give a number above 0, such as 0\.5 for 50 %"),
        ("0.5", r"macs is '0\.5'; give a number"),
        (True, "macs is True; give a number"),
        (1.5, r"macs is 1\.5; a fraction is at most 1, and an absolute number is whole"),
        (0, "macs is 0; give a number above 0"),
        (-1, "macs is -1"),
        (math.nan, "macs is nan"),
        (math.inf, "macs is inf"),
        (10**400, "macs is a number of over 30 digits"),
        (torch.tensor(0.5), "macs is tensor"),
        ([0.5], r"macs is \[0\.5\]"),
    ],
)
def test_a_budget_is_a_number_with_a_meaning(value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BudgetOptions(macs=value)
    with pytest.raises(RecipeError, match=message):
        adasap.prune(plain_net(), IMAGES, "l2", {"macs": value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kept": 1.5}, r"kept is 1\.5; a fraction is at most 1"),
        ({"kept": "50%"}, r"kept is '50%'; give a number above 0, such as 0\.5 for 50 %"),
        ({"kept": True}, "kept is True"),
        ({"kept": math.nan}, "kept is nan"),
        ({"limit": math.inf}, r"limit \(in parameters\) is inf"),
        ({"limit": True}, "limit .* is True"),
        ({"kept": 0.5, "limit": 3.0}, "exactly one"),
    ],
)
def test_a_budget_object_says_so_too(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        adasap.Budget(adasap.Parameters(nn.Linear(3, 4), ()), **fields)


def test_a_percentage_given_as_a_whole_number_is_pointed_out() -> None:
    with pytest.raises(BudgetError, match=r"cannot reach 50 MACs.*a fraction is at most 1: 50 % is 0\.5"):
        adasap.prune(plain_net(), IMAGES, "l2", {"macs": 50})


def test_channels_that_can_only_go_together_are_named() -> None:
    groups_of_4_and_3 = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1, groups=4), nn.Conv2d(12, 12, 1, groups=3), nn.Conv2d(12, 2, 1)
    )
    with pytest.raises(BudgetError, match=r"these 12 channels of 0 can only go together"):
        adasap.prune(groups_of_4_and_3, IMAGES, "l2", {"macs": 0.5})


# Options

WRONG_OPTIONS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (adasap.PerturbationOptions, {"eta": math.inf}, "eta is inf"),
    (adasap.PerturbationOptions, {"eta": "0.01"}, r"eta is '0\.01'; give a finite number"),
    (adasap.PerturbationOptions, {"rescale": "false"}, "rescale is 'false'; give true or false"),
    (StepForm, {"every": True}, "every is True; give a whole number"),
    (StepForm, {"window": math.nan}, "window is nan"),
    (PruningOptions, {"epochs": math.inf}, "epochs is inf"),
    (PruningOptions, {"events": 2.5}, r"events is 2\.5; give a whole number"),
    (PruningOptions, {"min_kept": math.nan}, "min_kept is nan"),
    (PruningOptions, {"ranking": "globally"}, "ranking is 'globally'; give one of global"),
    (adasap.Compression, {"seed": True}, "seed is True; give a whole number"),
    (adasap.Compression, {"seed": 1.0}, r"seed is 1\.0; give a whole number"),
    (OptimizerOptions, {"learning_rate": math.inf}, "learning_rate is inf"),
    (ClassificationOptions, {"temperature": math.nan}, "temperature is nan"),
    (adasap.ModelSpec, {"builder": "adasap:digits_net", "std": (0.2, math.nan, 0.2)}, "std is .*nan"),
    (adasap.ModelSpec, {"builder": "adasap:digits_net", "mean": ("0.5", 0.5, 0.5)}, "mean is .*each a finite number"),
    (adasap.build_criterion, {"criterion": "random", "seed": True}, "seed is True"),
    (adasap.build_criterion, {"criterion": "hutchinson", "num_probes": math.nan}, "num_probes is nan"),
    (adasap.UniformPerturbation, {"rho": math.nan}, "rho is nan"),
    (adasap.UniformPerturbation, {"rho": "0.5"}, r"rho is '0\.5'"),
    (adasap.adaptive_radius, {"scores": {}, "rho_min": True, "rho_max": 1.0}, "rho_min is True"),
    (adasap.adaptive_radius, {"scores": {}, "rho_min": 0.0, "rho_max": math.inf}, "rho_max is inf"),
    (adasap.adaptive_radius, {"scores": {"a": [1.0]}, "rho_min": 0.0, "rho_max": 1.0}, "tensor of shape .*got list"),
]


@pytest.mark.parametrize(("build", "options", "message"), WRONG_OPTIONS)
def test_numbers_are_finite_numbers_and_switches_are_switches(
    build: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdasapError, match=message) as caught:
        build(**options)
    assert isinstance(caught.value, ValueError)  # as before they had names of their own


# Models

COMPUTED: dict[str, Callable[[nn.Module], Any]] = {
    "old weight_norm": weight_norm,
    "old spectral_norm": spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "mask of a bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "two masks": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.2), "weight", 0.2),
    "a mask on a normed weight": lambda layer: prune.l1_unstructured(weight_norm(layer), "weight_v", 0.3),
}


def computed_net(kind: str, place: int = 3) -> nn.Sequential:
    net = plain_net()
    COMPUTED[kind](net[place])
    return net


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_computed_weights_are_made_plain_with_a_sentence(kind: str) -> None:
    net = computed_net(kind).eval()
    images = torch.randn(2, 3, 8, 8)
    expected, names = net(images), sorted(net.state_dict())
    with pytest.raises(ModelError, match=r"3 is .*computed from other tensors.*materialise_weights_\(model\) first"):
        adasap.trace_groups(net, IMAGES)
    with pytest.warns(UserWarning, match="in the copy the weights of layers 3 are plain now"):
        pruned = adasap.prune(net, IMAGES, "l2", {"macs": 0.5})
    assert pruned.materialised == ("3",)
    assert "layers 3 are plain now" in str(pruned)
    assert type(pruned.model[3]) is nn.Conv2d  # type: ignore[index]
    assert sorted(net.state_dict()) == names
    assert materialise_weights_(net) == ("3",)
    assert type(net[3]) is nn.Conv2d
    assert torch.equal(net(images), expected)
    assert [group.name for group in adasap.prunable(adasap.trace_groups(net, IMAGES))] == ["0", "3"]
    assert materialise_weights_(net) == ()


def test_a_plan_is_not_applied_to_computed_weights() -> None:
    net = plain_net()
    groups = adasap.trace_groups(net, IMAGES)
    plan = adasap.PruningPlan.of(groups, {"0": [0, 1]})
    prune.l1_unstructured(net[3], "weight", 0.3)  # type: ignore[no-untyped-call]
    for function in (
        lambda: adasap.apply_plan_(net, groups, plan),
        lambda: adasap.score("l2", net, groups),
        lambda: adasap.check_cut(net, groups, plan.kept, IMAGES),
    ):
        with pytest.raises(ModelError, match=r"3 is under a mask of torch\.nn\.utils\.prune.*materialise_weights_"):
            function()


def _with_nan(net: nn.Sequential, name: str, value: float) -> nn.Module:
    net.state_dict()[name].view(-1)[0] = value
    return net


class Subclass(Tensor):
    """As quantisation libraries put in the place of weights."""


def _disguised() -> nn.Module:
    net = plain_net()
    net[3].weight = nn.Parameter(torch.zeros(8, 8, 3, 3).as_subclass(Subclass))
    return net


UNWORKABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU()), r"0\.weight has no shape yet .* run one forward"),
    "lazy norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyBatchNorm2d()), r"1\.weight has no shape yet"),
    "complex": (lambda: plain_net().to(torch.complex64), r"0\.weight is complex"),
    "script": (lambda: torch.jit.script(plain_net()), "the model is a RecursiveScriptModule"),
    "script inside": (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3))), "0 is a RecursiveScriptModule"),
    "disguised": (_disguised, r"3\.weight is a Subclass"),
    "meta": (lambda: plain_net().to("meta"), r"0\.weight is on the meta device|on device meta"),
    "class": (lambda: nn.Linear, "the class Linear; build it first"),
    "weights": (lambda: plain_net().state_dict(), "got OrderedDict"),
    "name": (lambda: "resnet18", "got str"),
    "nothing": (lambda: None, "got NoneType"),
}


@pytest.mark.parametrize("kind", UNWORKABLE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_models_that_cannot_be_worked_on_are_refused_by_every_function(kind: str, tmp_path: Path) -> None:
    build, message = UNWORKABLE[kind]
    model, groups = build(), adasap.trace_groups(plain_net(), IMAGES)
    functions: list[Callable[[], Any]] = [
        lambda: adasap.prune(model, IMAGES, "l2", {"macs": 0.5}),
        lambda: adasap.trace_groups(model, IMAGES),
        lambda: adasap.check_cut(model, groups, {"0": torch.tensor([0])}, IMAGES),
        lambda: adasap.MACs(model, groups, IMAGES),
        lambda: adasap.score("l2", model, groups),
        lambda: adasap.export_model(model, IMAGES, tmp_path / "it.pt2", to="torch-export"),
        lambda: profile_models({"it": model}, IMAGES, seconds=0.0),
    ]
    for function in functions:
        with pytest.raises(AdasapError, match=message):
            function()


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "lamp", "random"])
@pytest.mark.parametrize(
    ("name", "value"), [("3.weight", math.nan), ("1.bias", math.inf), ("1.running_var", -math.inf)]
)
def test_weights_that_are_not_finite_are_not_scored(criterion: str, name: str, value: float) -> None:
    net = _with_nan(plain_net(), name, value)
    groups = adasap.trace_groups(net, IMAGES)
    for function in (
        lambda: adasap.score(criterion, net, groups),
        lambda: adasap.prune(net, IMAGES, criterion, {"macs": 0.5}),
    ):
        with pytest.raises(ModelError, match=rf"{name} has 1 of [\d,]+ entries that are NaN or infinite"):
            function()


# Corruptions


def _images(**changes: Any) -> Tensor:
    return torch.full((2, 3, 32, 32), 128, dtype=torch.uint8, **changes)


WRONG_IMAGES: list[tuple[Any, str]] = [
    (torch.rand(2, 3, 32, 32), r"float32 from 0 to 1.*\(images \* 255\)\.round\(\)\.to\(torch\.uint8\)"),
    (_images().float(), r"float32 from 128 to 128.*images\.round\(\)\.to\(torch\.uint8\)"),
    (torch.randn(2, 3, 32, 32), "as after a model's preprocessing; corruptions come before it"),
    (_images().long(), r"int64 from 128 to 128.*images\.to\(torch\.uint8\)"),
    (_images().long() * 200, r"int64 .* if they have 16 bits"),
    (_images().bool(), "bool"),
    (_images().permute(0, 2, 3, 1), r"colours last; give images\.permute\(0, 3, 1, 2\)"),
    (_images()[0], r"images\.unsqueeze\(0\)"),
    (_images()[None], r"give a batch \[N, 3, H, W\]"),
    (_images()[:, :, :0], "holds no pixel"),
    (_images().numpy(), r"torch\.from_numpy"),
    ([_images()[0]], "images are a list"),
    (torch.rand(2, 3, 8, 8).to_sparse(), r"images are sparse_coo; give images\.to_dense\(\)"),
    (_images().to_sparse(), r"images are sparse_coo; give images\.to_dense\(\)"),
    (_images(device="meta"), "images are on the meta device"),
]


@pytest.mark.parametrize(("images", "message"), WRONG_IMAGES)
def test_corruptions_take_eight_bit_batches_alone(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        corrupt(images, "contrast", 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": torch.arange(3)}, r"shape \(3,\) and there are 2 images"),
        ({"seeds": torch.arange(2).float()}, r"seeds are float32; give whole numbers"),
        ({"seeds": torch.tensor([True, False])}, r"seeds are bool"),
        ({"seeds": [0, 1]}, "seeds are a list"),
        ({"seeds": 7}, "seeds are a int"),
        ({"seeds": torch.tensor(7)}, r"shape \(\)"),
        ({"seeds": torch.arange(2).to_sparse()}, r"seeds\.to_dense\(\)"),
        ({"seeds": torch.arange(2, device="meta")}, "seeds are on the meta device"),
        ({"severity": True}, "severity True"),
        ({"severity": 2.5}, r"severity 2\.5"),
        ({"severity": "3"}, "severity '3'"),
        ({"severity": 6}, "severity 6"),
        ({"constants": 32}, "constants are 32; give one of 32, 64, 224"),
        ({"name": None}, "there is no corruption None"),
    ],
)
def test_corruptions_check_seeds_severity_and_constants(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        corrupt(_images(), **({"name": "contrast", "severity": 3} | options))


def test_corruptions_take_strided_images_and_seeds_of_any_whole_type_and_no_images() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    strided = images[..., ::2]
    expected = corrupt(strided.contiguous(), "gaussian_noise", 3, seeds=torch.tensor([4, 5]))
    assert torch.equal(corrupt(strided, "gaussian_noise", 3, seeds=torch.tensor([4, 5], dtype=torch.int32)), expected)
    assert corrupt(images[:0], "gaussian_noise", 3).shape == (0, 3, 32, 64)


# The command line and python -O


def test_the_command_line_speaks_of_its_own_options() -> None:
    with pytest.raises(ModelError) as caught:
        resolve_builder("somebody.code:build")
    sentence = for_command_line(str(caught.value))
    assert "--trust-builder" in sentence
    assert "builder=" not in sentence


@pytest.mark.slow
def test_checks_do_not_vanish_under_python_o() -> None:
    code = (
        "import torch, adasap\n"
        "from adasap.corruptions import corrupt\n"
        "for f in (lambda: corrupt(torch.rand(1, 3, 32, 32), 'fog', 1), lambda: adasap.BudgetOptions(macs=True),\n"
        "          lambda: adasap.trace_groups(torch.nn.LazyLinear(3), torch.zeros(1, 3))):\n"
        "    try: f()\n"
        "    except adasap.errors.AdasapError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["DataError", "RecipeError", "ModelError"]


# What a user's own functions return, and models and inputs without numbers


def _small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: 1, "is called with the model and the groups: too many positional arguments"),
        (lambda model: {}, "is called with the model and the groups"),
        (lambda model, groups: 1, "gave a int; return a dictionary, group name -> tensor"),
        (lambda model, groups: None, "gave a NoneType; return a dictionary"),
        (lambda model, groups: {"0": [1.0] * 8}, "gave a dict; return a dictionary, group name -> tensor"),
    ],
)
def test_a_users_criterion_is_told_what_to_return(function: Any, message: str) -> None:
    with pytest.raises(AdasapError, match=message):
        adasap.prune(_small(), torch.zeros(1, 3, 8, 8), function, {"macs": 0.5})


@pytest.mark.parametrize("given", [None, "0.5", {"loss": 1.0}, (1.0, 2.0)])
def test_a_loss_that_is_none_is_refused(given: Any) -> None:
    model = _small()

    def loss_and_backward() -> Any:
        model(torch.ones(1, 3, 8, 8)).square().mean().backward()
        return given

    with pytest.raises(ArgumentError, match=f"loss_and_backward gave a {type(given).__name__}; return the loss"):
        adasap.sharpness_aware_gradients(model, adasap.UniformPerturbation(0.1), loss_and_backward)


def test_without_numbers_nothing_is_pruned_or_saved(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="example_inputs are on the meta device"):
        adasap.prune(_small(), torch.zeros(1, 3, 8, 8, device="meta"), "l1", {"macs": 0.5})
    spec = adasap.ModelSpec("adasap:digits_net")
    with pytest.raises(AdasapError, match=r"files need numbers, and 0\.weight is on the meta device"):
        adasap.save(tmp_path / "a.safetensors", _small().to("meta"), spec=spec)
    with pytest.raises(AdasapError, match=r"files need numbers, and 0\.weight has no shape yet"):
        adasap.save(tmp_path / "a.safetensors", nn.Sequential(nn.LazyLinear(3)), spec=spec)


# Names in place of objects

NAMED: dict[str, Callable[[nn.Module], Any]] = {
    "a model is a torch.nn.Module, got str": lambda net: adasap.prune("adasap:digits_net", IMAGES, "l2", {"macs": 0.5}),  # type: ignore[arg-type]
    "a model is a torch.nn.Module, got ModelSpec": lambda net: adasap.trace_groups(adasap.ModelSpec("a:b"), IMAGES),  # type: ignore[arg-type]
    "by a ModelSpec or a builder's name, .* got a (Posix|Windows)Path": lambda net: adasap.open_model(Path("a")),  # type: ignore[arg-type]
    "is a model file; open it by adasap.load": lambda net: adasap.open_model("small.safetensors"),
    "load opens a model file; got a Sequential": lambda net: adasap.load(net),  # type: ignore[arg-type]
    "the plan is a str; give a PruningPlan": lambda net: adasap.apply_plan_(net, (), "plan.json"),  # type: ignore[arg-type]
    "kept is a str; .* such as plan.kept": lambda net: adasap.check_cut(net, (), "plan", IMAGES),  # type: ignore[arg-type]
    "the perturbation is a str": lambda net: adasap.sharpness_aware_gradients(net, "uniform", lambda: 0.0),  # type: ignore[arg-type]
    "config is a str; give adasap.Compression": lambda net: LoopCompression(net, IMAGES, "recipe.yaml"),  # type: ignore[arg-type]
    "got a dict: adasap.run takes keys": lambda net: adasap.read_recipe({}),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", NAMED)
def test_a_name_in_place_of_an_object_is_told_so(message: str) -> None:
    with pytest.raises(AdasapError, match=message):
        NAMED[message](_small())


def test_a_builders_name_opens_its_model() -> None:
    model = adasap.open_model("adasap:digits_net")
    assert sum(parameter.numel() for parameter in model.parameters()) == 78330
    assert past_of(model).spec == adasap.ModelSpec("adasap:digits_net")
