"""How many threads compute, and whether other processes need the cores."""

from __future__ import annotations

import os
import time

from ..errors import RequestError

BUSY = 0.25  # of the cores, used by other processes
SHORTEST = 0.1  # seconds over which that is measured at least
IDLE = (3, 4)  # idle, waiting for a disk: columns of the lines of /proc/stat


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """Return a number of threads, one for each core if None is given.

    Raises:
        RequestError: it is out of range.
    """
    cores = usable_cores()
    most = max(64, 4 * cores)  # far more would only take long to start
    if threads is not None and (type(threads) is not int or not 1 <= threads <= most):
        raise RequestError(f"threads must be 1 to {most} on {cores} cores, not {threads!r:.40}")
    return threads or cores


class OtherProcesses:
    """Measures how much of the machine other processes use, from its creation on."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), _seconds_of_others()

    def cores(self) -> float:
        """Return how many cores they have used on average; 0.0 where the system does not tell."""
        time.sleep(max(0.0, SHORTEST - (time.monotonic() - self._began)))
        seconds, used = time.monotonic() - self._began, _seconds_of_others()
        return 0.0 if used is None or self._used is None else max(0.0, (used - self._used) / seconds)

    def need_cores(self) -> bool:
        """Return whether they use so much that threads should not spin while they wait."""
        return self.cores() >= BUSY * usable_cores()


def _seconds_of_others() -> float | None:
    """Return the time that our cores have worked for other processes, since the start of the machine."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            lines = dict(line.split(maxsplit=1) for line in file if line.startswith("cpu"))
        ticks = [list(map(int, lines[f"cpu{core}"].split()[:8])) for core in os.sched_getaffinity(0)]
        used = sum(count for row in ticks for column, count in enumerate(row) if column not in IDLE)
        return used / os.sysconf("SC_CLK_TCK") - time.process_time()
    except (OSError, ValueError, LookupError, AttributeError):
        return None
