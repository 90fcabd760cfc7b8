"""Memory that may be taken: of the machine, and of the container around the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from adasap import machine_memory
from adasap.data.headers import require_memory
from adasap.errors import DataError, ModelError
from adasap.models.open import ModelSpec, open_model

Kind = tuple[str, str, str, str]
GIB = 1 << 30
V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
HYBRID = ("sys/fs/cgroup/unified", "memory.max", "memory.current", "inactive_file")
V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def system(root: Path, kind: Kind, member: str, limits: dict[str, str]) -> Path:
    """A file system with groups of processes: path -> limit; each uses 1 GiB, a quarter of it given back on demand."""
    base, limit_name, used_name, reclaimable = kind
    (root / "proc/self").mkdir(parents=True)
    controllers = "5:cpu,memory:" if kind is V1 else "0::"
    (root / "proc/self/cgroup").write_text(f"7:pids:/elsewhere\nnonsense\n{controllers}{member}\n")
    for path, limit in limits.items():
        folder = root / base / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit_name).write_text(f"{limit}\n")
        (folder / used_name).write_text(f"{GIB}\n")
        (folder / "memory.stat").write_text(f"cache 5\n{reclaimable} {GIB // 4}\n")
    return root


@pytest.mark.parametrize("kind", [V2, HYBRID, V1])
@pytest.mark.parametrize(
    ("member", "limits"),
    [
        ("/pod/app", {"pod/app": str(2 * GIB)}),
        ("/pod/app", {"pod/app": "max", "pod": str(2 * GIB)}),
        ("/pod/app", {"pod/app": str(4 * GIB), "pod": str(2 * GIB)}),
        ("/docker/not/there", {"": str(2 * GIB)}),
        ("/../../outside", {"": str(2 * GIB)}),
        ("/", {"": str(2 * GIB)}),
    ],
)
def test_the_least_limit_of_all_groups_counts(
    kind: Kind,
    member: str,
    limits: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = system(tmp_path, kind, member, limits)
    groups = machine_memory.control_groups(root)
    monkeypatch.setattr(machine_memory, "control_groups", lambda: groups)
    monkeypatch.setattr(machine_memory, "_machine_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(machine_memory, "_available_bytes", lambda: 32 * GIB)
    assert machine_memory.total_bytes() == 2 * GIB
    assert machine_memory.free_bytes() == 2 * GIB - GIB + GIB // 4
    with pytest.raises(DataError, match=r"more than half of the memory \(1\.0 GiB\)"):
        require_memory(GIB + 1, "x.npz")
    with pytest.raises(ModelError, match=r"at most .* numbers are built"):
        open_model(ModelSpec("adasap:digits_net", {"widths": [1000, 20_000]}))


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "-1x", ""])
def test_without_a_limit_the_machine_counts(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = machine_memory.control_groups(system(tmp_path, V2, "/app", {"app": limit}))
    monkeypatch.setattr(machine_memory, "control_groups", lambda: groups)
    monkeypatch.setattr(machine_memory, "_machine_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(machine_memory, "_available_bytes", lambda: 32 * GIB)
    assert machine_memory.total_bytes() == 64 * GIB
    assert machine_memory.free_bytes() == 32 * GIB


def test_a_system_without_groups_has_none(tmp_path: Path) -> None:
    assert machine_memory.control_groups(tmp_path) == []
