"""Annotations as people have them: ids of several types, flags as words, XML of every kind; parsed, or counted."""

from __future__ import annotations

import codecs
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adasap.data import DataSource
from adasap.data.annotation_values import flag, identifier, leaves_folder, number
from adasap.errors import DataError
from adasap.tasks.detection.data.annotation_xml import read_xml
from adasap.tasks.detection.data.coco import read_coco
from adasap.tasks.detection.data.detection_set import DetectionImages
from adasap.tasks.detection.data.sources import open_detection_dataset
from adasap.tasks.detection.data.voc import VOC_CLASSES, read_annotation, read_voc
from detection_trees import annotation, write_image, write_voc

DOG = ("dog", (2, 3, 20, 30), False)
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def box(image: object, category: object = 1, bbox: Any = (1, 2, 10, 5), **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def coco(
    folder: Path, annotations: Any, images: Any = ((1, "a"),), categories: Any = CATEGORIES, **options: Any
) -> DetectionImages:
    """Images of 40 x 30 pixels by identifier and name, read with these annotations."""
    entries = [{"id": key, "file_name": f"{name}.jpg", "width": 40, "height": 30} for key, name in images]
    for _, name in images:
        write_image(folder / f"{name}.jpg", 40, 30)
    (folder / "x.json").write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    )
    return read_coco(folder / "x.json", **options)


@pytest.mark.parametrize(("image", "other"), [(1, "1"), ("1", 1), (1, 1.0), ("1", "1.0"), ("img_1", "img_1")])
def test_ids_are_joined_across_types(image: object, other: object, tmp_path: Path) -> None:
    data = coco(tmp_path, [box(other, "1")], [(image, "a")])
    assert data[0][1]["boxes"].tolist() == [[1, 2, 11, 7]]
    assert data.findings.summary() == ""


def test_a_leading_zero_is_part_of_a_text(tmp_path: Path) -> None:
    data = coco(tmp_path, [box("007"), box(7, 2), box("7", 2, (0, 0, 5, 5))], [(7, "seven"), ("007", "bond")])
    labels = {file.rpartition("/")[2]: data[row][1]["labels"].tolist() for row, file in enumerate(data.pixels.files)}
    assert labels == {"seven.jpg": [2, 2], "bond.jpg": [1]}


def test_text_ids_stand_after_numbers_and_images_are_then_numbered_by_place(tmp_path: Path) -> None:
    data = coco(tmp_path, [box("b")], [("b", "b"), (12, "n12"), ("a", "a"), ("9", "n9")])
    assert [file.rpartition("/")[2] for file in data.pixels.files] == ["n9.jpg", "n12.jpg", "a.jpg", "b.jpg"]
    assert data.annotations.image_ids.tolist() == [0, 1, 2, 3]
    assert data.annotations.counts.tolist() == [0, 0, 0, 1]
    assert coco(tmp_path, [], [("12", "a"), (9, "b")]).annotations.image_ids.tolist() == [9, 12]
    assert coco(tmp_path, [], [(10**30, "a"), (9, "b")]).annotations.image_ids.tolist() == [0, 1]


def test_text_ids_of_categories(tmp_path: Path) -> None:
    categories = [{"id": "z", "name": "zebra"}, {"id": "a", "name": "ant"}]
    data = coco(tmp_path, [box(1, "z")], categories=categories)
    assert data.classes == ("ant", "zebra")
    assert data[0][1]["labels"].tolist() == [2]


def test_orphans_are_counted_and_a_set_of_orphans_is_refused(tmp_path: Path) -> None:
    data = coco(tmp_path, [box(1), box(8), box(1, 9), box(None), box(1, None)])
    assert data.findings.names == {"orphan": ["image_id 8", "category_id 9", "image_id None", "category_id None"]}
    assert len(data[0][1]["labels"]) == 1
    with pytest.raises(DataError, match=r"none of the annotations belongs .* image_id '01', the images have ids such "):
        coco(tmp_path, [box("01"), box(5)])
    with pytest.raises(DataError, match=r"category_id 0, the categories have ids such as 1, 2"):
        coco(tmp_path, [box(1, 0)])


@pytest.mark.parametrize(
    ("value", "crowd"), [(None, False), ("0", False), ("false", False), (0.0, False), ("1", True), ("yes", True)]
)
def test_crowds_are_parsed(value: object, crowd: bool, tmp_path: Path) -> None:
    data = coco(tmp_path, [box(1, iscrowd=value, segmentation=None, area=None)])
    assert data[0][1]["difficult"].tolist() == [crowd]
    assert data.findings.summary() == ""


def test_a_flag_that_says_neither_is_no_and_counted(tmp_path: Path) -> None:
    data = coco(tmp_path, [box(1, iscrowd="perhaps"), box(1, 2, iscrowd=2)])
    assert data[0][1]["difficult"].tolist() == [False, False]
    assert "2 objects whose `difficult` or `iscrowd` is neither yes nor no, taken as no (a.jpg)" in data.summary()


@pytest.mark.parametrize("bbox", [None, [], [1, 2, 3], [1, 2, 3, True], "1234", [1, 2, "nan", 4], [1, 2, 10**350, 4]])
def test_a_box_that_cannot_be_read_leaves_its_image_out(bbox: object, tmp_path: Path) -> None:
    data = coco(tmp_path, [box(1), box(1, 2, bbox), box(2)], [(1, "a"), (2, "b")])
    assert data.findings.names == {"broken": ["a.jpg"]}
    assert len(data) == 1


def test_null_lists(tmp_path: Path) -> None:
    data = coco(tmp_path, None)
    assert data.findings.names == {"empty": ["a.jpg"]}
    for text in ('{"images": null, "annotations": [], "categories": []}', '{"images": {}, "annotations": []}', "[]"):
        (tmp_path / "y.json").write_text(text)
        with pytest.raises(DataError, match="wanted"):
            read_coco(tmp_path / "y.json")
    with pytest.raises(DataError, match=r"annotations\[1\]"):
        coco(tmp_path, [box(1), None])
    with pytest.raises(DataError, match="no categories"):
        coco(tmp_path, [box(1)], categories=[])
    with pytest.raises(DataError, match=r"categories\[0\] is .*wanted an id and a name"):
        coco(tmp_path, [box(1)], categories=[{"id": 1, "name": None}])
    with pytest.raises(DataError, match="must be a whole number or a text"):
        coco(tmp_path, [box(1)], [(None, "a")])


def test_doubles_are_taken_once(tmp_path: Path) -> None:
    data = coco(tmp_path, [box(1), box("1"), box(2, 2)], [(1, "a"), ("1", "a"), (2, "a")], [*CATEGORIES, CATEGORIES[0]])
    assert data.findings.names == {"double": ["category cat", "a.jpg", "a.jpg", "a.jpg"]}
    assert len(data) == 1
    assert data[0][1]["labels"].tolist() == [1, 2]  # of both ids, the equal one once
    with pytest.raises(DataError, match="category 1 is 'cat' and 'cow'"):
        coco(tmp_path, [], categories=[{"id": 1, "name": "cat"}, {"id": "1", "name": "cow"}])


def test_images_that_share_an_id_are_left_out(tmp_path: Path) -> None:
    data = coco(tmp_path, [box(1), box(2)], [(1, "a"), ("1", "b"), (2, "c")])
    assert data.findings.names == {"same id": ["a.jpg", "b.jpg"], "orphan": ["image_id 1"]}
    assert [file.rpartition("/")[2] for file in data.pixels.files] == ["c.jpg"]


@pytest.mark.parametrize("width", [None, "wide", 0, 10**12, 2.5, True])
def test_an_image_without_a_size_is_left_out(width: object, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 40, 30)
    sizes = [("a", width), ("b", "40")]
    images = [{"id": name, "file_name": f"{name}.jpg", "width": w, "height": 30} for name, w in sizes]
    write_image(tmp_path / "b.jpg", 40, 30)
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "annotations": [], "categories": CATEGORIES}))
    data = read_coco(tmp_path / "x.json")
    assert data.findings.names == {"no size": ["a.jpg"], "empty": ["b.jpg"]}
    assert data[0][0].shape == (3, 30, 40)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/hostname", "sub/../../a.jpg", "C:\\a.jpg", "..\\a.jpg"])
def test_a_file_name_never_leaves_its_folder(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 40, 30)
    images = [{"id": 1, "file_name": name, "width": 40, "height": 30}]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.json").write_text(json.dumps({"images": images, "annotations": [], "categories": CATEGORIES}))
    with pytest.raises(DataError, match="leaves the folder of the images"):
        read_coco(tmp_path / "in" / "x.json")


@pytest.mark.parametrize(
    ("bbox", "classes", "words"),
    [
        ([3, 3, -2, 2], None, r"no object is left; .*without area.*; its objects are cat.*correct the boxes"),
        ([3, 3, 2, 2], ("Cat",), r"no object is left; .*its objects are cat, wanted Cat; did you mean 'cat'"),
        ([0.1, 0.2, 0.3, 0.4], None, r"all boxes lie within one pixel.*multiply fractions by the width and height"),
    ],
)
def test_a_set_whose_objects_are_all_lost_is_refused(
    bbox: list[float], classes: tuple[str, ...] | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        coco(tmp_path, [box(1, bbox=bbox)], categories=CATEGORIES[:1], classes=classes)


def test_another_size_than_the_images_own_is_named(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [("cat", (1, 1, 9, 9), False)], "b": [("cat", (1, 1, 9, 9), False)]})
    for name, size in {"a": (30, 40), "b": (40, 30)}.items():
        path = root / "Annotations" / f"{name}.xml"
        stated = f"<width>{size[0]}</width><height>{size[1]}</height>"
        path.write_text(path.read_text().replace("<width>0</width><height>0</height>", stated))
    data = read_voc(root, "test")
    assert data.findings.names == {"other size": ["a: 30 x 40, image 40 x 30, one of the two is turned"]}


def test_names_are_one_class_in_any_form_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = "p\u00e2t\u00e9", "pa\u0302te\u0301"
    root = write_voc(tmp_path, {"a": [(composed, (1, 1, 9, 9), False), (decomposed, (1, 1, 8, 8), False)]})
    assert read_voc(root, "test").classes == (composed,)
    assert read_voc(root, "test", (decomposed,))[0][1]["labels"].tolist() == [1, 1]


def test_an_annotation_may_stand_in_another_element_but_its_objects_not(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [("cat", (1, 1, 9, 9), False)], "b": [("cat", (1, 1, 9, 9), False)]})
    path = root / "Annotations" / "a.xml"
    text = path.read_text()
    path.write_text(f"<set>{text}</set>")
    assert len(read_voc(root, "test")[0][1]["labels"]) == 1
    for changed in (text.replace("annotation>", "doc>"), text.replace("<object>", "<objects><object>", 1)):
        path.write_text(
            changed.replace("</annotation>", "</objects></annotation>") if "objects" in changed else changed
        )
        assert read_voc(root, "test").findings.names == {"broken": ["a"]}


def test_a_link_that_leaves_the_folder_needs_the_callers_word(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"a": [("cat", (1, 1, 9, 9), False)]})
    inside = DataSource("voc", str(root), split="test")
    assert len(open_detection_dataset(inside)) == 1
    (root / "JPEGImages").rename(tmp_path / "elsewhere")
    (root / "JPEGImages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"a\.jpg is a link that leaves the folder .*voc, to .*elsewhere/a\.jpg; set"):
        open_detection_dataset(inside)
    assert len(open_detection_dataset(replace(inside, follow_links=True))) == 1


def test_a_class_is_named_once(tmp_path: Path) -> None:
    assert coco(tmp_path, [box(1)], classes=("cat", "zebra")).classes == ("cat", "zebra")  # a missing one is fine
    with pytest.raises(DataError, match="names the class 'cat' twice"):
        coco(tmp_path, [box(1)], classes=("cat", "cat"))


@pytest.mark.timeout(60)  # a search for each category would take minutes
def test_many_categories_take_no_time(tmp_path: Path) -> None:
    coco(tmp_path, [box(1)], categories=[{"id": n, "name": "same" if n % 2 else f"n{n}"} for n in range(30_000)])


@pytest.mark.parametrize(("text", "hard"), [("0", False), ("false", False), ("Unspecified", False), ("Yes", True)])
def test_difficult_is_parsed_not_tested_for_truth(text: str, hard: bool, tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [DOG]})
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<difficult>0<", f"<difficult>{text}<"))
    data = read_voc(root, "test")
    assert data[0][1]["difficult"].tolist() == [hard]
    assert data.findings.summary() == ""


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (("<xmin>2<", "<xmin>1,5<"), True),
        (("<xmin>2</xmin>", ""), True),
        (("<xmax>20<", "<xmax>inf<"), True),
        (("<xmax>20<", f"<xmax>{'9' * 500}<"), True),
        (("<name>dog</name>", "<name> </name>"), True),
        (("<annotation>", "<!DOCTYPE annotation><annotation>"), True),
        (("<annotation>", '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>'), True),
        (("<annotation>", "<annotation>" + "<a>" * 100), True),
        (("<annotation>", '<annotation xmlns="http://voc">'), False),
        (("<xmin>2<", "<xmin>2.0<"), False),
    ],
)
def test_xml_that_is_read_and_xml_that_is_not(change: tuple[str, str], broken: bool, tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [DOG], "b": [DOG]})
    path = root / "Annotations" / "a.xml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    data = read_voc(root, "test")
    assert data.findings.names == ({"broken": ["a"]} if broken else {})
    assert data[0][1]["boxes"].tolist() == [[1, 2, 20, 30]]


def test_prefixes_are_not_part_of_a_tag(tmp_path: Path) -> None:
    text = annotation([DOG]).replace("<", "<v:").replace("<v:/", "</v:")
    (tmp_path / "a.xml").write_text(text.replace("<v:annotation>", '<v:annotation xmlns:v="http://voc">'))
    assert read_annotation(tmp_path / "a.xml") == (("dog", (1, 2, 20, 30), False),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "gbk", "shift_jis"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    name = {"gbk": "狗", "shift_jis": "犬"}.get(encoding, "chien tacheté")
    declared = f'<?xml version="1.0" encoding="{codecs.lookup(encoding).name.removesuffix("-sig")}"?>\n'
    (tmp_path / "a.xml").write_bytes((declared + annotation([(name, (2, 3, 20, 30), False)])).encode(encoding))
    assert read_annotation(tmp_path / "a.xml") == ((name, (1, 2, 20, 30), False),)


@pytest.mark.timeout(60)
def test_an_entity_bomb_is_refused_at_once(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(30))
    (tmp_path / "a.xml").write_text(f"<!DOCTYPE x [{entities}]><annotation>&e29;</annotation>")
    with pytest.raises(ValueError, match="a document type or an entity"):
        read_xml(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_text("<annotation>" + "<o/>" * 400_000 + "</annotation>")
    with pytest.raises(ValueError, match="elements"):
        read_xml(tmp_path / "a.xml")


def test_lists_with_spaces_columns_comments_and_doubles(tmp_path: Path) -> None:
    root = write_voc(
        tmp_path, {"my cat 1": [DOG], "a": [DOG], "traffic light": [("traffic light", (2, 3, 9, 9), False)]}
    )
    (root / "ImageSets" / "Main" / "test.txt").write_bytes(
        "\ufeff# a comment\r\nmy cat 1\r\n\r\na  -1\r\ntraffic light\t1\r\na 1\r\ngone 0\r\n../../a\r\n".encode()
    )
    data = read_voc(root, "test")
    assert [Path(file).stem for file in data.pixels.files] == ["my cat 1", "a", "traffic light"]
    assert data.findings.names == {"double": ["a"], "missing": ["gone", "../../a"]}
    assert data.classes == ("dog", "traffic light")
    (root / "ImageSets" / "Main" / "test.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"test.txt is not UTF-8 text"):
        read_voc(root, "test")


def test_class_lists(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [DOG]})
    (root / "classes.txt").write_bytes("\ufeffdog\r\n\r\ntraffic light\r\n".encode())
    assert read_voc(root, "test").classes == ("dog", "traffic light")
    for text, message in (("dog\ndog\n", "names the class 'dog' twice"), ("\n", "names no class")):
        (root / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            read_voc(root, "test")


def test_boxes_from_zero_are_pointed_out(tmp_path: Path) -> None:
    data = read_voc(write_voc(tmp_path, {"a": [("dog", (0, 5, 20, 30), False)]}), "test")
    assert data.findings.names == {"from 0": ["a"], "clipped": ["a"]}
    assert data[0][1]["boxes"].tolist() == [[0, 4, 20, 30]]
    assert data.classes == VOC_CLASSES


@pytest.mark.parametrize("value", [None, True, "", " ", 1.5, [1], {}, float("nan")])
def test_what_is_not_an_id(value: object) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        identifier(value)


@pytest.mark.parametrize("value", [None, True, "", "nan", "inf", "1,5", "1_000", "1e999", 10**350, "\u0661", [1]])
def test_what_is_not_a_number(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        number(value)


def test_words_for_yes_and_no() -> None:
    assert [flag(v) for v in (True, 1, 1.0, "1", " TRUE ", "y")] == [True] * 6
    assert [flag(v) for v in (False, 0, 0.0, "0", "", None, "None", "No")] == [False] * 8
    assert [flag(v) for v in (2, -1, "2", "maybe", [], float("nan"))] == [None] * 6
    assert [leaves_folder(n) for n in ("a/b.jpg", "a..b", "\\\\host\\a", "a/..")] == [False, False, True, True]
