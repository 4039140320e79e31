"""What this router has sent to each replica and the replica's last heartbeat cannot have counted."""

from __future__ import annotations

from collections import Counter

from serve.registry import Snapshot
from serve.schemas import ReplicaState


class InFlight:
    """This router's own requests. For one event loop.

    A heartbeat shows the past: without this, a burst between two of them would all go to the replica that was
    idle when the last one was made.
    """

    def __init__(self) -> None:
        self.unreported: dict[str, int] = {}
        """By replica id, what to add to the reported `load.in_flight`; negative if more ended than began."""
        self._open: Counter[str] = Counter()
        self._reported: dict[str, ReplicaState] = {}

    def start(self, replica_id: str) -> None:
        self._open[replica_id] += 1
        self.unreported[replica_id] = self.unreported.get(replica_id, 0) + 1

    def finish(self, replica_id: str) -> None:
        """Once for each `start`, however the request ended."""
        self._open[replica_id] -= 1
        if not self._open[replica_id]:
            del self._open[replica_id]
        self.unreported[replica_id] = self.unreported.get(replica_id, 0) - 1

    def observe(self, snapshot: Snapshot) -> None:
        """Take in a new snapshot: a replica that reported anew has counted what it had received.

        Requests still on their way when it reported are kept: it cannot hold fewer than are open here.
        """
        reported = {state.replica_id: state for state in snapshot.replicas}
        for one, state in reported.items():
            if self._reported.get(one) != state:
                self.unreported[one] = max(0, self._open[one] - state.load.in_flight)
        self._reported = reported
        for one in [one for one in self.unreported if one not in reported and one not in self._open]:
            del self.unreported[one]
