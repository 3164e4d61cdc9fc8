"""Metadata, byte for byte: what passes, in which order, what ends here, and what only we may say."""

from __future__ import annotations

import itertools

import pytest

from sidecar.request_id import is_valid_request_id
from tests.scenes.script import OK, echo, finish
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

Pairs = list[tuple[bytes, bytes]]
STANDARD = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test.Service/Method"),
    (b":authority", b"test"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
IDENTITY = (b"x-sidecar-identity", b"spiffe://mesh.local/agent/caller")

CUSTOM: list[tuple[bytes, bytes]] = [
    (b"user-agent", b"grpc-python/1.85.1 grpc-c/52.0.0 (linux; chttp2)"),
    (b"grpc-encoding", b"gzip"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"x-a", b"1"),
    (b"x-b", b""),
    (b"x-a", b"2"),
    (b"x-bytes-bin", b"AAECAwT/"),
    (b"x-bytes-bin", b"AAE="),
    (b"x-bytes-bin", b"AA,BB,CC"),
    (b"x-bytes-bin", b""),
    (b"x-a", b"1"),
    (b"x-spaces", b"a  b   c"),
    (b"x-all", bytes(range(0x20, 0x7F)).strip()),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    (b"tracestate", b"a=1,b=2"),
    (b"authorization", b"Bearer abc.def.ghi"),
    (b"cookie", b"a=b; c=d"),
    (b"grpc-tags-bin", b"AAAA"),
    (b"lb-token", b"x"),
    (b"x.dots_and-dashes", b"y"),
    (b"x-long", b"v" * 8000),
]


def arrived(scene: Scene) -> Pairs:
    """What the agent got, without what we add."""
    return [pair for pair in scene.agent.seen.headers if pair[0] not in {b"x-request-id", b"x-sidecar-identity"}]


@pytest.mark.parametrize("times", [1, 4])
def test_request_metadata_as_it_was_sent(times: int) -> None:
    """The fourth time by what was remembered of the first ones: the same."""
    scene = Scene(on_agent=echo)
    for _ in range(times):
        assert scene.call(*CUSTOM).seen.status == 0
        assert arrived(scene) == STANDARD + CUSTOM


@pytest.mark.parametrize("seed", range(8))
def test_calls_that_share_a_beginning_and_differ_after_it(seed: int) -> None:
    scene = Scene(on_agent=echo)
    rotated = CUSTOM[seed:] + CUSTOM[:seed]
    for cut in (len(CUSTOM), 3, 7, 0, len(CUSTOM), 5):
        scene.call(*rotated[:cut])
        assert arrived(scene) == STANDARD + rotated[:cut]


@pytest.mark.parametrize(
    "name",
    [b"x-sidecar-identity", b"x-sidecar-origin", b"x-sidecar-fencing-token", b"x-sidecar-", b"x-sidecar-anything-bin"],
)
@pytest.mark.parametrize("place", ["first", "last", "twice"])
def test_what_pretends_to_be_ours_is_removed(name: bytes, place: str) -> None:
    scene = Scene(on_agent=echo)
    spoof = (name, b"spiffe://mesh.local/agent/admin")
    fields = {
        "first": [spoof, (b"x-a", b"1")],
        "last": [(b"x-a", b"1"), spoof],
        "twice": [spoof, (b"x-a", b"1"), spoof],
    }
    for _ in range(3):
        assert scene.call(*fields[place]).seen.status == 0
        assert arrived(scene) == [*STANDARD, (b"x-a", b"1")]
        told = [pair for pair in scene.agent.seen.headers if pair[0].startswith(b"x-sidecar")]
        assert told == [IDENTITY]


def test_nobody_is_told_of_a_caller_without_a_certificate() -> None:
    scene = Scene(on_agent=echo, identity=None)
    scene.call(("x-sidecar-identity", "spiffe://mesh.local/agent/admin"))
    assert scene.agent.seen.value("x-sidecar-identity") is None


def test_outbound_tells_no_identity_and_removes_what_the_app_claims() -> None:
    scene = Scene(on_agent=echo, direction="outbound")
    scene.call(("x-sidecar-identity", "spiffe://mesh.local/agent/admin"))
    assert scene.agent.seen.value("x-sidecar-identity") is None


@pytest.mark.parametrize(
    "name", [b"host", b"proxy-authorization", b"proxy-authenticate", b"trailer", b"http2-settings"]
)
def test_what_belongs_to_one_hop_is_removed(name: bytes) -> None:
    scene = Scene(on_agent=echo)
    for _ in range(3):
        assert scene.call((name, b"x"), ("x-after", "1")).seen.status == 0
        assert arrived(scene) == [*STANDARD, (b"x-after", b"1")]


@pytest.mark.parametrize("name", [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"])
@pytest.mark.parametrize("warm", [False, True])
def test_connection_specific_fields_make_a_request_malformed(name: bytes, warm: bool) -> None:
    """RFC 9113 §8.2.2; also behind a beginning that is known to be good."""
    scene = Scene(on_agent=echo)
    if warm:
        for _ in range(3):
            scene.call()
    before = len(scene.agent_streams)
    caller = scene.call((name, b"x"))
    assert caller.seen.reset is not None
    assert len(scene.agent_streams) == before
    assert scene.call().seen.status == 0, "the connection goes on"


@pytest.mark.parametrize("value", [b"a\tb", b"\x01", b"caf\xc3\xa9", b"\x7f", b"a\nb", b"a\0b"])
def test_values_with_bytes_that_metadata_cannot_have(value: bytes) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call((b"x-odd", value))
    agent_saw = scene.agent_streams and dict(scene.agent.seen.headers).get(b"x-odd")
    if caller.seen.status == 0:
        # Bytes that HTTP allows pass unchanged; they are the receiver's business.
        assert agent_saw == value
        assert not {0, 10, 13} & set(value)
    else:
        assert not scene.agent_streams
    assert scene.leaks() == []


# ── request ids ──


def ids(stream: ScriptedStream) -> list[bytes]:
    fields = [*stream.seen.headers, *(stream.seen.trailers or [])]
    return [value for name, value in fields if name == b"x-request-id"]


@pytest.mark.parametrize("given", ["abc", "0192f0c1-7b1a-7c3e-9a55-1e1f6f2d9b11", "A" * 64])
def test_a_valid_request_id_is_kept(given: str) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(("x-request-id", given))
    assert ids(scene.agent) == [given.encode()]
    assert ids(caller) == [given.encode()]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 1000, "a,b", "<script>", 'a"b'])
def test_a_missing_or_odd_request_id_is_made(given: str | None) -> None:
    scene = Scene(on_agent=echo)
    seen = set()
    for _ in range(4):
        caller = scene.call(*([("x-request-id", given)] if given is not None else []))
        (made,) = ids(scene.agent)
        assert is_valid_request_id(made)
        assert made != (given or "").encode()
        assert ids(caller) == [made]
        seen.add(made)
    assert len(seen) == 4


def test_the_agents_own_request_id_is_not_doubled() -> None:
    scene = Scene(
        on_agent=lambda s, e: finish(s, headers=(*RESPONSE, ("x-request-id", "mine"))) if e == "end" else None
    )
    assert ids(scene.call()) == [b"mine"]


def test_trailers_only_carries_the_request_id() -> None:
    scene = Scene(
        on_agent=lambda s, e: s.send_headers(block(*RESPONSE, ("grpc-status", "5")), True) if e == "end" else None
    )
    assert ids(scene.call(("x-request-id", "abc"))) == [b"abc"]


# ── answers ──

INITIAL = [
    (b"x-a", b"1"),
    (b"x-i-bin", b"AAE="),
    (b"x-a", b"2"),
    (b"grpc-encoding", b"gzip"),
    (b"server", b"s"),
    (b"x-a", b"1"),
]
TRAILING = [
    (b"grpc-status", b"9"),
    (b"grpc-message", b"caf%C3%A9 100%25 %E2%82%AC %zz"),
    (b"grpc-status-details-bin", b"CAkSA2JhZA"),
    (b"x-t", b"1"),
    (b"x-t-bin", b"/+8="),
    (b"x-t", b"1"),
    (b"x-usage-tokens", b"12"),
]


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("shape", ["message", "no message", "only"])
def test_response_metadata_as_it_was_sent(times: int, shape: str) -> None:
    def act(stream: ScriptedStream, event: str) -> None:
        if event != "end":
            return
        if shape == "only":
            stream.send_headers(block(*RESPONSE, *INITIAL, *TRAILING), True)
        else:
            finish(stream, message(b"m") if shape == "message" else b"", tuple(TRAILING), (*RESPONSE, *INITIAL))

    scene = Scene(on_agent=act)
    opening = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    for _ in range(times):
        caller = scene.call(("x-request-id", "r"))
        if shape == "only":
            assert caller.seen.headers == [*opening, *INITIAL, *TRAILING, (b"x-request-id", b"r")]
            assert caller.seen.trailers is None
        else:
            assert caller.seen.headers == [*opening, *INITIAL, (b"x-request-id", b"r")]
            assert caller.seen.trailers == TRAILING
        assert scene.outcomes[-1].message == "café 100% € %zz"


@pytest.mark.parametrize("name", ["x-sidecar-origin", "x-sidecar-identity", "x-sidecar-x"])
@pytest.mark.parametrize("where", ["headers", "trailers"])
def test_an_agent_cannot_speak_as_a_sidecar(name: str, where: str) -> None:
    spoof = ((name, "sidecar"),)

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            finish(
                stream,
                message(b"m"),
                (*OK, *(spoof if where == "trailers" else ())),
                (*RESPONSE, *(spoof if where == "headers" else ())),
            )

    scene = Scene(on_agent=act)
    for _ in range(4):
        assert scene.call().seen.value(name) is None


def test_one_connection_in_both_directions() -> None:
    """What was understood of an answer for one direction is not taken for the other."""
    inbound = Scene(
        on_agent=lambda s, e: finish(s, trailers=(*OK, ("x-sidecar-origin", "sidecar"))) if e == "end" else None
    )
    for direction, expected in itertools.islice(itertools.cycle([("inbound", None), ("outbound", "sidecar")]), 10):
        inbound.edge.strips_ours = direction == "inbound"
        assert inbound.call().seen.value("x-sidecar-origin") == expected


def test_authority_and_scheme_go_on() -> None:
    scene = Scene(on_agent=echo)
    fields = block(
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/a.B/C"),
        (":authority", "data-agent.mesh:443"),
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    )
    for _ in range(3):
        scene.call(block=fields)
        assert scene.agent.seen.value(":authority") == "data-agent.mesh:443"
        assert scene.agent.seen.value(":scheme") == "https"
        assert scene.agent.seen.value("content-type") == "application/grpc+proto"


def test_attempts_that_the_caller_made_are_told_as_it_told_them() -> None:
    scene = Scene(on_agent=echo)
    for _ in range(3):
        scene.call(("grpc-previous-rpc-attempts", "5"))
        assert scene.agent.seen.value("grpc-previous-rpc-attempts") == "5"
