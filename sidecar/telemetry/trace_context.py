"""W3C Trace Context: what a caller says of the trace it is in, and how that is passed on.

`tracestate` is never touched here: it goes on as any metadata does, and is dropped only where a trace begins anew.
"""

from __future__ import annotations

import re

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

# W3C Trace Context §3.2: version 00 is exactly this long; a later one may go on after another dash; ff is forbidden.
_FORM = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_SAMPLED = 0x01


class TraceContext:
    """A trace and the span in it that is the parent of what comes; ids in lower-case hex."""

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, *, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled


def parse_traceparent(value: bytes) -> TraceContext | None:
    """What `value` says; None = nothing that can be understood, so the trace begins anew (§4.3)."""
    found = _FORM.fullmatch(value)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    if found[2] == _NO_TRACE or found[3] == _NO_SPAN:
        return None
    return TraceContext(found[2], found[3], is_sampled=bool(int(found[4], 16) & _SAMPLED))


def sampled_traceparent(trace_id: bytes, span_id: bytes) -> bytes:
    """The field for a span that is recorded; of the flags, §3.3 lets us set only what we know."""
    return b"00-%b-%b-01" % (trace_id, span_id)


def is_in_share(trace_id: bytes, share: float) -> bool:
    """Does the trace belong to the sampled `share` (0 to 1)? Whoever asks this of the same trace gets the same answer."""
    return int(trace_id[16:], 16) < share * 2**64
