"""Archives, arrays and lists from strangers: refused with a sentence, before anything is allocated."""

import io
import resource
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adasap.data import DataSource, open_dataset
from adasap.data.arrays import mapped_images, mapped_labels
from adasap.data.images import remarks_of
from adasap.errors import DataError


@contextmanager
def modest() -> Iterator[None]:
    """At most 300 MB more than before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def member(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


GOOD = {"images": member(np.zeros((1, 4, 4, 3), np.uint8)), "labels": member([0])}


def archive(path: Path, members: dict[str, bytes]) -> DataSource:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return DataSource("npz", str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": member([10**9])}, "label 1000000000 of image 0 is out of range"),
        ({"labels": member(np.array([2**63], np.uint64))}, "label 9223372036854775808"),
        ({"labels": header("(1000000000000,)", "'<i8'")}, "no shape of"),
        ({"labels": header("(1000000000000,)", "'|S0'")}, "cannot be read safely"),
        ({"labels": header("(-5,)", "'<i8'")}, "no shape of"),
        ({"labels": header("(True,)", "'<i8'")}, "cannot be read as an array|follow|labels"),
        ({"images": header("(1000000, 1000, 1000, 3)")}, "no shape of|follow"),
        ({"images": header("(" + "9" * 5000 + ", 4, 4, 3)")}, "cannot be read as an array"),
        ({"images": header("(" * 3000)}, "cannot be read as an array"),
        ({"images": header("(2, 4, 4, 3)") + bytes(95)}, r"96 bytes, and 95 follow"),
        ({"images": header("(1, 4, 4, 3)", "[('a', '|u1')]") + bytes(48)}, "wanted uint8"),
        ({"images": header("(0, 4, 4, 3)")}, "1 labels|no images"),
        ({"images": member(np.zeros((1, 0, 4, 3), np.uint8))}, "without a pixel"),
        ({"images": b"", "labels": b""}, "cannot be read as an array"),
        ({"images": b"\x93NUMPY\x07\x00aaaa"}, "cannot be read as an array"),
        ({"classes": member([["a", "b"]])}, "`classes` is"),
        ({"classes": member([0.5])}, "`classes` is float64"),
        ({"classes": header("(1,)", "'<U1'") + b"\xff\xff\xff\x7f"}, "no letters of Unicode"),
        ({"classes": header("(1,)", "'>U1'") + b"\x00\x11\x00\x00"}, "no letters of Unicode"),
        ({"classes": member(np.array([b"\xff"]))}, "not UTF-8"),
        ({"classes": header("(1,)", "'|O'") + b"\x80\x04."}, "cannot be read safely"),
    ],
)
def test_an_archive_of_a_stranger_is_refused(tmp_path: Path, change: dict[str, bytes], words: str) -> None:
    with modest(), pytest.raises(DataError, match=words) as refused:
        open_dataset(archive(tmp_path / "strange.npz", GOOD | change))
    assert "strange.npz" in str(refused.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("labels.npy", member(np.zeros(22_000, np.uint8)))
        with file.open("images.npy", "w") as image:
            image.write(header("(22000, 64, 64, 3)"))
            for _ in range(22_000 // 100):
                image.write(bytes(100 * 64 * 64 * 3))
    with modest(), pytest.raises(DataError, match=r"270,336,000 bytes packed into .*: no images pack so well"):
        open_dataset(DataSource("npz", str(path)))


def test_a_size_that_lies_in_the_archive_is_found_out(tmp_path: Path) -> None:
    """The directory promises the terabyte that the header wants; the packed bytes are few."""
    path = tmp_path / "lies.npz"
    archive(path, GOOD | {"images": header("(20833333, 100, 160, 3)")})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        size = file.getinfo("images.npy").file_size
    place = content.index(b"PK\x01\x02")
    assert struct.unpack_from("<I", content, place + 24)[0] == size
    struct.pack_into("<I", content, place + 24, 0xFFFFFFF0)
    path.write_bytes(content)
    with modest(), pytest.raises(DataError, match=r"lies\.npz"):
        open_dataset(DataSource("npz", str(path)))


def test_images_beyond_half_of_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = archive(tmp_path / "a.npz", GOOD)
    assert len(open_dataset(source)) == 1
    monkeypatch.setattr("adasap.data.headers.total_bytes", lambda: 90)
    with pytest.raises(DataError, match="more than half of the memory"):
        open_dataset(source)


def test_classes_may_be_bytes_or_numbers_and_more_than_occur(tmp_path: Path) -> None:
    assert open_dataset(archive(tmp_path / "a.npz", GOOD | {"classes": member([b"a", b"b"])})).classes == ("a", "b")
    assert open_dataset(archive(tmp_path / "b.npz", GOOD | {"classes": member([7, 8])})).classes == ("7", "8")


@pytest.mark.parametrize("damage", range(40))
def test_damaged_archives_are_sentences(tmp_path: Path, damage: int) -> None:
    source, generator = archive(tmp_path / "a.npz", GOOD), np.random.default_rng(damage)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for place in generator.integers(0, len(content), 3):
        content[place] = generator.integers(0, 256)
    (tmp_path / "a.npz").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of names that are there twice
        with suppress(DataError):  # nothing else comes out
            open_dataset(source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header("(1000000000000,)", "'<i8'"), "no shape of"),
        (header("(3,)", "'<i8'") + bytes(23), "24 bytes, and 23 follow"),
        (header("(1,)", "'|O'") + b"\x80\x04.", "cannot be read safely"),
        (b"PK\x03\x04", "is not a single array"),
        (b"", "is not a single array"),
        (member([10**9]), "label 1000000000"),
        (member([0.5]), "wanted integers"),
    ],
)
def test_an_array_of_a_stranger_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "labels.npy").write_bytes(content)
    with modest(), pytest.raises(DataError, match=rf"labels\.npy.*{words}"):
        mapped_labels(tmp_path / "labels.npy")


def test_a_file_with_a_hole_is_mapped_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "images.npy").open("wb") as file:
        file.write(header("(1000, 1000, 1000, 3)"))
        file.truncate(file.tell() + 3 * 10**9)
    with modest():
        assert mapped_images(tmp_path / "images.npy").shape[0] == 1000
    with (tmp_path / "labels.npy").open("wb") as file:
        file.write(header("(1000000000,)"))
        file.truncate(file.tell() + 10**9)
    monkeypatch.setattr("adasap.data.headers.total_bytes", lambda: 1 << 33)
    with modest(), pytest.raises(DataError, match="more than half of the memory"):
        mapped_labels(tmp_path / "labels.npy")


# Lists


def test_a_link_of_a_list_that_leaves_its_folder_needs_the_callers_word(tmp_path: Path) -> None:
    source = write_list(tmp_path / "set", LIST)
    for place, target in {"a.png": "b.png", "sub/c, d.png": "../b.png"}.items():
        (tmp_path / "set" / place).unlink()
        (tmp_path / "set" / place).symlink_to(target)
    assert len(open_dataset(source)) == 3
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "set" / "a.png").unlink()
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match=r"a\.png is a link that leaves the folder .*set, to .*outside\.png; set"):
        open_dataset(source)
    assert len(open_dataset(replace(source, follow_links=True))) == 3
    (tmp_path / "linked").symlink_to(tmp_path / "set")
    with pytest.raises(DataError, match="is a link that leaves the folder"):
        open_dataset(replace(source, path=str(tmp_path / "linked")))


@pytest.mark.parametrize(
    ("labels", "move"),
    [
        (np.array(["a", "b"]), r"classes, labels = numpy\.unique\(names, return_inverse=True\)"),
        (np.array([[0], [1]]), r"labels\.reshape\(-1\)"),
        (np.eye(2, dtype=np.int64), r"labels\.argmax\(1\)"),
        (np.array([0.0, 1.0]), "convert them"),
    ],
)
def test_labels_of_another_kind_are_told_their_move(tmp_path: Path, labels: np.ndarray[Any, Any], move: str) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(DataError, match=move):
        open_dataset(DataSource("npz", str(tmp_path / "a.npz")))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 28, 28), (2, 8, 32, 32)])
def test_channels_that_stand_first_are_seen(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros(shape, np.uint8), labels=[0, 1])
    with pytest.raises(DataError, match=r"looks like \[N, C, H, W\]"):
        open_dataset(DataSource("npz", str(tmp_path / "a.npz")))


def write_list(root: Path, text: str | bytes) -> DataSource:
    (root / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png", "sub/c, d.png"):
        Image.new("RGB", (4, 4)).save(root / name)
    (root / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return DataSource("csv", str(root))


LIST = 'file,class_index,class_name\na.png,0,cat\nb.png,1,dog\n"sub/c, d.png",1,dog\n'


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        b"\xef\xbb\xbf" + LIST.encode(),
        LIST.replace("\n", "\r\n"),
        LIST.replace("\n", "\r"),
        LIST.replace("\n", "\n\n"),
        LIST + ",,\n  ,,\n",
        LIST.replace("file,class_index", " file , class_index "),
        LIST.replace("1,dog", " 1 , dog "),
        LIST.replace("b.png,1,dog", "b.png,1,"),
    ],
)
def test_lists_as_people_write_them(tmp_path: Path, text: str | bytes) -> None:
    data = open_dataset(write_list(tmp_path, text))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert data[2][0].shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LIST.encode("utf-16"), "is not UTF-8 text"),
        (LIST.replace("dog", "hündin").encode("latin-1"), "is not UTF-8 text"),
        (LIST.replace(",", ";"), "separated by semicolons, wanted commas"),
        (LIST.replace(",", "\t"), "separated by tabs"),
        ("sep=;\n" + LIST, "separated by semicolons"),
        ("name,label\na.png,0\n", "name, label; wanted rows with the columns `file` and `class_index`"),
        ("", "no rows"),
        ("file,class_index\n\n", "has no rows below its columns"),
        ("file,file,class_index\na.png,b.png,0\n", "the column 'file' twice"),
        ("file,class_index\na.png\n", "line 2 has 1 fields, the first line has 2"),
        ("file,class_index\nsub/c, d.png,1\n", "put texts with commas in double quotes"),
        ("file,class_index\na.png,1000000000\n", "line 2: class_index is 1000000000; .*at most 100,000"),
        ("file,class_index\na.png," + "9" * 5000 + "\n", "class_index is 9{40};"),
        ("file,class_index\na.png,-1\n", "class_index is -1; classes are numbered from 0"),
        ("file,class_index\na.png,1.0\n", "class_index is '1.0', which is no whole number"),
        ("file,class_index\na.png,1e3\n", "no whole number"),
        ("file,class_index\na.png,\n", "class_index is '', which is no whole number"),
        ("file,class_index\na.png,²\n", "no whole number"),
        ("file,class_index\n../a.png,0\n", r"line 2: \.\./a\.png leaves the folder"),
        ("file,class_index\nsub/../../a.png,0\n", "leaves the folder"),
        ("file,class_index\n/etc/passwd,0\n", "/etc/passwd leaves the folder"),
        ("file,class_index\nC:\\a.png,0\n", "leaves the folder"),
        ("file,class_index\n..\\a.png,0\n", "leaves the folder"),
        ("file,class_index\n ,0\n", "the file has no name"),
        ("file,class_index\na\0.png,0\n", "no name|NUL"),
        ("file,class_index\nsub,0\n", "lacks 'sub'"),
        ("file,class_index\nsub\\d.png,0\n", r"lacks 'sub.*; write paths with / and not"),
        ("file,class_index\n" + "x" * 5000 + ",0\n", "lacks 'x{200}',"),
        ('file,class_index\n"a.png,0\n', "unexpected end of data"),
        ("file,class_index\n" + "x" * 200_000 + ",0\n", "field larger than field limit"),
        ("file,class_index,class_name\na.png,0,cat\nb.png,0,dog\n", "called 'cat' in line 2 and 'dog' in line 3"),
    ],
)
def test_a_list_of_a_stranger_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with modest(), pytest.raises(DataError, match=words) as refused:
        open_dataset(write_list(tmp_path, text))
    assert "labels.csv" in str(refused.value)


def test_files_listed_again_and_blank_rows_are_counted(tmp_path: Path) -> None:
    data = open_dataset(write_list(tmp_path, "file,class_index\na.png,0\n,\na.png,0\nb.png,1\nb.png,0\n"))
    assert remarks_of(data) == (
        "2 files listed again (a.png), 1 of them with another class",
        "1 blank rows skipped",
    )
    assert len(data) == 4
