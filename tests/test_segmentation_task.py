"""The segmentation task: losses against closed forms, any output, any size, masks untouched by corruptions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torchvision import tv_tensors

from adasap.corruptions import BENCHMARK, corrupt
from adasap.errors import DataError, ModelError, RecipeError
from adasap.evaluation import CLEAN, SuiteSource, open_own_suite
from adasap.evaluation.statistics import bootstrap_mean
from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import read_recipe
from adasap.models import ModelSpec, open_model
from adasap.pruning import prune
from adasap.tasks import Data
from adasap.tasks.segmentation.data.batches import SegmentationAugmentation, SegmentationBatch, collated
from adasap.tasks.segmentation.data.segmentation_set import IGNORED
from adasap.tasks.segmentation.data.shapes import SHAPE_CLASSES, read_shape_masks
from adasap.tasks.segmentation.loss import SegmentationLoss, dice_loss, pixel_cross_entropy
from adasap.tasks.segmentation.models.smp import smp_builder
from adasap.tasks.segmentation.models.unet import unet, unet_mobilenet_v2
from adasap.tasks.segmentation.suites import MOVES_PIXELS, segmentation_performance
from adasap.tasks.segmentation.task import SegmentationOptions, SegmentationTask
from adasap.tasks.task import MergeableEvaluator
from suite_trees import by_cell

CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[1] / "recipes" / "segmentation"


def task(multiple_of: int = 1) -> SegmentationTask:
    options = SegmentationOptions(multiple_of=multiple_of)
    return SegmentationTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=SHAPE_CLASSES, options=options)


def random_pair(*, ignored: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(2, 4, 6, 7, generator=generator), torch.randint(0, 4, (2, 6, 7), generator=generator)
    if ignored:
        masks[:, 2] = IGNORED
    return logits, masks


def test_cross_entropy_is_torchs_mean_with_and_without_class_weights() -> None:
    logits, masks = random_pair()
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    assert pixel_cross_entropy(logits, masks).item() == pytest.approx(
        F.cross_entropy(logits, masks, ignore_index=IGNORED).item(), rel=1e-6
    )
    weighted = F.cross_entropy(logits, masks, weights, ignore_index=IGNORED).item()
    loss = SegmentationLoss(class_weights=(0.5, 2.0, 1.0, 3.0))
    assert loss(logits, masks).item() == pytest.approx(weighted, rel=1e-6)


def test_dice_is_one_minus_the_overlap_of_the_classes_that_occur() -> None:
    logits, masks = random_pair()
    masks[masks == 3] = 0
    counted, probabilities = masks != IGNORED, logits.softmax(dim=1)
    shares = []
    for label in (0, 1, 2):
        inside, given = probabilities[:, label][counted], (masks == label)[counted].float()
        shares.append(2 * (inside * given).sum() / (inside.sum() + given.sum()))
    assert dice_loss(logits, masks).item() == pytest.approx(1 - torch.stack(shares).mean().item(), rel=1e-5)


def test_the_loss_is_the_weighted_sum_over_heads_resized_to_the_mask() -> None:
    logits, masks = random_pair()
    small = F.avg_pool2d(logits, 2)
    enlarged = F.interpolate(small, masks.shape[-2:], mode="bilinear", align_corners=False)
    loss = SegmentationLoss(cross_entropy=1.0, dice=0.5, auxiliary=0.25)
    single = SegmentationLoss(cross_entropy=1.0, dice=0.5)
    expected = single(logits, masks) + 0.25 * single(enlarged, masks)
    assert loss({"out": logits, "aux": small}, masks).item() == pytest.approx(expected.item(), rel=1e-6)
    assert single(enlarged, masks).item() == pytest.approx(
        (pixel_cross_entropy(enlarged, masks) + 0.5 * dice_loss(enlarged, masks)).item(), rel=1e-6
    )


def test_a_batch_without_a_pixel_that_counts_has_loss_and_gradient_zero() -> None:
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = SegmentationLoss(dice=1.0)(logits, torch.full((1, 3, 3), IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_what_cannot_be_a_loss_or_an_output_is_said() -> None:
    with pytest.raises(RecipeError, match="all weights of the loss are 0"):
        SegmentationLoss(cross_entropy=0.0)
    logits, masks = random_pair()
    with pytest.raises(DataError, match="class_weights has 2 numbers, the model 4 classes"):
        SegmentationLoss(class_weights=(1.0, 2.0))(logits, masks)
    with pytest.raises(DataError, match=r"not a tensor \[2, 4\]"):
        SegmentationLoss()(logits[..., 0, 0], masks)
    with pytest.raises(DataError, match="with them as `out`, not NoneType"):
        SegmentationLoss()({"masks": logits}, masks)


class Bright(nn.Module):
    """Answers with the class that the red channel names; logits at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        red = F.avg_pool2d(images[:, :1], 2)
        levels = torch.linspace(-1, 1, 4).view(1, 4, 1, 1)
        return {"out": -self.scale * (red - levels).square()}


def test_batches_of_one_size_or_of_several_give_the_same_records() -> None:
    samples = [read_shape_masks("test")[index] for index in range(3)]
    cropped = [(image[:, :64, : 80 - 8 * k], mask[:64, : 80 - 8 * k]) for k, (image, mask) in enumerate(samples)]
    one = task()
    together, apart = one.evaluator(), one.evaluator()
    together.update(Bright(), one.prepare(one.collate(cropped), CPU))
    for sample in cropped:
        apart.update(Bright(), one.prepare(one.collate([sample]), CPU))
    first, second = together.records(), apart.records()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert isinstance(together, MergeableEvaluator)
    assert together.per_image().mean().item() == pytest.approx(together.compute()[one.primary_metric.key])
    with pytest.raises(DataError, match="give the augmentation a `crop`"):
        one.loss(Bright(), one.prepare(one.collate(cropped), CPU))


def test_padding_to_a_multiple_changes_no_count() -> None:
    samples = [read_shape_masks("test")[index] for index in range(2)]
    images, masks = task(multiple_of=50).prepare(collated(samples), CPU)
    assert images.shape == (2, 3, 100, 100)
    plain, padded = task().evaluator(), task(multiple_of=50).evaluator()
    plain.update(Bright(), task().prepare(collated(samples), CPU))
    padded.update(Bright(), SegmentationBatch(images, masks))
    for name in ("intersection", "labelled"):
        assert torch.equal(plain.records()[name], padded.records()[name])


def test_corruptions_change_images_alone_and_follow_the_seeds() -> None:
    samples = [read_shape_masks("test")[index] for index in range(3)]
    batch, one = collated(samples), task()
    seeds = torch.tensor([5, 6, 7])
    foggy = one.corrupt(batch, "gaussian_noise", 3, seeds)
    assert foggy.masks is batch.masks
    assert torch.equal(foggy.images, corrupt(batch.images, "gaussian_noise", 3, seeds=seeds))
    mixed = collated([samples[0], tuple(part[..., :80] for part in samples[1]), samples[2]])
    noisy = one.corrupt(mixed, "gaussian_noise", 3, seeds)
    assert torch.equal(noisy.images[2], foggy.images[2])
    assert noisy.images[1].shape == (3, 96, 80)


@pytest.mark.slow
def test_what_moves_pixels_is_said() -> None:
    """A soft spot off the middle: where its brightness lies after the corruption at the strongest severity."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    spot = 255 * torch.exp(-((y - 30).square() + (x - 66).square()) / (2 * 6.0**2))
    images = spot.round().to(torch.uint8).expand(24, 3, 96, 96)

    def distances(name: str) -> Tensor:
        values = corrupt(images, name, 5, seeds=torch.arange(24)).float().mean(dim=1)
        values = F.avg_pool2d(values[:, None], 9, 1, 4)[:, 0]  # noise out
        places = values.flatten(1).argmax(dim=1)
        return ((places // 96 - 30).square() + (places % 96 - 66).square()).float().sqrt()

    moved = {name: distances(name).median().item() for name in BENCHMARK}
    assert set(MOVES_PIXELS) <= set(BENCHMARK)
    for name in ("elastic_transform", "motion_blur", "zoom_blur"):
        assert moved[name] >= 1.0, (name, moved)
    for name in set(BENCHMARK) - set(MOVES_PIXELS) - {"snow", "frost"}:  # these two cover the spot
        assert moved[name] <= 2.0, (name, moved)


def test_mean_corrupted_miou_and_its_ratio() -> None:
    cells = {"fog/1": 0.4, "fog/2": 0.2, "snow/1": 0.6, "snow/2": 0.4}
    found = segmentation_performance(
        {"miou": 0.8}, by_cell({cell: {"miou": value} for cell, value in cells.items()}), ["fog", "snow"]
    )
    assert found.shifted == pytest.approx(0.4)
    assert found.value == pytest.approx(0.5)


def test_blocks_of_neighbours_widen_the_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(20, generator=generator).repeat_interleave(15)  # fifteen frames alike
    single, blocks = bootstrap_mean(frames), bootstrap_mean(frames, block_length=15)
    assert blocks.value == single.value
    assert 2.5 < (blocks.high - blocks.low) / (single.high - single.low) < 6  # sqrt(15) = 3.9
    assert bootstrap_mean(frames, block_length=1) == single
    independent = torch.randn(300, generator=generator)
    widths = [bootstrap_mean(independent, block_length=length) for length in (1, 5)]
    assert (widths[1].high - widths[1].low) == pytest.approx(widths[0].high - widths[0].low, rel=0.25)


def test_check_asks_for_every_class() -> None:
    data = Data(read_shape_masks("test", slice(2)), augmentation=SegmentationAugmentation())
    task().check(unet(4, width=4, depth=2), data)
    with pytest.raises(DataError, match="4 classes, the model answers with 5"):
        task().check(unet(5, width=4, depth=2), data)
    with pytest.raises(DataError, match=r"data\.train has the classes ground, .* \(4\), the task a, "):
        SegmentationTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=["a"]).check(unet(1), data)
    suite = open_own_suite("a", SuiteSource("clean"), data.train, task())
    with pytest.raises(DataError, match="multiple_of"):
        task().check_suites(nn.Conv2d(3, 4, 97), [suite], (3, 96, 96))


def test_items_of_any_kind_make_batches() -> None:
    image, mask = read_shape_masks("test")[0]
    pixels, numbers = image.permute(1, 2, 0).numpy(), mask.numpy()
    kinds = [(image, mask), (pixels, numbers), (Image.fromarray(pixels), Image.fromarray(numbers)), (image, mask[None])]
    batches = [collated([(tv_tensors.Image(image), tv_tensors.Mask(mask))]), *(collated([kind]) for kind in kinds)]
    assert all(torch.equal(batch.images[0], image) and torch.equal(batch.masks[0], mask) for batch in batches)
    with pytest.raises(DataError, match=r"a mask is torch.float32 \[96, 96\]"):
        collated([(image, mask.float())])
    with pytest.raises(DataError, match=r"a mask is torch.uint8 \[90, 96\]"):
        collated([(image, mask[:90])])


@pytest.mark.parametrize("size", [(64, 64), (45, 60), (33, 35)])
def test_unets_take_any_size(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    assert unet(7, width=4)(images).shape == (2, 7, *size)
    assert unet_mobilenet_v2(7, width=0.35)(images).shape[:2] == (2, 7)
    with pytest.raises(ModelError):
        unet(7, depth=1)


NETWORKS = {
    "unet": lambda: unet(5, width=8, depth=4, stride=2),
    "unet_mobilenet_v2": lambda: unet_mobilenet_v2(5, width=0.5),
    "lraspp": lambda: open_model(ModelSpec("torchvision:lraspp_mobilenet_v3_large", {"num_classes": 5})),
    "fcn": lambda: open_model(ModelSpec("torchvision:fcn_resnet50", {"num_classes": 5, "aux_loss": True})),
}


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "unet")]
)
def test_cuts_to_half_the_macs_pass_the_proof(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    pruned = prune(model, torch.zeros(1, 3, 64, 64), "l2", {"macs": 0.5})
    assert pruned.cost_after <= 0.5 * pruned.cost_before
    assert pruned.mask_error < 1e-3
    one = SegmentationTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes="abcde")
    batch = SegmentationBatch(torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64)))
    loss = one.loss(pruned.model.train(), batch)
    loss.backward()
    assert math.isfinite(loss.item())


@pytest.mark.slow
def test_smp_networks_are_named_by_architecture_and_encoder() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    spec = ModelSpec("smp:Unet/resnet18", {"classes": 5}, input_size=(3, 64, 64))
    model = open_model(spec).eval()
    pruned = prune(model, torch.zeros(1, 3, 64, 64), "l2", {"macs": 0.5})
    assert pruned.cost_after <= 0.5 * pruned.cost_before
    with pytest.raises(ModelError, match="did you mean 'Unet'"):
        smp_builder("unet/resnet18")
    with pytest.raises(ModelError, match="would read or download"):
        open_model(ModelSpec("smp:Unet/resnet18", {"encoder_weights": "imagenet"}))
    with pytest.raises(ModelError, match="resnet18"):
        smp_builder("Unet/resnet81")


def test_smp_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ModelError, match=r"pip install 'adasap\[segmentation\]'"):
        smp_builder("Unet/resnet18")


@pytest.mark.parametrize("name", ["shapes", "camvid"])
@pytest.mark.parametrize("kind", ["dense", "adasap", "plain", "plain_double"])
def test_recipes_are_read(name: str, kind: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}_{kind}.yaml")
    assert recipe.task.kind == "segmentation"
    assert recipe.pruning.budget.macs == (1.0 if kind == "dense" else 0.4)
    base = read_recipe(RECIPES / f"{name}_plain.yaml")
    if kind == "plain_double":
        assert recipe.warm_up.epochs == 2 * base.warm_up.epochs
        assert recipe.pruning.epochs == 2 * base.pruning.epochs
        assert recipe.fine_tune.epochs == 2 * base.fine_tune.epochs


@pytest.mark.slow
def test_a_run_of_shapes_resumes_to_nothing_left_and_shows_its_page(tmp_path: Path) -> None:
    small = {
        "data.train.count": 48,
        "data.test.count": 6,
        "training.batch_size": 16,
        "training.runtime.precision": "float32",
        "model.options.width": 4,
        "pruning.events": 2,
        "pruning.every": 1,
        "data.suites.corrupted.corruptions": "[fog, zoom_blur]",
    }
    recipe = read_recipe(RECIPES / "shapes_adasap.yaml", [f"{key}={value}" for key, value in small.items()])
    recipe = replace(recipe, model=replace(recipe.model, weights=None))
    run = run_recipe(recipe, tmp_path / "run", Console(quiet=True))
    metrics = run.result.stages["fine-tuned"]["clean"].metrics[CLEAN]
    assert {"miou", "iou:ground", "pixel_accuracy"} <= metrics.keys()
    assert run.profiles["compressed"].macs <= 0.4 * run.profiles["dense"].macs
    page = (tmp_path / "run" / "report.html").read_text()
    assert "IoU by class" in page
    assert "unlike dense" in page
    again = run_recipe(recipe, tmp_path / "run", Console(quiet=True))
    assert again.result.stages["fine-tuned"]["clean"].metrics[CLEAN] == metrics
