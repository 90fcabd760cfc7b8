"""Memory of the machine and of the container around this process: what may be allocated is judged by both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNKNOWN_BYTES = 1 << 33
"""Taken where the system says nothing."""


@dataclass(frozen=True)
class ControlGroup:
    """Where Linux says how much memory a group of processes may use.

    Attributes:
        folder: Of the group.
        limit, used: Names of the files.
        reclaimable: The line of `memory.stat` with what is given back when memory is short.
    """

    folder: Path
    limit: str
    used: str
    reclaimable: str

    def limit_bytes(self) -> int | None:
        """None without a limit."""
        return _number(self.folder / self.limit)

    def free_bytes(self) -> int | None:
        """Of the limit, what is not in use; None without a limit."""
        limit, used = self.limit_bytes(), _number(self.folder / self.used)
        return None if limit is None or used is None else max(limit - used + self._reclaimable_bytes(), 0)

    def _reclaimable_bytes(self) -> int:
        try:
            lines = (self.folder / "memory.stat").read_text().splitlines()
            return next((int(line.split()[1]) for line in lines if line.startswith(f"{self.reclaimable} ")), 0)
        except (OSError, ValueError, IndexError):
            return 0


def total_bytes() -> int:
    """Memory of the machine, or of its container if that has less.

    Example:
        >>> total_bytes() >= free_bytes() > 0
        True
    """
    return min([_machine_bytes(), *_known(group.limit_bytes() for group in control_groups())])


def free_bytes() -> int:
    """Memory that is free, of the machine or of its container, whichever has less."""
    return min([_available_bytes(), *_known(group.free_bytes() for group in control_groups())])


def control_groups(system: Path = Path("/")) -> list[ControlGroup]:
    """The groups of this process that limit memory, of version 2 and 1, and all groups above them.

    Within a container the path of its own group may not be there; then the root is its group.

    Args:
        system: The root of the file system.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    return [group for line in lines for group in _of_line(line, system / "sys/fs/cgroup")]


def _of_line(line: str, root: Path) -> Iterator[ControlGroup]:
    """The groups of a line `number:controllers:path`."""
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    own = Path(path.strip().lstrip("/"))
    if ".." in own.parts:  # outside of what this process sees
        own = Path()
    for part in (own, *own.parents) if own.parts else (own,):
        if not controllers:
            yield from (
                ControlGroup(base / part, "memory.max", "memory.current", "inactive_file")
                for base in (root, root / "unified")
            )
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield ControlGroup(root / "memory" / part, *names)


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_BYTES


def _available_bytes() -> int:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return _machine_bytes()


def _number(path: Path) -> int | None:
    """The number that a file holds; None for `max`, or if there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _known(values: Iterator[int | None]) -> Iterator[int]:
    return (value for value in values if value is not None)
