"""A cluster of versions: each call goes to one of them, by a share, by who calls, or by what a tester asks for.

Which versions there are and what share each gets is one immutable `Split`, replaced in one assignment: no call sees the share of one
and the set of another. Why is the draw corrected by what was drawn before, and not left to chance alone? Over 10,000 RPCs chance
strays a point from 50 % every twentieth time; the correction keeps the share exact without making its order foreseeable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.clusters.cluster import Cluster
from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.tally import Tally, TimedAttempt
from sidecar.proxy import dispatch
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.proxy.selectors import compile_selector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from sidecar.clusters.cluster import ClusterRules
    from sidecar.clusters.upstream import UpstreamOptions
    from sidecar.http2.connection import Connection
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome
    from sidecar.proxy.selectors import Selector
    from sidecar.runtime import Runtime
    from sidecar.transport.socket import Flusher

HEADER = b"x-sidecar-version"


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what: `percent` of the new RPCs go to `candidate`, the rest to `stable`."""

    stable: str
    candidate: str | None = None
    percent: float = 0.0
    salt: str = ""
    """Of the sticky choice: another rollout begins with other callers."""
    may_rescue: bool = False
    """The candidate has stood its first step: it takes what stable cannot."""


@dataclass(frozen=True, slots=True)
class Selection:
    """How a call chooses, as configured."""

    sticky: str | None = None
    """A selector (`identity`, `metadata.x-session`); None = each RPC on its own."""
    override_roles: frozenset[str] = frozenset()
    override_rules: frozenset[str] = frozenset()


class CountedEndpoint(Endpoint):
    """An endpoint of a version: what its attempts come to is counted."""

    __slots__ = ("tally",)

    attempt_type = TimedAttempt

    def __init__(self, address: str, *, tally: Tally, **more: Any) -> None:
        super().__init__(address, **more)
        self.tally = tally

    def started(self, attempt: Attempt) -> None:
        super().started(attempt)
        assert isinstance(attempt, TimedAttempt)
        self.tally.begin(attempt, self._runtime.clock.monotonic())

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        assert isinstance(attempt, TimedAttempt)
        self.tally.end(attempt, outcome, self._runtime.clock.monotonic())
        super().finished(attempt, outcome)


class Version:
    """One version: its endpoints, and what they have done."""

    __slots__ = ("cluster", "name", "tally")

    def __init__(self, name: str, cluster: Cluster, tally: Tally) -> None:
        self.name = name
        self.cluster = cluster
        self.tally = tally

    @property
    def is_serving(self) -> bool:
        """Is at least one endpoint connected, healthy and not kept out by its circuit breaker?"""
        return any(each.is_ready and each.vitals.is_fit and each.vitals.admits for each in self.cluster.endpoints)

    @property
    def scheme(self) -> str:
        return self.cluster.scheme

    @property
    def problem(self) -> str:
        """Why it is not serving, in words."""
        causes = []
        for each in self.cluster.endpoints:
            vitals = each.vitals
            if not vitals.is_healthy and vitals.health is not None:
                causes.append(f"{each.address} is not healthy: {vitals.health.why}")
            elif not each.is_ready:
                causes.append(f"{each.address} cannot be reached: {each.last_error or 'not connected yet'}")
            elif vitals.is_ejected:
                causes.append(f"{each.address} is ejected")
            elif not vitals.admits:
                causes.append(f"the circuit breaker of {each.address} is open")
        return "; ".join(causes) or "it has no endpoint"


class VersionedCluster:
    """Where a route leads that has versions. `pick` reads the split; `apply` replaces it."""

    def __init__(
        self,
        name: str,
        versions: Mapping[str, tuple[str, ...]],
        *,
        split: Split,
        selection: Selection,
        runtime: Runtime,
        flusher: Flusher,
        options: UpstreamOptions,
        rules: ClusterRules,
        connections: int = 1,
        rated_by: bytes | None = None,
    ) -> None:
        """`versions`: the addresses of each, by its name; `rated_by`: the trailer that tells what callers think of an answer."""
        self.name = name
        self.rules = rules
        self._runtime = runtime
        self.versions: dict[str, Version] = {}
        for version, addresses in versions.items():
            tally = Tally(rated_by)
            cluster = Cluster(
                f"{name}/{version}",
                addresses,
                runtime=runtime,
                flusher=flusher,
                options=options,
                connections=connections,
                rules=rules,
                endpoint=_counted(tally),
            )
            self.versions[version] = Version(version, cluster, tally)
        self._sticky: Selector | None = compile_selector(selection.sticky) if selection.sticky else None
        self._roles, self._rule_names = selection.override_roles, selection.override_rules
        self._may_override = bool(self._roles or self._rule_names)
        # What candidate should have got and did not, in RPCs.
        self._owed = 0.0
        self._begun: dict[str, int] = {}
        self.split = split
        self._enter(split)

    def apply(self, split: Split) -> None:
        """From the next call on, `split` is in force; what runs is left alone. Raises KeyError for a version there is not."""
        former = self.split
        self._enter(split)
        if (split.percent, split.candidate) != (former.percent, former.candidate):
            self._owed = 0.0
            self._begun = {each.name: each.tally.begun for each in self.versions.values()}

    def _enter(self, split: Split) -> None:
        stable = self.versions[split.stable]
        candidate = None if split.candidate is None else self.versions[split.candidate]
        only: Version | None = None
        if not self._may_override:
            if candidate is None or split.percent <= 0:
                only = stable
            elif split.percent >= 100:
                only = candidate
        # One assignment: calls see the former snapshot or this one.
        self._state = (only, stable, candidate, split.percent / 100, split.salt.encode(), split.may_rescue)
        self.split = split

    # ── the data path ──

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | Rejection:
        only, stable, candidate, share, salt, may_rescue = self._state
        chosen = only
        if chosen is None:
            asked = call.headers.get(HEADER) if self._may_override else None
            if asked is not None and self._grants(call):
                named = self.versions.get(asked.decode("latin-1"))
                return self._unknown(asked) if named is None else named.cluster.pick(call, avoid)
            chosen = stable if candidate is None else self._choose(call, avoid, stable, candidate, share, salt)
        picked = chosen.cluster.pick(call, avoid)
        if type(picked) is Rejection and candidate is not None:
            # The other one takes what this one cannot; a candidate that has not stood its first step takes nothing over.
            if chosen is candidate:
                other = stable.cluster.pick(call, avoid)
            elif may_rescue:
                other = candidate.cluster.pick(call, avoid)
            else:
                return picked
            if type(other) is not Rejection:
                return other
        return picked

    def _choose(
        self, call: Call, avoid: Sequence[object], stable: Version, candidate: Version, share: float, salt: bytes
    ) -> Version:
        if share <= 0:
            return stable
        if share >= 1:
            return candidate
        if self._sticky is not None and (key := self._sticky(call)) is not None:
            return candidate if point_of(key, salt) < share else stable
        if avoid:
            # What has failed once is not repeated at a version that is on trial.
            return stable
        owed = self._owed + share
        if self._runtime.random.random() < owed:
            self._owed = owed - 1
            return candidate
        self._owed = owed
        return stable

    def _grants(self, call: Call) -> bool:
        """Has authorization let this call pass by a role or a rule that may choose?"""
        permit = None if call.notes is None else call.notes.get("authz")
        if permit is None or permit.decision != "allow":
            return False
        return permit.rule in self._rule_names or not self._roles.isdisjoint(permit.roles)

    def _unknown(self, asked: bytes) -> Rejection:
        name = asked.decode("latin-1")
        return Reason.NO_ROUTE.reject(f"cluster {self.name} has no version {name}", cluster=self.name, version=name)

    def connection(self) -> Connection | None:
        """A connection of stable, or of whatever version has one."""
        found = self.versions[self.split.stable].cluster.connection()
        return found or next((made for each in self.versions.values() if (made := each.cluster.connection())), None)

    def choice(self, call: Call) -> str:
        """The version that `call` would go to now, where that is certain; else both with their shares."""
        only, stable, candidate, share, salt, _ = self._state
        if only is not None or candidate is None:
            return (only or stable).name
        asked = call.headers.get(HEADER) if self._may_override else None
        if asked is not None and self._grants(call):
            return asked.decode("latin-1")
        if self._sticky is not None and (key := self._sticky(call)) is not None:
            return (candidate if point_of(key, salt) < share else stable).name
        return f"{candidate.name} ({self.split.percent:g} %) or {stable.name}"

    # ── what is shown ──

    def shares(self) -> dict[str, float]:
        """Percent of the attempts that each version really got since its share last changed; 0 for all where there were none."""
        begun = {each.name: each.tally.begun - self._begun.get(each.name, 0) for each in self.versions.values()}
        total = sum(begun.values())
        return {name: 100 * number / total if total else 0.0 for name, number in begun.items()}

    @property
    def parts(self) -> tuple[Cluster, ...]:
        return tuple(each.cluster for each in self.versions.values())

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for each in self.parts for endpoint in each.endpoints)

    # ── life ──

    def end_streams(self, version: str) -> int:
        """End what runs at `version`: UNAVAILABLE, to be repeated at once, by us where the route may. How many there were."""
        running = list(self.versions[version].tally.running)
        for attempt in running:
            dispatch.withdraw(
                attempt,
                Reason.VERSION_WITHDRAWN.reject(
                    f"version {version} of cluster {self.name} was withdrawn",
                    retry_after=0.0,
                    cluster=self.name,
                    version=version,
                ),
            )
        return len(running)

    def start(self) -> None:
        for each in self.parts:
            each.start()

    def renew(self) -> None:
        for each in self.parts:
            each.renew()

    def drain(self) -> None:
        for each in self.parts:
            each.drain()

    def close(self) -> None:
        for each in self.parts:
            each.close()


def point_of(key: str, salt: bytes) -> float:
    """Where a caller stands between 0 and 1: the same for all sidecars, and for as long as the salt is the same."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=salt[:64]).digest()
    return int.from_bytes(digest, "big") / 2**64


def _counted(tally: Tally) -> Callable[..., Endpoint]:
    def make(address: str, **more: Any) -> Endpoint:
        return CountedEndpoint(address, tally=tally, **more)

    return make
