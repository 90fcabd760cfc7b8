"""The radius rule."""

import math

import pytest
import torch

from adasap.sharpness import adaptive_radius


def test_extremes_get_exactly_the_given_radii_and_the_middle_the_middle():
    radii = adaptive_radius({"a": torch.tensor([0.0, 4.0, 2.0])}, rho_min=0.01, rho_max=2.0)
    assert radii["a"][0] == torch.tensor(2.0)
    assert radii["a"][1] == torch.tensor(0.01)
    torch.testing.assert_close(radii["a"][2], torch.tensor(1.005))


def test_rule_matches_the_equation_channel_by_channel():
    torch.manual_seed(0)
    scores = {f"g{i}": torch.rand(size) * 10**i for i, size in enumerate((7, 1, 30, 2))}
    radii = adaptive_radius(scores, rho_min=0.2, rho_max=0.9)
    for name, score in scores.items():
        low, high = score.min().item(), score.max().item()
        expected = [0.9 - (s - low) / (high - low) * 0.7 if high > low else 0.9 for s in score.tolist()]
        torch.testing.assert_close(radii[name], torch.tensor(expected))


def test_extremes_of_the_model_make_groups_comparable():
    scores = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([2.0, 4.0])}
    radii = adaptive_radius(scores, rho_min=0.0, rho_max=4.0, extremes="model")
    assert radii["a"].tolist() == [4.0, 3.0]
    assert radii["b"].tolist() == [2.0, 0.0]


@pytest.mark.parametrize("extremes", ["group", "model"])
def test_equal_scores_and_single_channels_get_the_largest_radius(extremes):
    scores = {"equal": torch.full((3,), 5.0), "single": torch.tensor([5.0])}
    radii = adaptive_radius(scores, rho_min=0.1, rho_max=0.7, extremes=extremes)
    assert torch.cat(list(radii.values())).tolist() == pytest.approx([0.7] * 4)


def test_radii_follow_a_permutation_of_the_channels():
    score, order = torch.rand(9), torch.randperm(9)
    plain = adaptive_radius({"a": score}, rho_min=0.1, rho_max=1.0)["a"]
    permuted = adaptive_radius({"a": score[order]}, rho_min=0.1, rho_max=1.0)["a"]
    assert torch.equal(plain[order], permuted)


def test_scale_and_offset_of_scores_do_not_matter():
    score = torch.tensor([1.0, 2.0, 5.0])
    radii = [adaptive_radius({"a": s}, rho_min=0, rho_max=1)["a"] for s in (score, 8 * score + 16)]
    assert torch.equal(*radii)


def test_half_precision_and_integer_scores_give_float32_radii():
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        radii = adaptive_radius({"a": torch.tensor([1, 2, 3], dtype=dtype)}, rho_min=0, rho_max=1)["a"]
        assert radii.tolist() == [1.0, 0.5, 0.0]
        assert radii.dtype == torch.float32


def test_no_groups_and_groups_without_channels():
    assert adaptive_radius({}, rho_min=0, rho_max=1) == {}
    radii = adaptive_radius({"a": torch.zeros(0), "b": torch.tensor([1.0, 2.0])}, rho_min=0, rho_max=1)
    assert radii["a"].shape == (0,)
    assert radii["b"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_by_name(bad):
    scores = {"fine": torch.ones(2), "broken": torch.tensor([1.0, bad, 2.0])}
    with pytest.raises(ValueError, match="'broken' are not finite in 1 of 3"):
        adaptive_radius(scores, rho_min=0, rho_max=1)


@pytest.mark.parametrize(
    ("rho_min", "rho_max"), [(-0.1, 1.0), (1.0, 0.5), (0.0, math.inf), (math.nan, 1.0), (0.0, math.nan)]
)
def test_radii_out_of_order_are_refused(rho_min, rho_max):
    with pytest.raises(ValueError, match=r"rho_min|rho_max"):
        adaptive_radius({"a": torch.ones(2)}, rho_min=rho_min, rho_max=rho_max)


def test_other_mistakes_are_refused():
    with pytest.raises(ValueError, match="shape \\[C\\]"):
        adaptive_radius({"a": torch.ones(2, 2)}, rho_min=0, rho_max=1)
    with pytest.raises(ValueError, match="'group' or 'model'"):
        adaptive_radius({"a": torch.ones(2)}, rho_min=0, rho_max=1, extremes="layer")
