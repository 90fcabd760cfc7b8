"""Connected components of a large sparse graph, with tensor operations only."""

from __future__ import annotations

import torch
from torch import Tensor


def connected_components(num_nodes: int, pairs: Tensor) -> Tensor:
    """The smallest node that each node is connected to.

    Each round every component takes the smallest name among its neighbours, then pointers are shortened until
    they name a root; the number of rounds grows like the logarithm of the longest chain.

    Args:
        num_nodes: Nodes are 0 to num_nodes - 1.
        pairs: Connected nodes, int64 [2, E].
    Returns:
        int64 [num_nodes].
    Example:
        >>> connected_components(5, torch.tensor([[3, 1], [4, 3]]))
        tensor([0, 1, 2, 1, 1])
    """
    parent = torch.arange(num_nodes)
    while pairs.shape[1]:
        smallest = parent[pairs].min(dim=0).values
        for end in pairs:
            parent.scatter_reduce_(0, parent[end], smallest, "amin")
        parent = _shortened(parent)
        ends = parent[pairs]
        pairs = ends[:, ends[0] != ends[1]]
    return parent


def _shortened(parent: Tensor) -> Tensor:
    while True:
        grandparent = parent[parent]
        if torch.equal(grandparent, parent):
            return parent
        parent = grandparent


def distinct(values: Tensor) -> Tensor:
    """The different values of a tensor, ascending, 1-d."""
    found: Tensor = torch.unique(values)
    return found


def distinct_columns(table: Tensor) -> Tensor:
    """The different columns of a two-dimensional tensor."""
    found: Tensor = torch.unique(table, dim=1)
    return found
