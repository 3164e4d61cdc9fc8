"""Refusals: whatever is no call of gRPC, what is too large, and what each refusal tells."""

from __future__ import annotations

import pytest

from sidecar.grpc_wire.details import QuotaFailure, QuotaViolation, RetryInfo
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.connection import Limits
from sidecar.http2.errors import ErrorCode
from sidecar.proxy.policy import Origin
from sidecar.proxy.rejection import Reason, Rejection
from tests.scenes.script import answers, detail, details, echo, finish, hooked, info, reason, silent, with_policies
from tests.support.scene import Scene, refuse
from tests.support.wire import RESPONSE, ScriptedStream, block, message, request_block

# ── what every refusal carries ──


def test_a_refusal_with_everything() -> None:
    rejection = Reason.RATE_LIMITED.reject(
        "limit per-caller: 100 % of 5/1s — é",
        retry_after=1.2345,
        details=(QuotaFailure((QuotaViolation("per-caller", "5/1s"),)),),
        limit="per-caller",
        rate="5/1s",
    )
    scene = Scene(policies=with_policies(hooked(on_request=lambda _: rejection)), on_agent=echo)
    caller = scene.call(("x-request-id", "abc-123"))
    assert caller.seen.events == ["headers", "end"], "a refusal before headers is Trailers-Only"
    assert caller.seen.trailers is None
    assert caller.seen.value(":status") == "200"
    assert caller.seen.value("content-type") == "application/grpc"
    assert caller.seen.status == StatusCode.RESOURCE_EXHAUSTED
    assert caller.seen.value("grpc-message") == "limit per-caller: 100 %25 of 5/1s %E2%80%94 %C3%A9"
    assert caller.seen.value("grpc-retry-pushback-ms") == "1235"
    assert caller.seen.value("x-request-id") == "abc-123"
    found = info(caller)
    assert found.reason == "RATE_LIMITED"
    assert dict(found.metadata) == {"limit": "per-caller", "rate": "5/1s"}
    assert details(caller).message == rejection.message
    assert detail(caller, RetryInfo).seconds == 1.235, "as in the pushback: whole milliseconds, rounded up"
    assert detail(caller, QuotaFailure).violations == (QuotaViolation("per-caller", "5/1s"),)
    assert scene.agent_streams == []
    assert scene.outcomes[0].origin is Origin.SIDECAR
    assert scene.outcomes[0].reason is Reason.RATE_LIMITED
    assert scene.leaks() == []


@pytest.mark.parametrize("why", list(Reason), ids=lambda why: why.name)
def test_every_reason_as_it_is_announced(why: Reason) -> None:
    scene = Scene(policies=with_policies(hooked(on_request=lambda _: why.reject("because"))), on_agent=echo)
    caller = scene.call()
    assert caller.seen.status == why.code
    assert reason(caller) == why.name
    assert detail(caller, RetryInfo) is None
    assert caller.seen.value("x-request-id")
    assert scene.leaks() == []


def test_a_refusal_after_headers_comes_in_trailers_and_keeps_what_was_sent() -> None:
    scene = Scene(policies=with_policies(hooked(on_trailers=lambda *_: refuse("at the end"))), on_agent=echo)
    caller = scene.call(body=b"x")
    assert caller.seen.data == message(b"x")
    assert caller.seen.trailers is not None
    assert reason(caller) == "OVERLOADED"
    assert scene.leaks() == []


def test_a_refusal_while_the_caller_does_not_read_is_a_reset() -> None:
    """Trailers would wait behind half a message: the caller must learn of the end at once."""
    scene = Scene(on_agent=lambda s, event: s.send_headers(block(*RESPONSE)) if event == "headers" else None)
    caller = scene.call(("grpc-timeout", "1S"), consumes=False)
    scene.agent.send_data(message(b"x" * 500_000), False)
    scene.run()
    scene.advance(1.1)
    assert caller.seen.reset == ErrorCode.CANCEL
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    assert scene.outcomes[0].reason is Reason.DEADLINE
    assert scene.leaks() == []


# ── paths ──

HOSTILE = [
    "/",
    "//",
    "///",
    "//Method",
    "/Service/",
    "/Service",
    "Service/Method",
    "/test.Service//Method",
    "//test.Service/Method",
    "/test.Service/Method/",
    "/test.Service/Method//",
    "/test.Service%2FMethod",
    "/test.Service/Meth%6Fd",
    "/test.Service/Method?x=1",
    "/test.Service/Method#x",
    "/test.Service/../admin.Service/Method",
    "/./test.Service/Method",
    "/test..Service/Method",
    "/.test.Service/Method",
    "/test.Service./Method",
    "/test.1Service/Method",
    "/test.Service/1Method",
    "/test.Service/Me-thod",
    "/test.Service/Method;v=1",
    "/test.Service\\Method",
    "/test.Service/Me thod",
    "/a/b/c",
    "*",
    "http://host/test.Service/Method",
    "/test.Service/*",
    "/*",
    "/test.Sérvice/Method",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_names_no_method(path: str) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(path=path)
    if not path.isascii():
        assert caller.seen.reset is not None or caller.seen.status == StatusCode.UNIMPLEMENTED
    else:
        assert caller.seen.status == StatusCode.UNIMPLEMENTED
        assert reason(caller) == "METHOD_UNKNOWN"
    assert scene.agent_streams == []
    assert scene.leaks() == []


def test_a_hostile_path_a_second_time_by_a_known_beginning() -> None:
    scene = Scene(on_agent=echo)
    for _ in range(5):
        assert scene.call(path="/test.Service//Method").seen.status == StatusCode.UNIMPLEMENTED
    assert scene.agent_streams == []


def test_no_route_where_routes_are_for_named_methods() -> None:
    scene = Scene(methods=("/test.Service/Known",), on_agent=echo)
    caller = scene.call(path="/test.Service/Other")
    assert caller.seen.status == StatusCode.UNIMPLEMENTED
    found = info(caller)
    assert found.reason == "NO_ROUTE"
    assert found.metadata["method"] == "/test.Service/Other"
    assert scene.call(path="/test.Service/Known").seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize(
    "path", ["/S/M", "/a.b.c.D/E", "/_x/_y", "/A1/B2", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
)
def test_names_that_are_names(path: str) -> None:
    scene = Scene(on_agent=echo)
    assert scene.call(path=path).seen.status == 0
    assert scene.agent.seen.value(":path") == path


# ── not gRPC at all ──


def plain(method: str, content_type: str | None) -> bytes:
    fields = [(":method", method), (":scheme", "http"), (":path", "/test.Service/Method"), (":authority", "test")]
    if content_type is not None:
        fields.append(("content-type", content_type))
    return block(*fields, ("te", "trailers"))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "post", "X"])
def test_another_method_is_405(method: str) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(block=plain(method, "application/grpc"), body=None)
    assert caller.seen.value(":status") == "405"
    assert caller.seen.value("allow") == "POST"
    assert caller.seen.value("grpc-status") is None
    assert caller.seen.data
    assert caller.seen.ended
    assert scene.agent_streams == []
    assert scene.leaks() == []


def test_head_gets_no_body() -> None:
    scene = Scene(on_agent=echo)
    before = len(scene.caller.to_client)
    scene.call(block=plain("HEAD", None), body=None)
    # A HEADERS frame (type 1) that ends the stream, and nothing of type 0 after it.
    kinds = []
    sent = bytes(scene.caller.to_client[before:])
    while sent:
        size = int.from_bytes(sent[:3], "big")
        kinds.append((sent[3], sent[4] & 1))
        sent = sent[9 + size :]
    assert (1, 1) in kinds
    assert not [kind for kind, _ in kinds if kind == 0]
    assert scene.leaks() == []


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/html",
        "application/json",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "grpc",
    ],
)
def test_another_content_type_is_415(content_type: str | None) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(block=plain("POST", content_type))
    assert caller.seen.value(":status") == "415"
    assert caller.seen.value("grpc-status") is None
    assert int(caller.seen.value("content-length") or "") == len(caller.seen.data)
    assert scene.agent_streams == []
    assert scene.leaks() == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",
        "application/grpc;charset=utf-8",
        "Application/GRPC",
    ],
)
def test_content_types_that_are_grpc_go_on_as_they_are(content_type: str) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(block=plain("POST", content_type))
    assert caller.seen.status == 0
    assert scene.agent.seen.value("content-type") == content_type


def test_te_trailers_is_asked_for() -> None:
    scene = Scene(on_agent=echo)
    fields = block(
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
    )
    caller = scene.call(block=fields)
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "MALFORMED_REQUEST"
    assert scene.agent_streams == []
    assert scene.leaks() == []


def test_a_browser_then_a_grpc_client_on_one_connection() -> None:
    scene = Scene(on_agent=echo)
    assert scene.call(block=plain("GET", None), body=None).seen.value(":status") == "405"
    assert scene.call().seen.status == 0
    assert scene.call(block=plain("POST", "text/plain")).seen.value(":status") == "415"
    assert scene.call().seen.status == 0
    assert scene.leaks() == []


# ── too large ──


@pytest.mark.parametrize("size", [1000, 1001, 5000])
@pytest.mark.parametrize("cut", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("wants_messages", [False, True])
def test_a_message_of_the_caller_at_the_limit_and_beyond(size: int, cut: int | None, wants_messages: bool) -> None:
    policies = with_policies(*([hooked(on_request_message=lambda *_: None)] if wants_messages else []))
    scene = Scene(on_agent=echo, max_message=1000, policies=policies)
    caller = scene.call(body=None, end=False)
    whole = message(b"ok") + message(b"x" * size)
    for start in range(0, len(whole), cut or len(whole)):
        if caller.seen.ended:
            break
        caller.send_data(whole[start : start + (cut or len(whole))], False)
        scene.run()
    if size <= 1000:
        caller.send_data(b"", True)
        scene.run()
        assert caller.seen.status == 0
        assert caller.seen.data == whole
    else:
        assert caller.seen.status == StatusCode.RESOURCE_EXHAUSTED
        found = info(caller)
        assert found.reason == "MESSAGE_TOO_LARGE"
        assert (found.metadata["size"], found.metadata["limit"]) == (str(size), "1000")
        assert scene.agent.seen.reset == ErrorCode.CANCEL
        assert not scene.agent.seen.ended
        caller.reset(ErrorCode.CANCEL)
        scene.run()
    assert scene.leaks() == []


@pytest.mark.parametrize("size", [1000, 1001, 5000])
@pytest.mark.parametrize("cut", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("wants_messages", [False, True])
def test_a_message_of_the_agent_at_the_limit_and_beyond(size: int, cut: int | None, wants_messages: bool) -> None:
    policies = with_policies(*([hooked(on_response_message=lambda *_: None)] if wants_messages else []))
    scene = Scene(on_agent=silent, max_message=1000, policies=policies)
    caller = scene.call()
    agent = scene.agent
    agent.send_headers(block(*RESPONSE))
    whole = message(b"ok") + message(b"x" * size)
    for start in range(0, len(whole), cut or len(whole)):
        if agent.seen.reset is not None:
            break
        agent.send_data(whole[start : start + (cut or len(whole))], False)
        scene.run()
    if size <= 1000:
        agent.send_trailers(block(("grpc-status", "0")))
        scene.run()
        assert caller.seen.status == 0
        assert caller.seen.data == whole
    else:
        assert caller.seen.status == StatusCode.RESOURCE_EXHAUSTED
        assert reason(caller) == "MESSAGE_TOO_LARGE"
        assert agent.seen.reset == ErrorCode.CANCEL
        assert caller.seen.data.startswith(message(b"ok")) or cut in (None, 100)
    assert scene.leaks() == []


def test_metadata_of_the_caller_beyond_the_limit() -> None:
    scene = Scene(on_agent=echo, listener_limits=Limits(max_header_list=4096))
    caller = scene.call(("x-large", "v" * 5000))
    assert caller.seen.status == StatusCode.RESOURCE_EXHAUSTED
    assert reason(caller) == "METADATA_TOO_LARGE"
    assert caller.seen.value("x-request-id")
    assert scene.agent_streams == []
    assert scene.call().seen.status == 0, "the connection goes on"
    assert scene.leaks() == []


def test_trailers_of_the_caller_beyond_the_limit() -> None:
    scene = Scene(on_agent=silent, listener_limits=Limits(max_header_list=4096))
    caller = scene.call(end=False)
    caller.send_trailers(block(("x-large", "v" * 5000)))
    scene.run()
    assert caller.seen.status == StatusCode.RESOURCE_EXHAUSTED
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    assert not scene.agent.seen.ended
    assert len(scene.outcomes) == 1
    scene.advance(2)
    assert scene.leaks() == []


@pytest.mark.parametrize("where", ["headers", "trailers", "only"])
def test_metadata_of_the_agent_beyond_the_limit(where: str) -> None:
    large = ("x-large", "v" * 20_000)

    def act(stream: ScriptedStream, event: str) -> None:
        if event != "end":
            return
        if where == "only":
            stream.send_headers(block(*RESPONSE, ("grpc-status", "0"), large), True)
        elif where == "headers":
            finish(stream, message(b"x"), headers=(*RESPONSE, large))
        else:
            finish(stream, message(b"x"), (("grpc-status", "0"), large))

    scene = Scene(on_agent=act)
    caller = scene.call()
    assert caller.seen.status == StatusCode.RESOURCE_EXHAUSTED
    assert reason(caller) == "METADATA_TOO_LARGE"
    assert caller.seen.data == (message(b"x") if where == "trailers" else b"")
    assert scene.leaks() == []


# ── draining, and no way to the agent ──


def test_draining_refuses_new_calls_and_finishes_old_ones() -> None:
    scene = Scene(on_agent=echo)
    old = scene.call(end=False)
    scene.edge.draining = True
    new = scene.call()
    assert new.seen.status == StatusCode.UNAVAILABLE
    assert reason(new) == "DRAINING"
    assert int(new.seen.value("grpc-retry-pushback-ms") or "") > 0
    old.send_data(message(b"rest"), True)
    scene.run()
    assert old.seen.status == 0
    assert len(scene.agent_streams) == 1
    assert scene.leaks() == []


def test_a_cluster_that_refuses() -> None:
    scene = Scene(on_agent=echo)
    refusal: Rejection = Reason.NO_HEALTHY_ENDPOINT.reject("none of 2 can be reached", retry_after=0.5, cluster="local")
    scene.cluster.refusal = refusal
    caller = scene.call()
    assert caller.seen.status == StatusCode.UNAVAILABLE
    assert info(caller).metadata["cluster"] == "local"
    assert caller.seen.value("grpc-retry-pushback-ms") == "500"
    assert scene.leaks() == []


def test_an_agents_own_refusal_is_never_dressed_up_as_ours() -> None:
    scene = Scene(on_agent=answers(("grpc-status", "14"), ("x-sidecar-origin", "sidecar"), ("grpc-message", "busy")))
    caller = scene.call()
    assert caller.seen.status == StatusCode.UNAVAILABLE
    assert caller.seen.value("x-sidecar-origin") is None
    assert caller.seen.value("grpc-message") == "busy"


def test_outbound_believes_the_sidecar_on_the_other_side() -> None:
    scene = Scene(direction="outbound", on_agent=answers(("grpc-status", "14"), ("x-sidecar-origin", "sidecar")))
    assert scene.call().seen.value("x-sidecar-origin") == "sidecar"


def test_request_block_is_a_request() -> None:
    scene = Scene(on_agent=echo)
    assert scene.call(block=request_block()).seen.status == 0
