"""The single-shot detectors: boxes where the paper has them, a loss as counted by hand, a backbone to fill."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adasap.errors import ModelError
from adasap.models import ModelSpec, open_model
from adasap.tasks.detection.models.default_boxes import (
    BOX_CODER,
    box_shapes,
    default_boxes,
    match,
)
from adasap.tasks.detection.models.multibox import hard_negatives, multibox_loss, select_detections
from detector_nets import SMALL, scenes, small_detector

ANCHORS = torch.tensor(
    [[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0], [50.0, 50.0, 60.0, 60.0]]
)


def test_ssd512_has_the_papers_default_boxes() -> None:
    sides = (64, 32, 16, 8, 4, 2, 1)
    shapes = box_shapes(7, 0.15)
    boxes = default_boxes(shapes, sides, 512)
    counts = shapes.num_anchors_per_location()
    assert len(boxes) == 24_564 == sum(side * side * count for side, count in zip(sides, counts, strict=True))
    first = boxes[:4]  # of the first place of the first map: its centre is (4, 4), its side 0.075 of the image
    assert torch.allclose((first[:, :2] + first[:, 2:]) / 2, torch.full((4, 2), 4.0), atol=1e-4)
    assert torch.allclose(first[0, 2:] - first[0, :2], torch.tensor(0.075 * 512))
    assert torch.allclose((first[2, 2:] - first[2, :2]), torch.tensor([math.sqrt(2), math.sqrt(0.5)]) * 0.075 * 512)


def test_offsets_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(50, 2, 2, generator=generator) * 30
    boxes, anchors = (
        torch.cat([corner[:, n], corner[:, n] + 1 + 20 * torch.rand(50, 2, generator=generator)], 1) for n in (0, 1)
    )
    offsets = BOX_CODER.encode_single(boxes, anchors)
    assert torch.allclose(BOX_CODER.decode_single(offsets, anchors), boxes, atol=1e-4)


def test_every_true_box_is_matched_even_where_nothing_overlaps_enough() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [24.0, 0.0, 60.0, 30.0]])
    assert match(boxes, ANCHORS).tolist() == [0, 1, -1, -1]
    assert match(boxes[:1] + 4, ANCHORS).tolist() == [0, -1, -1, -1]  # overlap 0.22: its best one all the same
    assert match(torch.empty(0, 4), ANCHORS).tolist() == [-1] * 4


def test_of_two_boxes_that_claim_one_default_box_the_later_has_it() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 10.0], [0.0, 0.0, 8.0, 10.0]])
    assert match(boxes, ANCHORS[:1]).tolist() == [1]


def test_loss_by_hand() -> None:
    """One match in the first image with its three hardest negatives of three; none in the second."""
    offsets, logits = torch.zeros(2, 4, 4), torch.zeros(2, 4, 3)
    offsets[0, 0] = torch.tensor([0.5, 0.0, 0.0, 3.0])  # smooth-L1: 0.125 and 2.5
    logits[0, 0] = torch.tensor([0.0, 0.0, math.log(2)])  # of class 2: p = 1/2
    logits[0, 1, 1] = math.log(2)  # background has p = 1/4, the others 1/3
    targets = [
        {"boxes": ANCHORS[:1], "labels": torch.tensor([2])},
        {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)},
    ]
    losses = multibox_loss(offsets, logits, targets, ANCHORS)
    assert losses["bbox_regression"].item() == pytest.approx(0.125 + 2.5)
    assert losses["classification"].item() == pytest.approx(math.log(2) + math.log(4) + 2 * math.log(3))


def test_images_without_objects_cost_nothing_and_train() -> None:
    images, targets = scenes(2)
    empty = [{"boxes": t["boxes"][:0], "labels": t["labels"][:0]} for t in targets]
    losses = small_detector("ssd_mobilenet_v1")(images, empty)
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0.0


def test_negatives_are_counted_image_by_image() -> None:
    errors = torch.tensor([[5.0, 1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0, 9.0]])
    positive = torch.tensor([[True, False, False, False, False], [False] * 5])
    assert hard_negatives(errors, positive).tolist() == [[False, False, True, True, True], [False] * 5]


def test_suppression_is_within_a_class() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0], [0.0, 4.0, -9.0], [0.0, -9.0, -9.0], [0.0, -9.0, 6.0]])
    same = ANCHORS[[0, 0, 2, 3]]
    found = select_detections(torch.zeros(4, 4), logits, same, 64, min_score=0.05)
    assert found["labels"].tolist() == [2, 1, 2]  # two classes in one place stay, the second of a class goes
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    assert torch.equal(found["boxes"], ANCHORS[[3, 0, 0]])


def test_boxes_come_in_pixels_of_the_given_image() -> None:
    """An output that says "the default box itself, class 2" at one place is found there, stretched as the image was."""
    model = small_detector("ssd_mobilenet_v1")
    for layer in (*model.box_head.layers, *model.class_head.layers):  # type: ignore[union-attr]
        torch.nn.init.zeros_(layer[-1].weight)
        torch.nn.init.zeros_(layer[-1].bias)
    model.class_head.layers[-1][-1].bias.data[2] = 9.0  # type: ignore[union-attr]  # first shape of the one-place map
    found = model([torch.zeros(3, 128, 32)])[0]
    expected = model.default_boxes[-4].clamp(0, 64) * torch.tensor([0.5, 2.0, 0.5, 2.0])  # type: ignore[operator]
    assert found["labels"][0] == 2
    assert torch.allclose(found["boxes"][0], expected, atol=1e-4)


@pytest.mark.slow
def test_it_learns_a_scene() -> None:
    images, targets = scenes(2)
    torch.manual_seed(0)
    model = open_model(SMALL["ssd_mobilenet_v1"]).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
def test_a_classifiers_weights_fill_the_backbone(tmp_path: Path) -> None:
    classifier = open_model(ModelSpec("adasap:mobilenet_v1_tf", {"width": 0.25}))
    path = tmp_path / "classifier.safetensors"
    save_file(classifier.state_dict(), path)
    options = {"num_classes": 4, "image_size": 64, "width": 0.25}
    model = open_model(ModelSpec("adasap:ssd_mobilenet_v1", options, backbone_weights=str(path)))
    assert torch.equal(
        model.state_dict()["backbone.blocks.4.1.conv_pw.weight"], classifier.state_dict()["blocks.4.1.conv_pw.weight"]
    )
    with pytest.raises(ModelError, match=r"does not fit the backbone.*of another shape"):
        open_model(ModelSpec("adasap:ssd_mobilenet_v1", options | {"width": 0.5}, backbone_weights=str(path)))
    with pytest.raises(ModelError, match="has no backbone"):
        open_model(ModelSpec("adasap:digits_net", backbone_weights=str(path)))
    tensors = load_file(path)
    del tensors["conv_stem.weight"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"1 missing: conv_stem\.weight"):
        open_model(ModelSpec("adasap:ssd_mobilenet_v1", options, backbone_weights=str(path)))


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("builder", "width", "file"),
    [("ssd_mobilenet_v1", 0.75, "mobilenet_v1_0.75_imagenet"), ("ssd_mobilenet_v2", 1.0, "mobilenet_v2_1.0_imagenet")],
)
def test_the_imagenet_mobilenets_fill_it(shared_data: Path, builder: str, width: float, file: str) -> None:
    path = str(shared_data / "weights" / f"{file}.safetensors")
    open_model(ModelSpec(f"adasap:{builder}", {"width": width, "image_size": 64}, backbone_weights=path))


@pytest.mark.slow
def test_the_traced_part_exports_for_any_batch_size() -> None:
    model = small_detector("ssd_mobilenet_v1")
    batch = torch.randn(3, 3, 64, 64)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (batch[:2],), dynamic_shapes=shapes, strict=False).module()
    for name, tensor in program(batch).items():
        assert torch.allclose(tensor, model(batch)[name], atol=1e-5)


@pytest.mark.parametrize("options", [{"num_classes": 1}, {"image_size": 8}, {"backbone": "resnet18"}])
def test_wrong_options_are_a_sentence(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"at least 2 classes|could not build"):
        open_model(ModelSpec("adasap:ssd_mobilenet_v1", options))
