"""What no section can see alone: names that must be unique, addresses that collide, clusters that do not exist, routes
that nothing reaches.

Why on plain values and not on the models? There is no model as long as one field is wrong, and a user wants to hear
everything at once. A part that is itself wrong is left out here; the models tell of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import RootModel, ValidationError

from sidecar.config.listeners import MatchConfig
from sidecar.config.policies import Policies
from sidecar.config.problems import Located, did_you_mean, listed, quoted
from sidecar.config.root import AdminConfig, Root
from sidecar.config.units import is_loopback, parse_bind, split_address
from sidecar.proxy.selectors import covers


def cross_checks(data: Any) -> list[Located]:
    """All that is wrong between the sections of `data`, the file as plain values."""
    if not isinstance(data, dict):
        return []
    listeners = list(_entries(data.get("listeners")))
    return [
        *_repeated_names(("listeners",), data.get("listeners")),
        *(
            problem
            for index, listener in listeners
            for problem in _repeated_names(("listeners", index, "routes"), listener.get("routes"))
        ),
        *_colliding_addresses(data, listeners),
        *_unknown_clusters(data, listeners),
        *(problem for index, listener in listeners for problem in _unreachable(index, listener.get("routes"))),
    ]


def warnings(root: Root) -> Iterator[Located]:
    """What is allowed, and still seldom meant."""
    for index, listener in enumerate(root.listeners):
        if listener.direction == "inbound" and listener.tls is None and not is_loopback(listener.bind):
            yield Located(
                ("listeners", index, "bind"),
                f"{quoted(listener.bind)} can be reached from other machines without TLS, so callers have no identity; "
                "add tls, or bind to 127.0.0.1 or unix:/path",
            )
        if listener.direction == "outbound" and listener.tls is None and not is_loopback(listener.bind):
            yield Located(
                ("listeners", index, "bind"),
                f"{quoted(listener.bind)} lets other machines call with this node's identity; "
                "bind to 127.0.0.1 or unix:/path",
            )
    used = {route.to for listener in root.listeners for route in listener.routes}
    for name in root.clusters:
        if name not in used:
            yield Located(
                ("clusters", name), "is used by no route; name it in a route's `to`, or remove it", at_key=True
            )
    if root.workers > 1:
        yield from _counted_by_each_worker(root)


def _counted_by_each_worker(root: Root) -> Iterator[Located]:
    """Limits that let through as many times what they say as there are workers."""
    levels: list[tuple[tuple[str | int, ...], Policies]] = [(("policies",), root.policies)]
    for index, listener in enumerate(root.listeners):
        at = ("listeners", index)
        levels.append(((*at, "policies"), listener.policies))
        levels += [((*at, "routes", i, "policies"), route.policies) for i, route in enumerate(listener.routes)]
    for at_level, policies in levels:
        for name, section in policies.named().items():
            for i, limit in enumerate(section.root if isinstance(section, RootModel) else ()):
                if getattr(limit, "scope", None) == "local":
                    yield Located(
                        (*at_level, name, i),
                        f"each of the {root.workers} workers counts for itself; share the count with scope: shared and a store",
                    )


def _entries(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(value, list):
        yield from ((index, each) for index, each in enumerate(value) if isinstance(each, dict))


def _repeated_names(loc: tuple[str | int, ...], value: Any) -> Iterator[Located]:
    seen: dict[str, int] = {}
    for index, entry in _entries(value):
        name = entry.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            first = ".".join(map(str, (*loc, seen[name])))
            yield Located((*loc, index, "name"), f"{quoted(name)} is also the name of {first}; names must differ")
        else:
            seen[name] = index


def _colliding_addresses(data: dict[str, Any], listeners: list[tuple[int, dict[str, Any]]]) -> Iterator[Located]:
    admin = data.get("admin")
    default = AdminConfig.model_fields["bind"].default
    taken = [("admin.bind", admin.get("bind", default) if isinstance(admin, dict) else default)]
    for index, listener in listeners:
        bind = listener.get("bind")
        if not isinstance(bind, str) or not _is_address(bind):
            continue
        for name, other in taken:
            if _is_address(other) and _collide(bind, other):
                same = "the address of" if bind == other else f"taken in part by {quoted(other)} of"
                yield Located(
                    ("listeners", index, "bind"), f"{quoted(bind)} is {same} {name}, too; choose another port"
                )
                break
        taken.append((f"listeners.{index}.bind", bind))


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(parse_bind(value))
    except ValueError:
        return False


def _collide(one: str, other: str) -> bool:
    if one.startswith("unix:") or other.startswith("unix:"):
        return one == other
    (host, port), (other_host, other_port) = split_address(one.lower()), split_address(other.lower())
    if port != other_port or port == 0:
        return False
    is_v6 = (":" in host, ":" in other_host)
    everywhere = {"::" if is_v6[0] else "0.0.0.0"}
    return host == other_host or (is_v6[0] == is_v6[1] and bool({host, other_host} & everywhere))


def _unknown_clusters(data: dict[str, Any], listeners: list[tuple[int, dict[str, Any]]]) -> Iterator[Located]:
    clusters = data.get("clusters", {})
    if not isinstance(clusters, dict):
        return
    for index, listener in listeners:
        for position, route in _entries(listener.get("routes")):
            to = route.get("to")
            if isinstance(to, str) and to not in clusters:
                yield Located(
                    ("listeners", index, "routes", position, "to"),
                    f"{quoted(to)} is no cluster; "
                    f"{did_you_mean(to, clusters)}known: {listed(sorted(clusters)) or 'none'}",
                )


def _unreachable(listener: int, routes: Any) -> Iterator[Located]:
    earlier: list[tuple[int, str, MatchConfig]] = []
    for index, route in _entries(routes):
        try:
            match = MatchConfig.model_validate(route.get("match"), strict=False)
        except ValidationError:
            continue
        for position, name, wide in earlier:
            if _takes_all(wide, match):
                yield Located(
                    ("listeners", listener, "routes", index, "match"),
                    f"is never reached: routes.{position} ({quoted(name)}) takes every call before; "
                    "put this route first, or remove it",
                )
                break
        earlier.append((index, str(route.get("name")), match))


def _takes_all(wide: MatchConfig, narrow: MatchConfig) -> bool:
    """Does every call that `narrow` matches also match `wide`? A method may be taken by any one pattern of `wide`."""
    return (
        all(any(covers(pattern, method) for pattern in wide.method) for method in narrow.method)
        and covers(wide.authority, narrow.authority)
        and all(
            name in narrow.metadata and covers(pattern, narrow.metadata[name])
            for name, pattern in wide.metadata.items()
        )
    )
