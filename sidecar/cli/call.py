"""`sidecar call`: call any method of a gRPC server, for those without grpcurl. What it takes and gives, the server tells (reflection)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.config.units import parse_duration

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

WRONG_USAGE = 2
FIRST_STATUS = 64
"""Exit code of a status other than OK: 64 and its number, as with grpcurl."""


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar call --addr 127.0.0.1:50051 --list\n"
        "  sidecar call --addr 127.0.0.1:50051 agent.v1.AgentService/Describe\n"
        "  sidecar call --addr localhost:8443 --tls-ca certs/ca.crt --tls-cert certs/a.crt --tls-key certs/a.key \\\n"
        "    -H 'idempotency-key: pay-1' -d '{\"task\": \"query\"}' agent.v1.AgentService/Execute\n\n"
        "Several messages are several JSON documents, one after the other; -d @ reads them from standard input.\n"
        "Exit codes: 0 OK, 2 wrong usage or no connection, 64 and the number of the status otherwise."
    ),
)
@click.argument("method", required=False)
@click.option("--addr", required=True, help="host:port or unix:/path.")
@click.option("--list", "lists", is_flag=True, help="Print the services and methods there are.")
@click.option("-d", "--data", default="", help="Messages as JSON; @ = standard input. Default: one empty message.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="Metadata of the call.")
@click.option("--timeout", default="30s", show_default=True, help="Deadline of the call.")
@click.option("--tls-ca", type=click.Path(path_type=Path), help="Speak TLS and check the server by this CA.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Our certificate, for mTLS.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key.")
@click.option("--server-name", default="", help="Name the server's certificate is checked against.")
def call(
    method: str | None,
    addr: str,
    lists: bool,
    data: str,
    headers: tuple[str, ...],
    timeout: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    server_name: str,
) -> None:
    """Call METHOD (package.Service/Method) and print its answers as JSON."""
    if (method is None) != lists:
        raise click.UsageError("name a method, or say --list")
    try:
        seconds = parse_duration(timeout)
        metadata = [_header(each) for each in headers]
        channel = _channel(addr, tls_ca, tls_cert, tls_key, server_name)
        documents = list(_documents(sys.stdin.read() if data == "@" else data))
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    import grpc

    with channel:
        try:
            grpc.channel_ready_future(channel).result(min(seconds, 10.0))
        except grpc.FutureTimeoutError:
            click.echo(f"no connection to {addr}: nothing listens there, or the TLS handshake was refused", err=True)
            sys.exit(WRONG_USAGE)
        try:
            pool, services = _described(channel)
            if lists:
                for line in _listed(pool, services):
                    click.echo(line)
                return
            assert method is not None
            found = _method(pool, services, method)
            _run(channel, found, documents, metadata, seconds)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        except grpc.RpcError as error:
            click.echo(_failure(error), err=True)
            sys.exit(FIRST_STATUS + int(error.code().value[0]))


def _header(text: str) -> tuple[str, str | bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"-H {text!r} is no metadata; write NAME:VALUE")
    name, value = name.strip().lower(), value.strip()
    if name.endswith("-bin"):
        import base64

        return name, base64.b64decode(value + "=" * (-len(value) % 4))
    return name, value


def _channel(addr: str, ca: Path | None, cert: Path | None, key: Path | None, server_name: str) -> grpc.Channel:
    import grpc

    if (cert is None) != (key is None) or (cert is not None and ca is None):
        raise ValueError("--tls-cert and --tls-key belong together, and need --tls-ca")
    options: list[tuple[str, str | int]] = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if ca is None:
        return grpc.insecure_channel(addr, options)
    files = [None if path is None else path.read_bytes() for path in (ca, key, cert)]
    return grpc.secure_channel(addr, grpc.ssl_channel_credentials(*files), options)


def _documents(text: str) -> Iterator[Any]:
    """JSON documents one after the other. Raises ValueError saying where it is none."""
    decoder = json.JSONDecoder()
    position = 0
    while (rest := text[position:].lstrip()) != "":
        position = len(text) - len(rest)
        try:
            document, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"the data is no JSON at character {error.pos}: {error.msg}") from None
        yield document


def _described(channel: grpc.Channel) -> tuple[DescriptorPool, list[str]]:
    """What the server says it has. Raises ValueError when it does not tell."""
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    database = ProtoReflectionDescriptorDatabase(channel)
    try:
        services = sorted(database.get_services())
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise ValueError("the server has no reflection, so what its methods take is not known") from None
        raise
    return DescriptorPool(database), services


def _listed(pool: DescriptorPool, services: list[str]) -> Iterator[str]:
    for name in services:
        yield name
        for method in pool.FindServiceByName(name).methods:
            request = ("stream " if method.client_streaming else "") + method.input_type.full_name
            answer = ("stream " if method.server_streaming else "") + method.output_type.full_name
            yield f"  {method.name}({request}) returns ({answer})"


def _method(pool: DescriptorPool, services: list[str], text: str) -> MethodDescriptor:
    from sidecar.config.problems import did_you_mean

    service, _, name = text.strip("/").rpartition("/") if "/" in text else text.rpartition(".")
    if service not in services:
        hint = did_you_mean(service, services)
        raise ValueError(f"the server has no service {service or text!r}; {hint or 'see --list'}")
    methods = {each.name: each for each in pool.FindServiceByName(service).methods}
    if name not in methods:
        raise ValueError(f"{service} has no method {name!r}; {did_you_mean(name, methods) or 'see --list'}")
    return methods[name]


def _run(
    channel: grpc.Channel,
    method: MethodDescriptor,
    documents: list[Any],
    metadata: list[tuple[str, str | bytes]],
    timeout: float,
) -> None:
    from google.protobuf import json_format
    from google.protobuf.message_factory import GetMessageClass

    request_type, answer_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    if not method.client_streaming and len(documents) > 1:
        raise ValueError(f"{method.name} takes one message, and {len(documents)} were given")
    messages = []
    for document in documents if documents or method.client_streaming else [{}]:
        try:
            messages.append(json_format.ParseDict(document, request_type()))
        except json_format.ParseError as error:
            raise ValueError(f"the data is no {method.input_type.full_name}: {error}") from None
    service = method.containing_service.full_name
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    stub = kinds[bool(method.client_streaming), bool(method.server_streaming)](
        f"/{service}/{method.name}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=answer_type.FromString,
    )
    given = iter(messages) if method.client_streaming else messages[0]
    answer = stub(given, metadata=metadata, timeout=timeout)
    for each in answer if method.server_streaming else [answer]:
        click.echo(json_format.MessageToJson(each, descriptor_pool=method.containing_service.file.pool))


def _failure(error: Any) -> str:
    """As people read it: code, message, and what the details say."""
    from google.protobuf import json_format
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    lines = [f"{error.code().name}: {error.details()}"]
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    for each in status.details if status is not None else ():
        kind = getattr(error_details_pb2, each.type_url.rpartition(".")[2], None)
        if kind is None:
            lines.append(f"  {each.type_url}")
            continue
        detail = kind.FromString(each.value)
        lines.append(f"  {kind.DESCRIPTOR.name}: {json.dumps(json_format.MessageToDict(detail))}")
    return "\n".join(lines)
