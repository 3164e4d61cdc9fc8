"""What is remembered between the calls of one session: its last result.

Bounded by number and by bytes; the session that was used longest ago is forgotten first. A session belongs to the caller that
began it: another caller who knows its id meets an empty one.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_server.core.events import Outcome


@dataclass(slots=True, eq=False)
class Session:
    """One session."""

    session_id: str
    last: Outcome | None = None
    size: int = 0
    """About the bytes of `last`."""


class Sessions:
    """All sessions of a server."""

    def __init__(self, *, max_sessions: int = 1000, max_bytes: int = 64 << 20) -> None:
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._by_key: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def open(self, identity: str, session_id: str) -> Session:
        """The session of this caller, made if there is none."""
        key = (identity, session_id)
        session = self._by_key.get(key)
        if session is None:
            session = self._by_key[key] = Session(session_id)
            self._forget()
        else:
            self._by_key.move_to_end(key)
        return session

    def keep(self, identity: str, session: Session, outcome: Outcome) -> None:
        """Remember the last result of a session."""
        key = (identity, session.session_id)
        if self._by_key.get(key) is not session:
            return  # forgotten meanwhile
        self._bytes -= session.size
        session.last = outcome
        session.size = outcome_size(outcome)
        self._bytes += session.size
        self._forget()

    def _forget(self) -> None:
        while len(self._by_key) > self._max_sessions or self._bytes > self._max_bytes:
            _, session = self._by_key.popitem(last=False)
            self._bytes -= session.size


def outcome_size(outcome: Outcome) -> int:
    """About the bytes a result takes."""
    return len(json.dumps(outcome.output, default=str)) + (outcome.table.size if outcome.table else 0)
