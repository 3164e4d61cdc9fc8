"""All rollouts of a process, and what can be asked of them: the one door for the command line, the admin API and the dashboard.

    rollouts.all()                     → a description of each, as plain data
    rollouts.one(cluster)              → one of them
    await rollouts.order(cluster, "pause", by="admin")   → its description after that

Orders are start, pause, resume, promote, abort. What cannot be done is refused with a reason, and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.rollout import progress
from sidecar.rollout.controller import Controller, split_of
from sidecar.rollout.progress import Refused
from sidecar.rollout.record import Record
from sidecar.rollout.state import Phase, State, revision_of
from sidecar.store.interface import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.clusters.versions import Split, VersionedCluster
    from sidecar.config.clusters import ClusterConfig
    from sidecar.rollout.config import RolloutConfig
    from sidecar.runtime import Runtime
    from sidecar.store.interface import Store

__all__ = ["ORDERS", "NoSuchRollout", "Refused", "Rollouts", "StoreUnavailable"]

ORDERS: dict[str, Callable[[State, RolloutConfig, float, str], State]] = {
    "start": progress.begun,
    "pause": progress.paused,
    "resume": progress.resumed,
    "promote": progress.promoted,
    "abort": progress.aborted,
}


class NoSuchRollout(LookupError):
    """No cluster of that name has a rollout; the text names those that have."""


class Rollouts:
    """Lives as long as the process; `adopt` follows each reload."""

    def __init__(self, runtime: Runtime, moved: Callable[[dict[str, Any]], None]) -> None:
        """`moved` gets every transition that is decided here."""
        from sidecar.store.memory import MemoryStore

        self._runtime = runtime
        self._moved = moved
        # Without a store of its own a sidecar agrees with itself; a restart begins anew.
        self._store: Store = runtime.store or MemoryStore(runtime.clock)
        self._owner = runtime.new_request_id().decode()
        self._controllers: dict[str, Controller] = {}
        self._known: dict[tuple[str, str], State] = {}

    # ── life ──

    async def recall(self, clusters: Mapping[str, ClusterConfig]) -> None:
        """Before anything is served: where do the rollouts stand? A store that does not answer is told of, and asked again later."""
        for name, config in clusters.items():
            if config.rollout is None:
                continue
            revision = revision_of(config.rollout, config.versions)
            try:
                self._known[name, revision] = await Record(self._store, name, revision, self._owner).read()
            except StoreUnavailable as error:
                self._runtime.log.warning(
                    "state of rollout unknown, stable gets everything", extra={"cluster": name, "cause": str(error)}
                )

    def split(self, name: str, config: ClusterConfig) -> Split:
        """Who gets what, as far as is known, in a cluster that is about to be built."""
        from sidecar.clusters.versions import Split

        if config.rollout is None:
            return Split(next(iter(config.versions)))
        return split_of(config.rollout, self._state(name, config), name)

    def needs(self, name: str, config: ClusterConfig, version: str) -> bool:
        """Has `version` anything to do, now or when what runs is sent back?"""
        rollout = config.rollout
        if rollout is None:
            return version == next(iter(config.versions))
        state = self._state(name, config)
        if version == rollout.stable:
            is_kept = state.kept_until is None or self._runtime.clock.wall() < state.kept_until
            return state.phase is not Phase.PROMOTED or is_kept
        return version == rollout.candidate and (state.is_running or state.phase is Phase.PROMOTED)

    def _state(self, name: str, config: ClusterConfig) -> State:
        assert config.rollout is not None
        revision = revision_of(config.rollout, config.versions)
        running = self._controllers.get(name)
        if running is not None and running.state.revision == revision:
            return running.state
        return self._known.get((name, revision), State(revision))

    def adopt(self, clusters: Mapping[str, tuple[ClusterConfig, VersionedCluster]]) -> None:
        """These are in force now, with their configuration; a controller whose cluster is still the same goes on."""
        former = self._controllers
        self._controllers = {}
        for name, (config, cluster) in clusters.items():
            if config.rollout is None:
                continue
            running = former.pop(name, None)
            if running is not None and running.cluster is cluster:
                self._controllers[name] = running
                continue
            state = self._state(name, config) if running is None else self._continued(running, name, config)
            if running is not None:
                running.close()
            revision = state.revision
            controller = Controller(
                config.rollout,
                cluster,
                Record(self._store, name, revision, self._owner),
                state=state,
                owner=self._owner,
                runtime=self._runtime,
                moved=self._moved,
            )
            self._controllers[name] = controller
            self._runtime.spawn(controller.run(), f"rollout {name}")
        for each in former.values():
            each.close()

    def _continued(self, running: Controller, name: str, config: ClusterConfig) -> State:
        assert config.rollout is not None
        revision = revision_of(config.rollout, config.versions)
        return (
            running.state if running.state.revision == revision else self._known.get((name, revision), State(revision))
        )

    def close(self) -> None:
        for each in self._controllers.values():
            each.close()

    # ── what can be asked ──

    def all(self) -> list[dict[str, Any]]:
        return [each.describe() for each in self._controllers.values()]

    def one(self, cluster: str) -> dict[str, Any]:
        """Raises NoSuchRollout."""
        return self._find(cluster).describe()

    async def order(self, cluster: str, order: str, *, by: str) -> dict[str, Any]:
        """Do it, and say where the rollout stands then; `by` is noted. Raises NoSuchRollout, Refused, StoreUnavailable."""
        controller = self._find(cluster)
        change = ORDERS.get(order)
        if change is None:
            raise Refused(f"{order} is nothing to ask of a rollout; allowed: {', '.join(ORDERS)}")
        await controller.order(change, by)
        return controller.describe()

    def _find(self, cluster: str) -> Controller:
        found = self._controllers.get(cluster)
        if found is None:
            known = ", ".join(sorted(self._controllers)) or "none"
            raise NoSuchRollout(f"no rollout is configured for cluster {cluster!r}; known: {known}")
        return found
