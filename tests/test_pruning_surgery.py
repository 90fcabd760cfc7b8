"""Surgery: weights, gradients, optimizer state and companions are cut together, or nothing is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from adasap.criteria import score
from adasap.errors import PlanError
from adasap.groups.group import ChannelGroup
from adasap.pruning import Budget, Parameters, PruningPlan, apply_plan_, select_channels
from criteria_nets import Plain, plain_groups, plain_net

KEPT = {"conv1": [0, 2, 5], "conv2": [1, 3]}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
}


def train(net: nn.Module, optimizer: Optimizer, steps: int = 1, seed: int = 3) -> Tensor:
    torch.manual_seed(seed)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = net(torch.randn(8, 3, 5, 5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss


def rows(name: str, tensor: Tensor) -> Tensor:
    """What KEPT leaves of a tensor of the plain net, written out by hand."""
    one, two = torch.tensor(KEPT["conv1"]), torch.tensor(KEPT["conv2"])
    module = name.partition(".")[0]
    if module in ("conv1", "bn1"):
        return tensor[one]
    if name == "conv2.weight":
        return tensor[two][:, one]
    if module == "bn2":
        return tensor[two]
    return tensor[:, two] if name == "fc.weight" else tensor


def state_of(net: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Every tensor that training owns: weights, buffers, gradients, optimizer state."""
    found = {f"model {n}": t.detach().clone() for n, t in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            found[f"grad {name}"] = parameter.grad.clone()
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                found[f"{key} {name}"] = value.clone()
    return found


def trained(kind: str = "sgd") -> tuple[Plain, tuple[ChannelGroup, ...], Optimizer]:
    net, groups = plain_net()
    optimizer = OPTIMIZERS[kind](net.parameters())
    train(net, optimizer, steps=2)
    return net, groups, optimizer


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_everything_of_the_kept_channels_survives_bit_for_bit(kind: str) -> None:
    net, groups, optimizer = trained(kind)
    before = state_of(net, optimizer)
    parameters = dict(net.named_parameters())
    after_groups = apply_plan_(net, groups, PruningPlan.of(groups, KEPT), optimizer=optimizer)
    after = state_of(net, optimizer)
    assert before.keys() == after.keys()
    for key, value in before.items():
        name = key.partition(" ")[2]
        wanted = value if value.ndim == 0 else rows(name, value)
        assert torch.equal(after[key], wanted), key
    assert all(parameters[name] is parameter for name, parameter in net.named_parameters())
    assert [group.num_channels for group in after_groups] == [3, 2, 3]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pruning_channels_without_effect_changes_no_later_step(kind: str) -> None:
    net, groups = plain_net()
    gone = {"conv1": [1, 3, 4], "conv2": [0, 2]}
    with torch.no_grad():  # a channel with zero rows, norm and readers gives nothing and gets no gradient
        for name, channels in gone.items():
            norm = {"conv1": net.bn1, "conv2": net.bn2}[name]
            norm.weight[channels] = 0
            norm.bias[channels] = 0
        net.conv1.weight[gone["conv1"]] = 0
        net.conv1.bias[gone["conv1"]] = 0  # type: ignore[index]
        net.conv2.weight[gone["conv2"]] = 0
        net.conv2.weight[:, gone["conv1"]] = 0
        net.fc.weight[:, gone["conv2"]] = 0
    whole, cut = net, copy.deepcopy(net)
    whole_optimizer, cut_optimizer = (OPTIMIZERS[kind](n.parameters()) for n in (whole, cut))
    for each_net, optimizer in ((whole, whole_optimizer), (cut, cut_optimizer)):
        train(each_net, optimizer, steps=2)
    apply_plan_(cut, groups, PruningPlan.of(groups, KEPT), optimizer=cut_optimizer)
    train(whole, whole_optimizer, steps=3, seed=9)
    train(cut, cut_optimizer, steps=3, seed=9)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(dict(cut.named_parameters())[name], rows(name, parameter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alive", [True, False])
def test_training_goes_on_after_surgery(alive: bool) -> None:
    net, groups, optimizer = trained()
    graph = train(net, optimizer)
    if not alive:
        del graph
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    groups = apply_plan_(net, groups, PruningPlan.of(groups, KEPT), optimizer=optimizer)
    train(net, optimizer, steps=2)
    scheduler.step()
    plan = PruningPlan.of(groups, {"conv1": [1]})
    apply_plan_(net, groups, plan, optimizer=optimizer)
    loss = train(net, optimizer, steps=2)
    assert loss.isfinite()
    assert net.conv2.weight.shape == net.conv2.weight.grad.shape == (2, 1, 3, 3)  # type: ignore[union-attr]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_a_plan_that_keeps_all_changes_nothing() -> None:
    net, groups, optimizer = trained()
    before, addresses = state_of(net, optimizer), [p.data_ptr() for p in net.parameters()]
    after_groups = apply_plan_(net, groups, PruningPlan.of(groups), optimizer=optimizer)
    assert all(torch.equal(value, before[key]) for key, value in state_of(net, optimizer).items())
    assert addresses == [p.data_ptr() for p in net.parameters()]
    assert [g.num_channels for g in after_groups] == [6, 4, 3]


def test_companions_are_cut_alike() -> None:
    net, groups, optimizer = trained()
    averaged, plain_copy = AveragedModel(net, use_buffers=True), copy.deepcopy(net)
    train(net, optimizer)
    averaged.update_parameters(net)
    before = {name: value.clone() for name, value in averaged.module.state_dict().items()}
    apply_plan_(net, groups, PruningPlan.of(groups, KEPT), optimizer=optimizer, companions=[averaged, plain_copy])
    for name, value in averaged.module.state_dict().items():
        assert torch.equal(value, rows(name, before[name]) if value.ndim else before[name])
    assert plain_copy(torch.randn(2, 3, 5, 5)).shape == (2, 3)
    train(net, optimizer)
    averaged.update_parameters(net)


def test_a_compiled_model_is_cut_and_compiles_again() -> None:
    net, groups, optimizer = trained()
    compiled = torch.compile(net, backend="eager")
    train(compiled, optimizer)
    apply_plan_(compiled, groups, PruningPlan.of(groups, KEPT), optimizer=optimizer)  # type: ignore[arg-type]
    train(compiled, optimizer)
    assert net.conv1.weight.grad.shape == (3, 3, 3, 3)  # type: ignore[union-attr]


# What is refused, before anything is changed


def refused(
    match: str,
    *,
    plan: PruningPlan | None = None,
    groups: tuple[ChannelGroup, ...] | None = None,
    change: Callable[[Plain, Optimizer], Optimizer | None] = lambda net, optimizer: None,
    companions: tuple[nn.Module, ...] = (),
) -> None:
    net, own_groups, optimizer = trained()
    optimizer = change(net, optimizer) or optimizer
    groups = groups or own_groups
    before = state_of(net, optimizer)
    with pytest.raises(PlanError, match=match):
        apply_plan_(net, groups, plan or PruningPlan.of(groups, KEPT), optimizer=optimizer, companions=companions)
    after = state_of(net, optimizer)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_plan_for_other_groups() -> None:
    refused("fingerprints differ", plan=PruningPlan.of(plain_groups(first=7), {"conv1": [0]}))


def test_groups_of_another_model() -> None:
    refused(
        r"the model does not fit the groups: 'conv1.weight' has shape \(6, 3, 3, 3\)",
        groups=plain_groups(first=7),
    )


def test_optimizer_state_of_another_shape() -> None:
    def factored(net: Plain, optimizer: Optimizer) -> None:
        optimizer.state[net.conv1.weight]["row_var"] = torch.ones(6, 1)

    refused(r"SGD keeps 'row_var' of conv1.weight as Tensor of shape \(6, 1\)", change=factored)


def test_flat_state_over_all_parameters_that_is_kept_with_one_of_them() -> None:
    def flat(net: Plain, optimizer: Optimizer) -> None:
        optimizer.state[net.fc.bias]["direction"] = torch.ones(500)

    refused(r"SGD keeps 'direction' of a parameter as Tensor of shape \(500,\)", change=flat)


def test_state_of_another_shape_is_left_where_the_parameter_stays_whole() -> None:
    net, groups, optimizer = trained()
    optimizer.state[net.fc.bias]["preconditioner"] = torch.eye(3)
    apply_plan_(net, groups, PruningPlan.of(groups, KEPT), optimizer=optimizer)
    assert torch.equal(optimizer.state[net.fc.bias]["preconditioner"], torch.eye(3))


def test_state_kept_in_lists() -> None:
    def listed(net: Plain, optimizer: Optimizer) -> None:
        optimizer.state[net.conv1.weight]["history"] = [torch.ones(6, 3, 3, 3)]

    refused("SGD keeps 'history' of conv1.weight as list", change=listed)


def test_lbfgs() -> None:
    def lbfgs(net: Plain, optimizer: Optimizer) -> Optimizer:
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)
        loss = lambda: net(torch.ones(1, 3, 5, 5)).square().sum()  # noqa: E731

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        net.eval()
        optimizer.step(closure)
        return optimizer

    refused("LBFGS keeps", change=lbfgs)


def test_the_optimizer_of_another_model() -> None:
    refused(
        "SGD holds none of the parameters",
        change=lambda net, _: OPTIMIZERS["sgd"](plain_net()[0].parameters()),
    )


def test_companions_that_do_not_fit() -> None:
    refused(r"companions\[0\] does not fit", companions=(plain_net(first=5)[0],))
    refused(r"companions\[0\] has no 'conv1.weight'", companions=(nn.Linear(2, 2),))
    refused(r"companions\[0\]: 'conv1.weight' has shape \(8, 3", companions=(plain_net(first=8)[0],))


def test_a_companion_that_is_the_model_itself() -> None:
    net, groups = plain_net()
    with pytest.raises(PlanError, match=r"shares 'conv1.weight' with the model"):
        apply_plan_(net, groups, PruningPlan.of(groups, KEPT), companions=[net])
    assert net.conv1.weight.shape[0] == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_scores_selection_and_surgery_on_a_gpu_are_those_on_the_cpu(kind: str) -> None:
    here, groups, optimizer = trained(kind)
    there = copy.deepcopy(here).cuda()
    there_optimizer = OPTIMIZERS[kind](there.parameters())
    there_optimizer.load_state_dict(optimizer.state_dict())
    plans = [
        select_channels(groups, score("l2", net, groups), Budget(Parameters(net, groups), kept=0.6))
        for net in (here, there)
    ]
    assert plans[0].to_json() == plans[1].to_json()
    for net, each_optimizer in ((here, optimizer), (there, there_optimizer)):
        apply_plan_(net, groups, plans[0], optimizer=each_optimizer)
    for key, value in state_of(there, there_optimizer).items():
        if not key.startswith("grad"):
            assert torch.equal(value.cpu(), state_of(here, optimizer)[key]), key
    assert there(torch.randn(2, 3, 5, 5, device="cuda")).shape == (2, 3)
