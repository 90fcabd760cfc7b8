"""Criteria that look at a few batches: what they read, against loops, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from adasap.criteria import GatheringCriterion, build_criterion, validate_criterion
from adasap.criteria.chip import independence
from adasap.errors import RecipeError
from adasap.groups import trace_groups
from adasap.groups.group import ChannelGroup, Slot
from criteria_nets import Plain, each, plain_net


def gathered(name: str, net: nn.Module, groups: Any, images: list[Tensor], **options: Any) -> dict[str, Tensor]:
    criterion = build_criterion(name, **options)
    assert isinstance(criterion, GatheringCriterion)
    return criterion.gather(net, groups, images, squares)


def squares(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).square().sum()  # type: ignore[no-any-return]


def hidden(net: Plain, images: Tensor) -> Tensor:
    """What conv2 reads, in evaluation mode."""
    return torch.relu(net.bn1.eval()(net.conv1(images))).detach()


# Activations


def test_activation_statistics_against_loops() -> None:
    net, groups = plain_net()
    net.double()
    images = [torch.randn(2, 3, 5, 5, dtype=torch.float64) for _ in range(3)]
    mean, positive = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for batch in images:
        maps = hidden(net, batch)
        for channel in range(6):
            for value in maps[:, channel].flatten().tolist():
                mean[channel] += abs(value) / (3 * 2 * 25)
                positive[channel] += float(value != 0) / (3 * 2 * 25)
    found = {name: gathered(name, net, groups, images)["conv1"].double() for name in ("activation_mean", "apoz")}
    torch.testing.assert_close(found["activation_mean"], mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["apoz"], positive, rtol=1e-5, atol=0)
    assert 0 < positive.min() < positive.max() < 1


def test_a_mean_activation_is_read_relative_to_its_group_and_apoz_as_it_is() -> None:
    net, groups = plain_net()
    evidence = {group.name: torch.rand(group.num_channels) for group in groups}
    mean = build_criterion("activation_mean").score(net, groups, evidence)
    torch.testing.assert_close(mean["conv1"], evidence["conv1"] / evidence["conv1"].mean())
    assert torch.equal(build_criterion("apoz").score(net, groups, evidence)["conv1"], evidence["conv1"])


def test_every_reader_counts_and_channels_are_found_wherever_they_stand() -> None:
    """A stream read by a convolution, a transposed one, and a linear layer behind a flatten."""

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
            self.down = nn.Conv2d(4, 2, 3, stride=2)
            self.head = nn.Linear(4 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.stem(x))
            return self.head(x.flatten(1)) + self.up(x).mean() + self.down(x.abs()).mean()

    torch.manual_seed(0)
    net, images = Read(), torch.randn(2, 3, 6, 6)
    groups = trace_groups(net, images)
    maps = torch.tanh(net.stem(images)).detach()
    three = [maps, maps, maps.abs()]
    expected = torch.stack([(x > 0).float().mean((0, 2, 3)) for x in three]).mean(0)
    torch.testing.assert_close(gathered("apoz", net, groups, [images])["stem"], expected)
    torch.testing.assert_close(gathered("activation_mean", net, groups, [images])["stem"], maps.abs().mean((0, 2, 3)))


def test_tokens_have_their_channels_last() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    tokens = torch.randn(2, 7, 3)
    expected = nn.functional.gelu(net[0](tokens)).detach().abs().mean((0, 1))
    torch.testing.assert_close(gathered("activation_mean", net, trace_groups(net, tokens), [tokens])["0"], expected)


# Channel independence


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 9, 4), (1, 6, 6), (2, 1, 5), (2, 4, 1)])
def test_independence_against_singular_values(shape: tuple[int, int, int]) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()
    maps[:, 0] = 2 * maps[:, -1]  # not of full rank
    expected = torch.zeros(shape[1], dtype=torch.float64)
    for image in maps.double():
        for channel in range(shape[1]):
            masked = image.clone()
            masked[channel] = 0
            fall = torch.linalg.svdvals(image).sum() - torch.linalg.svdvals(masked).sum()
            expected[channel] += fall / shape[0]
    torch.testing.assert_close(independence(maps), expected.float(), rtol=1e-4, atol=1e-5)


def test_chip_looks_at_the_first_images_of_a_batch_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net, groups = plain_net()
    images = torch.randn(4, 3, 5, 5)
    found = gathered("chip", net, groups, [images], num_images=2)["conv1"]
    torch.testing.assert_close(found, independence(hidden(net, images)[:2].flatten(2)))
    assert not torch.allclose(found, gathered("chip", net, groups, [images], num_images=4)["conv1"])
    monkeypatch.setattr("adasap.criteria.chip.MOST_NUMBERS", 1)
    torch.testing.assert_close(gathered("chip", net, groups, [images], num_images=2)["conv1"], found)


# The Hessian's diagonal


def test_any_probe_gives_the_diagonal_of_a_diagonal_hessian() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2, bias=False)
    group = ChannelGroup("g", 2, (Slot("weight", 0, "producer", each(2)),))
    curvature = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.5, -6.0]])

    def quadratic(model: nn.Module, batch: Tensor) -> Tensor:
        return 0.5 * (batch * curvature * model.weight.square()).sum()

    criterion = build_criterion("hutchinson", num_probes=1)
    assert isinstance(criterion, GatheringCriterion)
    evidence = criterion.gather(net, (group,), [torch.tensor(1.0), torch.tensor(3.0)], quadratic)
    expected = 0.5 * (2 * curvature * net.weight.detach().square()).sum(1)
    torch.testing.assert_close(evidence["g"], expected)
    assert criterion.score(net, (group,), evidence)["g"].tolist() == [expected[0].item(), 0.0]


def test_many_probes_approach_the_diagonal_of_the_true_hessian() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    images = torch.randn(5, 3, dtype=torch.float64)
    groups = trace_groups(net, images)

    def loss_of(weight: Tensor) -> Tensor:
        return torch.func.functional_call(net, {"0.weight": weight}, (images,)).square().sum()

    weight = net[0].weight.detach()
    hessian = torch.autograd.functional.hessian(loss_of, weight).view(12, 12)
    expected = 0.5 * (hessian.diagonal().view(4, 3) * weight.square()).sum(1)

    def error(num_probes: int) -> float:
        found = gathered("hutchinson", net, groups, [images], num_probes=num_probes)["0"]
        return float((found - expected).norm() / expected.norm())

    assert error(3000) < 0.1 < error(1)


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    net = nn.Linear(3, 2, bias=False)
    group = ChannelGroup("g", 2, (Slot("weight", 0, "producer", each(2)),))
    criterion = build_criterion("hutchinson")
    assert isinstance(criterion, GatheringCriterion)
    assert criterion.gather(net, (group,), [torch.ones(1, 3)], lambda m, x: m(x).sum())["g"].tolist() == [0.0, 0.0]


def test_gradients_that_training_left_are_not_touched() -> None:
    net, groups = plain_net()
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    gathered("hutchinson", net, groups, [torch.randn(2, 3, 5, 5)])
    assert (net.conv1.weight.grad == 1).all()
    assert net.conv2.weight.grad is None


# What cannot be looked at


@pytest.mark.parametrize("name", ["activation_mean", "apoz", "chip"])
def test_groups_that_no_layer_reads_are_refused_before_training(name: str) -> None:
    net, groups = plain_net()
    validate_criterion(build_criterion(name), net, groups)
    unread = tuple(
        ChannelGroup(g.name, g.num_channels, tuple(g.with_role("producer")), frozen=g.frozen) for g in groups
    )
    with pytest.raises(ValueError, match="conv1, conv2; use 'taylor' or keep them whole"):
        validate_criterion(build_criterion(name), net, unread)


def test_layers_that_are_used_without_being_called_are_named() -> None:
    class Roundabout(Plain):
        def forward(self, x: Tensor) -> Tensor:
            x = self.bn1(self.conv1(x)).relu()
            x = self.bn2(nn.functional.conv2d(x, self.conv2.weight, padding=1)).relu()
            return self.fc(x.mean((2, 3)))

    net, (_, groups) = Roundabout(), plain_net()
    with pytest.raises(ValueError, match="no activations were seen for conv1: "):
        gathered("apoz", net, groups, [torch.randn(2, 3, 5, 5)])


def test_modes_and_hooks_come_back_when_the_model_fails() -> None:
    net, groups = plain_net()

    def fails(model: nn.Module, batch: Tensor) -> Tensor:
        raise ValueError("no such batch")

    for name in ("apoz", "hutchinson"):
        criterion = build_criterion(name)
        assert isinstance(criterion, GatheringCriterion)
        with pytest.raises(ValueError, match="no such batch"):
            criterion.gather(net, groups, [torch.zeros(1)], fails)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(("name", "option"), [("chip", "num_images"), ("hutchinson", "num_probes")])
def test_nothing_to_look_at_is_refused(name: str, option: str) -> None:
    with pytest.raises(RecipeError, match=f"{option} is 0; give 1 or more"):
        build_criterion(name, **{option: 0})


def test_attention_is_differentiated_twice() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
            return nn.functional.scaled_dot_product_attention(query, key, value)

    net = Attention()
    group = ChannelGroup("qkv", 12, (Slot("qkv.weight", 0, "producer", each(12)),))
    evidence = gathered("hutchinson", net, (group,), [torch.randn(2, 5, 4)])["qkv"]
    assert evidence[:8].abs().min() > 0


def test_an_operator_without_second_derivative_says_so() -> None:
    net, groups = plain_net()

    def pooled(model: nn.Module, images: Tensor) -> Tensor:
        maps = model(images).view(-1, 3, 1, 1).expand(-1, -1, 4, 4).contiguous()
        return torchvision.ops.roi_align(maps, [torch.tensor([[0.0, 0.0, 3.0, 3.0]])] * len(maps), 2).square().sum()

    criterion = build_criterion("hutchinson")
    assert isinstance(criterion, GatheringCriterion)
    with pytest.raises(RuntimeError, match="double backwards on roi_align not supported"):
        criterion.gather(net, groups, [torch.randn(2, 3, 5, 5)], pooled)
