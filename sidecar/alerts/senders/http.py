"""One POST: JSON to a URL, judged by its status. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY); nothing is followed."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from sidecar.alerts.delivery import NotDelivered

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from pathlib import Path

_TOO_MANY = 429
_TRY_AGAIN = frozenset({408, 425, _TOO_MANY})
"""RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4: client errors that say nothing of the message."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is secret in a URL or a header must not go where somebody else points."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def tls_context(trusted_ca: Path | None) -> ssl.SSLContext:
    """Raises NotDelivered when the CA file cannot be read."""
    import ssl

    try:
        return ssl.create_default_context(cafile=str(trusted_ca) if trusted_ca is not None else None)
    except OSError as error:
        name = trusted_ca.name if trusted_ca is not None else "the system's CAs"
        raise NotDelivered(f"{name} cannot be read: {error.strerror or 'no certificate in it'}") from None


def post(
    url: str,
    body: Mapping[str, Any],
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    trusted_ca: Path | None = None,
) -> None:
    """POST `body`; any 2xx is well. Raises NotDelivered, whose text has neither URL nor body."""
    if not url.startswith(("http://", "https://")):
        raise NotDelivered("the URL does not begin with https://", is_final=True)
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if url.startswith("https://"):
        handlers.append(urllib.request.HTTPSHandler(context=tls_context(trusted_ca)))
    opener = urllib.request.build_opener(*handlers)
    try:
        request = urllib.request.Request(  # noqa: S310 - looked at above
            url,
            json.dumps(body, ensure_ascii=False).encode(),
            {"content-type": "application/json", "user-agent": "sidecar", **(headers or {})},
            method="POST",
        )
        with opener.open(request, timeout=timeout) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, error.headers.get("retry-after")) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotDelivered(_cause(error)) from None
    if not 200 <= status < 300:
        raise _refused(status, None)


def _refused(status: int, retry_after: str | None) -> NotDelivered:
    is_final = 300 <= status < 500 and status not in _TRY_AGAIN
    return NotDelivered(f"HTTP status {status}", retry_after=_seconds(retry_after), is_final=is_final)


def _seconds(value: str | None) -> float | None:
    """RFC 9110 §10.2.3: seconds; a date is not worth a clock here."""
    return float(value) if value is not None and value.isdecimal() else None


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(getattr(reason, "verify_message", None) or getattr(reason, "strerror", None) or type(reason).__name__)
