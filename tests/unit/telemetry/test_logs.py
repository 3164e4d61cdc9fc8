from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sidecar.telemetry.logs import Console, JsonLines, LogWriter, Mask, configure, level_of, set_level, writer_of


def record(**extra: object) -> logging.LogRecord:
    return logging.getLogger("t").makeRecord("t", logging.INFO, "f", 1, "it happened", (), None, extra=extra)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def writer(stream: io.StringIO) -> Iterator[LogWriter]:
    writer = LogWriter(stream)
    yield writer
    writer.stop()


def lines(writer: LogWriter, stream: io.StringIO) -> list[dict[str, Any]]:
    writer.stop()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object() -> None:
    entry = json.loads(JsonLines().format(record(endpoint="127.0.0.1:1", count=3)))
    assert entry["event"] == "it happened"
    assert entry["level"] == "info"
    assert entry["count"] == 3
    assert entry["time"].endswith("Z")


def test_line_breaks_do_not_make_lines() -> None:
    assert "\n" not in JsonLines().format(record(cause="a\nb"))
    assert "\n" not in Console().format(record(cause="a\nb"))


def test_people_get_words() -> None:
    line = Console().format(record(listener="in", cause="not there"))
    assert line.endswith('it happened listener=in cause="not there"')


def test_a_terminal_is_for_people() -> None:
    stream = Terminal()
    writer = LogWriter(stream)
    writer.emit(record(listener="in"))
    writer.stop()
    assert stream.getvalue().endswith("it happened listener=in\n")


def test_a_stopped_writer_has_written_everything(stream: io.StringIO) -> None:
    writer = configure("info", stream)
    logger = logging.getLogger("sidecar")
    assert writer_of(logger) is writer
    for i in range(100):
        logger.info("line", extra={"i": i})
    writer.stop()
    logger.handlers.clear()
    assert [json.loads(line)["i"] for line in stream.getvalue().splitlines()] == list(range(100))


def test_secrets_are_masked_wherever_they_stand(writer: LogWriter, stream: io.StringIO) -> None:
    try:
        raise ValueError("password=hunter2")
    except ValueError as error:
        with_exception = logging.getLogger("t").makeRecord(
            "t", logging.ERROR, "f", 1, "failed with token=%s", ("abc123",), (type(error), error, None)
        )
    writer.emit(with_exception)
    writer.emit(record(cause="Bearer abcdefgh12345678", api_key="x", nested={"secret": "y", "url": "redis://u:p@h"}))
    first, second = lines(writer, stream)
    assert first["event"] == "failed with token=[masked]"
    assert "hunter2" not in first["exception"]
    assert second["cause"] == "Bearer [masked]"
    assert second["api_key"] == "[masked]"
    assert second["nested"] == {"secret": "[masked]", "url": "redis://[masked]@h"}


def test_what_the_configuration_hides_is_hidden(writer: LogWriter, stream: io.StringIO) -> None:
    writer.hide({"email"})
    writer.emit(record(email="a@example.org", cause='bad input {"email": "b@example.org", "city": "Bern"}'))
    writer.emit(record(emails=2))
    first, second = lines(writer, stream)
    assert first["email"] == "[masked]"
    assert first["cause"] == 'bad input {"email": "[masked]", "city": "Bern"}'
    assert second["emails"] == 2


class Said:
    created, level, event = 1.0, "info", "rpc"

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def fields(self, mask: Mask) -> Mapping[str, Any]:
        if self._error is not None:
            raise self._error
        return {"message": mask("token=abc")}


def test_a_line_is_put_into_words_when_it_is_written(writer: LogWriter, stream: io.StringIO) -> None:
    writer.add(Said())
    writer.add(Said(KeyError("x")))
    writer.add(Said())
    first, failed, last = lines(writer, stream)
    assert (
        first
        == last
        == {"time": "1970-01-01T00:00:01.000Z", "level": "info", "event": "rpc", "message": "token=[masked]"}
    )
    assert (failed["event"], failed["cause"]) == ("a log line failed", "KeyError")


def test_a_full_queue_drops_and_counts(stream: io.StringIO) -> None:
    writer = LogWriter(stream, limit=0)
    writer.emit(record())
    writer.stop()
    assert (writer.dropped, stream.getvalue()) == (1, "")


def test_a_reader_that_is_gone_costs_lines_alone() -> None:
    writer = LogWriter(Broken())
    writer.emit(record())
    writer.stop()
    assert writer.dropped == 1


def test_the_level_changes_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("t.level")
    set_level(logger, "info")
    set_level(logger, "error")
    assert level_of(logger) == "error"
    with pytest.raises(ValueError, match="'loud' is no level; allowed: debug, info, warning, error"):
        set_level(logger, "loud")
