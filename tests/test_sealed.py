"""What carries a digest comes back as it was, or not at all; what is cut short counts as not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adasap.errors import AdasapError, DataError, HalfWrittenError
from adasap.sealed import (
    is_whole_json,
    parse_sealed_json,
    read_sealed_json,
    read_sealed_tensors,
    sealed_json,
    write_sealed_json,
    write_sealed_tensors,
)

DATA = {"stage": "dense", "scores": {"fog/1": "0110"}, "mean": 0.5, "loss": [1e-3, -2.0], "none": None}


def parse(text: str, **options: Any) -> dict[str, Any]:
    return parse_sealed_json(text, where="a.json", error=DataError, remedy="remove it", **options)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", DATA | {"ece": float("nan"), "empty": {}})
    back = read_sealed_json(tmp_path / "a.json", what="scores", error=DataError, remedy="remove it")
    assert back == DATA | {"ece": None, "empty": {}}
    assert is_whole_json(tmp_path / "a.json")
    assert parse(json.dumps(json.loads(sealed_json(DATA)), indent=4)) == DATA  # laid out anew, it says the same


def test_every_altered_character_is_found() -> None:
    text = sealed_json(DATA).rstrip()
    for place in range(len(text)):
        for character in ("0", "7", '"', "}", "x"):
            altered = text[:place] + character + text[place + 1 :]
            if altered == text:
                continue
            with pytest.raises(AdasapError, match=r"a\.json"):
                parse(altered)


def test_every_cut_counts_as_not_there(tmp_path: Path) -> None:
    text = sealed_json(DATA).rstrip()
    for end in range(len(text)):
        with pytest.raises(HalfWrittenError, match="cut short"):
            parse(text[:end])
    (tmp_path / "a.json").write_text(text[:-1])
    assert not is_whole_json(tmp_path / "a.json")
    assert not is_whole_json(tmp_path / "none.json")
    with pytest.raises(HalfWrittenError):
        parse("\0" * 200)  # what some file systems leave after a power cut


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "a.json carries no digest: an earlier version wrote it, or it was altered; remove it"),
        ("[]", "a.json holds list instead of an object"),
        ('{"a": 1, "sha256": null}', "was altered or damaged"),
        ('{"a": 1, "sha256": ' + "[" * 20 + "]" * 20 + "}", "was altered or damaged"),
    ],
)
def test_json_that_is_none_of_ours_is_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse(text)


def test_files_of_earlier_versions_are_read_where_that_is_allowed() -> None:
    assert parse('{"a": 1}', needs_digest=False) == {"a": 1}
    with pytest.raises(DataError, match="digest does not match"):
        parse(sealed_json(DATA).replace("0.5", "0.9"), needs_digest=False)


def test_every_altered_byte_of_a_tensor_file_is_found_and_every_cut_counts_as_not_there(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.safetensors", {"w": torch.arange(3.0), "n": torch.tensor(7), "none": torch.empty(0)}
    write_sealed_tensors(path, tensors, {"state": '{"step": 3}'})
    texts, back = read_sealed_tensors(path, error=DataError, remedy="remove it")
    assert texts == {"state": '{"step": 3}'}
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((DataError, HalfWrittenError), match=r"a\.safetensors"):
            read_sealed_tensors(path, error=DataError, remedy="remove it")
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(HalfWrittenError, match="cut short"):
            read_sealed_tensors(path, error=DataError, remedy="remove it")
