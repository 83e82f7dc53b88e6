"""How much memory this process may use: the free memory of the machine, within the limits of its cgroups."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes() -> int:
    """Return how many more bytes this process could use: the system's free memory, or less under a cgroup limit."""
    available = [_meminfo_available()]
    for limit_file, usage_file in _cgroup_files():
        try:
            limit, usage = int(limit_file.read_text()), int(usage_file.read_text())
        except (OSError, ValueError):  # 'max' means no limit
            continue
        # The kernel counts page cache as usage, but drops it before it kills a process. So it does not count here.
        droppable = _inactive_file(limit_file.parent / "memory.stat")
        available.append(max(0, limit - usage + droppable))
    return min(available)


def _meminfo_available() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30  # a guess, on systems that do not report it


def _cgroup_files() -> list[tuple[Path, Path]]:
    """Return the (limit, usage) files of the memory cgroup of this process and of its parents, v1 and v2."""
    files = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = root / path.lstrip("/")
        while True:
            files.append((group / names[0], group / names[1]))
            if group in (root, group.parent):
                break
            group = group.parent
    return files


def _inactive_file(stat: Path) -> int:
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
