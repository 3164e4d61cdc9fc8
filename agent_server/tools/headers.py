"""Headers that callers may set on HTTP requests."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "expect", "trailer"})


def _checked(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        is_name = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not is_name or not value.isprintable() or not value.isascii():
            msg = f"header {name!r} is not a valid header"
            raise ValueError(msg)
        if name.lower() in _OURS:
            msg = f"header {name!r} cannot be set"
            raise ValueError(msg)
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_checked)]
