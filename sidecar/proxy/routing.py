"""From path, authority and metadata to a plan: the first route that matches wins.

Paths that were seen are remembered with the routes that could match them, so that a known method costs one look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.grpc_wire.metadata import is_valid_path
from sidecar.proxy.selectors import Matcher, compile_pattern

if TYPE_CHECKING:
    from sidecar.proxy.plan import Plan

_PATHS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Match:
    """What a route asks of a call: patterns for the method (any of them), the authority, and metadata (all of them)."""

    methods: tuple[str, ...] = ("/*",)
    authority: str = "*"
    metadata: Mapping[str, str] = field(default_factory=dict)


class Route:
    """A match with its plan."""

    __slots__ = ("_authority", "_metadata", "_methods", "plan")

    def __init__(self, match: Match, plan: Plan) -> None:
        self.plan = plan
        self._methods = tuple(compile_pattern(pattern) for pattern in match.methods)
        self._authority: Matcher | None = None if match.authority == "*" else compile_pattern(match.authority)
        self._metadata = tuple((name.encode(), compile_pattern(value)) for name, value in match.metadata.items())

    @property
    def is_plain(self) -> bool:
        """Does the method alone decide?"""
        return self._authority is None and not self._metadata

    def matches_method(self, path: str) -> bool:
        return any(matches(path) for matches in self._methods)

    def matches_rest(self, index: Mapping[bytes, bytes]) -> bool:
        if self._authority is not None and not self._authority(index.get(b":authority", b"").decode("latin-1")):
            return False
        for name, matches in self._metadata:
            value = index.get(name)
            if value is None or not matches(value.decode("latin-1")):
                return False
        return True


class Method:
    """A path that was seen: its text, the routes it may take, and whether it is a name worth a metric label."""

    __slots__ = ("candidates", "is_known", "name", "path", "plan", "service")

    def __init__(self, path: str, candidates: tuple[Route, ...], unrouted: Plan, *, is_known: bool) -> None:
        self.path = path
        self.service, _, self.name = path[1:].partition("/")
        self.candidates = candidates
        self.is_known = is_known
        # Set when nothing but the method decides.
        self.plan: Plan | None = None
        if not candidates:
            self.plan = unrouted
        elif candidates[0].is_plain:
            self.plan = candidates[0].plan

    def match(self, index: Mapping[bytes, bytes], unrouted: Plan) -> Plan:
        for route in self.candidates:
            if route.matches_rest(index):
                return route.plan
        return unrouted


class RouteTable:
    """The routes of one listener, of one generation."""

    __slots__ = ("_exact", "_methods", "_routes", "_shown", "unrouted")

    def __init__(
        self, routes: Sequence[tuple[Match, Plan]], unrouted: Plan, twins: Sequence[tuple[Match, Plan]] = ()
    ) -> None:
        """`twins`: routes of ours that come first, stand for some of `routes`, and are not shown."""
        self._shown = tuple(plan for _, plan in routes)
        self._routes = tuple(Route(match, plan) for match, plan in (*twins, *routes))
        self._exact = frozenset(each for match, _ in routes for each in match.methods if "*" not in each)
        self._methods: dict[bytes, Method] = {}
        self.unrouted = unrouted

    @property
    def is_closed(self) -> bool:
        """Are all routes for named methods, so that another name is an unknown method rather than a missing route?"""
        return not any(route.matches_method("/\0/") for route in self._routes)

    def method(self, path: bytes) -> Method | None:
        """What is known of `path`; None when it is not the name of a method at all."""
        method = self._methods.get(path)
        if method is not None:
            return method
        if not is_valid_path(path):
            return None
        text = path.decode("ascii")
        candidates = tuple(route for route in self._routes if route.matches_method(text))
        method = Method(text, candidates, self.unrouted, is_known=text in self._exact)
        # Invented paths must not exhaust memory.
        if len(self._methods) >= _PATHS_KEPT:
            self._methods.clear()
        self._methods[path] = method
        return method

    def plans(self) -> list[Plan]:
        return [*self._shown, self.unrouted]
