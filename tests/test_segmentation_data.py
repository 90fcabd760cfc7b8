"""Images with masks: every layout gives the same samples, damage is named, masks follow their images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adasap.data import DataSource
from adasap.data.decoding import Reading, decode_image, decode_numbers
from adasap.errors import DataError, RecipeError
from adasap.evaluation import SuiteSource
from adasap.models import ModelSpec
from adasap.tasks.data import DataOptions, Opening
from adasap.tasks.detection.data.shapes import read_shapes
from adasap.tasks.segmentation.data.batches import SegmentationAugmentation, SegmentationAugmenter, collated, varied
from adasap.tasks.segmentation.data.classes import matched_masks
from adasap.tasks.segmentation.data.coco import _runs, mask_of, read_coco_masks
from adasap.tasks.segmentation.data.readers import CITYSCAPES_IDS, read_cityscapes, read_mask_folder, read_voc_masks
from adasap.tasks.segmentation.data.segmentation_set import IGNORED, SegmentationImages
from adasap.tasks.segmentation.data.shapes import read_shape_masks
from adasap.tasks.segmentation.data.sources import open_segmentation_dataset
from adasap.tasks.segmentation.task import SegmentationTask
from segmentation_trees import SIZE, ramp, write_image, write_mask


def write_folder(root: Path, names: list[str], split: str = "train") -> None:
    for seed, name in enumerate(names):
        write_image(root / "images" / split / f"{name}.jpg", seed=seed)
        write_mask(root / "masks" / split / f"{name}.png", ramp())


def test_a_folder_pairs_files_by_name_and_counts_those_that_are_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b", "a", "deep/c"])
    write_image(tmp_path / "images/train/lonely.jpg")
    write_mask(tmp_path / "masks/train/ghost.png", ramp())
    write_image(tmp_path / "images/train/torn.jpg")
    (tmp_path / "masks/train/torn.png").write_bytes(b"\x89PNG nothing")
    data = read_mask_folder(tmp_path, "train", classes=["sky", "road", "car"])
    assert data.names == ("a", "b", "deep/c")
    assert data.findings.names == {
        "images without a mask, left out": ["lonely"],
        "masks without an image, left out": ["ghost"],
        "masks that are not there or cannot be opened, left out": ["torn"],
    }
    image, mask = data[0]
    assert (image.dtype, mask.dtype) == (torch.uint8, torch.uint8)
    assert mask.tolist() == ramp().tolist()
    assert torch.equal(image, decode_image(str(tmp_path / "images/train/a.jpg")))
    assert data.some(torch.tensor([2, 0])).names == ("deep/c", "a")
    assert "3 images with masks, 3 classes; 1 images without a mask" in data.summary()


def test_classes_come_from_the_list_or_from_the_numbers_that_occur(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a"])
    assert read_mask_folder(tmp_path, "train").classes == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("sky\nvoid\nstreet lamp\n")
    data = read_mask_folder(tmp_path, "train")
    assert data.classes == ("sky", "street lamp")
    before, after = torch.from_numpy(ramp()), data[0][1]
    assert torch.equal(after == 1, before == 2)
    assert torch.equal(after == IGNORED, (before == 1) | (before == 255))


def test_colours_say_the_class_where_there_is_a_palette(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a"])
    colours = {0: (128, 128, 128), 1: (128, 0, 0), 2: (0, 128, 0), 255: (0, 0, 0)}
    painted = np.array([[colours[int(number)] for number in row] for row in ramp()], dtype=np.uint8)
    Image.fromarray(painted).save(tmp_path / "masks/train/a.png")
    (tmp_path / "classes.txt").write_text("sky 128 128 128\nbuilding 128 0 0\ntall tree 0 128 0\n")
    data = read_mask_folder(tmp_path, "train")
    assert data.classes == ("sky", "building", "tall tree")
    assert data[0][1].tolist() == ramp().tolist()
    (tmp_path / "classes.txt").write_text("sky 128 128 128\nbuilding 128 0 0\n")
    with pytest.raises(DataError, match=r"a\.png has a pixel of the colour \(0, 128, 0\), which no class has"):
        read_mask_folder(tmp_path, "train")[0]


def test_masks_of_another_size_are_refused_by_name_before_any_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a", "b"])
    write_mask(tmp_path / "masks/train/b.png", ramp((6, 9)))
    with pytest.raises(DataError, match=r"1 masks have another size.*b\.png is 9 x 6 pixels, its image 8 x 6"):
        read_mask_folder(tmp_path, "train", classes=["a", "b", "c"])


def test_unknown_numbers_and_lossy_masks_are_refused_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a"])
    with pytest.raises(DataError, match=r"a\.png holds 2, which is no class; known are 0, 1, 255"):
        read_mask_folder(tmp_path, "train", classes=["a", "b"])[0]
    write_image(tmp_path / "masks/train/a.jpg")
    (tmp_path / "masks/train/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.jpg is a JPEG"):
        read_mask_folder(tmp_path, "train", classes=["a", "b"])[0]
    with pytest.raises(DataError, match="give --split train, or"):
        read_mask_folder(tmp_path, "trian")


def test_broken_pairs_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a", "b", "c"])
    whole = (tmp_path / "images/train/b.jpg").read_bytes()
    (tmp_path / "images/train/b.jpg").write_bytes(whole[:-20])
    source = DataSource("masks", str(tmp_path), classes=("sky", "road", "car"), skip_broken=True)
    data = open_segmentation_dataset(source, "train")
    assert data.names == ("a", "c")
    assert data.findings.names == {"images that cannot be read, or their masks, left out": ["b"]}
    with pytest.raises(DataError, match=r"b\.jpg cannot be decoded"):
        open_segmentation_dataset(replace(source, skip_broken=False), "train")[1]
    with pytest.raises(DataError, match="holds images with labels and no masks"):
        open_segmentation_dataset(DataSource("digits"), "train")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_numbers_are_read_as_stored_at_every_depth(tmp_path: Path, depth: int) -> None:
    numbers = np.array([[0, 1, min(3, 2**depth - 1), 2**depth - 1]])
    path = tmp_path / "mask.png"
    write_grey_png(path, numbers, depth)
    assert decode_numbers(str(path)).tolist() == numbers.tolist()


def write_grey_png(path: Path, numbers: np.ndarray, depth: int) -> None:
    """A grey PNG of any depth, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b""
    for row in numbers.tolist():
        bits = "".join(f"{number:0{depth}b}" for number in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], depth, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [True, False])
def test_a_mask_made_for_the_stored_pixels_turns_with_its_image(
    tmp_path: Path, orientation: int, upright: bool
) -> None:
    """The mask is the image's own grey value, so after any turn the two must still agree pixel by pixel."""
    numbers = ramp()
    numbers[numbers == 255] = 2
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "images/s").mkdir(parents=True)
    Image.fromarray(np.repeat(numbers[..., None], 3, axis=2)).save(tmp_path / "images/s/a.png", exif=exif)
    write_mask(tmp_path / "masks/s/a.png", numbers)
    reading = Reading(exif_orientation=upright)
    image, mask = read_mask_folder(tmp_path, "s", classes=["a", "b", "c"], reading=reading)[0]
    if orientation >= 5 or not upright or orientation == 1:  # a half turn cannot be told: the mask is taken as shown
        assert torch.equal(image[0], mask)
    else:
        assert not torch.equal(image[0], mask)
    data = read_mask_folder(tmp_path, "s", classes=["a", "b", "c"], reading=reading)
    turned = "masks turned with their image, which has an EXIF orientation" in data.findings.names
    assert turned == (orientation >= 5 and upright)


def test_voc_masks_are_palette_indices(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_1\n2007_2\ngone\n2007_1\n")
    for name in ("2007_1", "2007_2", "unlisted"):
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
    write_mask(tmp_path / "SegmentationClass/2007_1.png", ramp(num_classes=21), palette=True)
    data = read_voc_masks(tmp_path, "val")
    assert (data.names, data.num_classes, data.classes[15]) == (("2007_1",), 21, "person")
    assert data[0][1].tolist() == ramp(num_classes=21).tolist()
    assert data.findings.names == {
        "images that are listed and not there, left out": ["gone"],
        "images without a mask, left out": ["2007_2"],
    }
    with pytest.raises(DataError, match="give --split val, or"):
        read_voc_masks(tmp_path, "va")


def test_cityscapes_ids_become_the_nineteen_classes(tmp_path: Path) -> None:
    numbers = np.array([[7, 8, 0, 33], [26, 31, 1, 23]], dtype=np.uint8)
    train_ids = np.array([[0, 1, 255, 18], [13, 16, 255, 10]], dtype=np.uint8)
    write_image(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", numbers.shape)
    write_image(tmp_path / "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", numbers.shape)
    write_mask(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelIds.png", numbers)
    write_image(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_color.png", numbers.shape)
    data = read_cityscapes(tmp_path, "val")
    assert data.classes == tuple(CITYSCAPES_IDS)
    assert data.names == ("ulm/ulm_0",)
    assert data[0][1].tolist() == train_ids.tolist()
    assert data.findings.names == {"images without a mask, left out": ["ulm/ulm_1"]}
    write_mask(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png", train_ids)
    assert read_cityscapes(tmp_path, "val")[0][1].tolist() == train_ids.tolist()


def write_coco(root: Path, annotations: list[dict[str, object]], size: tuple[int, int] = (6, 8)) -> None:
    write_image(root / "val" / "a.png", size)
    content = {
        "images": [{"id": 9, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [{"image_id": 9, **annotation} for annotation in annotations],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_val.json").write_text(json.dumps(content))


def test_coco_outlines_are_filled_and_overlaps_of_two_classes_ignored(tmp_path: Path) -> None:
    car = {"category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 6, 0, 6]]}
    dog = {"category_id": 18, "segmentation": {"size": [6, 8], "counts": [18, 12, 18]}, "iscrowd": 1}  # columns 3, 4
    write_coco(tmp_path, [car, dog])
    data = read_coco_masks(tmp_path, "val")
    assert data.classes == ("background", "car", "dog")
    assert data[0][1].tolist() == [[1, 1, 1, 255, 2, 0, 0, 0]] * 6
    only = read_coco_masks(tmp_path, "val", classes=["dog"])
    assert only[0][1].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]] * 6
    with pytest.raises(DataError, match="did you mean 'dog'"):
        read_coco_masks(tmp_path, "val", classes=["dogs"])


@pytest.mark.parametrize("image_id", ["9", 9.0, " 9 "])
@pytest.mark.parametrize("category_id", ["3", 3.0])
def test_coco_ids_are_joined_whatever_their_type(tmp_path: Path, image_id: object, category_id: object) -> None:
    outline = [[0, 0, 4, 0, 4, 6, 0, 6]]
    write_coco(tmp_path, [{"image_id": image_id, "category_id": category_id, "segmentation": outline}])
    data = read_coco_masks(tmp_path, "val")
    assert data[0][1].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]] * 6
    assert data.findings.names == {}


def test_coco_annotations_of_which_none_belongs_anywhere_are_refused(tmp_path: Path) -> None:
    outline = [[0, 0, 4, 0, 4, 6, 0, 6]]
    good = {"category_id": 3, "segmentation": outline}
    orphans = [{**good, "image_id": None}, {**good, "category_id": 4}, {**good, "image_id": "09"}]
    write_coco(tmp_path, [good, *orphans])
    found = read_coco_masks(tmp_path, "val").findings.names
    assert found == {
        "annotations whose image or category is not listed, left out": [f"annotations[{n}]" for n in (1, 2, 3)]
    }
    write_coco(tmp_path, orphans)
    with pytest.raises(DataError, match=r"none of the 3 annotations .* image_id 'None' and category_id '3'; .*\[9\]"):
        read_coco_masks(tmp_path, "val")
    write_coco(tmp_path, [good])
    with pytest.raises(DataError, match=r"none of the 1 annotations .*, or `classes`"):
        read_coco_masks(tmp_path, "val", classes=["dog"])


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_links_that_leave_the_folder_need_the_callers_word(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path / "data", ["a", "b"])
    victim = next((tmp_path / "data" / kind / "train").glob("a.*"))
    victim.rename(tmp_path / victim.name)
    victim.symlink_to(tmp_path / victim.name)
    source = DataSource("masks", str(tmp_path / "data"), classes=("sky", "road", "car"))
    with pytest.raises(DataError, match="is a link that leaves the folder"):
        open_segmentation_dataset(source, "train")
    assert len(open_segmentation_dataset(replace(source, follow_links=True), "train")) == 2


def test_hidden_folders_and_files_are_no_pairs(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a", ".ipynb_checkpoints/a", "._b"])
    data = read_mask_folder(tmp_path, "train", classes=["sky", "road", "car"])
    assert data.names == ("a",)
    assert sorted(set(data.findings.names["hidden files and folders, passed over"])) == [
        "._b.jpg",
        "._b.png",
        ".ipynb_checkpoints",
    ]


def test_coco_runs_in_a_text_are_those_of_the_reference() -> None:
    mask_api = pytest.importorskip("faster_coco_eval.core.mask")
    generator = np.random.default_rng(0)
    for _ in range(20):
        mask = (generator.random((37, 53)) < generator.random()).astype(np.uint8)
        mask[:, 20:40] = 1  # long runs need several characters
        counts = mask_api.encode(np.asfortranarray(mask))["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        assert np.array_equal(mask_of([(1, {"size": [37, 53], "counts": text})], (37, 53)).numpy(), mask)
    assert _runs("\x01") is None


def test_a_broken_outline_leaves_its_image_out_by_name(tmp_path: Path) -> None:
    for outline in (None, [[0, 0, 1]], [[0, 0, 1e300, 0, 1, 1]], {"size": [6, 8], "counts": [5]}, {"size": [6, 8]}):
        write_coco(tmp_path, [{"category_id": 3, "segmentation": outline}])
        with pytest.raises(DataError, match=r"no image is left; 1 objects without an outline .*\(a\.png\)"):
            read_coco_masks(tmp_path, "val")


def test_shapes_have_the_pixels_of_the_boxes(tmp_path: Path) -> None:
    masks, boxes = read_shape_masks("test", slice(40)), read_shapes("test", slice(40))
    for index in range(40):
        (image, mask), (pixels, target) = masks[index], boxes[index]
        assert torch.equal(image, pixels)
        painted = torch.zeros_like(mask, dtype=torch.bool)
        for box, label, difficult in zip(target["boxes"], target["labels"], target["difficult"], strict=True):
            left, top, right, bottom = (int(value) for value in box)
            inside = mask[top:bottom, left:right]
            wanted = IGNORED if difficult else int(label)
            assert 0.4 < (inside == wanted).float().mean() <= 1
            painted[top:bottom, left:right] = True
        assert not mask[~painted].any()


@pytest.mark.shared_data
def test_camvid_is_read_as_it_lies(shared_data: Path) -> None:
    sizes = {split: len(read_mask_folder(shared_data / "camvid", split, classes=CAMVID)) for split in ("val", "test")}
    assert sizes == {"val": 101, "test": 233}
    data = read_mask_folder(shared_data / "camvid", "val", classes=CAMVID)
    assert data.findings.summary() == ""
    image, mask = data[7]
    assert image.shape == (3, 180, 240)
    assert set(mask.unique().tolist()) <= {*range(11), IGNORED}


CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
EVERYTHING = SegmentationAugmentation(scale=(0.5, 2.0), crop=(40, 48), horizontal_flip=True, colour=0.3, hue=0.05)


def marked() -> SegmentationImages:
    """Images whose red channel is their mask."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(4):
        blocks = torch.randint(0, 3, (6, 7), generator=generator, dtype=torch.uint8)
        mask = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
        samples.append((torch.stack([mask * 100] * 3), mask))
    return SegmentationImages(samples, ["a", "b", "c"])


def test_image_and_mask_move_together() -> None:
    options = SegmentationAugmentation(scale=(0.5, 2.0), crop=(40, 48), horizontal_flip=True)
    batch = SegmentationAugmenter(options, seed=3).labelled(marked(), torch.arange(4), epoch=1)
    assert batch.images.shape == (4, 3, 40, 48)
    counted = batch.masks != IGNORED
    near = (batch.images[:, 0].float() - 100 * batch.masks.float()).abs() < 20
    assert near[counted].float().mean() > 0.75  # edges are blurred by the scaling
    assert (batch.images[:, 0][~counted] == 127).all()
    assert not torch.equal(batch.masks[0], marked()[0][1][:40, :48])


def test_what_happens_to_an_image_follows_from_its_seed_alone() -> None:
    augmenter, state = SegmentationAugmenter(EVERYTHING, seed=5), torch.get_rng_state()
    together = augmenter.labelled(marked(), torch.tensor([2, 0, 3]), epoch=4)
    assert torch.equal(torch.get_rng_state(), state)
    alone = augmenter.labelled(marked(), torch.tensor([0]), epoch=4)
    assert torch.equal(together.images[1], alone.images[0])
    assert torch.equal(together.masks[1], alone.masks[0])
    later = augmenter.labelled(marked(), torch.tensor([0]), epoch=5)
    assert not torch.equal(later.images, alone.images)


def test_batches_of_several_sizes_are_lists_and_pass_unvaried() -> None:
    small = (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8))
    large = (torch.zeros(3, 8, 4, dtype=torch.uint8), torch.zeros(8, 4, dtype=torch.uint8))
    batch = collated([small, large])
    assert isinstance(batch.images, list)
    assert varied(batch, SegmentationAugmentation(), [0, 1]) is batch
    assert varied(batch, SegmentationAugmentation(crop=(6, 6)), [0, 1]).masks.shape == (2, 6, 6)


@pytest.mark.parametrize("wrong", [{"scale": (2.0, 1.0)}, {"crop": (0, 4)}, {"colour": 2.0}, {"scale": (0.0, 1.0)}])
def test_impossible_augmentations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        SegmentationAugmentation(**wrong)


def test_a_set_is_refused_where_it_cannot_be_one() -> None:
    sample = (torch.zeros(3, *SIZE, dtype=torch.uint8), torch.zeros(SIZE, dtype=torch.uint8))
    with pytest.raises(DataError, match="0 images"):
        SegmentationImages([], ["a"])
    with pytest.raises(DataError, match="256 classes"):
        SegmentationImages([sample], [str(number) for number in range(256)])
    with pytest.raises(DataError, match="'a' twice"):
        SegmentationImages([sample], ["a", "b", "a"])


def test_a_file_name_longer_than_any_file_can_have_is_one_that_is_not_there(tmp_path: Path) -> None:
    write_coco(tmp_path, [])
    path = tmp_path / "annotations/instances_val.json"
    path.write_text(path.read_text().replace("a.png", "a" * 5000 + ".png"))
    with pytest.raises(DataError, match=r"1 images that are not there .*put the images beside it"):
        read_coco_masks(tmp_path, "val")


def mask_folder(root: Path, split: str, names: list[str], mask: np.ndarray, suffix: str = "") -> None:
    """One image of a split, whose classes are listed in the folder."""
    write_image(root / "images" / split / "a.png")
    write_mask(root / "masks" / split / f"a{suffix}.png", mask)
    (root / "classes.txt").write_text("\n".join(names))


def test_classes_of_a_test_set_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    mask_folder(tmp_path / "train", "train", ["sky", "road", "tree"], ramp())
    mask_folder(tmp_path / "test", "test", ["tree", "sky", "road"], ramp())
    train, test = (DataSource("masks", str(tmp_path / part)) for part in ("train", "test"))
    spec = ModelSpec("adasap:unet", {"num_classes": 3}, (3, *SIZE))
    suites = {"again": SuiteSource("clean", test)}
    data = SegmentationTask.open_data(DataOptions(train=train, test=test, suites=suites), Opening(spec=spec))
    wanted = torch.tensor([2, 0, 1])[torch.from_numpy(ramp()).long() % 255]
    wanted[0, -1] = 255
    for suite in data.opened_suites:
        assert suite.images.classes == ("sky", "road", "tree")
        assert torch.equal(suite.images[0][1].long(), wanted)
    assert "data.test: classes are matched by name with those of data.train" in data.remarks
    [alone] = SegmentationTask.open_suites(
        {"a": SuiteSource("clean", test)}, Opening(spec=spec, classes=("sky", "road", "tree"))
    )
    assert torch.equal(alone.images[0][1].long(), wanted)
    assert "matched by name with those of the model" in alone.remarks[0]
    (tmp_path / "test" / "classes.txt").write_text("tree\nsky\nsea")
    with pytest.raises(DataError, match="sea"):
        SegmentationTask.open_data(DataOptions(train=train, test=test, suites={}), Opening(spec=spec))


def test_a_recipe_says_what_masks_are(tmp_path: Path) -> None:
    mask_folder(tmp_path, "test", ["a", "b"], np.minimum(ramp(), 2), "_mask")
    options = {"ignored": [2], "mask_suffix": "_mask"}
    images = open_segmentation_dataset(DataSource("masks", str(tmp_path), options=options), "test")
    assert images[0][1].unique().tolist() == [0, 1, 255]
    colours = np.array([[9, 9, 9], [7, 0, 0], [0, 0, 0]], dtype=np.uint8)[np.minimum(ramp(), 2)]
    Image.fromarray(colours).save(tmp_path / "masks" / "test" / "a_mask.png")
    coloured = options | {"palette": [[9, 9, 9], [7, 0, 0]]}
    images = open_segmentation_dataset(DataSource("masks", str(tmp_path), options=coloured), "test")
    assert images[0][1].unique().tolist() == [0, 1, 255]
    with pytest.raises(DataError, match="has no option 'pallete'; did you mean 'palette'"):
        DataSource("masks", str(tmp_path), options={"pallete": []})
    wrong = DataSource("masks", str(tmp_path), options={"palette": [[300, 0, 0]]})
    with pytest.raises(DataError, match=r"palette\.0\.0 is '300'"):
        open_segmentation_dataset(wrong, "test")
    with pytest.raises(DataError, match="`options` are for functions of yours"):
        DataSource("npz", str(tmp_path), options={"a": 1})


def test_numbers_are_used_where_one_side_has_no_names_and_that_is_said() -> None:
    pair = (torch.zeros(3, 1, 4, dtype=torch.uint8), torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8))
    named, unnamed = ("sky", "road", "tree"), ("0", "2", "5")
    found, said = matched_masks(SegmentationImages([pair], unnamed), ("a", "b", "c", "d", "e", "f"), where="x", of="y")
    assert found[0][1].tolist() == [[0, 2, 5, 255]]
    assert said == "x names no classes: they are numbers, in the order of y (0 = a, 1 = b, 2 = c, ...)"
    back, said = matched_masks(SegmentationImages([pair], named), ("0", "1", "2"), where="x", of="y")
    assert back[0][1].tolist() == pair[1].tolist()
    assert said.startswith("y names no classes")
    with pytest.raises(DataError, match="masks of x have the number 5, which is none of the 3 classes of y: sky, road"):
        matched_masks(SegmentationImages([pair], unnamed), named, where="x", of="y")
