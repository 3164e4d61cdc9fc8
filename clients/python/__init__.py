"""A typed asynchronous client of agent.v1.AgentService.

    async with AgentClient("127.0.0.1:50061") as agent:
        result = await agent.execute("query", {"sql": "SELECT 1 AS one"})
        print(result.rows())

It normally calls through the outbound sidecar in clear text over loopback; the sidecar adds identity, mTLS, retries and limits.
`python -m clients.python --help` does the same from a shell.
"""

from __future__ import annotations

from clients.python.client import AgentClient, TlsFiles, new_idempotency_key
from clients.python.failure import CallFailure, FieldViolation
from clients.python.results import (
    Answer,
    Event,
    IngestSummary,
    Log,
    Partial,
    Progress,
    Rejected,
    Result,
    Started,
    Table,
    Turn,
)
from clients.python.tasks import News, Rating, Task

__all__ = [
    "AgentClient",
    "Answer",
    "CallFailure",
    "Event",
    "FieldViolation",
    "IngestSummary",
    "Log",
    "News",
    "Partial",
    "Progress",
    "Rating",
    "Rejected",
    "Result",
    "Started",
    "Table",
    "Task",
    "TlsFiles",
    "Turn",
    "new_idempotency_key",
]
