"""The screen of a dry run: the plan by parts of the network, and what is seldom meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adasap.data import InMemoryImages
from adasap.experiments.preview import _about_data, parts_table
from adasap.experiments.recipe import parse_recipe
from adasap.groups import ChannelGroup
from adasap.tasks import Data


@pytest.mark.parametrize(
    ("names", "first", "rows"),
    [
        ([f"{n}" for n in range(40)], "0 to 3", 10),
        ([f"features.{n}.conv" for n in range(19)] + ["classifier.1"], "features.0 to features.1", 10),
        (["conv1", *(f"layer{n}.{k}.conv{c}" for n in range(1, 5) for k in range(3) for c in (1, 2))], "conv1", 5),
        (["stem"], "stem", 1),
    ],
)
def test_a_plan_is_told_by_a_dozen_parts_at_most(names: list[str], first: str, rows: int) -> None:
    groups = [ChannelGroup(name, 8, (), frozen=("kept",) * (place == 0)) for place, name in enumerate(names)]
    table = parts_table(groups, dict.fromkeys(names[1:], 3))
    assert (table.rows[0][0], len(table.rows)) == (first, rows + 1)
    counts = [[int(cell.replace(",", "")) for cell in row[1:]] for row in table.rows]
    for place in (0, 1, 2, 4):  # all but the share
        assert sum(row[place] for row in counts[:-1]) == counts[-1][place]
    assert counts[-1][:3] == [len(names), 8 * len(names), 8 + 3 * (len(names) - 1)]
    assert counts[-1][4] == 8


def test_what_is_seldom_meant_is_said(tiny_recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    one = {"kind": "npz", "path": str(tmp_path / "a.npz")}
    digits = {"kind": "digits", "count": 20}
    even = Data(InMemoryImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ["a", "b"]))
    labels = torch.tensor([1] * 30 + [0] * 3)
    uneven = Data(InMemoryImages(torch.zeros(33, 3, 8, 8, dtype=torch.uint8), labels, ["rare", "often"]))

    def said(train: dict[str, Any], test: dict[str, Any], data: Data = even) -> str:
        recipe = parse_recipe(tiny_recipe(data={"train": train, "test": test, "suites": {}}))
        return "\n".join(_about_data(recipe, data))

    assert said(digits, digits) == said(one, {**one, "first": 3}) == ""
    assert "are the same images" in said(one, one)
    assert "are the same images" in said({**digits, "split": "train"}, {**digits, "split": "train"})
    both = {**digits, "split": {"train": "train", "test": "test"}}
    assert said(both, both) == ""
    assert said(digits, digits, uneven) == (
        "class 'often' has 30 training images and 'rare' 3: accuracy says little about rare classes"
    )
