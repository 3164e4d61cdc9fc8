"""Each language's own gRPC library through two sidecars: what arrives is what was sent, both ways, however a call ends."""

from __future__ import annotations

import hashlib
import json

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.interop.driver import Driver
from tests.interop.mesh import ECHO, Mesh

KINDS = {"unary": "Unary", "server": "ServerStream", "client": "ClientStream", "bidi": "Bidi"}
FIVE = 5 << 20
OK, CANCELLED, DEADLINE_EXCEEDED, ABORTED = 0, 1, 4, 10
RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "interop.v1.Echo"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_four_kinds(mesh: Mesh, driver: Driver, kind: str) -> None:
    messages = [b"one"] if kind in {"unary", "server"} else [b"one", b"", b"three"]
    seen = driver.call(mesh.address, ECHO + KINDS[kind], kind, messages=messages)
    wanted = {"unary": messages, "server": messages * 3, "client": [b"[3, 0, 5]"], "bidi": messages}[kind]
    assert (seen.code, seen.answers) == (OK, wanted)


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip both ways"])
@pytest.mark.parametrize("size", [0, 1, FIVE], ids=["0 B", "1 B", "5 MiB"])
def test_sizes(mesh: Mesh, driver: Driver, size: int, gzip: bool) -> None:
    seen = driver.call(mesh.address, f"{ECHO}Unary", messages=[size], gzip=gzip, do={"gzip": gzip})
    assert (seen.code, seen.message, seen.sizes) == (OK, "", [size])
    assert seen.hashes == [hashlib.sha256(bytes(size)).hexdigest()]


def test_metadata_of_every_shape(mesh: Mesh, driver: Driver) -> None:
    binary = bytes(range(256))
    sent = [
        ("echo-one", "value"),
        ("echo-many", "first"),
        ("echo-many", "second"),
        ("echo-empty", ""),
        ("echo-signs", "!\"#$%&'()*+-./:;<=>?@[]^_`{|}~"),
        ("echo-x-bin", binary),
        ("echo-void-bin", b""),
    ]
    seen = driver.call(mesh.address, f"{ECHO}Unary", metadata=sent)
    assert seen.code == OK
    for where in (seen.initial, seen.trailers):
        assert where["echo-one"] == ["value"]
        # RFC 9110 §5.2: a field that is repeated may be joined on its way.
        assert ",".join(map(str, where["echo-many"])).replace(" ", "") == "first,second"
        assert where["echo-empty"] == [""]
        assert where["echo-signs"] == ["!\"#$%&'()*+-./:;<=>?@[]^_`{|}~"]
        assert where["echo-x-bin"] == [binary]
        assert where["echo-void-bin"] == [b""]


def test_metadata_of_15_kib(mesh: Mesh, driver: Driver) -> None:
    seen = driver.call(mesh.address, f"{ECHO}Unary", metadata=[("x-long", "x" * (15 << 10))])
    assert (seen.code, seen.message) == (OK, "")
    assert int(str(seen.trailers["saw-size"][0])) > 15 << 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_with_details_and_a_message_of_the_world(mesh: Mesh, driver: Driver, kind: str) -> None:
    message = "Größe 100 % — 日本語 ✓ \n\t🎈"
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="OUT_OF_INK", domain="agent", metadata={"ink": "黒"}))
    details = status_pb2.Status(code=ABORTED, message=message, details=[info]).SerializeToString()
    do = {"code": ABORTED, "message": message, "details": _base64(details)}
    seen = driver.call(mesh.address, ECHO + KINDS[kind], kind, do=do)
    assert (seen.code, seen.message) == (ABORTED, message)
    assert seen.trailers["grpc-status-details-bin"] == [details]
    assert "x-sidecar-origin" not in seen.trailers


def test_the_clients_own_retry_policy(mesh: Mesh, driver: Driver, request: pytest.FixtureRequest) -> None:
    do = {"fail_first": 2, "key": request.node.name}
    seen = driver.call(mesh.address, f"{ECHO}Unary", do=do, service_config=RETRY)
    assert (seen.code, seen.answers) == (OK, [b"\x0a\x01a"])


def ended(mesh: Mesh, driver: Driver, name: str) -> dict[str, object]:
    seen = driver.call(mesh.address, f"{ECHO}Ended", messages=[name.encode()])
    assert seen.code == OK and seen.answers[0] is not None, seen.message
    found: dict[str, object] = json.loads(seen.answers[0])
    return found


def test_a_deadline_of_the_caller_reaches_the_agent(mesh: Mesh, driver: Driver, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    seen = driver.call(mesh.address, f"{ECHO}ServerStream", "server", do={"hold": True, "report": name}, timeout=0.4)
    assert seen.code == DEADLINE_EXCEEDED
    how = ended(mesh, driver, name)
    assert how["ended"] == "cancelled"
    # Clients round up the deadline they send, so what arrives may be a little above what was asked.
    assert isinstance(how["timeout"], float) and 0 < how["timeout"] < 0.5


@pytest.mark.parametrize("hop", ["outbound", "inbound"])
def test_a_deadline_of_a_hop(mesh: Mesh, driver: Driver, request: pytest.FixtureRequest, hop: str) -> None:
    name = request.node.name
    do = {"hold": True, "report": name}
    seen = driver.call(mesh.address, f"{ECHO}ServerStream", "server", do=do, metadata=[("x-cap", hop)])
    assert seen.code == DEADLINE_EXCEEDED
    # All hops have the shortened deadline; whichever notices first answers, so the reason is not looked at.
    assert ended(mesh, driver, name)["ended"] == "cancelled"


def test_a_deadline_of_the_agent_is_its_own(mesh: Mesh, driver: Driver) -> None:
    seen = driver.call(mesh.address, f"{ECHO}Unary", do={"code": DEADLINE_EXCEEDED, "message": "mine"})
    assert (seen.code, seen.message) == (DEADLINE_EXCEEDED, "mine")
    assert "x-sidecar-origin" not in seen.trailers


@pytest.mark.parametrize("kind", ["server", "bidi"])
def test_cancelled_by_the_caller(mesh: Mesh, driver: Driver, request: pytest.FixtureRequest, kind: str) -> None:
    name = request.node.name
    do = {"hold": True, "report": name}
    seen = driver.call(mesh.address, ECHO + KINDS[kind], kind, do=do, cancel_after=1)
    assert (seen.code, len(seen.answers)) == (CANCELLED, 1)
    assert ended(mesh, driver, name)["ended"] == "cancelled"


@pytest.mark.parametrize("kind", ["server", "bidi"])
def test_cancelled_by_the_agent(mesh: Mesh, driver: Driver, kind: str) -> None:
    seen = driver.call(mesh.address, ECHO + KINDS[kind], kind, do={"cancel": True})
    assert (seen.code, len(seen.answers)) == (CANCELLED, 1)


def test_health(mesh: Mesh, driver: Driver) -> None:
    seen = driver.call(mesh.address, "/grpc.health.v1.Health/Check", messages=[0])
    assert (seen.code, seen.answers) == (OK, [b"\x08\x01"])
    seen = driver.call(mesh.address, "/grpc.health.v1.Health/Watch", "server", messages=[0], cancel_after=1)
    assert (seen.code, seen.answers) == (CANCELLED, [b"\x08\x01"])


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(mesh: Mesh, driver: Driver, version: str) -> None:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    seen = driver.call(mesh.address, method, "bidi", messages=[b"\x3a\x01*"])
    assert seen.code == OK
    assert seen.answers[0] is not None and b"agent.v1.AgentService" in seen.answers[0]


def _base64(raw: bytes) -> str:
    import base64

    return base64.b64encode(raw).decode()
