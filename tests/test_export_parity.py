"""When a file counts as computing the same numbers, and when nothing could be told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adasap.errors import ExportError
from adasap.export.parity import require_parity


def test_small_outputs_are_held_to_the_same_digits() -> None:
    large, small = torch.tensor([100.0, 1.0]), torch.tensor([1e-3, 5e-4])
    with pytest.raises(ExportError, match="differs"):
        require_parity([large, small], [large, small + 1e-6], where="here")
    assert require_parity([large, small], [large + 1e-3, small], where="here") == pytest.approx(1e-5, rel=0.01)


def test_an_output_of_zeros_must_be_zeros() -> None:
    ones, zeros = torch.ones(3), torch.zeros(3)
    assert require_parity([ones, zeros], [ones, zeros], where="here") == 0
    with pytest.raises(ExportError, match="differs"):
        require_parity([ones, zeros], [ones, zeros + 1e-9], where="here")


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 1), r"shapes \[\(2, 3\)\], the file \[\(2, 1\)\]"),
        (torch.zeros(2), torch.zeros(2), "all outputs of the model are zero"),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), "not finite"),
        (torch.ones(2), torch.full((2,), torch.nan), "differs from the model by nan"),
    ],
)
def test_what_proves_nothing_is_refused(expected: Tensor, found: Tensor, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        require_parity([expected], [found], where="here")
