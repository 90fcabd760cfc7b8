"""Damages samples of every format and reads them: `python tests/fuzz/campaign.py --count 10000 --seed 0`.

Each case is a function of (seed, format, number). A hang over five seconds, growth over a gigabyte, an exception that
is not an `AdasapError`, code that runs, or damage that is accepted is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECONDS = 5.0
"""Of the process's own time: a busy machine is not a hang."""
PATIENCE = 60.0
"""By the clock, after which the process is ended."""
GROWTH = 1 << 30
NOT_THERE = None
"""What a reader gives for a file that is half-written: there is none yet."""
NAMES = (
    *(
        "model",
        "strange model",
        "weights",
        "plan",
        "recipe",
        "sweep",
        "table",
        "run",
        "page",
        "checkpoint",
        "image",
        "npz",
        "csv",
    ),
    *("voc", "coco", "masks", "coco masks", "names"),
)


def cases(count: int, only: list[str]) -> list[tuple[str, int]]:
    """Shares the cases out over the formats."""
    names = [name for name in NAMES if not only or name in only]
    return [(names[n % len(names)], n // len(names)) for n in range(count)]


def campaign(count: int, seed: int, only: list[str] | None = None) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Outcomes of all cases, and the findings among them."""
    todo = cases(count, only or [])
    todo.sort(key=lambda case: NAMES.index(case[0]))
    outcomes: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    done = 0
    while done < len(todo):
        for line in _worker(todo[done:], seed):
            done += 1
            outcomes[f"{line['format']}: {line['outcome']}"] += 1
            if line["outcome"] not in ("refused", "read"):
                findings.append(line)
    return outcomes, findings


def _worker(todo: list[tuple[str, int]], seed: int) -> Iterator[dict[str, Any]]:
    """Results of the cases one by one, until the process is through, dies or must be ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    current: tuple[str, int] | None = None
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "campaign.py"), "--worker", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(todo))
        process.stdin.close()
        watchdog = threading.Timer(PATIENCE * 3, process.kill)
        watchdog.start()
        for text in process.stdout:
            line = json.loads(text)
            watchdog.cancel()
            watchdog = threading.Timer(PATIENCE, process.kill)
            watchdog.start()
            if "begin" in line:
                current = tuple(line["begin"])
            else:
                current = None
                yield line
        watchdog.cancel()
        code = process.wait()
        complaints.seek(0)
        said = complaints.read()[-2000:]
    if current is not None:
        what = "hung" if code == -9 else f"died ({code})"
        yield {"format": current[0], "number": current[1], "outcome": what, "detail": ""}
    elif code:
        raise RuntimeError(f"the worker ended with {code} outside of a case: {said}")


def _work(seed: int) -> None:
    todo = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints does not mix with results

    def say(**line: Any) -> None:
        print(json.dumps(line), file=out, flush=True)

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from formats import FORMATS

    with tempfile.TemporaryDirectory() as root:
        ran = _watch_code()
        canary = Path(root) / "canary"
        samples: dict[str, Path] = {}
        meanings: dict[str, Any] = {}
        for name in sorted({name for name, _ in todo}):
            samples[name] = Path(root) / name
            samples[name].mkdir()
            FORMATS[name].make(samples[name])
            meanings[name] = FORMATS[name].read(samples[name])
        _limit_memory()
        for name, number in todo:
            form = FORMATS[name]
            say(begin=[name, number])
            ran.clear()
            outcome, detail = _case(form, samples[name], meanings[name], random.Random(f"{seed} {name} {number}"))
            if ran or canary.exists():
                outcome, detail = "code ran", str(ran[:3])
            say(format=name, number=number, outcome=outcome, detail=detail)


def _case(form: Any, folder: Path, meaning: Any, draw: random.Random) -> tuple[str, str]:
    """One damaged file, read; the file is put back."""
    from adasap.errors import AdasapError

    files = sorted({path for pattern in form.files for path in folder.glob(pattern) if path.is_file()})
    victim, whole = draw.choice(files), {path: path.read_bytes() for path in files}
    victim.write_bytes(form.damage(whole[victim], draw))
    if form.seal is not None and draw.random() < 0.5:
        form.seal(folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    outcome, detail = "read", ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = form.read(folder)
        if form.sealed and found not in (meaning, NOT_THERE):
            outcome, detail = "accepted", f"{victim.name} was altered"
    except AdasapError as error:
        outcome = "refused"
        if len(str(error)) < 15:
            outcome, detail = "mute", str(error)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "adasap" in frame.filename] or list(place)
        detail = f"{victim.name}: {type(error).__name__}: {str(error)[:200]} at {ours[-1].filename}:{ours[-1].lineno}"
        outcome = "raw exception"
    finally:
        if not folder.is_dir():
            folder.mkdir()
        for path, content in whole.items():
            path.write_bytes(content)
    if time.process_time() - started > SECONDS:
        outcome, detail = "slow", f"{time.process_time() - started:.1f} s, {victim.name}; {outcome} {detail}"
    if 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > GROWTH:
        outcome, detail = "grew", victim.name
    return outcome, detail


def _watch_code() -> list[str]:
    """Names of what starts programs or opens connections, as it happens."""
    ran: list[str] = []
    watched = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.remove"}

    def hook(event: str, arguments: Any) -> None:
        if event in watched and event != "os.remove":
            ran.append(event)

    sys.addaudithook(hook)
    return ran


def _limit_memory() -> None:
    """No case may reserve more than two gigabytes beyond what is there: it fails instead of filling the machine."""
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + 2 * GROWTH, resource.RLIM_INFINITY))


def main() -> int:
    """Prints outcomes; exit code 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=[])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        _work(options.worker)
        return 0
    outcomes, findings = campaign(options.count, options.seed, options.only)
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:6} {outcome}")
    for finding in findings:
        print(json.dumps(finding))
    print(f"{sum(outcomes.values())} cases, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
