from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.checks import cross_checks
from sidecar.config.load import Loaded, load
from sidecar.config.problems import ConfigError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["listeners", "clusters", "admin", "name", "bind", "routes", "to", "match", "method"]),
            inner,
        )
    ),
    max_leaves=20,
)


def _routes(*matches: dict[str, Any]) -> dict[str, Any]:
    routes = [{"name": f"r{index}", "match": match, "to": "a"} for index, match in enumerate(matches)]
    return {"listeners": [{"name": "l", "bind": "127.0.0.1:1", "routes": routes}], "clusters": {"a": {}}}


def _binds(*binds: str, admin: str = "127.0.0.1:9901") -> dict[str, Any]:
    listeners = [{"name": f"l{index}", "bind": bind} for index, bind in enumerate(binds)]
    return {"admin": {"bind": admin}, "listeners": listeners}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"method": "/*"}, {"method": "/a.S/Get"}),
        ({"method": "/a.S/*"}, {"method": "/a.S/Get*"}),
        ({"method": "/a.S/Get"}, {"method": "/a.S/Get"}),
        ({"method": ["/a.S/Get", "/a.S/P*"]}, {"method": ["/a.S/Put", "/a.S/Get"]}),
        ({"method": "/*"}, {"method": "/a.S/Get", "authority": "mesh.*"}),
        ({"method": "/*", "authority": "*.local"}, {"method": "/*", "authority": "a.local"}),
        ({"method": "/*"}, {"method": "/*", "metadata": {"x-a": "1"}}),
        ({"method": "/*", "metadata": {"x-a": "*"}}, {"method": "/*", "metadata": {"x-a": "1", "x-b": "2"}}),
        ({"method": "/*", "metadata": {"x-a": "acme-*"}}, {"method": "/*", "metadata": {"x-a": "acme-1"}}),
    ],
)
def test_a_route_behind_a_wider_one_is_never_reached(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    (found,) = cross_checks(_routes(earlier, later))
    assert found.loc == ("listeners", 0, "routes", 1, "match")
    assert found.message == (
        "is never reached: routes.0 (`r0`) takes every call before; put this route first, or remove it"
    )


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"method": "/a.S/Get"}, {"method": "/*"}),
        ({"method": "/a.S/Get*"}, {"method": "/a.S/*"}),
        ({"method": ["/a.S/Get"]}, {"method": ["/a.S/Get", "/a.S/Put"]}),
        ({"method": "/*", "authority": "a.local"}, {"method": "/*", "authority": "*.local"}),
        ({"method": "/*", "authority": "a.*"}, {"method": "/*", "authority": "*.a"}),
        ({"method": "/*", "metadata": {"x-a": "1"}}, {"method": "/*"}),
        ({"method": "/*", "metadata": {"x-a": "1"}}, {"method": "/*", "metadata": {"x-b": "1"}}),
        ({"method": "/*", "metadata": {"x-a": "1"}}, {"method": "/*", "metadata": {"x-a": "*"}}),
        ({"method": "not a pattern"}, {"method": "/*"}),
        ({"method": "/*"}, {"method": "not a pattern"}),
    ],
)
def test_a_route_that_something_can_reach_is_fine(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    assert cross_checks(_routes(earlier, later)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("10.0.0.1:1", "0.0.0.0:1"),
        ("[::]:1", "[::1]:1"),
        ("LOCALHOST:1", "localhost:1"),
        ("unix:/a", "unix:/a"),
    ],
)
def test_two_listeners_cannot_share_an_address(one: str, other: str) -> None:
    (found,) = cross_checks(_binds(one, other))
    assert found.loc == ("listeners", 1, "bind")
    assert found.message.startswith(f"`{other}` is ")
    assert found.message.endswith(" of listeners.0.bind, too; choose another port")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:1", "127.0.0.1:2"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:1", "127.0.0.2:1"),
        ("0.0.0.0:1", "[::]:1"),
        ("unix:/a", "unix:/b"),
        ("unix:/a", "127.0.0.1:1"),
        ("no address", "no address"),
    ],
)
def test_addresses_that_do_not_collide(one: str, other: str) -> None:
    assert cross_checks(_binds(one, other)) == []


def test_a_listener_cannot_take_the_admin_address() -> None:
    (found,) = cross_checks({"listeners": [{"name": "l", "bind": "0.0.0.0:9901"}]})
    assert (
        found.message == "`0.0.0.0:9901` is taken in part by `127.0.0.1:9901` of admin.bind, too; choose another port"
    )
    assert cross_checks(_binds("127.0.0.1:9901", admin="127.0.0.1:9902")) == []


@settings(deadline=None)
@given(JSON)
def test_any_values_can_be_checked(data: Any) -> None:
    assert isinstance(cross_checks(data), list)


WARNED = """
listeners:
  - name: a
    direction: {direction}
    bind: {bind}
    routes: [{{name: all, match: {{method: /*}}, to: local}}]
clusters:
  local: {{endpoints: ["127.0.0.1:50051"]}}
"""


def test_clear_text_for_other_machines_is_warned_of(read: Callable[..., Loaded]) -> None:
    loaded = read(WARNED.format(direction="inbound", bind="0.0.0.0:8080"))
    assert list(map(str, loaded.warnings)) == [
        "c.yaml:5:11: listeners.0.bind: `0.0.0.0:8080` can be reached from other machines without TLS, "
        "so callers have no identity; add tls, or bind to 127.0.0.1 or unix:/path"
    ]


def test_an_outbound_listener_for_other_machines_is_warned_of(read: Callable[..., Loaded]) -> None:
    (warning,) = read(WARNED.format(direction="outbound", bind="0.0.0.0:8080")).warnings
    assert "lets other machines call with this node's identity" in warning.message


@pytest.mark.parametrize("bind", ["127.0.0.1:8080", "unix:/run/a.sock"])
def test_clear_text_on_this_machine_is_not(read: Callable[..., Loaded], bind: str) -> None:
    assert read(WARNED.format(direction="inbound", bind=bind)).warnings == ()


def test_a_cluster_that_no_route_uses_is_warned_of(read: Callable[..., Loaded]) -> None:
    text = WARNED.format(direction="inbound", bind="127.0.0.1:1") + '  spare: {endpoints: ["a:1"]}\n'
    (warning,) = read(text).warnings
    assert str(warning) == ("c.yaml:9:3: clusters.spare: is used by no route; name it in a route's `to`, or remove it")


LIMITED = """
workers: {workers}
listeners:
  - name: a
    direction: inbound
    bind: 127.0.0.1:1
    policies: {{rate_limit: [{{name: shared, rate: 1/1s, scope: {scope}, per: [identity]}}]}}
    routes: [{{name: all, match: {{method: /*}}, to: local, policies: {{rate_limit: [{{name: own, rate: 1/1s, scope: {scope}}}]}}}}]
clusters:
  local: {{endpoints: ["127.0.0.1:50051"]}}
"""


def with_all_policies(folder: Path, text: str) -> Loaded:
    path = folder / "c.yaml"
    path.write_text(text)
    return load(path, environ={})


def test_a_limit_that_each_worker_counts_for_itself_is_warned_of(tmp_path: Path) -> None:
    found = with_all_policies(tmp_path, LIMITED.format(workers=2, scope="local")).warnings
    assert [str(each).split(": ")[1] for each in found] == [
        "listeners.0.policies.rate_limit.0",
        "listeners.0.routes.0.policies.rate_limit.0",
    ]
    assert "each of the 2 workers counts for itself" in str(found[0])


@pytest.mark.parametrize(("workers", "scope"), [(1, "local"), (2, "shared")])
def test_one_worker_or_a_shared_limit_is_not(tmp_path: Path, workers: int, scope: str) -> None:
    assert with_all_policies(tmp_path, LIMITED.format(workers=workers, scope=scope)).warnings == ()


ROLLED_OUT = """
workers: 2
store: {store}
listeners:
  - {{name: a, direction: inbound, bind: 127.0.0.1:1, routes: [{{name: all, match: {{method: /*}}, to: local}}]}}
clusters:
  local:
    versions: {{a: {{endpoints: ["127.0.0.1:2"]}}, b: {{endpoints: ["127.0.0.1:3"]}}}}
    rollout: {{stable: a, candidate: b}}
"""


@pytest.mark.parametrize("store", ["null", "{url: 'memory://'}"])
def test_workers_that_share_nothing_cannot_roll_out_as_one(read: Callable[..., Loaded], store: str) -> None:
    with pytest.raises(ConfigError, match=r"clusters\.local\.rollout: needs a `store` that the workers share"):
        read(ROLLED_OUT.format(store=store))


def test_workers_with_a_store_may_roll_out(read: Callable[..., Loaded]) -> None:
    assert read(ROLLED_OUT.format(store="{url: 'sqlite:///state/a.db'}")).root.workers == 2
