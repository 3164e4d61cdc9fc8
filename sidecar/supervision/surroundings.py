"""What a supervisor sees of the sidecar around the agent, and may do to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.proxy.attempt import Attempt
from sidecar.proxy.rejection import Reason
from sidecar.supervision.symptoms import Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clusters.cluster import Cluster
    from sidecar.clusters.endpoint import Endpoint
    from sidecar.store.interface import Store

_RETRY_AFTER = 1.0


class Surroundings(Protocol):
    """See `ClusterSurroundings`."""

    def hold(self, why: str | None) -> None:
        """Give the agent no RPC, because of `why`; None = give it RPCs."""

    def hurry(self) -> None:
        """It is back: connect to it now."""

    @property
    def is_connected(self) -> bool:
        """Can RPCs be sent to the agent?"""

    @property
    def in_flight(self) -> int:
        """RPCs that run at the agent."""

    def standing(self) -> Standing:
        """How they fare."""

    def clear_cache(self) -> int:
        """Forget recorded answers; how many there were."""

    @property
    def store(self) -> Store | None: ...

    def unreachable(self) -> list[str]:
        """Clusters, the agent's aside, that have endpoints and cannot reach one."""

    def reset(self, cluster: str) -> None:
        """Dial anew, names looked up again."""


class ClusterSurroundings:
    """The clusters of the generation in force."""

    def __init__(
        self,
        agent: str,
        parts: Callable[[], list[Cluster]],
        clear_cache: Callable[[], int],
        store: Store | None,
    ) -> None:
        self._agent = agent
        self._parts = parts
        self._clear_cache = clear_cache
        self._store = store

    def _endpoints(self) -> list[Endpoint]:
        return [endpoint for part in self._parts() if part.name == self._agent for endpoint in part.endpoints]

    def hold(self, why: str | None) -> None:
        rejection = None
        if why is not None:
            rejection = Reason.AGENT_NOT_READY.reject(
                f"the agent {why}", retry_after=_RETRY_AFTER, cluster=self._agent, cause=why
            )
        for part in self._parts():
            if part.name == self._agent:
                part.hold(rejection)

    def hurry(self) -> None:
        for each in self._endpoints():
            each.hurry()

    @property
    def is_connected(self) -> bool:
        endpoints = self._endpoints()
        return bool(endpoints) and all(each.is_ready for each in endpoints)

    @property
    def in_flight(self) -> int:
        return sum(each.in_flight for each in self._endpoints())

    def standing(self) -> Standing:
        owed = 0
        marks: list[tuple[int, ...]] = []
        for endpoint in self._endpoints():
            marks.append((endpoint.ended,))
            if not endpoint.in_flight:
                continue
            for stream in endpoint.streams():
                if isinstance(stream, Attempt):
                    # Complete here and not answered there; or it does not even take what it is sent.
                    owed += (stream.local_closed and not stream.responded) or stream.pending is not None
                    marks.append((stream.stream_id, stream.responded, stream.recv_window, stream.unacked))
        return Standing(owed, tuple(marks))

    def clear_cache(self) -> int:
        return self._clear_cache()

    @property
    def store(self) -> Store | None:
        return self._store

    def unreachable(self) -> list[str]:
        return [
            part.name
            for part in self._parts()
            if part.name != self._agent
            and (part.endpoints or part.unresolved)
            and not any(each.is_ready for each in part.endpoints)
        ]

    def reset(self, cluster: str) -> None:
        for part in self._parts():
            if part.name == cluster:
                part.reset()
