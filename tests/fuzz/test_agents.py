"""Agents that answer with anything: every RPC ends, with a status that there is, and the sidecar goes on."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scenes.script import silent
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, block

many = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")))
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(
            [b":status", b"grpc-status", b"grpc-message", b"content-type", b"grpc-status-details-bin", b"x", b"te"]
        )
        | st.binary(min_size=1, max_size=6),
        st.sampled_from([b"200", b"0", b"16", b"17", b"-1", b"application/grpc", b"text/html", b"%E4", b"trailers"])
        | st.binary(max_size=8),
    ),
    max_size=5,
).map(lambda fields: block(*fields))
BLOCKS = FIELDS | st.just(block(*RESPONSE)) | st.just(block(("grpc-status", "0"))) | st.binary(max_size=30)


@st.composite
def frame(draw: st.DrawFn) -> bytes:
    """Mostly what an answer is made of, on the stream that was opened or next to it."""
    kind = draw(st.sampled_from([0, 0, 1, 1, 1, 3, 4, 6, 7, 8, 9, 2, 5, 12]))
    payload = draw(BLOCKS if kind in {1, 9} else st.binary(max_size=20) | st.just(b"\0\0\0\0\1x"))
    flags = draw(st.sampled_from([0, 1, 4, 5, 8, 0x24, 255]))
    stream = draw(st.sampled_from([1, 1, 1, 0, 3, 2, 5]))
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@many
@given(st.lists(frame() | st.binary(max_size=20), min_size=1, max_size=10))
def test_an_agent_that_answers_with_anything(parts: list[bytes]) -> None:
    scene = Scene(on_agent=silent)
    callers = [scene.call(("grpc-timeout", "1S")) for _ in range(2)]
    wire = scene.endpoint.wire
    assert wire is not None
    for part in parts:
        if wire.client.closed:
            break
        wire.client.receive(part, scene.clock.monotonic())
        scene.run()
    scene.advance(2)
    for each in callers:
        assert each.seen.ended or each.seen.reset is not None
        assert each.seen.reset is not None or each.seen.status is not None
    assert not scene.metrics.defects
    assert not scene.listener.closed
    assert len(scene.outcomes) == 2
