"""What a connection held is freed when it ends, not when the collector happens to look: it looks rarely, and connections are large."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.clusters.concurrency import Load
from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.upstream import Upstream, UpstreamOptions
from sidecar.clusters.vitals import EndpointRules
from sidecar.listeners import inbound
from sidecar.listeners.listener import Direction, Listener, ListenerOptions
from sidecar.transport.socket import Flusher
from sidecar.transport.tls import client_context, server_context
from tests.support.pki import Pki
from tests.support.scene import Scene


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """What only the collector would free, filled by `gc.collect()`."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("ends", ["caller", "listener", "cut"])
@pytest.mark.parametrize("secure", [False, True])
async def test_a_connection_that_has_ended(tmp_path: Path, garbage: list[object], ends: str, secure: bool) -> None:
    scene = Scene()
    flusher = Flusher(asyncio.get_running_loop())
    leaf = Pki(tmp_path).leaf("server")
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    ready, gone = asyncio.Event(), asyncio.Event()
    server = server_context(leaf.certificate, leaf.private_key, leaf.ca) if secure else None
    client = client_context(leaf.certificate, leaf.private_key, leaf.ca) if secure else None
    listener = Listener(
        "inbound",
        listening,
        edge=scene.edge,
        direction=Direction(inbound.identify, inbound.told_agent),
        options=ListenerOptions(),
        context=lambda: server,
        runtime=scene.runtime,
        flusher=flusher,
    )
    listener.start()
    for _ in range(3):
        upstream = Upstream(
            scene.runtime,
            flusher,
            UpstreamOptions(context=lambda: client, server_name="localhost"),
            on_ready=lambda _: ready.set(),
            on_spent=lambda _: None,
            on_gone=lambda _: gone.set(),
        )
        await upstream.connect(f"127.0.0.1:{listening.getsockname()[1]}")
        await ready.wait()
        (inlet,) = listener.connections
        if ends == "caller":
            upstream.close()
        elif ends == "listener":
            inlet.close()
        else:
            assert upstream._socket is not None
            upstream._socket.transport.abort()
        await gone.wait()
        while listener.connections:
            await asyncio.wait_for(_turn(), 10)
        ready.clear()
        gone.clear()
    del upstream, inlet
    for _ in range(10):
        await _turn()
    gc.collect()
    kinds = {f"{type(each).__module__}.{type(each).__qualname__}" for each in garbage}
    assert {kind for kind in kinds if kind.startswith("sidecar.")} == set()
    listener.close()


async def test_connections_that_have_been_renewed(tmp_path: Path) -> None:
    """Each new one was told to see its predecessor off: it must not keep it, or the first would live as long as the last."""
    scene = Scene()
    flusher = Flusher(asyncio.get_running_loop())
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    listener = Listener(
        "inbound",
        listening,
        edge=scene.edge,
        direction=Direction(inbound.identify, inbound.told_agent),
        options=ListenerOptions(),
        context=lambda: None,
        runtime=scene.runtime,
        flusher=flusher,
    )
    listener.start()
    endpoint = Endpoint(
        f"127.0.0.1:{listening.getsockname()[1]}",
        cluster="agents",
        runtime=scene.runtime,
        flusher=flusher,
        options=UpstreamOptions(),
        connections=1,
        rules=EndpointRules(),
        load=Load(10),
        may_eject=lambda _: False,
        changed=lambda: None,
    )
    endpoint.connect()
    former = None
    for _ in range(4):
        while endpoint.connection() in {None, former}:
            await _turn()
        former = endpoint.connection()
        endpoint.renew()
    while endpoint.connection() is former or len(listener.connections) != 1:
        await _turn()
    gc.collect()
    assert sum(isinstance(each, Upstream) for each in gc.get_objects()) == 1
    endpoint.close()
    listener.close()
    while listener.connections or endpoint.streams():
        await _turn()


async def _turn() -> None:
    turned = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turned.set_result, None)
    await turned
