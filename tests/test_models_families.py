"""One model of each family: half of the multiply-accumulates go, the cut is proven, the rest trains and exports."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from adasap.criteria import score
from adasap.groups import check_cut, prunable, trace_groups, widths
from adasap.groups.check import MAX_RELATIVE_ERROR
from adasap.models import ModelSpec, open_model
from adasap.pruning import Budget, MACs, apply_plan_, select_channels

BUILT_FOR_A_SIZE = ("timm:vit_tiny_patch16_224", "timm:levit_128s", "timm:mixer_s16_224")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the builders and of torch.export
@pytest.mark.parametrize(
    ("builder", "size", "num_prunable"),
    [
        pytest.param("torchvision:regnet_x_400mf", 64, 27, id="grouped"),
        pytest.param("torchvision:shufflenet_v2_x1_0", 64, 21, id="shuffled"),
        pytest.param("timm:cspdarknet53", 64, 44, id="split"),
        pytest.param("timm:rexnet_100", 64, 46, id="sliced"),
        pytest.param("timm:vit_tiny_patch16_224", 64, 24, id="attention"),
        pytest.param("torchvision:swin_t", 64, 24, id="attention-in-windows"),
        pytest.param("timm:levit_128s", 64, 28, id="attention-with-biases"),
        pytest.param("timm:efficientvit_b0", 64, 20, id="linear-attention-in-a-region"),
        pytest.param("timm:mixer_s16_224", 64, 16, id="token-mixing"),
        pytest.param("timm:mobilenetv3_small_100", 64, 27, id="squeeze-excite"),
    ],
)
def test_half_of_a_model_goes_and_the_rest_works(builder: str, size: int, num_prunable: int) -> None:
    torch.manual_seed(0)
    options = {"img_size": size} if builder in BUILT_FOR_A_SIZE else {}
    model, images = open_model(ModelSpec(builder, options)).eval(), torch.randn(2, 3, size, size)
    groups = trace_groups(model, images[:1])
    assert len(prunable(groups)) == num_prunable
    floors = {group.name: math.ceil(group.num_channels / 4) for group in prunable(groups)}
    macs = MACs(model, groups, images[:1])
    plan = select_channels(groups, score("l2", model, groups), Budget(macs, kept=0.5), floors=floors)
    proofs = [check_cut(model, groups, plan.kept, images)]
    if proofs[0].unproven:  # behind a ReLU all units that a control exchanges may be off: draw again
        proofs.append(check_cut(model, groups, plan.kept, images, seed=1))
    assert all(proof.relative_error <= MAX_RELATIVE_ERROR and not proof.training_failure for proof in proofs)
    assert not set.intersection(*(set(proof.unproven) for proof in proofs)), str(proofs[-1])
    cut = copy.deepcopy(model)
    after = apply_plan_(cut, groups, plan)
    assert macs.total(widths(after)) == pytest.approx(MACs(cut, after, images[:1]).dense)
    assert 0.45 * macs.dense <= macs.total(widths(after)) <= 0.5 * macs.dense
    exported = torch.export.export(cut, (images,)).module()(images)
    assert torch.allclose(exported, cut(images), rtol=1e-4, atol=1e-5)
