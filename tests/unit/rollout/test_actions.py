from __future__ import annotations

import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sidecar.rollout.actions import run_actions
from sidecar.rollout.config import ActionConfig
from sidecar.telemetry import names
from tests.support.scene import Scene

EVENT = {"cluster": "agent", "phase": "promoted", "percent": 100.0, "reason": "stood all 4 steps", "figures": None}


async def results(*actions: ActionConfig | tuple[str, ...]) -> dict[str, float]:
    """Of each result, how many."""
    runtime = Scene().runtime
    await run_actions(actions, EVENT, runtime)
    return {
        f"{kind} {result}": count
        for kind in ("webhook", "command")
        for result in ("done", "failed")
        if (count := runtime.metrics.counter(names.ROLLOUT_ACTIONS, kind=kind, result=result).value)
    }


async def test_a_command_gets_the_event_and_its_main_facts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import os, sys; open({str(out)!r}, 'w').write(sys.stdin.read() + os.environ['SIDECAR_ROLLOUT_PHASE'])"
    assert await results((sys.executable, "-c", code)) == {"command done": 1}
    text = out.read_text()
    assert text.endswith("}promoted")
    assert json.loads(text.removesuffix("promoted")) == EVENT


async def test_one_that_fails_is_told_and_the_next_runs_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    found = await results(("/bin/false",), ("/no/such/program",), ("/bin/true",))
    assert found == {"command failed": 2, "command done": 1}
    assert next(each.cause for each in caplog.records) == "/bin/false ended with 1"


class Opened:
    """In place of the network: what was posted, and an answer."""

    def __init__(self, status: int | OSError) -> None:
        self._status = status
        self.posted: list[urllib.request.Request] = []

    def __call__(self, request: urllib.request.Request, timeout: float) -> Any:
        self.posted.append(request)
        if isinstance(self._status, OSError):
            raise self._status
        answer = io.BytesIO()
        answer.status = self._status  # type: ignore[attr-defined]
        return answer


@pytest.mark.parametrize(
    ("status", "result"),
    [(204, "done"), (304, "failed"), (urllib.error.URLError(ConnectionRefusedError("refused")), "failed")],
)
async def test_a_webhook_is_posted_as_json_and_its_url_stays_secret(
    status: int | OSError, result: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(status)
    monkeypatch.setattr(urllib.request, "urlopen", opened)
    assert await results(ActionConfig(webhook="http://hooks/s3cret")) == {f"webhook {result}": 1}
    assert isinstance(opened.posted[0].data, bytes)
    assert json.loads(opened.posted[0].data) == EVENT
    assert "s3cret" not in "".join(str(vars(each)) for each in caplog.records)
