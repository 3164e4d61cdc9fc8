"""A candidate whose work callers do not like goes back, though every RPC of it goes well: two agent servers, tasks, and ratings."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import grpc

from clients.python.api import agent_pb2 as pb
from clients.python.api.agent_pb2_grpc import AgentServiceStub
from tests.journeys.rollout_stage import CONFIG
from tests.journeys.test_agent_server import WAIT, running
from tests.support.processes import Sidecar

RATED = """
      steps: [50, 100]
      first_step_for: 1h
      ready_within: 10s
      sticky: {by: metadata.x-session}
      analysis: {interval: 250ms, min_rpcs: 10, max_failed_checks: 2, success_rate: {min: 99}, compare_to_stable: {},
                 ratings: {max_poor: 20, min_ratings: 5}}
"""


async def worked(stub: AgentServiceStub, session: str) -> str:
    """One task, done and rated by what its caller thinks of the version; the version."""
    metadata = (("x-session", session),)
    request = pb.SubmitRequest(operation="query")
    request.parameters.update({"sql": "SELECT 1"})
    task_id = (await stub.Submit(request, metadata=metadata)).task.task_id
    async for news in stub.WatchTask(pb.WatchTaskRequest(task_id=task_id), metadata=metadata):
        ended = news.ended
    assert ended.state == pb.TASK_STATE_SUCCEEDED
    score = 1 if ended.version_label == "v2" else 5
    await stub.RateTask(pb.RateTaskRequest(task_id=task_id, score=score), metadata=metadata)
    return ended.version_label


async def test_a_candidate_that_callers_rate_poorly_is_sent_back(tmp_path: Path) -> None:
    async def scene(sidecar: Sidecar) -> tuple[set[str], dict[str, object]]:
        seen = set()
        async with (
            asyncio.timeout(WAIT),
            grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel,
        ):
            stub = AgentServiceStub(channel)
            for number in itertools.count():
                try:
                    seen.add(await worked(stub, f"session {number}"))
                except grpc.aio.AioRpcError as error:
                    # The step changed under this session: its task is with the version it has left.
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        raise
                found = json.loads((await asyncio.to_thread(sidecar.get, "/rollout?cluster=agent"))[1])
                if found["phase"] in ("rolled_back", "promoted"):
                    return seen, found
        raise AssertionError

    with running("--version", "v1") as stable, running("--version", "v2") as candidate:
        text = CONFIG.format(
            node="one", top="", route="", stable=stable.address, canary=candidate.address, rollout=RATED
        )
        with Sidecar(text, tmp_path, name="one") as sidecar:
            seen, found = await scene(sidecar)
    assert seen == {"v1", "v2"}
    assert found["phase"] == "rolled_back"
    assert "ratings are 2 or less (20 % may)" in str(found["reason"])
