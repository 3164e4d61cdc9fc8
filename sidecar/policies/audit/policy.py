"""Audit: one record for each RPC that ended, written by somebody else.

Why is waiting for room (`on_overflow: block`) a class of its own? A hook that is not overridden costs nothing, and most
sidecars drop. An audit that waits still observes: calls that others refused are recorded, too (`observes`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field

from sidecar.clock import sleep
from sidecar.config.model import Model
from sidecar.config.units import Duration, FilePath, Percent, Size, duration_between, size_between
from sidecar.policies.audit.records import Ended
from sidecar.policies.audit.trail import TrailSettings
from sidecar.policies.audit.writer import Writer
from sidecar.proxy.policy import Policy
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.runtime import Runtime

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1
_HARD = 2
"""Times `queue`: what ends without having been let in (refused, cancelled while it waited) finds this much room."""
_SINK_HELP = "write file:///var/log/sidecar/audit.jsonl, an absolute path"


def parse_sink(text: str) -> str:
    """A `file:///absolute/path` URL. Raises ValueError saying what is allowed."""
    parts = urlsplit(text)
    if parts.scheme != "file":
        raise ValueError(f"is no file URL; {_SINK_HELP}")
    if parts.netloc not in {"", "localhost"}:
        raise ValueError(f"names a host, or a relative path; {_SINK_HELP}")
    path = unquote(parts.path)
    if parts.query or parts.fragment or "\0" in path:
        raise ValueError(f"holds more than a path; {_SINK_HELP}")
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"names no file; {_SINK_HELP}")
    return text


def own_path(path: Path, worker: int) -> Path:
    """Each worker has a chain of its own, since a chain has one writer: `audit.jsonl` → `audit.worker-2.jsonl`."""
    return path.with_name(f"{path.stem}.worker-{worker}{path.suffix}") if worker else path


def sink_path(sink: str) -> Path:
    """The path of a `file:` URL."""
    return Path(unquote(urlsplit(sink).path))


class RotateConfig(Model):
    """When a new file is begun."""

    size: Annotated[Size, size_between("64KiB", "16GiB")] = Field(default=64 << 20, description="bytes of one file")
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(default=10, description="full files kept: audit.jsonl.1, .2, …")


class CheckpointConfig(Model):
    """Signatures that tie down what is written, its end included."""

    key: FilePath = Field(
        description="Ed25519 private key in PEM; made (0600, with key.pub beside it) if there is none"
    )
    every: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=1000, description="records between two signatures")
    interval: Annotated[Duration, duration_between("1s", "1h")] = Field(
        default=10.0, description="and the longest time between two, while records come"
    )


class AuditConfig(Model):
    """A record of every call that cannot be changed unseen."""

    sink: Annotated[str, AfterValidator(parse_sink)] = Field(
        description="file:///absolute/path; one process writes it", examples=["file:///var/log/sidecar/audit.jsonl"]
    )
    record: tuple[Literal["decisions", "calls"], ...] = Field(
        default=("decisions", "calls"),
        min_length=1,
        description="calls: all about each RPC, what was decided included; decisions alone: who might call what, and why",
    )
    sample: Percent = Field(default=100, description="percent of allowed calls; refusals are always recorded")
    rotate: RotateConfig = Field(default_factory=RotateConfig, description="when a new file is begun")
    checkpoint: CheckpointConfig | None = Field(
        default=None, description="signatures; without them, a cut tail is not found"
    )
    on_overflow: Literal["block", "drop"] = Field(
        default="drop", description="queue full: new calls wait, or records are dropped, counted, and the gap recorded"
    )
    queue: Annotated[int, Field(ge=1, le=10_000_000)] = Field(default=10_000, description="records not yet written")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if len(set(self.record)) != len(self.record):
            yield "record", "names the same twice"


class Audit(Policy[AuditConfig]):
    """Appends the facts of each call that ends to the queue of its sink."""

    name = "audit"
    config_model = AuditConfig
    observes = True

    def __new__(cls, config: AuditConfig, runtime: Runtime) -> Self:
        waits = config.on_overflow == "block" and cls is Audit
        return super().__new__(WaitingAudit if waits else cls)  # type: ignore[return-value]

    def __init__(self, config: AuditConfig, runtime: Runtime) -> None:
        """Touches no file: `sidecar validate` makes one of these, too. Raises ValueError for a sink that cannot be."""
        path = own_path(sink_path(config.sink), runtime.worker)
        _check_writable(path)
        key = config.checkpoint.key if config.checkpoint is not None else None
        if key is not None:
            _check_key(key)
        self.settings = TrailSettings(
            rotate_size=config.rotate.size,
            keep=config.rotate.keep,
            every=config.checkpoint.every if config.checkpoint is not None else 1000,
            interval=config.checkpoint.interval if config.checkpoint is not None else 10.0,
            key=key,
            generation=runtime.generation,
        )
        self._kind = "call" if "calls" in config.record else "decision"
        self._share = config.sample / 100
        self._draw = runtime.random.random
        self._clock = runtime.clock
        self._listener = runtime.listener
        self._route = runtime.route
        self._queue_length = config.queue
        self._limit = config.queue

        def make() -> Writer:
            writer = Writer(path, runtime.clock, runtime.log, self.settings)
            runtime.closers.append(writer.close)
            return writer

        self.writer = writer = runtime.keep(("audit", str(path)), make)
        sink = (str(path),)
        runtime.metrics.read(names.AUDIT_RECORDS, lambda: [(sink, writer.written)], sink)
        runtime.metrics.read(names.AUDIT_DROPPED, lambda: [(sink, writer.dropped)], sink)
        runtime.metrics.read(names.AUDIT_QUEUE, lambda: [(sink, writer.waiting)], sink)
        runtime.metrics.read(names.AUDIT_WRITE_FAILURES, lambda: [(sink, writer.failures)], sink)

    def on_end(self, call: Call, outcome: Outcome) -> None:
        # The deliberate fast path: one of the many that are not sampled, and nothing was decided against it.
        if self._share < 1.0 and outcome.reason is None and self._draw() >= self._share:
            notes = call.notes
            if notes is None or "authz" not in notes or notes["authz"].decision == "allow":
                return
        if call.peek:
            return
        writer = self.writer
        queue = writer.queue
        if len(queue) >= self._limit:
            # Counted here, recorded as a gap when there is room; the thread is awake, as there is no room.
            writer.dropped += 1
            return
        attempt = call.attempt
        queue.append(
            Ended(
                self.settings,
                self._kind,
                self._listener,
                self._route,
                call.path,
                call.identity,
                call.peer.address,
                outcome,
                call.notes,
                call.started,
                call.connection.now,
                (call.request_messages, call.response_messages, call.bytes_in, call.bytes_out),
                call.request_id[1],
                call.headers.get(b"traceparent"),
                attempt.endpoint.address if attempt is not None else None,
                call.attempts,
            )
        )
        if writer.asleep:
            writer.wake()


class WaitingAudit(Audit):
    """The same, and nothing new begins while the queue is full."""

    def __init__(self, config: AuditConfig, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        self._limit = config.queue * _HARD

    def on_request(self, call: Call) -> Verdict:
        if len(self.writer.queue) < self._queue_length or call.peek:
            return None
        return self._wait(call)

    async def _wait(self, call: Call) -> None:
        """Until there is room, or the caller's deadline has come, which the call then ends with."""
        pause = _FIRST_PAUSE
        while len(self.writer.queue) >= self._queue_length:
            if call.deadline is not None and self._clock.monotonic() >= call.deadline:
                return
            await sleep(self._clock, pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"sink: {path} is a directory")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"sink: there is no directory {folder}")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        raise ValueError(f"sink: {path} cannot be written by this user")


def _check_key(key: Path) -> None:
    from sidecar.policies.audit.hashes import Signer

    try:
        Signer.load(key)
    except FileNotFoundError:
        # It is made when the first record is written.
        if not os.access(key.parent, os.W_OK | os.X_OK):
            raise ValueError(f"checkpoint.key: {key} does not exist and cannot be made there") from None
    except OSError as error:
        raise ValueError(f"checkpoint.key: {key}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"checkpoint.key: {error}") from None
