"""The package as a stranger gets it: a wheel, installed where nothing of the source tree is on the path."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from test_readme import ROOT, blocks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the project's own build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and of this one only the packages it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # no .pth in there is followed
    return programs


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, env=clean)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_everything_that_is_not_ignored(wheel: Path) -> None:
    source = ROOT / "src"
    wanted = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and ".egg-info" not in file.as_posix()
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert found == wanted
    assert {"adasap/py.typed", "adasap/data/imagenet_wnids.txt", "adasap/report/template/page.html"} <= found


def test_the_installed_program_helps(installed: Path, tmp_path: Path) -> None:
    assert "--task" in run(installed / "adasap", "demo", "--help", folder=tmp_path).stdout
    assert run(installed / "adasap", "--version", folder=tmp_path).stdout.startswith("adasap 0.")


FIVE_LINES = """
import torch, adasap
spec = adasap.ModelSpec("adasap:digits_net")
model = adasap.open_model(spec)
example_inputs = torch.zeros(1, 3, 32, 32)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
{block}
print(adasap.__file__)
print(type(adasap.load("small.safetensors")).__name__)
"""


def test_the_five_lines_of_the_readme_run_there(installed: Path, tmp_path: Path) -> None:
    (block,) = [block for block in blocks(ROOT / "README.md") if "apply_plan_" in block]
    (tmp_path / "program.py").write_text(FIVE_LINES.format(block=block))
    place, name = run(installed / "python", "program.py", folder=tmp_path).stdout.split("\n")[-3:-1]
    assert Path(place).is_relative_to(installed.parent)
    assert name == "DigitsNet"


def test_a_page_is_written_there(installed: Path, tmp_path: Path, tiny_recipe: object) -> None:
    """Also without assertions (`python -O`): the files of the page are in the wheel."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe()))  # type: ignore[operator]
    run(installed / "python", "-O", "-m", "adasap", "compress", "tiny.yaml", "--out", "runs", folder=tmp_path)
    assert "<html" in (tmp_path / "runs" / "tiny" / "report.html").read_text()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy: make lint installs it")
def test_types_are_known_there(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import adasap\nreveal_type(adasap.ModelSpec)\nadasap.ModelSpec(3)\n")
    others = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "torchvision", "numpy", "rich"))
    (tmp_path / "mypy.ini").write_text("[mypy]\n" + others)  # packages that are not looked at here, a minute of work
    command = [sys.executable, "-m", "mypy", "--python-executable", installed / "python", "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert 'Argument 1 to "ModelSpec" has incompatible type "int"; expected "str"' in done.stdout
    assert "missing library stubs or py.typed" not in done.stdout
