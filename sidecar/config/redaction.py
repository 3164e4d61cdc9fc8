"""The effective configuration for eyes: everything but the secrets."""

from __future__ import annotations

import re
from typing import Any

from sidecar.config.model import Model

REDACTED = "[redacted]"

# pydantic writes a SecretStr so.
_SECRET = "**********"  # noqa: S105 - no password
# Metadata that carries credentials by its name; `private_key` is a path and stays.
_SECRET_NAMES = re.compile(r"(authorization|cookie|token|secret|passw|credential|api[-_]?key)")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def redacted(root: Model) -> dict[str, Any]:
    """The configuration as JSON-able values in the words of the file, defaults included; secrets are `[redacted]`."""
    shown: dict[str, Any] = _shown(root.model_dump(mode="json", exclude_none=True), is_secret=False)
    return shown


def _shown(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _shown(each, is_secret=is_secret or _SECRET_NAMES.search(name) is not None)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_shown(each, is_secret=is_secret) for each in value]
    if isinstance(value, str):
        return REDACTED if is_secret or value == _SECRET else _USER_INFO.sub(f"{REDACTED}@", value)
    return value
