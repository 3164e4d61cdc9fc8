from __future__ import annotations

import io
import json
import logging

from sidecar.telemetry.logs import Console, JsonLines, configure


def record(**extra: object) -> logging.LogRecord:
    return logging.getLogger("t").makeRecord("t", logging.INFO, "f", 1, "it happened", (), None, extra=extra)


def test_a_line_is_one_json_object() -> None:
    entry = json.loads(JsonLines().format(record(endpoint="127.0.0.1:1", count=3)))
    assert entry["event"] == "it happened"
    assert entry["level"] == "info"
    assert entry["count"] == 3
    assert entry["time"].endswith("Z")


def test_line_breaks_do_not_make_lines() -> None:
    assert "\n" not in JsonLines().format(record(cause="a\nb"))


def test_people_get_words() -> None:
    assert Console().format(record(listener="in")).endswith("it happened listener=in")


def test_a_stopped_listener_has_written_everything() -> None:
    stream = io.StringIO()
    listener = configure("info", stream)
    logger = logging.getLogger("sidecar")
    for i in range(100):
        logger.info("line", extra={"i": i})
    listener.stop()
    logger.handlers.clear()
    assert [json.loads(line)["i"] for line in stream.getvalue().splitlines()] == list(range(100))
