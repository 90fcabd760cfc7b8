"""Readers give the same images and labels that were written, and say what is wrong with a file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adasap.data import DataSource, InMemoryImages, check_image_size, open_dataset
from adasap.data.digits import is_test_image
from adasap.errors import DataError


def _images(count: int, size: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _npz(path: Path, **arrays: object) -> DataSource:
    np.savez(path, **arrays)
    return DataSource("npz", str(path))


def test_npz_pixels_and_labels_survive(tmp_path: Path) -> None:
    images = _images(5)
    data = open_dataset(_npz(tmp_path / "a.npz", images=images, labels=np.array([2, 0, 1, 1, 0], np.uint8)))
    assert torch.equal(data[3][0], torch.from_numpy(images[3]).permute(2, 0, 1))
    assert data.labels.tolist() == [2, 0, 1, 1, 0]
    assert data.labels.dtype == torch.int64
    assert data.classes == ("0", "1", "2")


def test_a_part_keeps_the_number_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=_images(6), labels=np.array([0, 1, 0, 1, 2, 3]))
    part = open_dataset(DataSource("npz", str(tmp_path), first=1, count=2), "test")
    assert part.labels.tolist() == [1, 0]
    assert part.num_classes == 4


def test_class_names_of_an_npz(tmp_path: Path) -> None:
    source = _npz(tmp_path / "a.npz", images=_images(1), labels=np.array([0]), classes=np.array(["cat", "dog"]))
    assert open_dataset(source).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": _images(2)}, ["labels", "savez"]),
        (
            {"images": _images(2).astype(np.float32), "labels": np.zeros(2, int)},
            ["float32", "uint8 [N, H, W, C]", "white"],
        ),
        ({"images": _images(2)[..., 0, 0], "labels": np.zeros(2, int)}, ["[N, H, W]"]),
        ({"images": _images(2, 8).transpose(0, 3, 1, 2), "labels": np.zeros(2, int)}, ["looks like [N, C, H, W]"]),
        ({"images": _images(2), "labels": np.zeros(2)}, ["float64", "integers [N]"]),
        ({"images": _images(2), "labels": np.zeros(3, int)}, ["2 images but 3 labels"]),
        ({"images": _images(2), "labels": np.array([0, -1])}, ["label -1 of image 1"]),
        (
            {"images": _images(2), "labels": np.array([0, 2]), "classes": np.array(["a", "b"])},
            ["label 2 of image 1", "2 classes"],
        ),
        ({"images": _images(0), "labels": np.zeros(0, int)}, ["no images"]),
        ({"images": _images(2), "labels": np.array([0, None])}, ["cannot be read"]),
    ],
)
def test_a_wrong_npz_is_refused_with_its_name(tmp_path: Path, arrays: dict[str, object], words: list[str]) -> None:
    source = _npz(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(DataError) as refused:
        open_dataset(source)
    for word in ("wrong.npz", *words):
        assert word in str(refused.value)


@pytest.mark.parametrize("keep", [0, 10, 200, 400])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    source = _npz(tmp_path / "cut.npz", images=_images(4), labels=np.zeros(4, int))
    path = tmp_path / "cut.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.npz"):
        open_dataset(source)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz does not exist"):
        open_dataset(DataSource("npz", str(tmp_path / "nowhere.npz")))
    with pytest.raises(DataError, match="has no folder 'train'; it has no folders at all"):
        open_dataset(DataSource("folder", str(tmp_path)), "train")
    with pytest.raises(DataError, match=r"cifar-10-batches-py.*cifar-10-python\.tar\.gz"):
        open_dataset(DataSource("cifar10", str(tmp_path)), "train")
    with pytest.raises(DataError, match=r"name the \.npz file, or a split"):
        open_dataset(DataSource("npz", str(tmp_path)))


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", _images(1))
    with pytest.raises(DataError, match="single array"):
        open_dataset(DataSource("npz", str(tmp_path / "one.npy")))


def test_too_few_images_for_the_wanted_part() -> None:
    with pytest.raises(DataError, match="wanted 50 images from index 400 on, but there are only 45"):
        open_dataset(DataSource("digits", first=400, count=50), "test")
    with pytest.raises(DataError, match="no images"):
        open_dataset(DataSource("digits", first=1000), "test")


@pytest.mark.parametrize("options", [{"first": -1}, {"count": 0}])
def test_impossible_parts_are_refused_at_once(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match="first >= 0"):
        DataSource("digits", **options)


def test_a_source_without_a_path_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="needs a `path`"):
        DataSource("npz")


def _folder(root: Path) -> Path:
    for name, colour in (("cat", 10), ("dog", 200)):
        (root / "train" / name).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (6 + k, 5), (colour, k, 0)).save(root / "train" / name / f"{k}.png")
    return root


def test_a_folder_of_images(tmp_path: Path) -> None:
    data = open_dataset(DataSource("folder", str(_folder(tmp_path)), first=1, count=2), "train")
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1]
    image, label = data[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 5, 7)
    assert image[:, 0, 0].tolist() == [10, 1, 0]
    assert label == 0


def test_grey_palette_and_transparent_files_become_rgb_over_white(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    Image.new("L", (4, 4), 7).save(folder / "0.png")
    Image.new("RGBA", (4, 4), (1, 2, 3, 51)).save(folder / "1.png")
    Image.new("RGB", (4, 4), (9, 9, 9)).quantize(2).save(folder / "2.png", transparency=b"\x00\x10")
    data = open_dataset(DataSource("folder", str(tmp_path)), "train")
    assert [data[k][0][:, 0, 0].tolist() for k in range(3)] == [[7, 7, 7], [204, 204, 205], [255, 255, 255]]


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    bad = _folder(tmp_path) / "train" / "dog" / "0.png"
    bad.write_bytes(bad.read_bytes()[:40])
    data = open_dataset(DataSource("folder", str(tmp_path)), "train")
    with pytest.raises(DataError, match=r"dog/0\.png cannot be decoded"):
        data[2]


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="one sub-folder of images per class"):
        open_dataset(DataSource("folder", str(tmp_path)), "train")


def _official_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small tree in the official layout; torchvision's list of MD5 sums is replaced by its sums."""
    import hashlib

    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    images = _images(12, 32).transpose(0, 3, 1, 2).reshape(12, 3072)
    contents = {f"data_batch_{k}": slice(2 * k - 2, 2 * k) for k in range(1, 6)} | {"test_batch": slice(10, 12)}
    files = {name: pickle.dumps({"data": images[s], "labels": [3, 4]}) for name, s in contents.items()}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{k}", sums[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)


def test_cifar_in_its_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _official_cifar(tmp_path, monkeypatch)
    train = open_dataset(DataSource("cifar10", str(tmp_path)), "train")
    test = open_dataset(DataSource("cifar10", str(tmp_path), split="test", first=1), "train")
    assert (len(train), len(test), test.num_classes) == (10, 1, 10)
    assert torch.equal(test[0][0], torch.from_numpy(_images(12, 32)[11]).permute(2, 0, 1))


def test_altered_cifar_is_refused_before_its_pickle_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _official_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"not a pickle")
    with pytest.raises(DataError, match="not the published one"):
        open_dataset(DataSource("cifar10", str(tmp_path)), "test")


def test_one_source_serves_parts_with_names_of_their_own(tmp_path: Path) -> None:
    for part, names in (("training", "ab"), ("valid", "ba")):
        for label, name in enumerate(names):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / f"{label}.png")
    source = DataSource("folder", str(tmp_path), split={"train": "training", "test": "valid"})
    assert [Path(f).parts[-3] for f in open_dataset(source, "train").paths()] == ["training"] * 2  # type: ignore[attr-defined]
    assert [Path(f).parts[-3] for f in open_dataset(source, "test").paths()] == ["valid"] * 2  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="there are training/, valid/: give --split valid, or `split: valid`"):
        open_dataset(DataSource("folder", str(tmp_path)), "test")
    with pytest.raises(DataError, match="there are a/, b/ with images: if they are the classes, give --split "):
        open_dataset(DataSource("folder", str(tmp_path / "valid")), "test")
    with pytest.raises(DataError, match="give a name as text, or what `train` and `test` are called"):
        DataSource("folder", str(tmp_path), split={"val": "valid"})
    (tmp_path / "val.npz").touch()
    with pytest.raises(DataError, match=r"has no test\.npz; there are val\.npz: give --split val, or"):
        open_dataset(DataSource("npz", str(tmp_path)), "test")


def test_cifar_has_no_third_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'val'; choose `train` or `test`"):
        open_dataset(DataSource("cifar10", str(tmp_path)), "val")


def test_digits_are_split_without_overlap_and_class_by_class() -> None:
    from sklearn.datasets import load_digits

    labels = torch.from_numpy(load_digits().target)
    held_out = is_test_image(labels)
    for digit in range(10):
        count = int((labels == digit).sum())
        assert int(held_out[labels == digit].sum()) == count // 4
    train, test = (open_dataset(DataSource("digits"), split) for split in ("train", "test"))
    assert len(train) + len(test) == len(labels) == 1797
    assert isinstance(test, InMemoryImages)
    assert torch.equal(test.labels, labels[held_out])
    assert int(test.images.max()) == 255
    assert torch.equal(test.images[:, 0], test.images[:, 2])


def test_image_size_is_compared_with_the_model() -> None:
    data = open_dataset(DataSource("digits"), "test")
    check_image_size(data, (3, 32, 32))
    with pytest.raises(DataError, match=r"images are 3 x 32 x 32.*the model wants 3 x 224 x 224"):
        check_image_size(data, (3, 224, 224))


def test_float_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"torch.float32 \[1, 3, 2, 2\], wanted torch.uint8"):
        InMemoryImages(torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64))
