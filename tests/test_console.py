"""Names on the terminal and in Markdown: whatever a class, a suite or a run is called is printed as it is."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table as RichTable

from adasap.cli.main import main
from adasap.experiments.progress import ProgressObserver
from adasap.experiments.terminal import PlainColumn, PlainConsole
from adasap.report import Table
from adasap.training import PhaseRecord, StageRecord

HOSTILE = ["[bold]cat", "[/]", "[/red]", "[link=file:///etc/passwd]x", ":smile:", "\\[", "a[b]c\\", "[@click=quit]"]


def shown(thing: object, **options: object) -> str:
    console = PlainConsole(
        file=io.StringIO(), width=200, markup=False, emoji=False, highlight=False, force_terminal=False
    )
    console.print(thing, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_printed_as_they_are(name: str) -> None:
    assert shown(f"{name}: 1.0") == f"{name}: 1.0\n"
    assert shown(Table(["class", name], [[name, "1"]])).count(name) == 2
    table = RichTable(name, title=name)
    table.add_row(name)
    assert shown(table).count(name) == 3
    assert shown(name, style="bold", highlight=False) == f"{name}\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_progress_prints_names_as_they_are(name: str) -> None:
    console = PlainConsole(
        file=io.StringIO(), width=200, markup=False, emoji=False, highlight=False, force_terminal=True
    )
    with Progress(PlainColumn("{task.description}"), PlainColumn("{task.fields[detail]}"), console=console) as progress:
        progress.add_task(name, detail=f"<{name}>")
        assert [cell.plain for cell in map(_first_row, progress.make_tasks_table(progress.tasks).columns)] == [
            name,
            f"<{name}>",
        ]
    with ProgressObserver(console, name) as observer:
        observer(StageRecord(step=0, stage="dense", scores={name: 0.5}, seconds=0.0))
        observer(PhaseRecord(step=0, phase="warm-up", stop=1, num_steps=1))
    assert f"{name}: dense        {name} 50.00 %" in console.file.getvalue()  # type: ignore[attr-defined]


def _first_row(column: object) -> object:
    return next(iter(column.cells))  # type: ignore[attr-defined]


def test_nothing_steers_the_terminal() -> None:
    name = "\x1b[2J\x1b]8;;http://x\x07\x9b31m\u202ecat\r"
    for thing in (name, Table([name], [[name]])):
        text = shown(thing)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert "\\x1b[2J" in text


def test_an_error_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["adasap", "compare", "nowhere/[/red]:smile:\x1b[2J"])
    with pytest.raises(SystemExit, match="2"):
        main()
    text = "".join(capsys.readouterr().err.split("\n"))
    assert text.startswith("DataError: nowhere/[/red]:smile:\\x1b[2J")


def test_markdown_cells_end_no_column_and_begin_no_tag(tmp_path: Path) -> None:
    table = str(Table(["run", "p"], [["a|b\nc", "< 0.001"], ["<img src=x>", "</td>"]]))
    assert table.splitlines()[2:] == ["| a\\|b c | < 0.001 |", "| &lt;img src=x> | &lt;/td> |"]
