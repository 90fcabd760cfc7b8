"""Cuts a YOLO11n of Ultralytics to half its MACs and fine-tunes it with Ultralytics' own trainer; no download.

`python examples/ultralytics_yolo.py VOC_FOLDER [images] [epochs] [image size]`, such as `../shared/data/bccd 40 2 160`.
Needs `pip install ultralytics` (AGPL-3.0, or its commercial licence), which adasap neither contains nor asks for.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import yaml
from ultralytics import YOLO, settings

from adasap.integrations.ultralytics import prune_, trainer_of


def convert(voc: Path, out: Path, limit: int) -> tuple[Path, int]:
    """Pascal VOC's layout to Ultralytics': a text file of boxes (class, centre, size; 0 to 1) for every image."""
    classes: dict[str, int] = {}
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True)
        for name in itertools.islice((voc / "ImageSets" / "Main" / f"{split}.txt").read_text().split(), limit):
            (out / "images" / split / f"{name}.jpg").symlink_to((voc / "JPEGImages" / f"{name}.jpg").resolve())
            tree = ElementTree.parse(voc / "Annotations" / f"{name}.xml").getroot()
            width, height = (int(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
            lines = []
            for found in tree.iter("object"):
                number = classes.setdefault(found.findtext("name", ""), len(classes))
                x0, y0, x1, y1 = (float(found.findtext(f"bndbox/{k}", "0")) for k in ("xmin", "ymin", "xmax", "ymax"))
                box = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
                lines.append(" ".join([str(number), *(f"{value:.6f}" for value in box)]))
            (out / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
    data = {"path": str(out), "train": "images/train", "val": "images/val"}
    (out / "data.yaml").write_text(yaml.safe_dump(data | {"names": {number: name for name, number in classes.items()}}))
    return out / "data.yaml", len(classes)


def size(model: object) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


settings.update({"sync": False})  # no statistics to Ultralytics
voc = Path(sys.argv[1])
limit, epochs, image_size = (int(value) for value in (*sys.argv[2:], 40, 2, 160)[:3])

with tempfile.TemporaryDirectory() as folder:
    data, num_classes = convert(voc, Path(folder) / "data", limit)
    common = {"data": str(data), "epochs": epochs, "imgsz": image_size, "project": folder, "plots": False, "workers": 0}
    yolo = YOLO("yolo11n.yaml")  # yours: YOLO("best.pt")
    yolo.train(**common, name="dense", exist_ok=True)
    dense = size(yolo.model)

    print(prune_(yolo, "l2", {"macs": 0.5}, image_size=image_size))
    cut = size(yolo.model)
    yolo.train(**common, name="cut", exist_ok=True, trainer=trainer_of(yolo))

    loaded = YOLO(Path(folder) / "cut" / "weights" / "last.pt")
    scores = loaded.val(data=str(data), imgsz=image_size, project=folder, plots=False, workers=0)
    print(f"{dense:,} parameters, {cut:,} after the cut, {size(yolo.model):,} after training")
    print(f"mAP50 of the file: {scores.box.map50:.3f}")
