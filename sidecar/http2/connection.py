"""One HTTP/2 connection, either role: bytes in, method calls out; bytes out through a list (RFC 9113).

Rules of this file
- No socket, no clock, no log, no gRPC. Time comes in with each `receive`; `wake` asks the owner to write `out`.
- A peer's mistake is a `ConnectionFault`, caught in `receive` alone, or a stream reset. No exception leaves `receive`.
- Whatever a peer can repeat for free costs it `patience`; when that is used up the connection ends with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.http2 import frames
from sidecar.http2.blocks import BlockReader, HeaderBlock
from sidecar.http2.errors import CONNECTION_LOST, MALFORMED, NOT_PROCESSED, ConnectionFault, ErrorCode, LocalError
from sidecar.http2.flow import WindowGrowth
from sidecar.http2.frames import unpack_header, unpack_long, unpack_setting
from sidecar.http2.hpack import Decoder, Field, HeaderListTooLarge, HpackError
from sidecar.http2.stream import Stream

# RFC 9113 §8.2.2: fields that belong to one hop of HTTP/1.1 make a message malformed.
_CONNECTION_SPECIFIC = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
_RESPONSE_PSEUDO = frozenset({b":status"})
_SUSPECT = _CONNECTION_SPECIFIC | {b"te", b"content-length"}

_WORK = 800
"""Bytes of DATA that are as much work as a header block; a step is a measure of work."""
_RESET_IDS_KEPT = 1024
_RESET_AT_ONCE = 10
"""What a reset costs that comes together with its request: no caller does that often, and the request has cost us work."""
_UPDATE = 0.2
"""What a WINDOW_UPDATE costs that nothing we sent explains."""
_UPDATES_AT_FIRST = 100
_UPDATES_SAVED = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may use of us. Sizes in bytes."""

    max_concurrent_streams: int = 1000
    max_header_list: int = 16 * 1024
    max_frame: int = 64 * 1024
    stream_window: int = 256 * 1024
    stream_window_cap: int = 1024 * 1024
    held: int = 64 * 1024 * 1024
    """Received and not yet consumed, over all streams; beyond it the connection window closes too."""
    patience: float = 1000.0
    """Free frames (PING, SETTINGS, empty DATA, resets …) in a row before ENHANCE_YOUR_CALM."""
    resets_per_second: float = 1000.0
    """Sustained rate of streams that the peer resets (CVE-2023-44487); one that comes together with its request counts ten times."""


class Connection:
    """The protocol state of one connection. `accept` makes it a server, its absence a client."""

    __slots__ = (
        "_acks_to_table",
        "_block_parts",
        "_block_since",
        "_block_size",
        "_blocks",
        "_decoder",
        "_fresh_after",
        "_goaway_limit",
        "_granted",
        "_growth",
        "_last_peer_id",
        "_limits",
        "_next_id",
        "_on_ping",
        "_patience",
        "_patience_at",
        "_preface_left",
        "_recv_window",
        "_reset_budget",
        "_reset_budget_at",
        "_reset_ids",
        "_settings_unacked",
        "_starved",
        "_table_is_off",
        "_tail",
        "_tail_at",
        "_unacked",
        "_update_credit",
        "_updates_earned",
        "accept",
        "backlog",
        "blocked",
        "closed",
        "dirty",
        "draining",
        "fault",
        "got_settings",
        "is_server",
        "known_blocks",
        "now",
        "on_closed",
        "on_going_away",
        "on_idle",
        "on_settings",
        "out",
        "owes_table_update",
        "peer_initial_window",
        "peer_max_frame",
        "peer_max_streams",
        "send_window",
        "stream_credit_at",
        "stream_window",
        "streams",
        "until_probe",
        "wake",
    )

    def __init__(
        self,
        *,
        accept: Callable[[Connection], Stream] | None,
        wake: Callable[[], None],
        limits: Limits | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        limits = limits or Limits()
        self.is_server = accept is not None
        self.accept = accept
        self.wake = wake
        # Called by us, set by the owner: all streams gone while draining · closed for good · peer sent GOAWAY · first SETTINGS.
        self.on_idle: Callable[[], None] = _nothing
        self.on_closed: Callable[[], None] = _nothing
        self.on_going_away: Callable[[], None] = _nothing
        self.on_settings: Callable[[], None] = _nothing
        self._limits = limits
        self._decoder = decoder or Decoder(max_list_size=limits.max_header_list)
        self.known_blocks: dict[bytes, HeaderBlock] = {}
        self._blocks = BlockReader(
            self._decoder, max_list=limits.max_header_list, whole=None if self.is_server else self.known_blocks
        )
        # Output: everything that waits for the socket; `dirty` = `wake` has been called for it.
        self.out: list[bytes | memoryview] = []
        self.dirty = False
        self.blocked = False
        # Streams by id, and those with unsent DATA and a window for it, in the order in which they get their turn.
        self.streams: dict[int, Stream] = {}
        self.backlog: dict[Stream, None] = {}
        self.now = 0.0
        # The peer's side of the settings (RFC 9113 §6.5.2: initial values hold until its SETTINGS arrive).
        self.peer_initial_window = frames.DEFAULT_WINDOW
        self.peer_max_frame = frames.DEFAULT_MAX_FRAME
        self.peer_max_streams = frames.LARGEST_STREAM_ID
        self.send_window = frames.DEFAULT_WINDOW
        self.got_settings = False
        # Our side.
        self.stream_window = limits.stream_window
        self.stream_credit_at = limits.stream_window // 2
        self._growth = WindowGrowth(limits.stream_window, limits.stream_window_cap)
        # Bytes of DATA until the bandwidth-delay product is measured again.
        self.until_probe = self._growth.start(0)
        self._recv_window = limits.stream_window * 4
        self._unacked = 0
        self._settings_unacked = 0
        self._table_is_off = not self.is_server
        self._acks_to_table = 2 if self.is_server else 1
        self.owes_table_update = False
        self._starved = False
        # Reading.
        self._tail = b""
        self._tail_at = 0
        self._preface_left = frames.PREFACE if self.is_server else b""
        self._block_parts: list[bytes] | None = None
        self._block_size = 0
        self._block_since = 0.0
        self._last_peer_id = 0
        self._fresh_after = 0
        self._next_id = 1
        self._goaway_limit = frames.LARGEST_STREAM_ID
        self._reset_ids: dict[int, None] = {}
        self._on_ping: dict[bytes, Callable[[], None]] = {}
        # Abuse.
        self._patience = limits.patience
        self._patience_at = 0.0
        self._reset_budget = limits.patience
        self._reset_budget_at = 0.0
        # WINDOW_UPDATEs that DATA and streams explain, and how many of both there had been when that was last looked at.
        self._granted = frames.DEFAULT_WINDOW
        self._update_credit = _UPDATES_AT_FIRST
        self._updates_earned = 0
        self.draining = False
        self.closed = False
        self.fault: ConnectionFault | None = None

    # ── life ──

    def start(self) -> None:
        """Send our side of the preface (RFC 9113 §3.4)."""
        limits = self._limits
        values = {
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: limits.max_frame,
            frames.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        if self.is_server:
            values[frames.MAX_CONCURRENT_STREAMS] = limits.max_concurrent_streams
        else:
            values[frames.ENABLE_PUSH] = 0
            values[frames.HEADER_TABLE_SIZE] = 0
            self.out.append(frames.PREFACE)
        self._send_settings(values)
        self.out.append(frames.window_update(0, self._recv_window - frames.DEFAULT_WINDOW))
        self._wake()

    def _send_settings(self, values: dict[int, int]) -> None:
        self.out.append(frames.settings(values))
        self._settings_unacked += 1
        self._wake()

    def drain(self) -> None:
        """Server: take no new streams after a round trip; `on_idle` when the last one has ended (RFC 9113 §6.8)."""
        if self.draining or self.closed:
            return
        self.draining = True
        self.out.append(frames.goaway(frames.LARGEST_STREAM_ID, ErrorCode.NO_ERROR))
        self.ping(b"goaway\0\0", self._finish_goaway)
        self._wake()

    def _finish_goaway(self) -> None:
        if self.closed:
            return
        self._goaway_limit = self._last_peer_id
        self.out.append(frames.goaway(self._last_peer_id, ErrorCode.NO_ERROR))
        self._wake()
        if not self.streams:
            self.on_idle()

    def ping(self, payload: bytes, answered: Callable[[], None]) -> None:
        """Send PING with 8 bytes of `payload`; `answered` is called when it comes back. One at a time per payload."""
        if payload in self._on_ping or self.closed:
            return
        self._on_ping[payload] = answered
        self.out.append(frames.ping(payload, ack=False))
        self._wake()

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End at once: GOAWAY, every open stream is told CONNECTION_LOST."""
        if self.closed:
            return
        self.out.append(frames.goaway(self._last_peer_id, code, reason.encode("ascii", "replace")[:200]))
        self._wake()
        self.lost()

    def lost(self) -> None:
        """The transport is gone, or is to go after `out` was written."""
        if self.closed:
            return
        self.closed = True
        self._tail = b""
        self._block_parts = None
        streams = list(self.streams.values())
        self.streams.clear()
        self.backlog.clear()
        self._on_ping.clear()
        for stream in streams:
            stream.pending = None
            stream.on_reset(CONNECTION_LOST)
        self.on_closed()

    def release(self) -> None:
        """The transport is gone for good: nothing leads back to the owner, so that all of it is freed at once."""
        self.accept = None
        self.wake = self.on_idle = self.on_closed = self.on_going_away = self.on_settings = _nothing

    def unblock(self) -> None:
        """The transport takes bytes again."""
        self.blocked = False
        self.pump()

    def unfinished_block_age(self, now: float) -> float | None:
        """For how many seconds a header block has been under way, or None: a peer that trickles one is cut off."""
        return None if self._block_parts is None else now - self._block_since

    # ── sending, used by Stream ──

    @property
    def is_open(self) -> bool:
        """May `open` be called?"""
        return (
            self.got_settings
            and not self.closed
            and not self.draining
            and len(self.streams) < self.peer_max_streams
            and self._next_id < frames.LARGEST_STREAM_ID
        )

    @property
    def is_spent(self) -> bool:
        """True = this connection will never take a new stream again."""
        return self.closed or self.draining or self._next_id >= frames.LARGEST_STREAM_ID

    def open(self, stream: Stream) -> None:
        """Client: give `stream` the next id. The caller has seen that `is_open`. Raises LocalError if it never was."""
        if not self.got_settings or self.closed:
            raise LocalError("the connection takes no stream")
        stream_id = self._next_id
        self._next_id = stream_id + 2
        stream.attach(self, stream_id)
        self.streams[stream_id] = stream

    def write_headers(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        if self.owes_table_update:
            # RFC 7541 §4.2: the peer changed its limit and must hear our size first. We use no table at all.
            self.owes_table_update = False
            block = b"\x20" + block
        self.out.append(frames.headers(stream_id, block, end_stream=end_stream, max_frame=self.peer_max_frame))
        if not self.dirty:
            self.dirty = True
            self.wake()

    def write_window_update(self, stream_id: int, increment: int) -> None:
        self.out.append(frames.window_update(stream_id, increment))
        self._wake()
        if self._starved and stream_id:
            self._credit_connection()

    def reset_stream(self, stream: Stream, code: int) -> None:
        stream_id = stream.stream_id
        if self.streams.pop(stream_id, None) is None:
            return
        stream.local_closed = stream.remote_closed = True
        if stream.pending is not None:
            stream.pending = None
            self.backlog.pop(stream, None)
        # Frames that were under way when we reset are ignored, not a fault (RFC 9113 §5.1, "closed").
        reset_ids = self._reset_ids
        reset_ids[stream_id] = None
        if len(reset_ids) > _RESET_IDS_KEPT:
            del reset_ids[next(iter(reset_ids))]
        self.out.append(frames.rst_stream(stream_id, code))
        self._wake()
        if self._starved:
            self._credit_connection()
        if self.draining and not self.streams:
            self._drained()

    def forget(self, stream: Stream) -> None:
        """Both sides have ended."""
        self.streams.pop(stream.stream_id, None)
        if self._starved:
            self._credit_connection()
        if self.draining and not self.streams and not self.closed:
            self._drained()

    def _drained(self) -> None:
        # A server waits for the peer to have seen its GOAWAY: streams that were under way before that are still to come.
        if not self.is_server or self._goaway_limit != frames.LARGEST_STREAM_ID:
            self.on_idle()

    def pump(self) -> None:
        """Give each stream with unsent DATA one frame at a time, in turn, as far as the windows go."""
        backlog = self.backlog
        while backlog and self.send_window > 0 and not self.blocked:
            self._pump_frame(next(iter(backlog)))

    def pump_one(self, stream: Stream) -> bool:
        """Try to send what `send_data` has just queued; True = all of it, and nothing is left waiting."""
        sent = 0
        while stream.pending and not self.blocked:
            size = self._pump_some(stream)
            if size < 0:
                break
            sent += size
        if stream.pending is None:
            return True
        if sent:
            stream.on_drained(sent)
        return False

    def _pump_frame(self, stream: Stream) -> None:
        size = self._pump_some(stream)
        if size > 0:
            stream.on_drained(size)
        # Round robin: whoever has had a turn goes to the end.
        if stream in self.backlog:
            del self.backlog[stream]
            self.backlog[stream] = None

    def _pump_some(self, stream: Stream) -> int:
        """Send one DATA frame of the backlog of `stream`: its size, or -1 when a window is closed.

        A stream whose own window is closed leaves the backlog until that opens: a peer that stalls a thousand streams must
        not make us look at all of them whenever it has a byte to spare.
        """
        pending = stream.pending
        if not pending:
            self.backlog.pop(stream, None)
            return -1
        payload, end_stream = pending[0]
        available = len(payload)
        size = min(available, stream.send_window, self.send_window, self.peer_max_frame)
        if available and size <= 0:
            if stream.send_window <= 0:
                self.backlog.pop(stream, None)
            return -1
        if size < available:
            view = memoryview(payload)
            pending[0] = (view[size:], end_stream)
            payload, end_stream = view[:size], False
        else:
            pending.popleft()
        stream.send_window -= size
        self.send_window -= size
        self.out.append(frames.header(size, frames.DATA, frames.END_STREAM if end_stream else 0, stream.stream_id))
        self.out.append(payload)
        self._wake()
        if not pending:
            stream.pending = None
            self.backlog.pop(stream, None)
            trailers = stream.pending_trailers
            if end_stream:
                stream.local_closed = True
                if stream.remote_closed:
                    self.forget(stream)
            elif trailers is not None:
                stream.pending_trailers = None
                stream.send_headers(trailers, True)
        return size

    def _wake(self) -> None:
        if not self.dirty:
            self.dirty = True
            self.wake()

    # ── receiving ──

    def receive(self, data: bytes, now: float, step: int = 0) -> bool:
        """Take bytes that the peer sent at time `now` (monotonic seconds). Never raises on what a peer does.

        With a `step`, only frames that begin within so many bytes are read, a header block counting for `_WORK` more:
        True = there are more, and `proceed` goes on.
        """
        if self.closed:
            return False
        if self._tail:
            data = self._tail[self._tail_at :] + data
        return self._take(data, 0, now, step)

    def hold(self, data: bytes) -> None:
        """Keep bytes that the peer sent for `proceed`."""
        if not self.closed:
            self._tail = self._tail[self._tail_at :] + data
            self._tail_at = 0

    def proceed(self, now: float, step: int = 0) -> bool:
        """Go on with what `receive` has left. True = there is still more."""
        if self.closed:
            return False
        return self._take(self._tail, self._tail_at, now, step)

    def _take(self, data: bytes, position: int, now: float, step: int) -> bool:
        self.now = now
        self._fresh_after = self._last_peer_id
        self._tail = b""
        self._tail_at = 0
        try:
            if self._preface_left:
                data = self._read_preface(data)
            more = self._read_frames(data, position, step)
        except ConnectionFault as fault:
            # Without traceback and context: those would keep `data`, and us, until the next full collection.
            fault.__context__ = None
            self.fault = fault.with_traceback(None)
            self.close(fault.code, fault.reason)
            return False
        if self._unacked * 2 >= self.stream_window * 4:
            self._credit_connection()
        return more

    def _read_preface(self, data: bytes) -> bytes:
        left = self._preface_left
        size = min(len(left), len(data))
        if data[:size] != left[:size]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not an HTTP/2 client preface")
        self._preface_left = left[size:]
        return data[size:]

    def _read_frames(self, data: bytes, position: int, step: int) -> bool:
        """Find the frames in `data`, keep the rest for the next time; True = not only an unfinished frame is left.

        DATA is handled here: the hot path.
        """
        end = len(data)
        # A frame that begins before this is read now.
        last = end - 8
        if 0 < step < last - position:
            last = position + step
        streams = self.streams
        max_frame = self._limits.max_frame
        while position < last:
            high, low, kind, flags, stream_id = unpack_header(data, position)
            length = high << 8 | low
            if length > max_frame:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes, {max_frame} are allowed")
            stop = position + 9 + length
            if stop > end:
                break
            start = position + 9
            position = stop
            if not self.got_settings and kind != frames.SETTINGS:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            if self._block_parts is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame")
            if kind == 0x0:
                stream_id &= 0x7FFFFFFF
                stream = streams.get(stream_id)
                self._unacked += length
                self._recv_window -= length
                if self._recv_window < 0:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection window allows")
                if stream is None or stream.remote_closed:
                    self._data_on_closed(stream_id, stream)
                    continue
                if not stream.got_headers:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS")
                stream.recv_window -= length
                if stream.recv_window < 0:
                    self._peer_broke_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
                    continue
                if flags & 0x8:
                    payload = self._unpad(data, start, stop)
                    # Padding is consumed at once; it counts against windows but nobody owns it.
                    stream.consume(length - len(payload))
                else:
                    payload = data[start:stop]
                self.until_probe -= length
                if self.until_probe < 0:
                    self._probe()
                if stream.content_left >= 0 and not self._content_fits(stream, len(payload), flags & 0x1):
                    continue
                if flags & 0x1:
                    stream.remote_closed = True
                    stream.on_data(payload, True)
                    if stream.local_closed:
                        self.forget(stream)
                elif payload:
                    stream.on_data(payload, False)
                else:
                    self._lose_patience(1, "empty DATA frames")
            elif kind == 0x1 and flags & 0x2C == 0x4 and stream_id:
                # Neither padded, nor with priority, nor continued: what every gRPC library sends.
                self._header_block(stream_id & 0x7FFFFFFF, data[start:stop], flags & 0x1)
                if step:
                    last -= _WORK
            elif kind == 0x1:
                self._read_headers(stream_id & 0x7FFFFFFF, flags, data, start, stop)
                if step:
                    last -= _WORK
            else:
                self._read_other(kind, flags, stream_id & 0x7FFFFFFF, data[start:stop])
            if self.closed:
                return False
        if last <= position < end - 8:
            self._tail = data
            self._tail_at = position
            return True
        if position < end:
            self._tail = data[position:]
        return False

    def _content_fits(self, stream: Stream, size: int, ends: int) -> bool:
        """RFC 9113 §8.1.1: a content-length that differs from the sum of the DATA frames is malformed."""
        stream.content_left -= size
        if stream.content_left < 0 or (ends and stream.content_left):
            self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return False
        return True

    def _unpad(self, data: bytes, start: int, stop: int) -> bytes:
        if start == stop:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its pad length")
        padding = data[start]
        if start + 1 + padding > stop:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
        return data[start + 1 : stop - padding]

    def _data_on_closed(self, stream_id: int, stream: Stream | None) -> None:
        if stream_id == 0 or self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which was never opened")
        self._lose_patience(0.1, "DATA on streams that have ended")
        if stream is not None:
            self._peer_broke_stream(stream, ErrorCode.STREAM_CLOSED)
        elif self.is_server and stream_id not in self._reset_ids:
            self._refuse(stream_id, ErrorCode.STREAM_CLOSED)

    def _is_idle(self, stream_id: int) -> bool:
        ours = (stream_id & 1) != self.is_server
        return stream_id >= self._next_id if ours else stream_id > self._last_peer_id

    # ── header blocks ──

    def _read_headers(self, stream_id: int, flags: int, data: bytes, start: int, stop: int) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (frames.PADDED | frames.PRIORITY_FLAG):
            block = self._unpad(data, start, stop) if flags & frames.PADDED else data[start:stop]
            if flags & frames.PRIORITY_FLAG:
                if len(block) < 5:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS shorter than its priority")
                if unpack_long(block, 0)[0] & 0x7FFFFFFF == stream_id:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
                block = block[5:]
        else:
            block = data[start:stop]
        if flags & frames.END_HEADERS:
            self._header_block(stream_id, block, flags & 0x1)
        else:
            self._block_parts = [stream_id.to_bytes(4, "big"), b"\1" if flags & 0x1 else b"", block]
            self._block_size = len(block)
            self._block_since = self.now

    def _read_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        parts = self._block_parts
        if parts is None or int.from_bytes(parts[0], "big") != stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        self._block_size += len(payload)
        # CVE-2024-27316: a block is bounded before it is complete, in bytes and in frames.
        if self._block_size > 4 * self._limits.max_header_list + 16_384 or len(parts) > 64:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        parts.append(payload)
        if flags & frames.END_HEADERS:
            self._block_parts = None
            self._header_block(stream_id, b"".join(parts[2:]), len(parts[1]))

    def _header_block(self, stream_id: int, block: bytes, end_stream: int) -> None:
        stream = self.streams.get(stream_id)
        known = self.known_blocks.get(block)
        if known is not None and stream is not None and not stream.remote_closed and known.note is not None:
            # The deliberate fast path: an answer, or its trailers, exactly as one that was understood before.
            if not stream.got_headers:
                stream.got_headers = True
                if not end_stream:
                    stream.on_headers(known, False)
                else:
                    stream.remote_closed = True
                    stream.on_headers(known, True)
                    if stream.local_closed:
                        self.forget(stream)
            else:
                self._read_trailers(stream, known, end_stream)
            return
        too_large = 0
        try:
            headers = self._blocks.read(block)
            problem = self._blocks.malformed
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except HeaderListTooLarge as excess:
            headers, problem, too_large = HeaderBlock(None, ()), None, excess.size
        if stream is None:
            if self.is_server:
                self._open_request(stream_id, headers, end_stream, problem, too_large)
            else:
                self._headers_on_closed(stream_id)
        elif stream.remote_closed:
            self._peer_broke_stream(stream, ErrorCode.STREAM_CLOSED)
        elif too_large:
            stream.on_headers_too_large(too_large)
        elif problem is not None:
            self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif self.is_server or stream.got_headers:
            self._read_trailers(stream, headers, end_stream)
        else:
            self._read_response(stream, headers, end_stream)

    def _headers_on_closed(self, stream_id: int) -> None:
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which was never opened")
        self._lose_patience(0.1, "HEADERS on streams that have ended")
        # An answer to a request that we reset was under way; only a server can be sure that nothing was.
        if self.is_server and stream_id not in self._reset_ids:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which has ended")

    def _open_request(
        self, stream_id: int, headers: HeaderBlock, end_stream: int, problem: bytes | None, too_large: int
    ) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client opened an even stream id")
        if stream_id <= self._last_peer_id:
            self._headers_on_closed(stream_id)
            return
        if self._last_peer_id and not self._table_is_off:
            # No dynamic table: once the peer obeys, every block can be read, and passed on, without state. Said at the
            # second request: a caller begins with the default table anyway, and a single request gains nothing.
            self._table_is_off = True
            self._send_settings({frames.HEADER_TABLE_SIZE: 0})
        self._last_peer_id = stream_id
        if stream_id > self._goaway_limit:
            # After our final GOAWAY: the peer knows that this was not processed.
            return
        if len(self.streams) >= self._limits.max_concurrent_streams:
            self._lose_patience(1, "streams beyond the announced limit")
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return
        beginning = headers.beginning
        plain = problem is None and beginning is not None and beginning.is_request
        if plain:
            # What follows a beginning that is a request by itself must be neither a pseudo header nor suspicious.
            for field in headers.rest:
                name = field[0]
                if name in _SUSPECT or name[0] == 0x3A:
                    plain = False
                    break
        if not plain and (problem is not None or (not too_large and request_problem(headers) is not None)):
            self._lose_patience(1, "malformed requests")
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        accept = self.accept
        if accept is None:
            raise LocalError("only a server takes requests")
        stream = accept(self)
        stream.attach(self, stream_id)
        stream.got_headers = True
        self.streams[stream_id] = stream
        if end_stream:
            stream.remote_closed = True
        if too_large:
            stream.on_headers_too_large(too_large)
        elif (
            not plain
            and (length := headers.get(b"content-length")) is not None
            and not self._note_length(stream, length, end_stream)
        ):
            self.streams.pop(stream_id, None)
            self._lose_patience(1, "malformed requests")
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        else:
            stream.on_headers(headers, bool(end_stream))
        if end_stream and stream.local_closed:
            self.forget(stream)

    def _refuse(self, stream_id: int, code: ErrorCode) -> None:
        self._reset_ids[stream_id] = None
        if len(self._reset_ids) > _RESET_IDS_KEPT:
            del self._reset_ids[next(iter(self._reset_ids))]
        self.out.append(frames.rst_stream(stream_id, code))
        self._wake()

    def _note_length(self, stream: Stream, length: bytes, end_stream: int) -> bool:
        if not length.isdigit() or len(length) > 18:
            return False
        stream.content_left = int(length)
        return not (end_stream and stream.content_left)

    def _read_response(self, stream: Stream, headers: HeaderBlock, end_stream: int) -> None:
        if headers.note is None and response_problem(headers) is not None:
            self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        index = headers.index
        if index[b":status"][0] == 0x31:
            # RFC 9113 §8.1: interim responses come before the final one and cannot end the stream.
            if end_stream:
                self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
            self._lose_patience(1, "interim responses")
            return
        stream.got_headers = True
        length = index.get(b"content-length")
        if length is not None and not self._note_length(stream, length, end_stream):
            self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        if end_stream:
            stream.remote_closed = True
            stream.on_headers(headers, True)
            if stream.local_closed:
                self.forget(stream)
        else:
            stream.on_headers(headers, False)

    def _read_trailers(self, stream: Stream, headers: HeaderBlock, end_stream: int) -> None:
        misplaced = headers.note is None and any(field[0][0] == 0x3A for field in headers.fields)
        if not end_stream or stream.content_left > 0 or misplaced:
            self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.remote_closed = True
        stream.on_trailers(headers)
        if stream.local_closed:
            self.forget(stream)

    def _peer_broke_stream(self, stream: Stream, code: ErrorCode) -> None:
        self._lose_patience(1, "broken streams")
        if stream.stream_id in self.streams:
            self.reset_stream(stream, code)
            stream.on_reset(MALFORMED)

    # ── the other frames ──

    def _read_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._read_window_update(stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._read_rst_stream(stream_id, payload)
        elif kind == frames.PING:
            self._read_ping(flags, stream_id, payload)
        elif kind == frames.SETTINGS:
            self._read_settings(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._read_continuation(flags, stream_id, payload)
        elif kind == frames.GOAWAY:
            self._read_goaway(stream_id, payload)
        elif kind == frames.PRIORITY:
            self._read_priority(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE was not allowed")
        else:
            # RFC 9113 §5.5: unknown types are ignored; not for free, though.
            self._lose_patience(1, "frames of unknown type")

    def _read_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE must have 4 bytes")
        increment = unpack_long(payload, 0)[0] & 0x7FFFFFFF
        self._spend_update()
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window increment of 0")
            self._granted += increment
            self.send_window += increment
            if self.send_window > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection window overflows")
            if self.backlog:
                self.pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
            return
        if increment == 0:
            self._peer_broke_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.send_window += increment
        if stream.send_window > frames.LARGEST_WINDOW:
            self._peer_broke_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
        elif stream.pending is not None and stream.send_window > 0:
            self.backlog[stream] = None
            self.pump()

    def _spend_update(self) -> None:
        """A peer may send as many WINDOW_UPDATEs as it got bytes of DATA and opened streams; more are a flood (CVE-2019-9511, 9517)."""
        earned = self._granted - self.send_window + self._last_peer_id + self._next_id
        if earned != self._updates_earned:
            self._update_credit = min(self._update_credit + earned - self._updates_earned, _UPDATES_SAVED)
            self._updates_earned = earned
        if self._update_credit > 0:
            self._update_credit -= 1
        else:
            self._lose_patience(_UPDATE, "WINDOW_UPDATE")

    def _read_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM must have 4 bytes")
        if stream_id == 0 or self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which was never opened")
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            self._lose_patience(0.1, "RST_STREAM on streams that have ended")
            return
        if self.is_server:
            self._spend_reset(_RESET_AT_ONCE if stream_id > self._fresh_after else 1)
        stream.remote_closed = stream.local_closed = True
        if stream.pending is not None:
            stream.pending = None
            self.backlog.pop(stream, None)
        stream.on_reset(unpack_long(payload, 0)[0])
        if self.draining and not self.streams and not self.closed:
            self._drained()

    def _spend_reset(self, cost: int) -> None:
        """CVE-2023-44487: each reset stream has cost us work; a peer gets only so many per second."""
        limits = self._limits
        budget = self._reset_budget + (self.now - self._reset_budget_at) * limits.resets_per_second
        self._reset_budget_at = self.now
        self._reset_budget = min(budget, limits.patience) - cost
        if self._reset_budget < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "streams are opened and reset too fast")

    def _read_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING must have 8 bytes")
        if flags & frames.ACK:
            answered = self._on_ping.pop(payload, None)
            if answered is not None:
                answered()
            else:
                self._lose_patience(1, "answers to PINGs that were never sent")
            return
        self._lose_patience(1, "PINGs")
        self.out.append(frames.ping(payload, ack=True))
        self._wake()

    def _read_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            self._read_settings_ack(payload)
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS must have a multiple of 6 bytes")
        if self.got_settings:
            self._lose_patience(1 + len(payload) // 60, "SETTINGS")
        # Once per frame, whatever it says how often: each change is work for every open stream.
        window = self.peer_initial_window
        for offset in range(0, len(payload), 6):
            key, value = unpack_setting(payload, offset)
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1")
                window = value
            else:
                self._apply_setting(key, value)
        if window != self.peer_initial_window:
            self._move_windows(window)
        self.out.append(frames.SETTINGS_ACK)
        self._wake()
        if not self.got_settings:
            self.got_settings = True
            self.on_settings()
        if self.backlog:
            self.pump()

    def _read_settings_ack(self, payload: bytes) -> None:
        if payload:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload")
        if not self.got_settings:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if not self._settings_unacked:
            self._lose_patience(1, "acknowledgements of SETTINGS that were never sent")
            return
        self._settings_unacked -= 1
        self._acks_to_table -= 1
        if self._acks_to_table == 0:
            self._decoder.set_max_table_size(0)

    def _apply_setting(self, key: int, value: int) -> None:
        if key == frames.HEADER_TABLE_SIZE:
            self.owes_table_update = True
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of its range")
            self.peer_max_frame = value
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif key == frames.ENABLE_PUSH and (value > 1 or (value and not self.is_server)):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH must be 0 or 1")

    def _move_windows(self, window: int) -> None:
        """RFC 9113 §6.9.2: open streams move by the difference and may become negative."""
        if self.streams:
            self._lose_patience(len(self.streams) / 100, "SETTINGS")
        change = window - self.peer_initial_window
        self.peer_initial_window = window
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream window overflows")
            if stream.pending is not None and stream.send_window > 0:
                self.backlog[stream] = None

    def _read_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY must have at least 8 bytes")
        self._lose_patience(1, "GOAWAYs")
        if self.is_server:
            return
        last_id = unpack_long(payload, 0)[0] & 0x7FFFFFFF
        first = not self.draining
        self.draining = True
        for stream in [each for each in self.streams.values() if each.stream_id > last_id]:
            self.streams.pop(stream.stream_id, None)
            stream.pending = None
            self.backlog.pop(stream, None)
            stream.local_closed = stream.remote_closed = True
            stream.on_reset(NOT_PROCESSED)
        if first:
            self.on_going_away()
        if not self.streams and not self.closed:
            self.on_idle()

    def _read_priority(self, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            self._lose_patience(1, "PRIORITY")
            stream = self.streams.get(stream_id)
            if stream is not None:
                self._peer_broke_stream(stream, ErrorCode.FRAME_SIZE_ERROR)
                return
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY must have 5 bytes")
        if unpack_long(payload, 0)[0] & 0x7FFFFFFF == stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        self._lose_patience(1, "PRIORITY")

    # ── windows and patience ──

    def _credit_connection(self) -> None:
        # What streams hold is what their windows lack; a connection full of stalled streams gets no more.
        window = self.stream_window
        if len(self.streams) * window > self._limits.held:
            held = sum(window - each.recv_window - each.unacked for each in self.streams.values())
            if held > self._limits.held:
                self._starved = True
                return
        self._starved = False
        self._recv_window += self._unacked
        self.write_window_update(0, self._unacked)
        self._unacked = 0

    def _probe(self) -> None:
        """Measure: how much arrives until a PING comes back? `until_probe` counts on below zero meanwhile."""
        if not self._growth.probing:
            self._growth.probing = True
            self.ping(b"bdpprobe", self._grow)

    def _grow(self) -> None:
        growth = self._growth.answered(-self.until_probe)
        self.until_probe = self._growth.start(self.stream_window + growth)
        if not growth:
            return
        self.stream_window += growth
        self.stream_credit_at = self.stream_window // 2
        for stream in self.streams.values():
            stream.recv_window += growth
        self._recv_window += growth * 4
        self._send_settings({frames.INITIAL_WINDOW_SIZE: self.stream_window})
        self.write_window_update(0, growth * 4)

    def _lose_patience(self, cost: float, what: str) -> None:
        limits = self._limits
        # Comes back within 10 s of good behaviour, so a keepalive every second never runs out.
        patience = self._patience + (self.now - self._patience_at) * limits.patience / 10
        self._patience_at = self.now
        self._patience = min(patience, limits.patience) - cost
        if self._patience < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")


def request_problem(headers: HeaderBlock) -> str | None:
    """Why a request is malformed (RFC 9113 §8.2, §8.3.1), or None."""
    beginning = headers.beginning
    if beginning is not None and beginning.is_request is None:
        index = beginning.index
        beginning.is_request = _request_problem(index, beginning.fields) is None and b"content-length" not in index
    return _request_problem(headers.index, headers.fields)


def _request_problem(index: dict[bytes, bytes], fields: tuple[Field, ...]) -> str | None:
    if b":method" not in index or b":scheme" not in index or not index.get(b":path"):
        return "a pseudo header is missing"
    return _order_problem(fields, index, _REQUEST_PSEUDO)


def response_problem(headers: HeaderBlock) -> str | None:
    """Why a response is malformed (RFC 9113 §8.2, §8.3.2), or None."""
    status = headers.index.get(b":status", b"")
    if len(status) != 3 or not status.isdigit():
        return "the status is not a number of three digits"
    return _order_problem(headers.fields, headers.index, _RESPONSE_PSEUDO)


def _order_problem(fields: tuple[Field, ...], index: dict[bytes, bytes], allowed: frozenset[bytes]) -> str | None:
    count = 0
    for field in fields:
        name = field[0]
        if name[0] != 0x3A:
            break
        if name not in allowed:
            return "an unknown pseudo header"
        count += 1
    pseudo = 0
    for name in index:
        if name[0] == 0x3A:
            pseudo += 1
    if pseudo != count:
        # Fewer names than fields: a duplicate; more: one stands behind a regular field.
        return "a pseudo header twice, or after a regular one"
    if len(index) != len(fields) and any(field[0][0] == 0x3A for field in fields[count:]):
        return "a pseudo header twice, or after a regular one"
    if not index.keys().isdisjoint(_SUSPECT):
        if not index.keys().isdisjoint(_CONNECTION_SPECIFIC):
            return "a connection-specific header"
        if index.get(b"te", b"trailers") != b"trailers":
            return "te other than trailers"
        if b"content-length" in index and sum(field[0] == b"content-length" for field in fields) > 1:
            return "content-length twice"
    return None


def _nothing() -> None:
    """The callback of an owner that does not care."""
