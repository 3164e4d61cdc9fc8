"""`sidecar probe`: is a gRPC server healthy? With the exit codes of grpc-health-probe, for containers and scripts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sidecar.config.units import parse_duration

UNHEALTHY, CONNECTION_FAILURE, RPC_FAILURE, INVALID_ARGUMENTS = 4, 2, 3, 1


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar probe --addr 127.0.0.1:50051\n"
        "  sidecar probe --addr localhost:8443 --tls-ca certs/ca.crt --tls-cert certs/a.crt --tls-key certs/a.key\n\n"
        "Exit codes: 0 SERVING, 1 wrong arguments, 2 no connection, 3 the RPC failed, 4 not SERVING."
    ),
)
@click.option("--addr", required=True, help="host:port or unix:/path.")
@click.option("--service", default="", help="Service to ask about; empty: the server.")
@click.option("--connect-timeout", default="1s", show_default=True)
@click.option("--rpc-timeout", default="1s", show_default=True)
@click.option("--tls-ca", type=click.Path(path_type=Path), help="Speak TLS and check the server by this CA.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Our certificate, for mTLS.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key.")
@click.option("--server-name", default="", help="Name the server's certificate is checked against.")
def probe(
    addr: str,
    service: str,
    connect_timeout: str,
    rpc_timeout: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    server_name: str,
) -> None:
    """Ask a gRPC server for its health (grpc.health.v1) and say it by the exit code."""
    try:
        connecting, answering = parse_duration(connect_timeout), parse_duration(rpc_timeout)
        if (tls_cert is None) != (tls_key is None) or (tls_cert is not None and tls_ca is None):
            raise ValueError("--tls-cert and --tls-key belong together, and need --tls-ca")
        files = [None if path is None else path.read_bytes() for path in (tls_ca, tls_key, tls_cert)]
    except (OSError, ValueError) as error:
        click.echo(f"probe: {error}", err=True)
        sys.exit(INVALID_ARGUMENTS)
    sys.exit(_ask(addr, service, connecting, answering, files, server_name))


def _ask(
    addr: str, service: str, connecting: float, answering: float, files: list[bytes | None], server_name: str
) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    channel = (
        grpc.insecure_channel(addr, options)
        if files[0] is None
        else grpc.secure_channel(addr, grpc.ssl_channel_credentials(*files), options)
    )
    with channel:
        try:
            grpc.channel_ready_future(channel).result(connecting)
        except grpc.FutureTimeoutError:
            click.echo(f"probe: no connection to {addr} within {connecting:g} s", err=True)
            return CONNECTION_FAILURE
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=answering
            )
        except grpc.RpcError as error:
            click.echo(f"probe: {error.code().name}: {error.details()}", err=True)
            return RPC_FAILURE
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(f"status: {name}")
    return 0 if name == "SERVING" else UNHEALTHY
