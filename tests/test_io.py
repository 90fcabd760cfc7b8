"""A file is replaced whole or not at all; what is read is not believed."""

import errno
import itertools
import os
from pathlib import Path

import pytest
import yaml

from adasap.errors import DataError
from adasap.io import atomic_write, dump_yaml, parse_json, parse_yaml, read_text


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    _write(tmp_path / "a", b"old")
    _write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_readers_see_the_old_content_until_the_end(tmp_path: Path) -> None:
    _write(tmp_path / "a", b"old")
    with atomic_write(tmp_path / "a") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    _write(tmp_path / "a", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_interrupt_keeps_the_old_file(tmp_path: Path) -> None:
    _write(tmp_path / "a", b"old")

    def interrupted() -> None:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    _write(tmp_path / "a", b"old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    _write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _write(tmp_path / "no" / "a", b"x")


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    _write(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[NaN]", "not finite"),
        ("[1e400]", "not finite"),
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, "5,000 digits"),
        ('{"a": ', "not valid JSON"),
    ],
)
def test_json_is_read_with_suspicion(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_json(text, where="x.json", error=DataError)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' is given twice"),
        ("a: .inf", "not finite"),
        ("a: 1.0e+999", "not finite"),
        ("a: .nan", "not finite"),
        (BOMB, "aliases"),
        ("a: &a [*a]", "nested"),
        ("[" * 5000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        ("a: " + "9" * 5000, "5,000 characters"),
        ("a: !!python/object/apply:os.system [date]", "line 1: .*os.system' is not read"),
        ("a: !!set {b}", "'tag:yaml.org,2002:set' is not read"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!bool maybe", "not valid YAML"),
        ("? [a]\n: 1", "not text; put it in quotes"),
        ("a: 1\nno: 1", "line 2: the key no is not text; put it in quotes"),
        ("x" * 100_001, "at most 100,000"),
    ],
)
def test_yaml_is_read_with_suspicion(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_yaml(text, where="x.yaml", error=DataError)


def test_ordinary_yaml_means_what_the_safe_loader_says() -> None:
    text = "base: &b {x: 1, y: [1.5, yes, null]}\nover: {<<: *b, x: 2}\nagain: *b"
    assert parse_yaml(text, where="x.yaml", error=DataError) == yaml.safe_load(text)
    assert parse_yaml("", where="x.yaml", error=DataError) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-.5E+3", -500.0),
        ("1e5", 100000.0),
        ("'1e5'", "1e5"),
        ("1e", "1e"),
        ("12e5x", "12e5x"),
        ("2026-01-31", "2026-01-31"),
    ],
)
def test_numbers_with_an_exponent_are_numbers_and_dates_are_text(text: str, value: float | str) -> None:
    read = parse_yaml(text, where="x.yaml", error=DataError)
    assert read == value
    assert type(read) is type(value)
    assert parse_yaml(dump_yaml([value]), where="x.yaml", error=DataError) == [value]


def test_text_comes_without_its_byte_order_mark_and_problems_are_sentences(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(file, what="a table", error=DataError) == "{}"
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="not UTF-8"):
        read_text(file, what="a table", error=DataError)
    with pytest.raises(DataError, match="at most 1"):
        read_text(file, what="a table", error=DataError, most_bytes=1)
    for path in (tmp_path, tmp_path / "b", file / "c", "a\0b", "/dev/zero"):
        with pytest.raises(DataError, match="a table"):
            read_text(path, what="a table", error=DataError)
