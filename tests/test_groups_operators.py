"""The registry of operators: one call teaches tracing, MACs and latency tables an operator of any namespace."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import prod

import pytest
import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError, TraceError
from adasap.groups import check_cut, prunable, trace_groups, widths
from adasap.groups.operators import (
    FREE,
    LabelledCall,
    LatencyView,
    Product,
    ShapedCall,
    elementwise,
    linear,
    no_macs,
    operator_of,
    register_operator,
)
from adasap.groups.operators.operator import OPERATORS
from adasap.profiling import layer_calls
from adasap.pruning import MACs

INPUTS = torch.zeros(2, 3)
_numbers = itertools.count()


@pytest.fixture
def square() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """An elementwise operator that nothing is known of."""
    name = f"adasap_tests::square{next(_numbers)}"

    @torch.library.custom_op(name, mutates_args=())
    def square(x: Tensor) -> Tensor:
        return x * x

    square.register_fake(torch.empty_like)
    square.register_autograd(
        lambda ctx, grad: 2 * ctx.saved_tensors[0] * grad,
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    yield name, lambda x: square(x)
    OPERATORS._entries.pop(name, None)


@pytest.fixture
def dense() -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """A linear layer of a library's own."""
    name = f"adasap_tests::dense{next(_numbers)}"

    @torch.library.custom_op(name, mutates_args=())
    def dense(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(input, weight, bias)

    dense.register_fake(nn.functional.linear)
    yield name, lambda *arguments: dense(*arguments)
    OPERATORS._entries.pop(name, None)


class Net(nn.Module):
    """Two linear layers with something between them, the second by an operator that is given."""

    def __init__(self, between: Callable[[Tensor], Tensor], last: Callable[..., Tensor] = nn.functional.linear) -> None:
        super().__init__()
        self.first, self.last, self.out = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.between, self.apply_last = between, last

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.apply_last(self.between(self.first(x)), self.last.weight, self.last.bias))


def reasons(model: nn.Module) -> list[tuple[str, ...]]:
    return [group.frozen for group in trace_groups(model, INPUTS)][:1]


def test_an_operator_without_a_rule_freezes_what_reaches_it_by_name(square: tuple[str, Callable]) -> None:
    name, function = square
    (frozen,) = reasons(Net(function))
    assert frozen == (f"{name.replace('::', '.')}.default in model has no rule",)


def test_a_rule_lets_the_channels_of_a_custom_operator_go(square: tuple[str, Callable]) -> None:
    name, function = square
    register_operator(name, elementwise)
    model = Net(function)
    groups = trace_groups(model, INPUTS)
    assert widths(prunable(groups)) == {"first": 8, "last": 6}
    proof = check_cut(model, groups, {"first": torch.tensor([0, 3, 4])}, INPUTS)
    assert proof.holds, str(proof)


def test_an_operator_of_a_gpu_alone_is_proven_by_its_plain_version() -> None:
    name = f"adasap_tests::gate{next(_numbers)}"

    @torch.library.custom_op(name, mutates_args=(), device_types="cuda")
    def gate(x: Tensor) -> Tensor:
        raise AssertionError("there is no GPU here")

    gate.register_fake(torch.empty_like)
    gate.register_autograd(
        lambda ctx, grad: 2 * ctx.saved_tensors[0] * grad,
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    register_operator(name, elementwise)
    model, kept = Net(lambda x: gate(x)), {"first": torch.tensor([0, 3, 4])}
    groups = trace_groups(model, INPUTS)
    assert widths(prunable(groups)) == {"first": 8, "last": 6}
    with pytest.raises(TraceError, match=f"Could not run '{name}' with arguments from the 'CPU' backend"):
        check_cut(model, groups, kept, INPUTS)
    gate.register_kernel("cpu")(lambda x: x * x)
    proof = check_cut(model, groups, kept, INPUTS)
    OPERATORS._entries.pop(name)
    assert proof.holds, str(proof)


def test_a_rule_can_be_written_out(square: tuple[str, Callable]) -> None:
    name, function = square

    def keeps(call: LabelledCall) -> Tensor:
        call.book.freeze(call.labels(call["x"]), f"{call.where} wants all of them")
        return call.labels(call["x"])

    register_operator(name, keeps)
    (frozen,) = reasons(Net(function))
    assert frozen == (f"{name.replace('::', '.')}.default in model wants all of them",)


def test_one_call_teaches_rule_macs_and_latency(dense: tuple[str, Callable]) -> None:
    name, function = dense
    plain, own = Net(torch.relu), Net(torch.relu, function)
    groups = trace_groups(plain, INPUTS)
    assert MACs(own, (), INPUTS).uncounted == {name: 1, "relu": 1}

    def count(call: ShapedCall) -> Product:
        return Product(prod(call.shape) * call.sizes("weight")[-1], (call["weight"],))

    register_operator(name, linear, macs=count, latency=LatencyView(weight="weight", channel_axis=-1))
    found = trace_groups(own, INPUTS)
    assert widths(prunable(found)) == widths(prunable(groups))
    for at in ({}, {"first": 4}, {"first": 5, "last": 2}):
        assert MACs(own, found, INPUTS).total(at) == MACs(plain, groups, INPUTS).total(at)
    wanted, got = layer_calls(plain, groups, INPUTS[:1]), layer_calls(own, found, INPUTS[:1])
    assert [(call.widths, call.dense) for call in got] == [(call.widths, call.dense) for call in wanted]
    assert got[2].key == wanted[2].key.replace("linear", name, 1)


def test_an_operator_may_take_no_time_and_count_nothing(square: tuple[str, Callable]) -> None:
    name, function = square
    model = Net(function)
    calls = [call.key.split()[0] for call in layer_calls(model, (), INPUTS[:1])]
    assert calls == ["linear", name, "linear", "linear"]
    register_operator(name, elementwise, macs=no_macs, latency=FREE)
    assert len(layer_calls(model, (), INPUTS[:1])) == 3
    assert MACs(model, (), INPUTS).uncounted == {}


def test_what_is_missing_can_be_added_and_nothing_replaced(square: tuple[str, Callable]) -> None:
    name, _ = square
    register_operator(name, macs=no_macs)
    register_operator(name, elementwise)
    with pytest.raises(ArgumentError, match=f"{name}' has rule already"):
        register_operator(name, elementwise)
    with pytest.raises(ArgumentError, match="'relu' has rule already"):
        register_operator("relu", elementwise)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("swish", elementwise), "ATen has no operator 'swish'; .* 'library::swish'"),
        (("relu", None), "nothing is given about 'relu'"),
        (("mine::swish", "elementwise"), "give a function"),
    ],
)
def test_a_registration_that_would_do_nothing_is_refused(given: tuple[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        register_operator(*given)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="give a LatencyView"):
        register_operator("mine::swish", latency="free")  # type: ignore[arg-type]


def test_in_place_variants_are_covered_and_names_of_other_libraries_are_not() -> None:
    aten = torch.ops.aten
    assert operator_of(aten.relu_.default) is operator_of(aten.relu.default)
    assert operator_of(aten.relu.default).rule is not None
    assert operator_of(torch.ops.prims.add.default).rule is None
