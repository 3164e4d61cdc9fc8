"""Whatever stands in a file: it is a configuration, or every problem has a place and a message. Nothing else happens."""

from __future__ import annotations

import os
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.load import parse
from sidecar.config.problems import ConfigError

many = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")))

GOOD: dict[str, Any] = {
    "node": {"name": "a"},
    "workers": 1,
    "store": {"url": "memory://"},
    "listeners": [
        {
            "name": "inbound",
            "direction": "inbound",
            "bind": "127.0.0.1:8443",
            "tls": {"certificate": "a.crt", "private_key": "a.key", "trusted_ca": "ca.crt"},
            "limits": {"max_message": "4MiB"},
            "routes": [
                {
                    "name": "all",
                    "match": {"method": "/*"},
                    "to": "local",
                    "policies": {"cache": {"ttl": "1s", "methods": ["/a.B/Get*"]}},
                }
            ],
        }
    ],
    "policies": {
        "deadline": {"default": "30s", "max": "10m"},
        "rate_limit": [{"name": "each", "rate": "100/1m", "burst": 10, "per": ["identity", "method"]}],
        "authz": {
            "roles": {"operator": ["spiffe://mesh.local/agent/a"]},
            "permissions": {"say": ["/a.B/*"]},
            "grants": {"operator": ["say"]},
            "deny": [{"name": "no", "from": {"identities": ["spiffe://mesh.local/agent/b"]}, "methods": ["/*"]}],
        },
        "retry": {"max_attempts": 4, "on": ["UNAVAILABLE"], "initial_backoff": "1s"},
        "idempotency": {"ttl": "1h", "lease": "60s"},
    },
    "clusters": {"local": {"endpoints": ["127.0.0.1:50051"], "circuit_breaker": {}, "outlier_ejection": {}}},
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["1s", "-1s", "1e9h", "0", "0o17", "${HOME}", "${", "/*", "a:b", "1MiB", "99999999999999GiB", "spiffe://", "*"]
    ),
    st.lists(st.integers() | st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=8), st.integers() | st.none(), max_size=3),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, from the outside inwards."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inside for place in places(each, (*at, key)))]


def changed(value: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    head, *rest = place
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[head] = changed(value[head], tuple(rest), odd)
    return copy


def check(text: str) -> None:
    problems = []
    try:
        parse(text, host="a", environ={})
    except ConfigError as error:
        problems = list(error.problems)
        assert problems, "refused, and nothing is wrong"  # noqa: PT017
    for each in problems:
        assert each.line >= 1 and each.column >= 1 and each.message
        assert 0 < len(str(each)) < 5_000


def test_what_is_changed_was_good() -> None:
    parse(yaml.safe_dump(GOOD), host="a", environ={})


@many
@given(st.lists(st.tuples(st.sampled_from(places(GOOD)), ODD), min_size=1, max_size=3))
def test_values_of_any_kind_in_any_place(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document: Any = GOOD
    for place, odd in changes:
        if place in places(document):
            document = changed(document, place, odd)
    check(yaml.safe_dump(document))


@many
@given(st.sampled_from(places(GOOD)[1:]), st.text(max_size=12))
def test_names_that_nobody_knows(place: tuple[Any, ...], name: str) -> None:
    document = GOOD
    for key in place[:-1]:
        document = document[key]
    if isinstance(document, dict):
        value = document[place[-1]]
        check(yaml.safe_dump(changed(GOOD, place[:-1], {**document, name: value})))


@many
@given(st.text(max_size=200) | st.text("{}[]:,-&*!|>'\"%@`#?\n\t abc01", max_size=120))
def test_any_text(text: str) -> None:
    check(text)


@many
@given(st.data())
def test_a_file_that_was_cut_and_mixed(data: st.DataObject) -> None:
    text = yaml.safe_dump(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        begins = data.draw(st.integers(0, len(text)))
        ends = data.draw(st.integers(begins, min(len(text), begins + 40)))
        text = text[:begins] + data.draw(st.text(max_size=6) | st.just(text[begins : begins + 30])) + text[ends:]
    check(text)
