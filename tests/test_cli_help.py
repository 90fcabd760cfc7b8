"""Help, version and completion of the command line: complete, and there at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.cli.main import VERBS
from adasap.errors import DataError, ModelError, TraceError
from adasap.experiments import known_names as names
from adasap.experiments.examples import EXAMPLES
from adasap.experiments.progress import ProgressObserver
from adasap.experiments.terminal import open_progress
from adasap.profiling import ENGINES
from adasap.training import PhaseRecord

RUNNER = CliRunner()
NAMES = [verb.__name__ for verb in VERBS]
HEAVY = ("torch", "torchvision", "timm", "numpy", "plotly", "jinja2", "scipy", "sklearn", "yaml")


def run(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`adasap` in a process of its own, and after it the heavy modules that it imported, on stderr."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        f"{code}\nfrom adasap.cli import main\nsys.argv[0] = 'adasap'\nmain()"
    )
    variables = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=variables)


@pytest.mark.slow
def test_help_needs_neither_torch_nor_what_comes_with_it() -> None:
    """Of all verbs in one process: none of them may have imported it."""
    calls = (["--help"], ["-h"], ["--version"], *([verb, "-h"] for verb in NAMES))
    code = "from typer.testing import CliRunner\nfrom adasap.cli import app\nrunner = CliRunner()\n" + "".join(
        f"assert runner.invoke(app, {call}).exit_code == 0, {call}\n" for call in calls
    )
    done = run("--version", code=code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_version_is_printed() -> None:
    assert RUNNER.invoke(app, ["--version"]).output == f"adasap {adasap.__version__}\n"


@pytest.mark.parametrize("verb", NAMES)
def test_every_verb_has_examples_of_itself(verb: str) -> None:
    short, long = (RUNNER.invoke(app, [verb, flag], env={"COLUMNS": "200"}).output for flag in ("-h", "--help"))
    assert short == long
    assert f"adasap {verb}" in long.partition("Examples:")[2]


@pytest.mark.parametrize(("verb", "examples"), [(name, EXAMPLES[name]) for name in NAMES])
def test_examples_are_understood(verb: str, examples: tuple[str, ...]) -> None:
    """Every flag of an example is one of its verb."""
    text = RUNNER.invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output.partition("Examples:")[0]
    flags = [word for line in examples for word in line.split() if word.startswith("--")]
    assert [flag for flag in flags if not re.search(rf"{flag}\b", text)] == []


@pytest.mark.parametrize("verb", ["evaluate", "analyze", "profile", "groups", "export", "prune"])
def test_wherever_a_model_is_named_it_is_named_alike(verb: str) -> None:
    text = RUNNER.invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
    flags = ("--size", "--channels", "--weights", "--model-option", "--trust-builder")
    assert [flag for flag in flags if flag not in text] == []


def test_names_in_help_are_those_of_the_registries() -> None:
    from adasap.analysis import INSTRUMENTS
    from adasap.data import SOURCES, DataSource
    from adasap.evaluation import SUITES
    from adasap.export import TARGETS
    from adasap.models.builders import MODELS
    from adasap.processor import Precision
    from adasap.pruning.compensate import Compensate
    from adasap.pruning.ranking import Ranking

    assert list(SUITES) == list(names.SUITES)
    assert sorted(SOURCES) == sorted(names.DATA_KINDS)  # in the order of registration, which imports decide
    assert list(INSTRUMENTS) == list(names.INSTRUMENTS)
    assert list(TARGETS) == list(names.TARGETS)
    assert list(ENGINES) == list(names.ENGINES)
    assert sorted(f"adasap:{name}" for name in MODELS) == sorted(names.BUILDERS)
    assert get_args(Precision) == get_args(names.Precision)
    assert get_args(Ranking) == get_args(names.Ranking)
    assert sorted(get_args(Compensate)) == sorted(get_args(names.Compensate))
    assert get_type_hints(DataSource)["interpolation"] == names.Interpolation


def completed(line: str, folder: Path) -> list[str]:
    """What bash is told at the end of a line; no heavy module may have been imported for it."""
    words = line.split(" ")
    done = run(
        code=f"import os; os.chdir({str(folder)!r})",
        _ADASAP_COMPLETE="complete_bash",
        COMP_WORDS="\n".join(words),
        COMP_CWORD=str(len(words) - 1),
    )
    assert done.stderr.splitlines()[-1] == "[]"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("adasap e", ["evaluate", "export"]),
        ("adasap ch", ["check"]),
        ("adasap check vo", ["voc:", "voc-masks:"]),
        ("adasap check folder:fo", ["folder:folder/"]),
        ("adasap groups adasap:d", ["adasap:digits_net"]),
        ("adasap groups rec", ["recipe.yaml"]),
        ("adasap compress ", ["folder/", "recipe.yaml"]),
        ("adasap compress folder/", ["folder/model.safetensors"]),
        ("adasap evaluate x --suite imagenet-v2-t", ["imagenet-v2-threshold0.7", "imagenet-v2-top-images"]),
        ("adasap evaluate x --corruptions snow,fr", ["snow,frost"]),
        ("adasap analyze x --only wo", ["worst_case"]),
        ("adasap evaluate x --model-", ["--model-option"]),
    ],
)
def test_the_shell_completes(tmp_path: Path, line: str, words: list[str]) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").touch()
    assert completed(line, tmp_path) == words


@pytest.mark.parametrize(
    "arguments", [["groups"], ["groups", "x", "--sise", "3"], ["prune"], ["shrink"], ["profile", "x", "-q"]]
)
def test_wrong_calls_end_with_two_on_stderr(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["groups", "adasap:digits_net", "--size", "1000000"],
        ["profile", "adasap:digits_net", "--threads", "1000000"],
        ["profile", "adasap:digits_net", "--batch", "1000000000"],
        ["evaluate", "adasap:digits_net", "--seed", "-1"],
        ["evaluate", "adasap:digits_net", "--workers", "100000"],
        ["check", "digits:", "--workers", "100000"],
        ["demo", "--seed", str(2**63)],
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_imported(arguments: list[str]) -> None:
    test_wrong_calls_end_with_two_on_stderr(arguments)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e400"])
def test_no_comparison_takes_for_ever(seconds: str) -> None:
    with pytest.raises(ModelError, match=r"--seconds is .*; give a number from 0 to 3,600"):
        call("profile", "adasap:digits_net", "--seconds", seconds)


def call(*arguments: str) -> str:
    result = RUNNER.invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("to", ["safetensors", "torch-export"])
def test_other_channels_than_those_of_the_model_are_refused_before_a_file_is_kept(tmp_path: Path, to: str) -> None:
    with pytest.raises(TraceError, match=r"DigitsNet does not take these .* to have 3 channels"):
        call("export", "adasap:digits_net", str(tmp_path / "net"), "--to", to, "--mean", ".5", ".4", "--std", "1", "1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_lists_are_given_with_commas_or_repeated() -> None:
    images = ("adasap:digits_net", "--data", "digits:", "--count", "20")
    lists = ("--corruptions", "fog,frost", "--corruptions", "snow", "--severities", "1, 3")
    text = call("evaluate", *images, "--suite", "corrupted", *lists)
    assert re.findall(r"(fog|frost|snow|contrast) .* 1: [\d.]+, 3: [\d.]+", text) == ["fog", "frost", "snow"]
    with pytest.raises(DataError, match="--severities 12: give whole numbers from 1 to 5"):
        call("evaluate", *images, "--severities", "12")


@pytest.mark.slow
def test_a_named_model_takes_options_in_every_verb(tmp_path: Path) -> None:
    named = ("adasap:digits_net", "--model-option", "widths=[2, 4, 8]")
    assert "30 channels; 1,428 parameters" in call("groups", *named)
    call("export", *named, str(tmp_path / "net.safetensors"), "--to", "safetensors")
    model = adasap.load(tmp_path / "net.safetensors")
    assert [tuple(p.shape) for p in model.parameters()][-2:] == [(10, 8), (10,)]
    for wrong, message in {
        "widths=[": "not valid YAML",
        "widths=1e400": "not finite",
        "widths": "has no value",
    }.items():
        with pytest.raises(ModelError, match=message):
            call("groups", "adasap:digits_net", "--model-option", wrong)
    with pytest.raises(ModelError, match="given twice"):
        call("groups", *named, "--model-option", "widths=[2, 4, 8]")


HOSTILE = "a[red]b[bold"


@pytest.mark.slow
def test_brackets_in_names_are_printed_as_they_are(tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]) -> None:
    folder = tmp_path / "c[" / "d]e"  # `[/d]`, a closing tag that nothing opened
    folder.mkdir(parents=True)
    recipe = folder / "r.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(name=HOSTILE)))
    assert HOSTILE in call("compress", str(recipe), "--dry-run")
    assert f"unknown key '{HOSTILE}'" in run("compress", str(recipe), "--set", f"{HOSTILE}=1").stderr
    assert str(folder / "none.yaml") in run("compress", str(folder / "none.yaml")).stderr
    sweep = {"name": HOSTILE, "recipe": "r.yaml", "runs": {HOSTILE: {}}, "seeds": 1}
    (folder / "s.yaml").write_text(yaml.safe_dump(sweep))
    listed = call("sweep", str(folder / "s.yaml"), "--out", str(folder), "--dry-run")
    assert f"{HOSTILE}, seed 0: to run, {folder}" in listed


def test_progress_shows_titles_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, markup=False, highlight=False)
    with ProgressObserver(console, "[/x]") as progress:
        progress(PhaseRecord(step=0, phase="[/y]", stop=2, num_steps=2))
    with open_progress(console) as bar:
        bar.add_task("[/z]", total=1)
    printed = capsys.readouterr().out
    assert [title for title in ("[/x]", "[/y]", "[/z]") if title not in printed] == []


@pytest.mark.slow
def test_what_would_steer_a_terminal_is_spelt_out(tmp_path: Path) -> None:
    done = run("compress", str(tmp_path / "a\x1b[31m\u202eb.yaml"), PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert r"a\x1b[31m\u202eb.yaml" in done.stderr


@pytest.mark.slow
def test_help_and_errors_need_no_assertions() -> None:
    """`python -O` leaves out `assert`."""
    for arguments, code in ((["--help"], 0), (["groups", "adasap:digit_net"], 2)):
        done = subprocess.run([sys.executable, "-O", "-m", "adasap", *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert "did you mean 'digits_net'?" in done.stderr
