"""The scripts of examples/ in pairs, without adasap and with it: they run, and the pages show what differs."""

from __future__ import annotations

import difflib
import re
import runpy
import warnings
from pathlib import Path

import pytest

from test_readme import ROOT, blocks

LOOPS = ("plain_loop", "accelerate_loop", "timm_loop")


def source(name: str) -> list[str]:
    return (ROOT / "examples" / f"{name}.py").read_text().splitlines()


@pytest.mark.parametrize("name", LOOPS)
def test_the_page_shows_what_a_loop_needs(name: str) -> None:
    lines = list(difflib.unified_diff(source(name), source(f"{name}_adasap"), lineterm="", n=0))[2:]
    shown = [line for line in lines if not line.startswith("@@")]
    code = [line for line in shown if '"""' not in line]
    assert len([line for line in code if line.strip("+-")]) < 15
    assert len(source(f"{name}_adasap")) < 80
    assert "\n".join(code) in "".join(blocks(ROOT / "docs" / "own-loop.md", "diff"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_with_adasap_halves_the_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for script in (name, f"{name}_adasap"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(Path(ROOT / "examples" / f"{script}.py")), run_name="__main__")
        (size,) = re.findall(r"([\d,]+) parameters", capsys.readouterr().out)
        sizes.append(int(size.replace(",", "")))
    assert sizes[1] < 0.8 * sizes[0]
