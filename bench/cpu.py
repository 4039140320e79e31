"""How much CPU time each group of processes uses: says where the time of a request goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psutil

Groups = Mapping[str, Sequence[psutil.Process]]

ELSE = "everything else"
"""Other programs on the machine, and the kernel's own work."""


class CpuTime:
    """CPU seconds since the last `restart`, by group. `groups` names the processes as they are at the moment."""

    def __init__(self, groups: Callable[[], Groups]) -> None:
        self._groups = groups
        self._before: dict[psutil.Process, float] = {}
        self._machine = 0.0

    def restart(self) -> None:
        self._before = {one: _seconds(one) for group in self._groups().values() for one in group}
        self._machine = _machine_seconds()

    def used(self) -> dict[str, float]:
        """A process that ended meanwhile is not counted; one that began meanwhile is, from its beginning."""
        machine = _machine_seconds() - self._machine
        used = {
            name: sum(max(0.0, _seconds(one) - self._before.get(one, 0.0)) for one in processes)
            for name, processes in self._groups().items()
        }
        return used | {ELSE: max(0.0, machine - sum(used.values()))}


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _machine_seconds() -> float:
    """Every core's busy time together."""
    times = psutil.cpu_times()
    # `user` and `nice` hold the guests' times already.
    return times.user + times.nice + times.system + times.irq + times.softirq
