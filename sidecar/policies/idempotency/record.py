"""What is kept of a keyed execution: where it stands, and its answer.

absent → running → done | released | unknown. A running record that nobody renews any more is unknown as well: whoever ran it died
after it had been sent, or just before; which of the two cannot be known, so it counts as sent.
"""

from __future__ import annotations

import base64
import json
from binascii import b2a_base64
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any

_VERSION = 1
Pairs = tuple[tuple[bytes, bytes], ...]


_quoted_once = json.encoder.encode_basestring_ascii
# What is the same in many records: owners, methods, callers.
_quoted = lru_cache(maxsize=1024)(_quoted_once)


class State(Enum):
    """Where an execution stands."""

    RUNNING = "running"
    DONE = "done"
    RELEASED = "released"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Execution:
    """One key's execution. Times in seconds since the epoch, for people; `token` grows with each execution of the key."""

    state: State
    token: int
    owner: str
    fingerprint: str
    method: str
    identity: str
    began: float
    lease: float
    ended: float | None = None
    code: int = 0
    headers: Pairs = ()
    trailers: Pairs = ()
    messages: bytes | None = b""
    """Framed; None = the answer was too large to be kept."""
    settled_by: str = ""

    def become(self, state: State, ended: float, **more: Any) -> Execution:
        return replace(self, state=state, ended=ended, **more)

    @property
    def is_replayable(self) -> bool:
        return self.state is State.DONE and self.messages is not None


def dump(execution: Execution) -> bytes:
    """One line of JSON about it, then the messages of its answer."""
    began, lease, ended = float(execution.began), float(execution.lease), execution.ended
    # Written by hand: two of these per RPC, and json.dumps takes four times as long.
    line = (
        f'{{"v":{_VERSION},"state":"{execution.state.value}","token":{execution.token},"owner":{_quoted(execution.owner)},'
        f'"print":{_quoted_once(execution.fingerprint)},"method":{_quoted(execution.method)},'
        f'"identity":{_quoted(execution.identity)},"began":{began!r},"lease":{lease!r},'
        f'"ended":{"null" if ended is None else repr(float(ended))},"code":{execution.code},'
        f'"headers":{_texts(execution.headers)},"trailers":{_texts(execution.trailers)},'
        f'"kept":{"false" if execution.messages is None else "true"},"by":{_quoted_once(execution.settled_by)}}}\n'
    )
    return line.encode() + (execution.messages or b"")


def load(content: bytes) -> Execution:
    """Raises ValueError for what `dump` has not written."""
    line, _, messages = content.partition(b"\n")
    try:
        facts = json.loads(line)
        if facts["v"] != _VERSION:
            raise ValueError(f"version {facts['v']} is not known here")
        return Execution(
            State(facts["state"]),
            int(facts["token"]),
            str(facts["owner"]),
            str(facts["print"]),
            str(facts["method"]),
            str(facts["identity"]),
            float(facts["began"]),
            float(facts["lease"]),
            None if facts["ended"] is None else float(facts["ended"]),
            int(facts["code"]),
            _pairs(facts["headers"]),
            _pairs(facts["trailers"]),
            messages if facts["kept"] else None,
            str(facts["by"]),
        )
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no record of an execution: {type(error).__name__}") from None


def _texts(pairs: Pairs) -> str:
    if not pairs:
        return "[]"
    return (
        "["
        + ",".join([f'[{_name(name)},"{b2a_base64(value, newline=False).decode()}"]' for name, value in pairs])
        + "]"
    )


@lru_cache(maxsize=1024)
def _name(name: bytes) -> str:
    return _quoted_once(name.decode("latin-1"))


def _pairs(texts: list[list[str]]) -> Pairs:
    return tuple((name.encode("latin-1"), base64.b64decode(value, validate=True)) for name, value in texts)
