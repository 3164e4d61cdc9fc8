"""How an operation says that it cannot: a gRPC status with a reason for machines.

Raised by agents and tools, caught once per RPC (service/answering.py) or per turn of a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc import StatusCode

from agent_server.core.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError

_LONGEST = 4096
"""Characters of a message: callers are shown less, and masking looks at each."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of the input that is wrong."""

    field: str
    """Path: `parameters.limit`."""
    description: str


class Failure(Exception):
    """An operation that cannot be done.

    `reason` is UPPER_SNAKE_CASE and stable, `metadata` holds every variable part of the message, `retry_after` is in seconds and
    present only where repeating the same request may help. Credentials, addresses and numbers of people are masked.
    """

    def __init__(
        self,
        code: StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        message = masked(message[:_LONGEST])
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = {name: masked(value[:_LONGEST]) for name, value in (metadata or {}).items()}
        self.violations = tuple(violations)
        self.retry_after = retry_after


def invalid(field: str, description: str, *, reason: str = "INVALID_INPUT") -> Failure:
    """One wrong field."""
    return invalid_fields([Violation(field, description)], reason=reason)


def invalid_fields(violations: Iterable[Violation], *, reason: str = "INVALID_INPUT") -> Failure:
    """Wrong fields, all named at once."""
    found = tuple(violations)
    message = "; ".join(f"{each.field}: {each.description}" for each in found[:10])
    if len(found) > 10:
        message += f"; and {len(found) - 10} more"
    return Failure(
        StatusCode.INVALID_ARGUMENT,
        reason,
        message,
        metadata={"fields": ",".join(each.field for each in found[:10])},
        violations=found[:50],
    )


def from_validation(error: ValidationError, root: str) -> Failure:
    """What pydantic found wrong, with paths that begin at `root`. The values themselves are not repeated."""
    found: dict[str, str] = {}
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        # Tags of unions, written <so>, are part of pydantic's path, but not of the input.
        path = ".".join(str(part) for part in (root, *each["loc"]) if not str(part).startswith("<"))
        text = each["msg"].removeprefix("Value error, ")
        found[path] = f"{found[path]}, or: {text}" if path in found else text
    return invalid_fields(Violation(path, description) for path, description in found.items())
