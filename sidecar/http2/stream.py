"""One stream: its state, its windows, what waits to be sent.

`Call` and `Attempt` extend this class, so that a frame reaches the object that owns it without an adapter in between.
The callbacks at the end are all that the engine asks of them; it never looks at anything else.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from sidecar.http2.frames import pack_header as _pack_header

if TYPE_CHECKING:
    from sidecar.http2.blocks import HeaderBlock
    from sidecar.http2.connection import Connection


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream:
    """One request and its response, seen from one of our two sides."""

    __slots__ = (
        "__weakref__",
        "connection",
        "content_left",
        "got_headers",
        "local_closed",
        "pending",
        "pending_trailers",
        "recv_window",
        "remote_closed",
        "send_window",
        "stream_id",
        "unacked",
    )

    def attach(self, connection: Connection, stream_id: int) -> None:
        """Bind to a connection; before this, and after `detach`, nothing may be sent."""
        self.connection: Connection = connection
        self.stream_id = stream_id
        self.send_window = connection.peer_initial_window
        self.recv_window = connection.stream_window
        self.unacked = 0
        self.content_left = -1
        self.got_headers = False
        self.local_closed = False
        self.remote_closed = False
        # What could not be sent yet: (payload, ends the stream), oldest first; None while nothing waits.
        self.pending: deque[tuple[bytes | memoryview, bool]] | None = None
        self.pending_trailers: bytes | None = None

    # ── sending ──

    def send_headers(self, block: bytes, end_stream: bool = False) -> None:
        """Send an encoded header block; never waits for windows (RFC 9113 §6.9: only DATA is flow-controlled)."""
        connection = self.connection
        size = len(block)
        if size <= connection.peer_max_frame and not connection.owes_table_update:
            # The deliberate fast path: one frame, written in place.
            out = connection.out
            out.append(_pack_header(size >> 8, size & 0xFF, 0x1, 0x5 if end_stream else 0x4, self.stream_id))
            out.append(block)
            if not connection.dirty:
                connection.dirty = True
                connection.wake()
        else:
            connection.write_headers(self.stream_id, block, end_stream)
        if end_stream:
            self.local_closed = True
            if self.remote_closed:
                connection.forget(self)

    def send_data(self, payload: bytes, end_stream: bool) -> bool:
        """Send `payload` now if windows allow: True. Else keep it: False, and `on_drained` tells when it left."""
        connection = self.connection
        size = len(payload)
        # The deliberate fast path: one frame, nothing waiting, both windows wide enough.
        if (
            self.pending is None
            and size <= self.send_window
            and size <= connection.send_window
            and size <= connection.peer_max_frame
            and not connection.blocked
        ):
            self.send_window -= size
            connection.send_window -= size
            out = connection.out
            out.append(_pack_header(size >> 8, size & 0xFF, 0x0, 0x1 if end_stream else 0x0, self.stream_id))
            out.append(payload)
            if not connection.dirty:
                connection.dirty = True
                connection.wake()
            if end_stream:
                self.local_closed = True
                if self.remote_closed:
                    connection.forget(self)
            return True
        if self.pending is None:
            self.pending = deque()
            connection.backlog[self] = None
        self.pending.append((payload, end_stream))
        return connection.pump_one(self)

    def send_trailers(self, block: bytes) -> None:
        """Send the last header block, after whatever DATA still waits."""
        if self.pending is None:
            self.send_headers(block, True)
        else:
            self.pending_trailers = block

    def reset(self, code: int) -> None:
        """RST_STREAM; the stream is gone at once and nothing is called back. Harmless when it already is."""
        self.connection.reset_stream(self, code)

    def consume(self, size: int) -> None:
        """`size` received bytes found their way: the sender may send as many again."""
        unacked = self.unacked + size
        connection = self.connection
        if unacked >= connection.stream_credit_at and not self.remote_closed:
            self.recv_window += unacked
            connection.write_window_update(self.stream_id, unacked)
            unacked = 0
        self.unacked = unacked

    # ── called by the engine ──

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        """The peer's first (non-1xx) header block."""
        raise NotImplementedError

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        """A DATA frame without its padding. The owner calls `consume` once the bytes have moved on."""
        raise NotImplementedError

    def on_trailers(self, headers: HeaderBlock) -> None:
        """The peer's last header block; it ends the peer's side."""
        raise NotImplementedError

    def on_reset(self, code: int) -> None:
        """The stream ended without its end: the peer's RST_STREAM code, or a negative cause of `errors`."""
        raise NotImplementedError

    def on_drained(self, size: int) -> None:
        """`size` bytes that `send_data` had kept have been written."""
        raise NotImplementedError

    def on_headers_too_large(self, size: int) -> None:
        """The peer's header list is larger than we allow (`size` bytes decoded); it was not kept."""
        raise NotImplementedError
