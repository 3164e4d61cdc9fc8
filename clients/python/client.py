"""The client itself: one connection, five kinds of calls."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf import json_format

from clients.python.api import agent_pb2 as pb
from clients.python.api.agent_pb2_grpc import AgentServiceStub
from clients.python.ending import Ending
from clients.python.results import (
    Answer,
    Event,
    IngestSummary,
    Result,
    Turn,
    to_answer,
    to_event,
    to_result,
    to_struct,
    to_summary,
)
from clients.python.tasks import TaskCalls

if TYPE_CHECKING:
    from types import TracebackType

Metadata = Iterable[tuple[str, str | bytes]]
Fields = Mapping[str, Any]

_VERSION = "x-agent-version"
_BATCH_RECORDS = 200
_BATCH_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for a server that speaks TLS: `ca` to check it, `certificate` and `key` to show who we are."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    """Name the certificate is checked against; empty: the host of the target."""


def new_idempotency_key() -> str:
    """A key for one intended change. Keep it, and give it again when the call is repeated."""
    return secrets.token_urlsafe(24)


class AgentClient:
    """Calls one target. Use it as an async context manager, or `close` it."""

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None = None,
        agent: str = "",
        timeout: float | None = 60.0,
        metadata: Metadata = (),
        max_message_bytes: int = 64 << 20,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        """`target` as grpcio takes it: `127.0.0.1:50061`, `dns:///host:443`, `unix:/path`. `agent`, `timeout` (seconds, None: no
        deadline) and `metadata` hold for all calls unless a call says otherwise; `interceptors` as grpcio has them
        (`clients.python.tracing`). Raises OSError when a TLS file cannot be read.
        """
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # The sidecar is on this machine, and it owns retries.
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
        ]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options, interceptors=interceptors)
        else:
            if tls.server_name:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            self._channel = grpc.aio.secure_channel(target, _credentials(tls), options, interceptors=interceptors)
        self._stub = AgentServiceStub(self._channel)
        self._agent = agent
        self._timeout = timeout
        self._metadata = tuple(metadata)
        self.tasks = TaskCalls(self)
        """Long work."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; calls that still run are cancelled."""
        await self._channel.close(None)

    async def execute(
        self,
        operation: str = "",
        parameters: Fields | None = None,
        *,
        task: str = "",
        agent: str | None = None,
        session_id: str = "",
        idempotency_key: str = "",
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Result:
        """Run one operation. Raises CallFailure."""
        request = pb.ExecuteRequest(
            task=task,
            agent=self._agent if agent is None else agent,
            operation=operation,
            parameters=to_struct(parameters or {}),
            session_id=session_id,
        )
        with Ending():
            call = self._stub.Execute(
                request, timeout=self._within(timeout), metadata=self._with(metadata, idempotency_key)
            )
            response = await call
            return to_result(response.result, await _version(call))

    async def stream(
        self,
        operation: str = "",
        parameters: Fields | None = None,
        *,
        task: str = "",
        agent: str | None = None,
        session_id: str = "",
        idempotency_key: str = "",
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Event]:
        """Run one operation and give each event as it happens, the Result last. Raises CallFailure.

        Leaving the loop early cancels the work once the iterator is closed (`contextlib.aclosing`).
        """
        request = pb.ExecuteStreamRequest(
            task=task,
            agent=self._agent if agent is None else agent,
            operation=operation,
            parameters=to_struct(parameters or {}),
            session_id=session_id,
        )
        call = self._stub.ExecuteStream(
            request, timeout=self._within(timeout), metadata=self._with(metadata, idempotency_key)
        )
        try:
            with Ending():
                async for message in call:
                    event = to_event(message, await _version(call))
                    if event is not None:
                        yield event
        finally:
            call.cancel()

    async def ingest(
        self,
        records: Iterable[Fields] | AsyncIterable[Fields],
        parameters: Fields,
        *,
        operation: str = "",
        agent: str | None = None,
        id_field: str = "",
        session_id: str = "",
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> IngestSummary:
        """Send records, read one at a time and packed into messages as they come; their number does not matter.

        `id_field` names the field that identifies a record in the list of rejected ones. Raises CallFailure, and whatever
        reading `records` raises.
        """
        target = pb.IngestTarget(
            agent=self._agent if agent is None else agent,
            operation=operation,
            parameters=to_struct(parameters),
            session_id=session_id,
        )
        failed: list[Exception] = []
        ending = Ending()
        call = ending.of(
            self._stub.Ingest(
                _watched(_ingest_messages(target, _async(records), id_field), failed),
                timeout=self._within(timeout, has_default=False),
                metadata=self._with(metadata, ""),
            )
        )
        try:
            with ending:
                return to_summary(await call)
        except BaseException:
            call.cancel()
            if failed:
                raise failed[0] from None
            raise

    async def converse(
        self,
        turns: Iterable[Turn] | AsyncIterable[Turn],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Answer]:
        """Hold a conversation: each turn is sent as it comes and answered in order. Raises CallFailure when the stream fails; a
        turn that fails is an Answer with its `failure`.
        """
        failed: list[Exception] = []
        ending = Ending()
        call = ending.of(
            self._stub.Converse(
                _watched(self._turns(_async(turns)), failed),
                timeout=self._within(timeout, has_default=False),
                metadata=self._with(metadata, ""),
            )
        )
        try:
            with ending:
                async for message in call:
                    yield to_answer(message, await _version(call))
        except BaseException:
            if failed:
                raise failed[0] from None
            raise
        finally:
            call.cancel()

    async def describe(
        self, agent: str = "", *, timeout: float | None = None, metadata: Metadata = ()
    ) -> dict[str, Any]:
        """What the server can do, as values of JSON. Raises CallFailure."""
        with Ending():
            response = await self._stub.Describe(
                pb.DescribeRequest(agent=agent), timeout=self._within(timeout), metadata=self._with(metadata, "")
            )
        described: dict[str, Any] = json_format.MessageToDict(
            response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return described

    async def _turns(self, turns: AsyncIterator[Turn]) -> AsyncIterator[pb.ConverseRequest]:
        async for turn in turns:
            yield pb.ConverseRequest(
                session_id=turn.session_id,
                turn_id=turn.turn_id,
                text=turn.text,
                agent=turn.agent or self._agent,
                operation=turn.operation,
                parameters=to_struct(turn.parameters),
            )

    def _within(self, timeout: float | None, *, has_default: bool = True) -> float | None:
        return timeout if timeout is not None or not has_default else self._timeout

    def _with(self, metadata: Metadata, idempotency_key: str) -> tuple[tuple[str, str | bytes], ...]:
        key = (("idempotency-key", idempotency_key),) if idempotency_key else ()
        return (*self._metadata, *metadata, *key)


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        tls.ca.read_bytes(),
        tls.key.read_bytes() if tls.key else None,
        tls.certificate.read_bytes() if tls.certificate else None,
    )


async def _version(call: Any) -> str:
    for key, value in await call.initial_metadata() or ():
        if key == _VERSION:
            return str(value)
    return ""


async def _async(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _watched(messages: AsyncIterator[Any], failed: list[Exception]) -> AsyncIterator[Any]:
    """grpcio reports an exception of the sender's own iterator as a cancelled call; this keeps it, to be raised as it is."""
    try:
        async for message in messages:
            yield message
    except Exception as error:
        failed.append(error)
        raise


async def _ingest_messages(
    target: pb.IngestTarget, records: AsyncIterator[Fields], id_field: str
) -> AsyncIterator[pb.IngestRequest]:
    yield pb.IngestRequest(target=target)
    batch = pb.IngestBatch()
    size = 0
    async for fields in records:
        record = batch.records.add(
            record_id=str(fields.get(id_field, "")) if id_field else "", fields=to_struct(fields)
        )
        size += record.ByteSize()
        if len(batch.records) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
            yield pb.IngestRequest(batch=batch)
            batch, size = pb.IngestBatch(), 0
    if batch.records:
        yield pb.IngestRequest(batch=batch)
