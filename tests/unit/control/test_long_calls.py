from __future__ import annotations

import io
import json
import logging
from dataclasses import replace

from sidecar.control.long_calls import LongCalls
from sidecar.policies.access_log import AccessLog
from sidecar.telemetry.logs import LogWriter
from tests.support.bench import of


def test_what_lasts_is_mentioned_every_minute() -> None:
    stream = io.StringIO()
    writer = LogWriter(stream)
    log = logging.getLogger("test.long")
    log.setLevel("INFO")
    bench = of(AccessLog, "{sample: 0}", prepare=lambda runtime: replace(runtime, lines=writer, log=log))
    long_calls = LongCalls(bench.clock, lambda: [each for each in bench.calls if not each.ended])
    long_calls.start()
    bench.request(method="/test.Service/Long", end=False)
    for _ in range(3):
        bench.clock.advance(50)
        bench.request(method="/test.Service/Short")
        bench.end()
    bench.clock.advance(50)
    long_calls.stop()
    bench.clock.advance(600)
    writer.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(each["event"], each["method"]) for each in lines] == [("rpc runs", "/test.Service/Long")] * 3
