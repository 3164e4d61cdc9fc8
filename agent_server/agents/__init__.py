"""The agents, one file each. `BUILT_IN` is served when the setting `agents` names nothing else."""

from __future__ import annotations

BUILT_IN = ("agent_server.agents.data",)
