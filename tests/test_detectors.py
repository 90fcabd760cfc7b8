"""Every detector has a traced part: half of it goes, the cut is proven, and the whole detector finds the same boxes."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import adasap
from adasap.criteria import score
from adasap.errors import DataError, ModelError
from adasap.groups import ChannelGroup, check_cut, prunable, widths
from adasap.groups.masking import masked
from adasap.models import ModelSpec, open_model
from adasap.pruning import MACs, PruningPlan, apply_plan_
from adasap.tasks.detection.models.detector import Detector, count_classes
from detector_nets import SMALL, example, scenes, small_detector, small_groups

FAST = ["ssd_mobilenet_v1"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SMALL if name not in (*FAST, "ssd_resnet50")]
"""ResNet-50's cuts are proven where its recipe is run (test_detection_run.py)."""
NUM_PRUNABLE = {
    "ssd_mobilenet_v1": 16,
    "ssd_mobilenet_v2": 26,
    "ssd300_vgg16": 22,
    "ssdlite320": 37,
    "retinanet": 47,
    "fcos": 47,
    "fasterrcnn": 42,
}


def half_of(model: Detector, groups: tuple[ChannelGroup, ...], *, of: slice = slice(None)) -> PruningPlan:
    """The half of every group with the larger weights."""
    scores = score("l2", model, groups)
    kept = {g.name: scores[g.name].topk(g.num_channels // 2).indices.sort().values for g in prunable(groups)[of]}
    return PruningPlan.of(groups, kept)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.export
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_the_cut_of_the_traced_part_is_proven_and_the_detector_works_on(name: str, tmp_path: Path) -> None:
    model, groups = small_detector(name), small_groups(name)
    assert len(prunable(groups)) == NUM_PRUNABLE[name]
    assert not any(word in reason for g in groups for reason in g.frozen for word in ("no rule", "trial"))
    every = 1 if name in FAST else 15  # a control costs a forward pass in float64 each
    some, plan = half_of(model, groups, of=slice(None, None, every)), half_of(model, groups)
    if name != "ssd300_vgg16":  # 30 GMACs: it is compared on real boxes below
        proof = check_cut(model, groups, some.kept, example(name))
        assert proof.holds, str(proof)
        assert list(proof.control) == [group.name for group in lossy(groups, some)]
    cut = copy.deepcopy(model)
    after = apply_plan_(cut, groups, plan)
    if name in FAST:
        assert MACs(model, groups, example(name)).total(widths(after)) == MACs(cut, after, example(name)).dense
    pictures, targets = scenes(1 if name == "ssd300_vgg16" else 2)
    with masked(model, groups, plan.kept):
        expected = model(pictures)
    found = cut(pictures)
    assert same_boxes(found, expected, atol=1e-2)
    assert not same_boxes(wrongly_cut(model, groups, plan)(pictures), expected, atol=1e-2)
    path = tmp_path / "cut.safetensors"
    adasap.save(path, cut, spec=SMALL[name], plan=plan, groups=groups)
    assert same_boxes(adasap.load(path)(pictures), found, atol=0.0)
    losses = cut(pictures, targets)
    assert all(loss.dim() == 0 and loss.isfinite() and loss.requires_grad for loss in losses.values())
    assert not any(module.training for module in cut.modules())


def lossy(groups: tuple[ChannelGroup, ...], plan: PruningPlan) -> list[ChannelGroup]:
    """The groups that lose channels."""
    return [group for group in prunable(groups) if len(plan.kept[group.name]) < group.num_channels]


def wrongly_cut(model: Detector, groups: tuple[ChannelGroup, ...], plan: PruningPlan) -> Detector:
    """The control: one group in the middle keeps the neighbours of its channels."""
    some = lossy(groups, plan)
    group = some[len(some) // 2]
    neighbours = ((plan.kept[group.name] + 1) % group.num_channels).sort().values
    wrong = copy.deepcopy(model)
    apply_plan_(wrong, groups, PruningPlan.of(groups, {**plan.kept, group.name: neighbours}))
    return wrong


def same_boxes(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]], *, atol: float) -> bool:
    """Whether they name the same boxes in the same order, and any at all."""
    assert sum(len(image["boxes"]) for image in expected) > 0
    return all(
        one[key].shape == other[key].shape and torch.allclose(one[key].float(), other[key].float(), rtol=0, atol=atol)
        for one, other in zip(found, expected, strict=True)
        for key in ("boxes", "labels", "scores")
    )


@pytest.mark.parametrize("name", [*FAST, pytest.param("fasterrcnn", marks=pytest.mark.slow)])
def test_losses_in_evaluation_mode_leave_norms_alone(name: str) -> None:
    model = small_detector(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model(*scenes())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    model.train()(*scenes())
    assert not all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert count_classes(model, SMALL[name].input_size) == 4
    assert model.training


def test_torchvisions_names_and_numbers_stay() -> None:
    """The traced detector is torchvision's own: its state fits, and only the normalisation has moved out of it."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    original = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    model = open_model(SMALL["ssdlite320"]).eval()
    model.load_state_dict(original.state_dict())
    picture = torch.rand(3, 60, 90)
    with torch.no_grad():
        assert same_boxes(model([(picture - 0.5) / 0.5]), original([picture]), atol=1e-5)
    with pytest.raises(ModelError, match="evaluation mode"):
        model.train()([picture])


@pytest.mark.slow
def test_vggs_weights_fill_the_backbone(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import vgg16

    classifier, path = vgg16(weights=None), tmp_path / "vgg16.safetensors"
    save_file(classifier.features.state_dict(prefix="features."), path)
    spec = ModelSpec("torchvision:ssd300_vgg16", {"num_classes": 4}, backbone_weights=str(path))
    model = open_model(spec)
    assert torch.equal(model.backbone.features[0].weight, classifier.features[0].weight)  # type: ignore[union-attr,index]
    assert torch.equal(model.backbone.extra[0][5].weight, classifier.features[28].weight)  # type: ignore[union-attr,index]


@pytest.mark.parametrize("name", [*FAST, *(one for one in SLOW if one.values != ("fasterrcnn",))])
def test_boxes_come_of_raw_outputs_that_something_else_computes(name: str) -> None:
    model, pictures = small_detector(name), scenes(1)[0]
    seen: list[torch.Size] = []

    def raw(images: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
        seen.append(images.shape)
        return {key: factor * output for key, output in model.raw(images).items()}

    expected, found = model(pictures)[0], model.computed_by(raw)(pictures)[0]
    assert len(seen) == 1
    assert len(expected["boxes"])
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    other = model.computed_by(lambda images: raw(images, 0.5))(pictures)[0]
    assert not torch.equal(other["scores"][:5], expected["scores"][:5])


@pytest.mark.slow
def test_faster_rcnn_has_no_boxes_without_its_regions() -> None:
    with pytest.raises(ModelError, match="reads the regions that its proposals choose"):
        small_detector("fasterrcnn").computed_by(lambda images: {})


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(DataError, match="is no detector"):
        count_classes(open_model(ModelSpec("adasap:digits_net")), (3, 32, 32))
