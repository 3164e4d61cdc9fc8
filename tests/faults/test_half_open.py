"""Peers that connect and never finish their TLS handshake: memory is bounded, and whoever can finish one is let in."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

from sidecar.listeners.listener import _HANDSHAKES
from tests.journeys.pair import INBOUND
from tests.journeys.raw import RawAgent, RawCaller
from tests.journeys.test_drill import serve
from tests.support.pki import Pki
from tests.support.processes import Sidecar

MORE = 200


async def test_the_oldest_makes_room_for_who_can_finish(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "certs")
    server, client = pki.leaf("server"), pki.leaf("client")
    async with RawAgent(serve) as agent:
        # Nothing times out here: only the bound makes room.
        limits = ", header_timeout: 10m"
        text = INBOUND.format(bind="127.0.0.1:0", server=server, agent=agent.address, top="", limits=limits)
        with Sidecar(text, tmp_path) as sidecar, contextlib.ExitStack() as stack:
            host, _, port = sidecar.addresses["inbound"].rpartition(":")
            for _ in range(_HANDSHAKES + MORE):
                half_open = stack.enter_context(socket.socket())
                half_open.setblocking(False)
                half_open.connect_ex((host, int(port)))
            async with await RawCaller.connect(sidecar.addresses["inbound"], leaf=client) as caller:
                assert (await caller.call()).seen.status == 0
            page = sidecar.get("/metrics")[1]
            failed = re.search(r"^sidecar_handshakes_failed_total\{.*\} (\S+)$", page, re.MULTILINE)
            assert failed is not None
            assert MORE <= float(failed[1]) <= MORE + 100
