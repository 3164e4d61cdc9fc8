from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.config.load import Loaded, parse
from sidecar.config.model import Model
from sidecar.config.root import build_root, default_root, effective_policies

FILE = """
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:8443
    policies: {deadline: {default: 2s}}
    routes:
      - name: own
        match: {method: /a.S/Own}
        to: local
        policies: {headers: {remove: [x-own]}, deadline: {default: 1s}}
      - {name: inherits, match: {method: /a.S/*}, to: local}
policies:
  headers: {set: {x-mesh: "1"}, remove: [x-all]}
  deadline: {default: 3s, max: 4s}
clusters: {local: {endpoints: ["127.0.0.1:50051"]}}
"""


def test_a_policy_is_taken_from_the_nearest_level_and_replaced_whole(read: Callable[..., Loaded]) -> None:
    root = read(FILE).root
    (listener,) = root.listeners
    own, inherits = (_dumped(effective_policies(root, listener, route)) for route in listener.routes)
    assert own == {"deadline": {"default": "1s", "max": "10m"}, "headers": {"set": {}, "remove": ["x-own"]}}
    assert inherits == {
        "deadline": {"default": "2s", "max": "10m"},
        "headers": {"set": {"x-mesh": "1"}, "remove": ["x-all"]},
    }
    assert list(inherits) == ["deadline", "headers"]


def test_without_policies_there_are_none(read: Callable[..., Loaded]) -> None:
    root = read(FILE[: FILE.index("policies:\n  headers")] + FILE[FILE.index("clusters:") :]).root
    (listener,) = root.listeners
    assert list(effective_policies(root, listener, listener.routes[1])) == ["deadline"]


def test_a_policy_may_be_called_as_a_method_of_models_is() -> None:
    root = parse(FILE.replace("  headers: {set", "  validate: {descriptors: reflection}\n  headers: {set")).root
    (listener,) = root.listeners
    assert list(effective_policies(root, listener, listener.routes[1])) == ["deadline", "validate", "headers"]


def test_defaults(read: Callable[..., Loaded]) -> None:
    root = read(FILE).root
    assert (root.node.name, root.admin.bind, root.admin.token, root.drain_timeout) == (
        "host-1",
        "127.0.0.1:9901",
        None,
        30,
    )


def test_sections_without_policies_can_still_be_asked_for_them(read: Callable[..., Loaded], order: Any) -> None:
    root = read(FILE).root
    assert type(root.listeners[0].routes[1].policies) is type(root.policies)
    assert root.listeners[0].routes[1].policies.named() == {}
    assert build_root(order).model_fields["policies"].annotation is not type(root.policies)


def test_equal_files_give_equal_sections(read: Callable[..., Loaded]) -> None:
    one, other = read(FILE).root, read(FILE).root
    assert one.clusters == other.clusters
    assert one.admin == other.admin


def test_the_built_in_policies_are_joined_once() -> None:
    assert default_root() is default_root()


def _dumped(policies: dict[str, Model]) -> dict[str, Any]:
    return {name: each.model_dump(mode="json", exclude_none=True) for name, each in policies.items()}
