"""Asks an agent for its descriptors (grpc.reflection.v1, else v1alpha), over a connection of its cluster.

Why no gRPC client? The cluster is connected already, with its certificates; one more stream is all it takes, and no
thread. Nothing here is on the path of a call: `Reflection.current` is a snapshot, replaced when another one is complete.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from sidecar.descriptors.descriptor_set import Descriptors, decode_error, well_known
from sidecar.grpc_wire.messages import MalformedMessage, MessageReader, MessageTooLarge, frame
from sidecar.http2.errors import ErrorCode
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    import logging
    import random
    from collections.abc import Callable

    from sidecar.clock import Clock, Timer
    from sidecar.http2.blocks import HeaderBlock
    from sidecar.http2.connection import Connection

_VERSIONS = ("v1", "v1alpha")
_UNIMPLEMENTED = b"12"
_LONGEST_ANSWER = 16 * 1024 * 1024
_MOST_FILES = 4096
_MOST_BYTES = 64 * 1024 * 1024
_PATIENCE = 10.0
"""Seconds that a whole conversation may take."""
_LOOK_AGAIN = 0.1
"""Seconds between looks for a connection, as long as nothing is known."""
_LOOK_LATER = 5.0
"""The same when something is: another connection may lead to another release of the agent, so it is asked again."""
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 30.0


class Reflection:
    """The descriptors of the agent behind one cluster. `current` is None until they are there; `problem` says why."""

    def __init__(self, cluster: str, clock: Clock, random: random.Random, log: logging.Logger) -> None:
        self.current: Descriptors | None = None
        self.problem = "the agent has not been asked yet"
        self._cluster = cluster
        self._clock = clock
        self._random = random
        self._log = log
        self._connect: Callable[[], Connection | None] = _no_connection
        self._asked: Connection | None = None
        self._conversation: _Conversation | None = None
        self._timer: Timer | None = None
        self._backoff = 0.0

    def begin(self, connect: Callable[[], Connection | None]) -> None:
        """Ask in the background, again and again until there is an answer. `connect` gives a connection if one is ready."""
        self._connect = connect
        if self._timer is None and self._conversation is None:
            self._later(0.0)

    def _later(self, seconds: float) -> None:
        # Nobody closes this: when no policy holds it any more, the timer finds nothing.
        method = weakref.WeakMethod(self._look)

        def fire() -> None:
            look = method()
            if look is not None:
                look()

        self._timer = self._clock.call_later(seconds, fire)

    def _look(self) -> None:
        self._timer = None
        connection = self._connect()
        if connection is None or not connection.is_open:
            self._asked = None
            self._later(_LOOK_AGAIN if self.current is None else _LOOK_LATER)
        elif self.current is not None and self._asked is connection:
            self._later(_LOOK_LATER)
        else:
            self._asked = connection
            self._ask(connection, 0)

    def _ask(self, connection: Connection, version: int) -> None:
        conversation = _Conversation(_VERSIONS[version], lambda: self._ended(connection, version))
        self._conversation = conversation
        self._timer = self._clock.call_later(_PATIENCE, conversation.give_up)
        connection.open(conversation)
        conversation.start()

    def _ended(self, connection: Connection, version: int) -> None:
        conversation, self._conversation = self._conversation, None
        assert conversation is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if conversation.is_unimplemented and version + 1 < len(_VERSIONS) and connection.is_open:
            self._ask(connection, version + 1)
            return
        problem = conversation.problem
        if problem is None:
            try:
                self.current = Descriptors(conversation.files.values())
            except (ValueError, RecursionError) as error:
                problem = f"what it described does not fit together: {error}"
        if problem is None:
            self._backoff = 0.0
            self.problem = ""
            assert self.current is not None
            extra = {"cluster": self._cluster, "methods": len(self.current.methods)}
            self._log.info("descriptors fetched from the agent", extra=extra)
            self._later(_LOOK_LATER)
            return
        if problem != self.problem:
            self.problem = problem
            extra = {"cluster": self._cluster, "cause": problem}
            self._log.warning("the agent gives no descriptors", extra=extra)
        self._asked = None
        self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        self._later(self._backoff * self._random.uniform(0.8, 1.2))


def _no_connection() -> None:
    return None


class _Conversation(Stream):
    """One ServerReflectionInfo stream: which services, the files of each, and whatever those import."""

    __slots__ = (
        "_asked",
        "_bytes",
        "_on_end",
        "_over",
        "_reader",
        "_version",
        "_waiting",
        "files",
        "is_unimplemented",
        "problem",
    )

    def __init__(self, version: str, on_end: Callable[[], None]) -> None:
        self.files: dict[str, Any] = {}
        self.problem: str | None = None
        self.is_unimplemented = False
        self._version = version
        self._on_end = on_end
        self._over = False
        self._reader = MessageReader(_LONGEST_ANSWER)
        self._waiting: deque[dict[str, str]] = deque([{"list_services": ""}])
        self._asked: set[str] = set()
        self._bytes = 0

    def start(self) -> None:
        path = f"/grpc.reflection.{self._version}.ServerReflection/ServerReflectionInfo"
        fields = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"sidecar"),
        )
        self.send_headers(b"".join([encode_field(*each)[2] for each in fields]))
        self._next()

    def give_up(self) -> None:
        self._end("it did not answer in time", cancels=True)

    def _next(self) -> None:
        """Send the next question; without one, the conversation is over."""
        from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

        if not self._waiting:
            if not self.files:
                self._end("it describes no service", cancels=True)
                return
            self.send_data(b"", True)
            self._end(None)
            return
        # v1 and v1alpha differ in the name of their package alone.
        self.send_data(frame(ServerReflectionRequest(**self._waiting.popleft()).SerializeToString()), False)

    def _end(self, problem: str | None, *, cancels: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self.problem = problem
        if cancels:
            self.reset(ErrorCode.CANCEL)
        self._on_end()

    # ── what comes back ──

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        status = headers.index.get(b":status", b"")
        if end_stream:
            self.on_trailers(headers)
        elif status != b"200":
            self._end(f"it answered with HTTP status {status.decode('latin-1')}", cancels=True)

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        self.consume(len(payload))
        if self._over:
            return
        try:
            for flag, body in self._reader.feed(payload):
                if flag:
                    self._end("its answer is compressed, which nobody asked for", cancels=True)
                elif not self._over:
                    self._take(body)
        except (MalformedMessage, MessageTooLarge) as error:
            self._end(f"its answer cannot be read: {error}", cancels=True)

    def _take(self, body: bytes) -> None:
        from google.protobuf.descriptor_pb2 import FileDescriptorProto
        from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionResponse

        try:
            response = ServerReflectionResponse.FromString(body)
            files = [FileDescriptorProto.FromString(e) for e in response.file_descriptor_response.file_descriptor_proto]
        except decode_error():
            self._end("its answer is no message of reflection", cancels=True)
            return
        self._bytes += len(body)
        for service in response.list_services_response.service:
            self._want("file_containing_symbol", service.name)
        for file in files:
            self.files.setdefault(file.name, file)
        for file in files:
            for name in file.dependency:
                if name not in self.files and well_known(name) is None:
                    self._want("file_by_filename", name)
        if len(self._asked) > _MOST_FILES or len(self.files) > _MOST_FILES or self._bytes > _MOST_BYTES:
            self._end("it describes too much", cancels=True)
            return
        # An error in place of files is an answer, too: a service it lists and does not describe stays unknown.
        self._next()

    def _want(self, what: str, name: str) -> None:
        if name not in self._asked:
            self._asked.add(name)
            self._waiting.append({what: name})

    def on_trailers(self, headers: HeaderBlock) -> None:
        status = headers.index.get(b"grpc-status", b"none")
        self.is_unimplemented = status == _UNIMPLEMENTED
        reason = "it has no reflection service" if self.is_unimplemented else "the stream ended with grpc-status "
        if not self.is_unimplemented:
            reason += status.decode("latin-1")
        # It has ended its side; ours would stay open.
        self._end(reason, cancels=not self.local_closed)

    def on_reset(self, code: int) -> None:
        self._end("the stream was reset, or its connection lost")

    def on_drained(self, size: int) -> None:
        """Questions are small; whoever waits for window waits for the answer anyway."""

    def on_headers_too_large(self, size: int) -> None:
        self._end("its headers are too large", cancels=True)
