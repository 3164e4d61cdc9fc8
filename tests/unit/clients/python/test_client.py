"""How the client packs records, as far as no server is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clients.python import AgentClient, TlsFiles, new_idempotency_key
from clients.python.api import agent_pb2 as pb
from clients.python.client import _async, _ingest_messages


def packed(records: list[dict[str, Any]], id_field: str = "") -> list[pb.IngestRequest]:
    async def work() -> list[pb.IngestRequest]:
        target = pb.IngestTarget(operation="ingest")
        return [message async for message in _ingest_messages(target, _async(records), id_field)]

    return asyncio.run(work())


def test_the_target_goes_first_and_alone() -> None:
    messages = packed([])
    assert [message.WhichOneof("payload") for message in messages] == ["target"]


def test_small_records_share_a_message() -> None:
    messages = packed([{"a": number} for number in range(450)])
    assert [len(message.batch.records) for message in messages[1:]] == [200, 200, 50]


def test_large_records_do_not() -> None:
    messages = packed([{"a": "x" * 200_000}] * 4)
    assert [len(message.batch.records) for message in messages[1:]] == [2, 2]


def test_records_are_named_by_a_field() -> None:
    message = packed([{"id": 7}, {}], id_field="id")[1]
    assert [record.record_id for record in message.batch.records] == ["7", ""]


def test_keys_differ_and_fit() -> None:
    keys = {new_idempotency_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(1 <= len(key) <= 255 and key.isascii() for key in keys)


def test_a_tls_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ca.pem"):
        AgentClient("127.0.0.1:1", tls=TlsFiles(tmp_path / "ca.pem"))
