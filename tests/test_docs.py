"""The documentation as a site: it builds without a warning, and the code of its guide runs page by page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from adasap.evaluation import SUITES
from adasap.experiments.recipe import parse_recipe
from test_readme import ROOT, blocks

PAGES = (
    *("index", "groups", "radii", "extras", "extending", "evaluation", "detectors", "detection-data", "segmentation"),
    *("analysis", "command-line", "compensation", "depth", "faq", "hub", "int8", "exported-files"),
)


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "reference" / "sharpness.html").read_text()
    assert "Radius of the most important channel." in page


@pytest.mark.slow
@pytest.mark.usefixtures("registered_for_a_test")
@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(SUITES)  # filled
    monkeypatch.setattr(SUITES, "_entries", dict(SUITES._entries))  # a page registers one of its own
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    code = blocks(ROOT / "docs" / f"{name}.md")
    assert code
    for block in code:
        exec(block, names)


def test_every_page_of_the_guide_with_code_is_run() -> None:
    """`migration`, `lightning` and others have tests of their own; `architecture` shows signatures."""
    elsewhere = {"migration", "robustness", "criteria", "architecture", "lightning", "transformers"} | {"ultralytics"}
    with_code = {path.stem for path in (ROOT / "docs").rglob("*.md") if blocks(path)}
    assert with_code - elsewhere == set(PAGES)


def test_the_recipes_of_the_guide_are_recipes() -> None:
    (quick_start,) = blocks(ROOT / "docs" / "index.md", "yaml")
    recipe = yaml.safe_load(quick_start)
    assert parse_recipe(recipe).pruning.criterion == "taylor"
    for page, rhos in {"radii": [0.5, 2.0], "cheaper-steps": [0.5]}.items():
        sections = blocks(ROOT / "docs" / f"{page}.md", "yaml")
        assert [parse_recipe(recipe | yaml.safe_load(s)).fine_tune.sharpness.rho for s in sections] == rhos


def test_every_page_is_in_the_navigation() -> None:
    navigation = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert navigation == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_the_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    walks = text[text.index("## One image") : text.index("## The nouns")]
    named = set(re.findall(r"`([\w/]+\.py)`", walks))
    assert len(named) > 25
    assert [name for name in sorted(named) if not (ROOT / "src" / "adasap" / name).is_file()] == []


def test_what_an_addition_touches_is_there() -> None:
    named = re.findall(r"`((?:src|docs|tests)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []
    assert [path for path in named if "NAME" in path and not (ROOT / path).parent.is_dir()] == []
