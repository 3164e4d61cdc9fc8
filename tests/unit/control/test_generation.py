"""The builder tells each route which configuration it belongs to."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sidecar.config.load import load
from sidecar.control.certificates import Certificates
from sidecar.control.generation import Builder
from sidecar.policies.audit.policy import Audit
from sidecar.transport.socket import Flusher
from tests.scenes.script import silent
from tests.support.scene import Scene

FILE = """
listeners:
  - name: a
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
policies:
  audit: {{sink: "file://{folder}/audit.jsonl"}}
clusters:
  local: {{endpoints: ["127.0.0.1:1"]}}
"""


async def test_routes_know_their_generation(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(FILE.format(folder=tmp_path))
    runtime = Scene(on_agent=silent).runtime
    builder = Builder(runtime, Flusher(asyncio.get_running_loop()), Certificates(runtime.clock.wall))
    for number in (1, 2):
        generation = builder.build(load(path, environ={}).root, number=number, source_hash="")
        plans = list(generation.edges["a"].routes.plans())
        audits = [policy for plan in plans for policy in plan.policies if isinstance(policy, Audit)]
        assert audits
        assert {each.settings.generation for each in audits} == {number}
