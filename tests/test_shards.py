"""Shards of tar files, read by index: nothing twice, nothing missing, nothing run, and a resumed run sees the same."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from adasap.cli import app
from adasap.data import DataSource, TrainingStream, open_dataset
from adasap.data.checking import require_readable
from adasap.data.shards import find_shards
from adasap.errors import DataError

RUNNER = CliRunner()
Members = Mapping[str, bytes]


def png(value: int, side: int = 8) -> bytes:
    """A colour image whose first two values say a number."""
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[0, 0, :2] = divmod(value, 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def number_of(image: torch.Tensor) -> int:
    return int(image[0, 0, 0]) * 256 + int(image[1, 0, 0])


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number: int) -> dict[str, bytes]:
    return {f"{number:05}.png": png(number), f"{number:05}.cls": str(number % 10).encode()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """90 training samples in four shards of different sizes, 20 test samples in one."""
    for shard, numbers in enumerate((range(30), range(30, 35), range(35, 70), range(70, 90))):
        members = {name: content for number in numbers for name, content in sample(number).items()}
        write_tar(tmp_path / f"imagenet-train-{shard:04}.tar", members)
    test = {name: content for number in range(100, 120) for name, content in sample(number).items()}
    write_tar(tmp_path / "imagenet-validation-0000.tar", test)
    return tmp_path


def opened(path: Path, **options: Any) -> Any:
    return open_dataset(DataSource("wds", str(path), **options), "train")


def test_samples_are_images_with_the_classes_that_members_say(shards: Path) -> None:
    train = opened(shards)
    assert [number_of(train[index][0]) for index in range(90)] == list(range(90))
    assert train.labels.tolist() == [index % 10 for index in range(90)]
    assert train[17][1] == 7
    assert (train.classes[3], train.named) == ("3", False)
    assert len(open_dataset(DataSource("wds", str(shards)), "test")) == 20
    assert len(opened(shards, split=".")) == 110
    some = opened(shards, first=29, count=3)
    assert [number_of(image) for image, _ in some] == [29, 30, 31]
    named = opened(shards, classes=tuple("abcdefghij"))
    assert (named.classes[3], named.named) == ("d", True)
    with pytest.raises(DataError, match=r"member '00002\.png' has class 2, and `classes` names 2"):
        opened(shards, classes=("a", "b"))


def test_shards_that_webdataset_writes_are_read(tmp_path: Path) -> None:
    import webdataset

    pattern = str(tmp_path / "train-%04d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as sink:
        for number in range(10):
            pixels = np.full((8, 8, 3), number, dtype=np.uint8)
            sink.write({"__key__": f"a/{number}", "png": pixels, "cls": number % 3, "json": {"id": number}})
    train = open_dataset(DataSource("wds", str(tmp_path / "train-{0000..0002}.tar")), "test")
    assert [int(image[2, 5, 5]) for image, _ in train] == list(range(10))
    assert train.labels.tolist() == [number % 3 for number in range(10)]


def test_classes_by_name_and_by_json(tmp_path: Path) -> None:
    texts = {"a.png": png(0), "a.txt": b"dog\n", "b.png": png(1), "b.txt": b"cat", "b.json": b'{"id": 4}'}
    named = opened(write_tar(tmp_path / "texts.tar", texts))
    assert (named.classes, named.labels.tolist()) == (("cat", "dog"), [1, 0])
    objects = {"a.png": png(0), "a.json": b'{"label": 2}', "a.txt": b"a caption\nof two lines"}
    assert opened(write_tar(tmp_path / "objects.tar", objects)).labels.tolist() == [2]


class Harmful:
    def __reduce__(self) -> tuple[Any, Any]:
        return os.mkdir, ("harmed",)


def test_nothing_in_a_shard_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = ("pyd", "pkl", "pickle", "pth", "npy", "ten")
    others = {f"a.{kind}": pickle.dumps(Harmful()) for kind in kinds} | {".hidden.png": b"", "README": b""}
    train = opened(write_tar(tmp_path / "x.tar", {"a.png": png(3), "a.cls": b"1", **others}))
    assert number_of(train[0][0]) == 3
    assert not Path("harmed").exists()
    assert ".pyd: 1" in " ".join(train.remarks)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"not an image", "a.cls": b"1"}, r"x\.tar, member 'a.png' cannot be decoded \(not an image"),
        ({"a.png": b"", "a.cls": b"1"}, r"x\.tar, member 'a.png' cannot be decoded \(the file is empty"),
        ({"a.png": png(0)}, r"x\.tar, sample 'a' has no class; give a\.cls"),
        ({"n/a.cls": b"1"}, r"x\.tar, sample 'n/a' has no image"),
        ({"a.png": png(0), "a.jpg": png(0), "a.cls": b"1"}, "sample 'a' has two images, 'a.png' and 'a.jpg'"),
        ({"a.png": png(0), "a.cls": b"one"}, r"x\.tar, member 'a.cls' says class 'one'; write its number"),
        ({"a.png": png(0), "a.cls": b"-1"}, "member 'a.cls' says class '-1'"),
        ({"a.png": png(0), "a.cls": b"\xff\xfe"}, "member 'a.cls' says class"),
        ({"a.png": png(0), "a.cls": b"100000"}, "numbered from 0 to 99,999"),
        ({"a.png": png(0), "a.json": b'{"label": 1'}, r"x\.tar, member 'a.json' is not valid JSON"),
        ({"a.png": png(0), "a.json": b'{"label": true}'}, "says class 'True'"),
        ({"a.png": png(0), "a.json": b"[1]"}, "has no class"),
        (
            {"a.png": png(0), "a.txt": b"dog", "b.png": png(1), "b.cls": b"1"},
            "'b.png' has the class 1, others have 'dog'",
        ),
        ({"../a.png": png(0)}, r"member '\.\./a.png' has a name that leaves the folder"),
        ({"/etc/a.png": png(0)}, "member '/etc/a.png' has a name that leaves"),
        ({"C:\\a.png": png(0)}, "has a name that leaves"),
        ({"a.pyd": b""}, "has no samples in 1 shards"),
    ],
)
def test_a_bad_member_is_named_with_its_shard(tmp_path: Path, members: Members, message: str) -> None:
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message):
        opened(path)[0]


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match="member 'a\\.png' is a link"):
        opened(path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "train-0.tar").symlink_to(write_tar(tmp_path / "y.tar", sample(1)))
    with pytest.raises(DataError, match="leaves the folder"):
        opened(home)
    assert len(opened(home, follow_links=True)) == 1


def test_a_damaged_shard_loses_no_sample_silently(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", sample(0) | sample(1) | sample(2)).read_bytes()
    damaged = {
        "cut in a member": whole[:600],
        "cut between members": whole[:2048],
        "cut in a header": whole[:2200],
        "a header overwritten": whole[:2048] + b"\xaa" * 512 + whole[2560:],
        "two files in one": whole + whole,
        "compressed": b"\x1f\x8b\x08\x00" + bytes(600),
        "empty": b"",
        "text": b"hello " * 200,
    }
    for what, content in damaged.items():
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.tar"):
            pytest.fail(f"{what}: {len(opened(tmp_path / 'x.tar'))} samples")
    (tmp_path / "x.tar").write_bytes(whole)
    train = opened(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(whole[:600])
    with pytest.raises(DataError, match=r"the shard was changed since it was opened"):
        train[2]


def test_paths_that_name_no_shards(shards: Path) -> None:
    for path, split, message in (
        (shards, "dev", "has no shards of the split 'dev'.*or `.` for all"),
        (shards / "none", "train", "none does not exist"),
        (shards / "imagenet-train-{0003..0004}.tar", "train", "imagenet-train-0004.tar does not exist"),
        (shards / "x-{5..2}.tar", "train", "names no shards"),
        (shards / "x-{0..999999999}.tar", "train", "names no shards, or over 100,000"),
    ):
        with pytest.raises(DataError, match=message):
            find_shards(str(path), split)
    (shards / "train").mkdir()
    with pytest.raises(DataError, match=r"has no files \*\.tar"):
        find_shards(str(shards), "train")


def test_a_broken_image_is_found_before_the_run_or_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", sample(0) | {"00001.png": b"x", "00001.cls": b"3"} | sample(2))
    with pytest.raises(DataError, match=r"1 of 3 images .* member '00001.png' cannot be decoded"):
        require_readable(opened(path), where="train")
    left = opened(path, skip_broken=True)
    assert [number_of(image) for image, _ in left] == [0, 2]
    checked = RUNNER.invoke(app, ["check", f"wds:{path}"], env={"COLUMNS": "200"})
    assert checked.exit_code == 2
    assert "member '00001.png' cannot be decoded" in checked.output.replace("\n", " ")


def stream_of(path: Path, rank: int = 0, world_size: int = 1, num_workers: int = 0) -> TrainingStream:
    ranks = {"rank": rank, "world_size": world_size, "num_workers": num_workers}
    return TrainingStream(opened(path), batch_size=10, seed=3, **ranks)


def numbers_of(stream: TrainingStream, start: int, stop: int) -> list[list[int]]:
    batches = stream.iterate(start)
    return [[number_of(image) for image in next(batches)[0]] for _ in range(start, stop)]


RANK = """
import json, sys
from pathlib import Path
from test_shards import numbers_of, stream_of
print(json.dumps(numbers_of(stream_of(Path(sys.argv[1]), int(sys.argv[2]), 2, num_workers=2), 0, 18)))
"""


@pytest.mark.slow
def test_two_processes_of_two_workers_read_every_sample_once(shards: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    words = [sys.executable, "-c", RANK, str(shards)]
    ranks = [
        subprocess.Popen([*words, rank], env=environment, stdout=subprocess.PIPE, text=True) for rank in ("0", "1")
    ]
    first, second = (json.loads(rank.communicate()[0]) for rank in ranks)
    for epoch in (range(9), range(9, 18)):  # 90 samples in batches of 10
        seen = [number for step in epoch for number in (*first[step], *second[step])]
        assert sorted(seen) == list(range(90))
    assert first[:9] != first[9:]
    alone = numbers_of(stream_of(shards), 0, 18)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in alone]


def test_a_resumed_run_reads_the_batches_that_it_would_have_read(shards: Path) -> None:
    assert numbers_of(stream_of(shards), 0, 12)[7:] == numbers_of(stream_of(shards, num_workers=2), 7, 12)


@pytest.mark.slow
def test_a_recipe_names_shards(shards: Path, tiny_recipe: Callable[..., Any], tmp_path: Path) -> None:
    source = {"kind": "wds", "path": str(shards), "resize": 32}
    data = {"train": source, "test": source, "suites": {}}
    recipe = tiny_recipe(data=data, fine_tune={"epochs": 0}, training={"batch_size": 45})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = RUNNER.invoke(app, ["compress", str(tmp_path / "recipe.yaml"), "--dry-run"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "90 samples in 4 shards" in done.output
