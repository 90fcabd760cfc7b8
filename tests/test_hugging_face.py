"""Sets of Hugging Face `datasets` on this machine, read by index: their class names, and no file or code elsewhere."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from adasap.cli import app
from adasap.data import DataSource, TrainingStream, open_dataset
from adasap.errors import DataError
from test_shards import number_of, numbers_of, png

RUNNER = CliRunner()
NAMES = ["cat", "dog", "owl"]


def rows(count: int = 12, start: int = 0, **columns: Any) -> Any:
    numbers = range(start, start + count)
    content = {"image": [{"bytes": png(number), "path": None} for number in numbers], "label": [n % 3 for n in numbers]}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    kinds = {name: kind for name, (kind, _) in columns.items()}
    more = {name: values for name, (_, values) in columns.items()}
    return from_dict({**content, **more}, datasets.Features({**features, **kinds}))


def from_dict(content: Any, features: Any) -> Any:
    """A data set; `datasets` hashes it by pickling modules, at which dill warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return datasets.Dataset.from_dict(content, features=features)


def saved(path: Path, split: str = "train", **options: Any) -> Any:
    return open_dataset(DataSource("hf", str(path), **options), split)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("form", ["set", "splits", "parquet", "hub", "arrow"])
def test_what_datasets_saved_is_read_by_index_with_its_class_names(tmp_path: Path, form: str) -> None:
    path = tmp_path / "pets"
    train, test = rows(), rows(5, 100)
    if form == "set":
        train.save_to_disk(path, num_shards=2)
    elif form == "splits":
        datasets.DatasetDict({"train": train, "validation": test}).save_to_disk(path)
    else:
        folder = path / {"parquet": "train", "hub": "data", "arrow": "train"}[form]
        folder.mkdir(parents=True)
        if form == "arrow":
            train.save_to_disk(tmp_path / "saved")
            next((tmp_path / "saved").glob("*.arrow")).rename(folder / "a.arrow")
        else:
            train.to_parquet(folder / "train-00000-of-00001.parquet")
            test.to_parquet((folder if form == "hub" else path) / "test-00000-of-00001.parquet")
    found = saved(path)
    assert [number_of(image) for image, _ in found] == list(range(12))
    assert (found.classes, found.named, found.labels.tolist()) == (tuple(NAMES), True, [n % 3 for n in range(12)])
    assert [number_of(image) for image, _ in saved(path, first=4, count=2)] == [4, 5]
    if form in ("splits", "hub"):
        assert [number_of(image) for image, _ in saved(path, "test")] == list(range(100, 105))
    stream = TrainingStream(found, batch_size=4, seed=0)
    assert numbers_of(stream, 0, 9)[4:] == numbers_of(TrainingStream(found, batch_size=4, seed=0, num_workers=2), 4, 9)


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    coarse = datasets.ClassLabel(names=["pet", "bird"]), [n % 3 // 2 for n in range(12)]
    rows(coarse=coarse).rename_columns({"image": "img", "label": "fine"}).save_to_disk(tmp_path / "pets")
    with pytest.raises(DataError, match=r"2 columns that may be the label .*`options` .* \{label: fine\}"):
        saved(tmp_path / "pets")
    assert saved(tmp_path / "pets", options={"label": "coarse"}).classes == ("pet", "bird")
    with pytest.raises(DataError, match="no column 'fien'; did you mean 'fine'"):
        saved(tmp_path / "pets", options={"label": "fien"})
    with pytest.raises(DataError, match="has no option 'labels'; did you mean 'label'"):
        saved(tmp_path / "pets", options={"labels": "fine"})
    with pytest.raises(DataError, match="column 'fine' holds no images"):
        saved(tmp_path / "pets", options={"label": "fine", "image": "fine"})
    words = ["check", f"hf:{tmp_path / 'pets'}", "--data-option", "label=coarse"]
    checked = RUNNER.invoke(app, words, env={"COLUMNS": "200"})
    assert checked.exit_code == 0, checked.output
    assert "12 images, 2 classes: pet 8, bird 4" in checked.output


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows().save_to_disk(tmp_path / "pets")
    (tmp_path / "pets" / "state.json").write_text("{")
    with pytest.raises(DataError, match="pets cannot be read as a set of `datasets`"):
        saved(tmp_path / "pets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"owner/pets does not exist; .* nothing is downloaded"):
        saved(Path("owner/pets"))
    datasets.DatasetDict({"train": rows()}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="has no split 'test'; there are: train"):
        saved(tmp_path / "splits", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither what save_to_disk writes nor"):
        saved(tmp_path / "empty")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(DataError, match=r"x\.csv is no file \.parquet or \.arrow"):
        saved(tmp_path / "x.csv")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    content = {"image": [{"bytes": png(0), "path": None}] * 2, "label": [0, -1]}
    from_dict(content, features).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="none, row 1: column 'label' says class -1"):
        saved(tmp_path / "none")


def test_a_path_in_a_row_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(7))
    images = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": b"x", "path": None}]
    features = {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int64"}}
    table = pa.table({"image": images, "label": [0, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "pets.parquet")
    found = saved(tmp_path / "pets.parquet")
    with pytest.raises(
        DataError, match=r"row 0 of column 'image' holds the path '.*secret.png', which is not followed"
    ):
        found[0]
    with pytest.raises(DataError, match="row 1 of column 'image' cannot be decoded"):
        found[1]


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"need datasets; install it: pip install 'adasap\[hf\]'"):
        saved(Path("pets"))
