"""A real agent server, as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Self

from tests.support.processes import ROOT

_LIMIT = 20.0


class AgentProcess:
    """`with AgentProcess() as agent:` — `agent.address` takes calls; gone after."""

    def __init__(self, bind: str = "127.0.0.1:0") -> None:
        self.address = bind
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, at the address it had before if it had one."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agent_server", "run", "--bind", self.address, "--log-level", "error"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("agent-server ready "), line
        self.address = line.split()[-1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(_LIMIT)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
