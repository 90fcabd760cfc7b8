"""Evidence: a mean over batches that survives cuts, checkpoints and ranks."""

from __future__ import annotations

import pytest
import torch

from adasap.criteria import Evidence


def batch(*values: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(values), "b": torch.tensor([values[0]])}


def filled() -> Evidence:
    evidence = Evidence()
    evidence.add(batch(1.0, 2.0, 3.0))
    evidence.add(batch(3.0, 0.0, 1.0))
    return evidence


def test_empty_evidence_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no evidence was collected.*batch_evidence"):
        Evidence().mean()
    with pytest.raises(ValueError, match="averaged over ranks"):
        Evidence().reduce(lambda tensor: tensor)


def test_the_mean_counts_batches_alike() -> None:
    assert filled().count == 2
    assert filled().mean()["a"].tolist() == [2.0, 1.0, 2.0]


def test_added_tensors_are_not_kept_or_changed() -> None:
    first = batch(1.0, 2.0, 3.0)
    evidence = Evidence()
    evidence.add(first)
    evidence.add(batch(1.0, 1.0, 1.0))
    assert first["a"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_left_out(bad: float) -> None:
    evidence = filled()
    evidence.add(batch(1.0, bad, 3.0))
    assert evidence.count == 2
    assert evidence.mean()["a"].tolist() == [2.0, 1.0, 2.0]
    only = Evidence()
    only.add(batch(bad, 1.0, 1.0))
    with pytest.raises(ValueError, match="no evidence was collected"):
        only.mean()


def test_reset_forgets() -> None:
    evidence = filled()
    evidence.reset()
    assert evidence.count == 0
    evidence.add({"a": torch.ones(1)})
    assert evidence.mean()["a"].tolist() == [1.0]


def test_cut_keeps_the_mean_of_the_kept() -> None:
    evidence = filled()
    evidence.cut({"a": torch.tensor([0, 2]), "elsewhere": torch.tensor([0])})
    assert evidence.mean()["a"].tolist() == [2.0, 2.0]
    assert evidence.mean()["b"].tolist() == [2.0]
    with pytest.raises(ValueError, match="other groups or widths"):
        evidence.add(batch(1.0, 2.0, 3.0))


def test_loaded_evidence_goes_on_as_the_original() -> None:
    evidence = filled()
    loaded = Evidence().load(evidence.state())
    for each in (evidence, loaded):
        each.add(batch(0.1, 0.2, 0.3))
    assert loaded.count == 3
    assert all(torch.equal(loaded.mean()[key], evidence.mean()[key]) for key in ("a", "b"))
    assert Evidence().load(Evidence().state()).count == 0


def test_reduce_gives_every_rank_the_mean_over_all_batches() -> None:
    one, two = filled(), Evidence()
    for _ in range(3):
        two.add(batch(6.0, 6.0, 6.0))
    sent: list[torch.Tensor] = []
    for rank in (one, two):
        rank_copy = Evidence().load(rank.state())
        rank_copy.reduce(lambda tensor: sent.append(tensor.clone()) or tensor)  # type: ignore[func-returns-value]
    mean = torch.stack(sent).mean(0)
    for rank in (one, two):
        rank.reduce(lambda tensor: mean)
        torch.testing.assert_close(rank.mean()["a"], torch.tensor([22.0, 20.0, 22.0]) / 5)
        assert rank.count == 2


def test_low_precision_batches_are_summed_in_float32() -> None:
    evidence = Evidence()
    for _ in range(1000):
        evidence.add({"a": torch.ones(1, dtype=torch.bfloat16)})
    assert evidence.mean()["a"].item() == 1.0
