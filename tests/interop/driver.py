"""The other end of a driver (drivers/README.md): sends it requests, gives what it saw."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.pki import Leaf
from tests.support.processes import ROOT

LIMIT = 30.0
Pairs = list[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Seen:
    """How a call ended, as the foreign library told it."""

    code: int
    message: str
    initial: dict[str, list[str | bytes]]
    trailers: dict[str, list[str | bytes]]
    answers: list[bytes | None]
    """None: more than 4 KiB, see `sizes` and `hashes`."""
    sizes: list[int]
    hashes: list[str]


@dataclass(slots=True)
class _Pending:
    lines: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = False


class Load:
    """Calls that go on until `stop`."""

    def __init__(self, driver: Driver, number: int) -> None:
        self._driver, self._number = driver, number

    def wait(self, more: int) -> dict[str, Any]:
        """Until so many more calls have ended; the progress."""
        so_far = self._driver.latest(self._number).get("progress", 0)
        return self._driver.wait(self._number, lambda line: line.get("progress", 0) >= so_far + more or "calls" in line)

    def stop(self) -> dict[str, Any]:
        self._driver.say({"op": "stop", "of": self._number})
        return self._driver.wait(self._number, lambda line: "calls" in line or "error" in line)


class Driver:
    """`with Driver(command) as driver:` — calls run at the same time if they are begun first and awaited later."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str]
        self._ended = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("INTEROP_VERBOSE") else None,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        self._readers = [threading.Thread(target=self._read, daemon=True)]
        if self._process.stderr is not None:
            self._readers.append(threading.Thread(target=self._process.stderr.read, daemon=True))
        for each in self._readers:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for each in self._readers:
            each.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def call(self, target: str, method: str, kind: str = "unary", **more: Any) -> Seen:
        return self.end_of(self.begin(target, method, kind, **more))

    def begin(
        self,
        target: str,
        method: str,
        kind: str = "unary",
        *,
        op: str = "call",
        messages: list[bytes | int] | None = None,
        metadata: Pairs | None = None,
        do: dict[str, Any] | None = None,
        tls: Leaf | None = None,
        timeout: float | None = 20.0,
        **more: Any,
    ) -> int:
        """Begin a call; `do` is the server's `x-do`. Returns its number, for `end_of`."""
        number = next(self._numbers)
        pairs = [*(metadata or []), *([("x-do", json.dumps(do))] if do is not None else [])]
        request = {
            "id": number,
            "op": op,
            "target": target,
            "method": method,
            "kind": kind,
            "messages": [_encoded(each) for each in (messages if messages is not None else [b"\x0a\x01a"])],
            "metadata": [[name, _encoded(value) if isinstance(value, bytes) else value] for name, value in pairs],
            "timeout": timeout,
            "tls": tls
            and {
                "ca": str(tls.ca),
                "certificate": str(tls.certificate),
                "key": str(tls.private_key),
                "server_name": "localhost",
            },
            **more,
        }
        self._pending[number] = _Pending()
        self.say(request)
        return number

    def load(self, target: str, method: str, **more: Any) -> Load:
        return Load(self, self.begin(target, method, op="load", **more))

    def end_of(self, number: int) -> Seen:
        line = self.wait(number, lambda line: "code" in line or "error" in line)
        assert not line.get("error"), line["error"]
        answers = line.get("answers") or []
        return Seen(
            int(line["code"]),
            line.get("message", ""),
            _grouped(line.get("initial")),
            _grouped(line.get("trailers")),
            [base64.b64decode(each["data"]) if each["size"] <= 4096 else None for each in answers],
            [int(each["size"]) for each in answers],
            [each["sha256"] for each in answers],
        )

    def say(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def latest(self, number: int) -> dict[str, Any]:
        with self._changed:
            lines = self._pending[number].lines
            return lines[-1] if lines else {}

    def wait(self, number: int, wanted: Any) -> dict[str, Any]:
        """The newest line about a request that is `wanted`; waits for it."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: self._ended or next((x for x in reversed(self._pending[number].lines) if wanted(x)), None),
                LIMIT,
            )
            assert isinstance(found, dict), f"the driver said nothing: {self._command}"
            return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            with self._changed:
                self._pending[int(line["id"])].lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _encoded(value: bytes | int) -> str | int:
    return value if isinstance(value, int) else base64.b64encode(value).decode()


def _grouped(pairs: list[list[str]] | None) -> dict[str, list[str | bytes]]:
    found: dict[str, list[str | bytes]] = {}
    for name, value in pairs or []:
        found.setdefault(name, []).append(base64.b64decode(value) if name.endswith("-bin") else value)
    return found
