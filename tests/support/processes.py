"""Real processes: a sidecar that `sidecar run` started, its addresses, its log, and its end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

START_LIMIT = 30.0
STOP_LIMIT = 15.0
ROOT = Path(__file__).resolve().parents[2]


class NotReady(AssertionError):
    """The process ended, or time ran out, before it was ready; the message has its log."""


class Sidecar:
    """`with Sidecar(config_text, tmp_path) as sidecar:` — ready inside; told to stop, and gone, after.

    Listeners and admin bind to port 0; `addresses` (by listener) and `admin` say where they are, as "host:port".
    """

    def __init__(
        self,
        config: str,
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        name: str = "sidecar",
    ) -> None:
        self.path = folder / f"{name}.yaml"
        self.path.write_text(config)
        self.addresses: dict[str, str] = {}
        self.admin = ""
        self._command = (sys.executable, "-m", "sidecar.cli.main", "run", "-c", str(self.path), *arguments)
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False

    # ── life ──

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it is ready. Raises NotReady."""
        self._ended = False
        said = len(self._lines)
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            ready = self.wait_for_log(lambda line: line.get("event") == "ready", START_LIMIT, since=said)
            self.addresses, self.admin = ready["listeners"], ready["admin"]
            status, body = self.get("/readyz")
            if status != 200:
                raise NotReady(f"/readyz answered {status}: {body}\n{self.text}")
        except BaseException:
            self.kill()
            raise

    def stop(self, limit: float = STOP_LIMIT) -> int:
        """Drain: TERM, and kill when that takes longer than `limit` seconds. Returns the exit code."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2)
        return self.kill()

    def kill(self) -> int:
        """End it at once, as a crash would; harmless when it has ended. Returns the exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.kill()
        code = process.wait()
        if self._reader is not None:
            self._reader.join(STOP_LIMIT)
        if process.stderr is not None:
            process.stderr.close()
        return code

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, limit: float = STOP_LIMIT) -> int:
        """Wait until it ends by itself. Returns the exit code."""
        assert self._process is not None
        self._process.wait(limit)
        return self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # ── what it says ──

    @property
    def text(self) -> str:
        """Everything it wrote on stderr so far."""
        with self._changed:
            return "".join(self._lines)

    def log(self) -> list[dict[str, Any]]:
        """Its log so far; lines that are no JSON (a traceback) appear as {"text": line}."""
        with self._changed:
            lines = list(self._lines)
        return [_parse(line) for line in lines]

    def wait_for_log(
        self, wanted: Callable[[dict[str, Any]], bool], limit: float = 10.0, *, since: int = 0
    ) -> dict[str, Any]:
        """The first log line that is `wanted`, after the first `since`. Raises NotReady when it does not come."""
        seen = since
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    parsed = _parse(line)
                    if wanted(parsed):
                        return parsed
                seen = len(self._lines)
                if self._ended or not self._changed.wait(limit):
                    raise NotReady("the line never came; the log is:\n" + "".join(self._lines))

    def address(self, listener: str = "inbound") -> tuple[str, int]:
        """(host, port) of a listener, as sockets want it."""
        host, _, port = self.addresses[listener].rpartition(":")
        return host.strip("[]"), int(port)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """(status, body) of a GET on the admin address."""
        return self.request("GET", path, headers)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        host, _, port = self.admin.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def memory(self) -> int:
        """Resident bytes (Linux)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS in /proc")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _parse(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {"text": line.rstrip("\n")}
    return parsed if isinstance(parsed, dict) else {"text": line.rstrip("\n")}


@contextlib.contextmanager
def running(*command: str, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Any other process, killed at the end."""
    process = subprocess.Popen(command, env={**os.environ, **(environ or {})}, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
