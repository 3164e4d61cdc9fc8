from __future__ import annotations

import pytest
from pydantic import ValidationError

from sidecar.policies.headers import Headers
from tests.support.bench import of


def test_set_replaces_and_remove_removes() -> None:
    bench = of(Headers, '{set: {x-mesh: "1"}, remove: [x-internal]}')
    bench.request(metadata=[("x-mesh", "caller"), ("x-mesh", "twice"), ("x-internal", "secret"), ("x-kept", "a"), ("x-kept", "b")])
    fields = [(name, value) for name, value, _ in bench.last.fields]
    assert [value for name, value in fields if name == b"x-mesh"] == [b"1"]
    assert [value for name, value in fields if name == b"x-kept"] == [b"a", b"b"]
    assert all(name != b"x-internal" for name, _ in fields)
    assert bench.forwarded == 1


def test_policies_still_see_what_the_caller_sent() -> None:
    bench = of(Headers, "{remove: [x-internal]}")
    bench.request(metadata={"x-internal": "seen"})
    assert bench.last.metadata(b"x-internal") == b"seen"


@pytest.mark.parametrize(
    "section", ["{set: {X-Upper: a}}", "{set: {grpc-status: '0'}}", "{set: {x-sidecar-identity: me}}", "{remove: [':path']}",
                '{set: {x-a: "line\\nbreak"}}', "{remove: [connection]}"],
)
def test_names_and_values_that_are_not_ours_to_set(section: str) -> None:
    with pytest.raises(ValidationError):
        of(Headers, section)
