"""`sidecar.v1.Admin`: what the admin pages and the command line do, for programs; with health, and reflection under both names.

grpcio runs in a thread and a loop of its own, and only where `admin.grpc` is configured: the data path shares nothing with it. What
is asked is done on the data loop, through the same functions as over HTTP.
"""

# ruff: noqa: N802 - methods have the names of the proto
from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Literal

# Before it is loaded: grpcio would hook into every fork of this process, and the agent is started by one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from google.protobuf import json_format, struct_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.alerts.alerts import TestRuns
from sidecar.control.admin import view
from sidecar.control.admin.api import admin_pb2 as pb
from sidecar.control.admin.api.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from sidecar.control.admin.grpc_reflection import add_reflection
from sidecar.control.admin.http import LoopStuckError
from sidecar.control.drills.disturbances import CannotDrill
from sidecar.control.drills.order import order_from
from sidecar.policies.idempotency.settling import CannotSettle, NoSuchRecord
from sidecar.rollout.rollouts import NoSuchRollout, Refused, StoreUnavailable
from sidecar.transport.bind import BindError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from sidecar.control.admin.http import AdminServer

    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    # At run time it takes no types.
    _Interceptor = grpc.aio.ServerInterceptor

SERVICE = "sidecar.v1.Admin"
_HEALTH = "grpc.health.v1.Health"
_START_LIMIT = 10.0
_GRACE = 1.0
_LONGEST_MESSAGE = 4 * 1024 * 1024
_LEVELS = ("debug", "info", "warning", "error")
_LONGEST_LIST = 1000
_OUTCOMES: dict[int, Literal["executed", "not_executed"]] = {
    pb.RECORD_OUTCOME_EXECUTED: "executed",
    pb.RECORD_OUTCOME_NOT_EXECUTED: "not_executed",
}
_ORDERS = {
    pb.ROLLOUT_ORDER_START: "start",
    pb.ROLLOUT_ORDER_PAUSE: "pause",
    pb.ROLLOUT_ORDER_RESUME: "resume",
    pb.ROLLOUT_ORDER_PROMOTE: "promote",
    pb.ROLLOUT_ORDER_ABORT: "abort",
}


class AdminGrpc:
    """The server, from `start` (blocks until it serves; raises BindError) to `close`."""

    def __init__(self, admin: AdminServer, address: str) -> None:
        self.address = address
        self._admin = admin
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._started = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="admin-grpc", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._started.wait(_START_LIMIT):
            raise BindError(f"{self.address}: the gRPC server does not start")
        if self._problem is not None:
            raise BindError(f"{self.address}: {self._problem}")

    def close(self) -> None:
        """Called from another thread than the server's."""
        if self._loop is not None and self._ending is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(_GRACE + _START_LIMIT)

    @property
    def is_serving(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except Exception as error:
            self._problem = str(error)
            self._admin.process.runtime.log.exception("admin gRPC service ended")
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        server = grpc.aio.server(
            interceptors=[_Token(self._admin.token)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _LONGEST_MESSAGE),
                ("grpc.max_send_message_length", -1),
            ],
        )
        add_AdminServicer_to_server(Admin(self._admin), server)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self._admin), server)
        add_reflection((SERVICE, _HEALTH), server)
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError:
            self._problem = "cannot be bound"
            return
        if not self.address.startswith("unix:"):
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await server.start()
        self._started.set()
        await self._ending.wait()
        await server.stop(_GRACE)


class _Token(_Interceptor):
    """Health is for everybody; the rest is for whoever has the token, where there is one."""

    def __init__(self, token: str | None) -> None:
        self._wanted = None if token is None else f"Bearer {token}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if self._wanted is None or handler_call_details.method.startswith(f"/{_HEALTH}/"):
            return await continuation(handler_call_details)
        given = next((value for name, value in handler_call_details.invocation_metadata if name == "authorization"), "")
        raw = given if isinstance(given, bytes) else given.encode()
        if hmac.compare_digest(raw, self._wanted):
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_unauthenticated)


async def _unauthenticated(_requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "give the admin token: metadata `authorization: Bearer …`")


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # without types
    """SERVING while the sidecar is ready: not while it starts or drains, nor when the agent was given up."""

    def __init__(self, admin: AdminServer) -> None:
        self._admin = admin

    async def Check(self, request: Any, context: Any) -> Any:
        if request.service not in {"", SERVICE}:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=await self._status())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        told = None
        while True:
            known = request.service in {"", SERVICE}
            status = await self._status() if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            await _pause(1.0)

    async def _status(self) -> Any:
        process = self._admin.process
        try:
            is_ready, _ = await asyncio.to_thread(self._admin.on_loop, lambda: view.ready(process))
        except LoopStuckError:
            is_ready = False
        words = health_pb2.HealthCheckResponse
        return words.SERVING if is_ready else words.NOT_SERVING


class Admin(AdminServicer):
    """One method per RPC; see the proto."""

    def __init__(self, admin: AdminServer) -> None:
        self._admin = admin
        self._process = admin.process

    # ── how things are asked ──

    async def _read(self, context: Any, function: Callable[[], Any]) -> Any:
        """What `function` gives on the data loop."""
        return await self._guard(context, asyncio.to_thread(self._admin.on_loop, function))

    async def _wait(self, context: Any, start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What a coroutine gives on the data loop."""
        return await self._guard(context, asyncio.to_thread(self._admin.wait_for, start))

    async def _guard(self, context: Any, waiting: Awaitable[Any]) -> Any:
        try:
            return await waiting
        except LoopStuckError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the event loop does not answer")
        except (NoSuchRollout, NoSuchRecord) as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error.args[0]))
        except (Refused, CannotDrill, CannotSettle) as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except StoreUnavailable as error:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"the store gives no answer ({error.kind}); nothing was done"
            )
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise AssertionError("abort raises")

    # ── what is there ──

    async def GetVersion(self, request: Any, context: Any) -> pb.GetVersionResponse:
        return pb.GetVersionResponse(**view.version())

    async def GetReadiness(self, request: Any, context: Any) -> pb.GetReadinessResponse:
        is_ready, checks = await self._read(context, lambda: view.ready(self._process))
        found = [pb.Check(name=name, holds=holds, word=word) for name, holds, word in checks]
        return pb.GetReadinessResponse(ready=is_ready, checks=found)

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=await self._picture(context))

    async def WatchStatus(self, request: pb.WatchStatusRequest, context: Any) -> AsyncIterator[pb.WatchStatusResponse]:
        seconds = request.interval_seconds or 2.0
        if not 0.1 <= seconds <= 3600:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "interval_seconds: allowed are 0.1 to 3600")
        while True:
            yield pb.WatchStatusResponse(status=await self._picture(context))
            await _pause(seconds)

    async def _picture(self, context: Any) -> struct_pb2.Struct:
        picture = await self._guard(context, asyncio.to_thread(self._admin.dashboard.picture))
        return _struct(picture)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        accept = "application/openmetrics-text; version=1.0.0" if request.openmetrics else ""
        content_type, page = await self._guard(context, asyncio.to_thread(self._admin.metrics_page, accept))
        return pb.GetMetricsResponse(content_type=content_type, page=page)

    async def GetConfig(self, request: Any, context: Any) -> pb.GetConfigResponse:
        found = await self._read(context, lambda: view.config(self._process))
        return pb.GetConfigResponse(
            **{name: found[name] for name in ("generation", "sha256", "loaded_at", "file", "warnings")},
            last_reload_problem=found["last_reload_problem"] or "",
            config=_struct(found["config"]),
        )

    async def ListListeners(self, request: Any, context: Any) -> pb.ListListenersResponse:
        found = await self._read(context, lambda: view.listeners(self._process))
        return pb.ListListenersResponse(listeners=map(_struct, found))

    async def ListClusters(self, request: Any, context: Any) -> pb.ListClustersResponse:
        found = await self._read(context, lambda: view.clusters(self._process))
        return pb.ListClustersResponse(clusters=map(_struct, found))

    async def ListCertificates(self, request: Any, context: Any) -> pb.ListCertificatesResponse:
        found = await self._read(context, lambda: view.certificates(self._process))
        return pb.ListCertificatesResponse(certificates=map(_struct, found))

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        query = {
            "listener": [request.listener],
            "method": [request.method],
            "metadata": [f"{name}={value}" for name, value in request.metadata.items()],
            "authority": [request.authority or "localhost"],
        }
        if request.identity:
            query["identity"] = [request.identity]
        if request.HasField("claims"):
            query["claims"] = [json.dumps(json_format.MessageToDict(request.claims))]
        question = view.question(query)
        found = await self._wait(context, lambda: view.explained(self._process, question))
        return pb.ExplainResponse(decision=_struct(found))

    async def GetDrain(self, request: Any, context: Any) -> pb.GetDrainResponse:
        return pb.GetDrainResponse(**await self._read(context, lambda: view.drain(self._process)))

    async def GetLogLevel(self, request: Any, context: Any) -> pb.GetLogLevelResponse:
        return pb.GetLogLevelResponse(level=_level(self._process.runtime.log))

    async def GetAgent(self, request: Any, context: Any) -> pb.GetAgentResponse:
        await self._supervised(context)
        return pb.GetAgentResponse(agent=_struct(await self._read(context, lambda: view.agent(self._process))))

    async def GetAlerts(self, request: Any, context: Any) -> pb.GetAlertsResponse:
        return pb.GetAlertsResponse(alerts=_struct(await self._read(context, lambda: view.alerts(self._process))))

    async def GetDrill(self, request: Any, context: Any) -> pb.GetDrillResponse:
        return pb.GetDrillResponse(drills=_struct(await self._read(context, lambda: view.drill(self._process))))

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> pb.ListRecordsResponse:
        limit = request.limit or 100
        if not 1 <= limit <= _LONGEST_LIST:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"limit: allowed are 1 to {_LONGEST_LIST}")
        found = await self._wait(
            context,
            lambda: self._process.settling.list(after=request.after, limit=limit, state=request.state or None),
        )
        return pb.ListRecordsResponse(records=map(_struct, found))

    async def GetRecord(self, request: pb.GetRecordRequest, context: Any) -> pb.GetRecordResponse:
        found = await self._wait(context, lambda: self._process.settling.show(request.record))
        return pb.GetRecordResponse(record=_struct(found))

    async def ListRollouts(self, request: Any, context: Any) -> pb.ListRolloutsResponse:
        found = await self._read(context, self._process.rollouts.all)
        return pb.ListRolloutsResponse(rollouts=map(_struct, found))

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Any) -> pb.GetRolloutResponse:
        found = await self._read(context, lambda: self._process.rollouts.one(request.cluster))
        return pb.GetRolloutResponse(rollout=_struct(found))

    # ── what can be asked ──

    async def Reload(self, request: Any, context: Any) -> pb.ReloadResponse:
        def reload() -> tuple[bool, int, str | None]:
            accepted = self._process.reload()
            generation = self._process.generation
            assert generation is not None
            return accepted, generation.number, self._process.last_reload_problem

        accepted, generation, problem = await self._read(context, reload)
        return pb.ReloadResponse(accepted=accepted, generation=generation, problem=problem or "")

    async def Drain(self, request: Any, context: Any) -> pb.DrainResponse:
        def drain() -> dict[str, Any]:
            self._process.drain()
            return view.drain(self._process)

        return pb.DrainResponse(**await self._read(context, drain))

    async def SetLogLevel(self, request: pb.SetLogLevelRequest, context: Any) -> pb.SetLogLevelResponse:
        if request.level not in _LEVELS:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"level: allowed are {', '.join(_LEVELS)}")
        log = self._process.runtime.log
        former = _level(log)
        log.setLevel(request.level.upper())
        log.warning("log level changed", extra={"from": former, "to": request.level})
        return pb.SetLogLevelResponse(level=request.level, former=former)

    async def RestartAgent(self, request: Any, context: Any) -> pb.RestartAgentResponse:
        agent = await self._supervised(context)
        await self._read(context, agent.restart)
        return pb.RestartAgentResponse(agent=_struct(await self._read(context, agent.view)))

    async def ClearCache(self, request: Any, context: Any) -> pb.ClearCacheResponse:
        return pb.ClearCacheResponse(forgotten=await self._read(context, self._process.clear_cache))

    async def TestAlerts(self, request: pb.TestAlertsRequest, context: Any) -> pb.TestAlertsResponse:
        try:
            # Not on the data loop: it waits for the receivers.
            found = await asyncio.to_thread(self._process.alerts.test, request.receiver or None)
        except LookupError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except TestRuns as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        results = [pb.TestAlertsResponse.Result(**{**each, "problem": each["problem"] or ""}) for each in found]
        return pb.TestAlertsResponse(receivers=results)

    async def StartDrill(self, request: pb.StartDrillRequest, context: Any) -> pb.StartDrillResponse:
        def start() -> dict[str, Any]:
            return self._process.drills.start(order_from({**request.options, "name": request.name}))

        return pb.StartDrillResponse(drills=_struct(await self._read(context, start)))

    async def EndDrill(self, request: Any, context: Any) -> pb.EndDrillResponse:
        def end() -> dict[str, Any]:
            self._process.drills.end("it was told to end")
            return self._process.drills.view()

        return pb.EndDrillResponse(drills=_struct(await self._read(context, end)))

    async def ResolveRecord(self, request: pb.ResolveRecordRequest, context: Any) -> pb.ResolveRecordResponse:
        outcome = _OUTCOMES.get(request.outcome)
        if outcome is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "outcome: allowed are executed, not_executed")
            raise AssertionError("abort raises")
        by = (request.by or "admin")[:100]
        found = await self._wait(context, lambda: self._process.settle(request.record, outcome, by=by))
        return pb.ResolveRecordResponse(record=_struct(found))

    async def OrderRollout(self, request: pb.OrderRolloutRequest, context: Any) -> pb.OrderRolloutResponse:
        order = _ORDERS.get(request.order)
        if order is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"order: allowed are {', '.join(_ORDERS.values())}")
        by = (request.by or "admin")[:100]
        found = await self._wait(context, lambda: self._process.rollouts.order(request.cluster, str(order), by=by))
        return pb.OrderRolloutResponse(rollout=_struct(found))

    async def _supervised(self, context: Any) -> Any:
        agent = self._process.agent
        if agent is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "no agent is supervised here; see `agent:` in the configuration"
            )
        return agent


def _level(log: logging.Logger) -> str:
    return logging.getLevelName(log.getEffectiveLevel()).lower()


def _struct(value: Any) -> struct_pb2.Struct:
    """Plain data as JSON would carry it."""
    return json_format.ParseDict(json.loads(json.dumps(value, default=str)), struct_pb2.Struct())


async def _pause(seconds: float) -> None:
    """Of this thread's own loop, which has no other clock; ends with the call."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=seconds)
