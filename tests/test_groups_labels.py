"""Labels: storage, union, and which axes may be collapsed."""

from __future__ import annotations

import pytest
import torch

from adasap.groups.components import connected_components
from adasap.groups.labels import LabelBook, compact, varying


def slow_components(num_nodes: int, pairs: torch.Tensor) -> list[int]:
    """Each node takes the smallest name it can reach, one edge at a time."""
    names = list(range(num_nodes))
    for _ in range(num_nodes):
        for a, b in pairs.T.tolist():
            names[a] = names[b] = min(names[a], names[b])
    return names


@pytest.mark.parametrize("num_pairs", [0, 1, 10, 25, 60])
def test_components_agree_with_walking_every_edge(num_pairs: int) -> None:
    generator = torch.Generator().manual_seed(num_pairs)
    pairs = torch.randint(40, (2, num_pairs), generator=generator)
    assert connected_components(40, pairs).tolist() == slow_components(40, pairs)


@pytest.mark.parametrize("order", [torch.arange(9999), torch.arange(9999).flip(0), torch.randperm(9999)])
def test_a_long_chain_is_one_component(order: torch.Tensor) -> None:
    pairs = torch.stack([torch.arange(9999), torch.arange(1, 10000)])[:, order]
    assert not connected_components(10000, pairs).any()


def test_compact_labels_are_the_same_labels() -> None:
    labels = torch.arange(1, 5).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    stored = compact(labels.contiguous())
    assert torch.equal(stored, labels)
    assert varying(stored) == {1}


def test_labels_of_one_axis_are_given_once() -> None:
    book = LabelBook()
    first = book.axis("conv.weight", 0, 4, "producer")
    assert torch.equal(first, book.axis("conv.weight", 0, 4, "producer"))
    assert not torch.isin(first, book.axis("conv.weight", 1, 4, "consumer")).any()


def test_zeros_unite_nothing_and_negative_labels_freeze_without_uniting() -> None:
    book = LabelBook()
    labels = book.fresh(3)
    book.unite(labels, torch.tensor(0))
    book.unite(labels, torch.tensor(book.source("because")))
    assert book.roots()[labels].unique().numel() == 3
    ((frozen, reason),) = book.frozen
    assert torch.equal(frozen, labels)
    assert book.reasons[reason] == "because"


def test_two_rows_of_tokens_become_one_set_of_channels() -> None:
    book = LabelBook()
    first, second = book.fresh(4), book.fresh(4)
    kept = book.collapse(torch.stack([first, second, second]), [0])
    assert kept is not None
    assert kept.shape == (1, 4)
    assert torch.equal(book.roots()[first], book.roots()[second])
    assert book.roots()[first].unique().numel() == 4


@pytest.mark.parametrize(
    "labels",
    [
        torch.arange(1, 5).view(4, 1).expand(4, 3),  # channels along the collapsed axis, several columns
        torch.arange(1, 5).view(4, 1),  # one column
        torch.tensor([[1, 2], [2, 1]]),  # a label in two columns
    ],
)
def test_axes_that_mix_channels_do_not_collapse(labels: torch.Tensor) -> None:
    book = LabelBook()
    book.fresh(4)
    assert book.collapse(labels, [0]) is None
    assert book.roots().tolist() == list(range(5))
