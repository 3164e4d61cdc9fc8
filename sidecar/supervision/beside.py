"""Puts a supervisor beside a process: the command of its configuration, its agent's cluster, its orphans."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sidecar.supervision.child import Launch
from sidecar.supervision.orphans import Orphans
from sidecar.supervision.supervisor import Supervisor
from sidecar.supervision.surroundings import ClusterSurroundings

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clusters.cluster import Cluster
    from sidecar.config.root import Root
    from sidecar.runtime import Runtime
    from sidecar.supervision.ended import Ended


class Beside:
    """What lives as long as the agent is supervised."""

    def __init__(
        self,
        root: Root,
        runtime: Runtime,
        *,
        parts: Callable[[], list[Cluster]],
        clear_cache: Callable[[], int],
        once: Callable[[Ended | None], None] | None = None,
    ) -> None:
        """`parts`: the clusters in force; `once`: see `Supervisor`. `root.agent` is configured."""
        config = root.agent
        assert config is not None
        launch = Launch(
            config.command,
            address=root.clusters[config.cluster].endpoints[0],
            service=config.ready.health_check.service,
            environ={**os.environ, **config.environment},
            passes_output=once is not None,
        )
        self._orphans = Orphans(runtime)
        self.supervisor = Supervisor(
            config,
            launch,
            ClusterSurroundings(config.cluster, parts, clear_cache, runtime.store),
            runtime,
            drain_timeout=root.drain_timeout,
            once=once,
        )

    def begin(self) -> None:
        self._orphans.start()
        self.supervisor.begin()

    async def close(self, *, at_once: bool = False) -> Ended | None:
        """Stop the agent: in good order, or at once. How it ended; None = it never ran."""
        ended = await self.supervisor.close(at_once=at_once)
        self._orphans.close()
        return ended
