"""What is told to others when a rollout moves: webhooks get it as JSON, commands as JSON on their standard input and in the environment.

They run beside the rollout and cannot hold it up; one that fails is logged and counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import urllib.request
from typing import TYPE_CHECKING, Any

from sidecar.rollout.config import ActionConfig
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.runtime import Runtime

_COMMAND_TIMEOUT = 60.0


class ActionFailed(Exception):
    """An action did not do what it should; the text says what and why, and holds no secret."""


async def run_actions(
    actions: Sequence[ActionConfig | tuple[str, ...]], event: Mapping[str, Any], runtime: Runtime
) -> None:
    """Run them one after the other; each failure is told, and the next one runs all the same."""
    for action in actions:
        is_webhook = isinstance(action, ActionConfig)
        kind = "webhook" if is_webhook else "command"
        try:
            if isinstance(action, ActionConfig):
                await asyncio.to_thread(_post, action, json.dumps(event, default=str).encode())
            else:
                await _execute(action, event)
        except (ActionFailed, OSError, ValueError) as error:
            runtime.metrics.counter(names.ROLLOUT_ACTIONS, kind=kind, result="failed").inc()
            runtime.log.warning(
                "rollout action failed", extra={"cluster": event["cluster"], "kind": kind, "cause": str(error)}
            )
        else:
            runtime.metrics.counter(names.ROLLOUT_ACTIONS, kind=kind, result="done").inc()


def _post(action: ActionConfig, body: bytes) -> None:
    request = urllib.request.Request(  # noqa: S310 - the configuration allows http and https alone
        action.webhook, data=body, method="POST", headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=action.timeout) as answer:  # noqa: S310
            status = answer.status
    except OSError as error:
        # Not the URL: it may hold a secret.
        raise ActionFailed(f"webhook: {getattr(error, 'reason', None) or error}") from None
    if status >= 300:
        raise ActionFailed(f"webhook: HTTP status {status}")


async def _execute(command: tuple[str, ...], event: Mapping[str, Any]) -> None:
    environment = {
        **os.environ,
        **{f"SIDECAR_ROLLOUT_{name.upper()}": str(event[name]) for name in ("cluster", "phase", "percent", "reason")},
    }
    # A file and no pipe: a command need not read it, and may be gone before it is written.
    with tempfile.TemporaryFile() as told:
        told.write(json.dumps(event, default=str).encode())
        told.seek(0)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=told,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ActionFailed(f"{command[0]} was killed after {_COMMAND_TIMEOUT:g} s") from None
    if process.returncode:
        raise ActionFailed(f"{command[0]} ended with {process.returncode}")
