"""Commands of the pages, run as they stand, but for addresses: a caller's sidecar, an agent's, and an agent.

docs/getting-started.md and docs/agents.md are run by journeys of their own, other commands in `test_staged_commands.py`; `NOT_RUN` says of
each why it is not here. Of `make`, whose benchmarks take minutes, it is seen that each target and what it needs exists (`make -n`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.test_docs import SHELLS, Block, blocks, commands
from tests.journeys.agent_process import AgentProcess
from tests.journeys.pair import Pair
from tests.support.processes import ROOT

JOURNEYS = {
    "docs/getting-started.md": "tests/journeys/test_getting_started.py",
    "docs/agents.md": "tests/journeys/test_agents_guide.py",
}
STAGED = "tests/docs/test_staged_commands.py"
# How a command begins → where it has a stage of its own.
NOT_RUN = dict.fromkeys(
    (
        "agent-server run --otlp",
        "agent-server run --agents agent_server.agents.workflow --database",
        "python -m clients.python --target 127.0.0.1:50051 execute run",
        "sidecar alerts test",
        "sidecar drill",
        "sidecar rollout",
        "sidecar idempotency show",
        "sidecar idempotency resolve",
        "sidecar audit verify",
    ),
    STAGED,
)


def pages() -> list[tuple[Block, str]]:
    found = []
    for block in blocks(*SHELLS):
        page = str(block.page.relative_to(ROOT))
        if page not in JOURNEYS:
            found += [(block, line) for line in commands(block)]
    return found


def excuse(line: str) -> str | None:
    return next((why for begins, why in NOT_RUN.items() if line.startswith(begins)), None)


RUN = [(block, line) for block, line in pages() if excuse(line) is None]


@dataclass
class Stage:
    folder: Path
    pair: Pair

    def adapted(self, line: str) -> str:
        """With the addresses of this stage, and the programs of this environment."""
        addresses = {
            "127.0.0.1:15001": self.pair.address,
            "127.0.0.1:9901": self.pair.outbound.admin,
            "127.0.0.1:9902": self.pair.inbound.admin,
            "localhost:8443": self.pair.direct.replace("127.0.0.1", "localhost"),
            "10.0.0.5:8443": self.pair.direct,
        }
        for documented, ours in addresses.items():
            line = line.replace(documented, ours)
        line = re.sub(r"^make ", f"make -n -C {ROOT} ", line)
        return re.sub(r"^sidecar ", f"{sys.executable} -m sidecar.cli.main ", line)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("docs")
    top = f'store: {{url: "sqlite:///{folder}/state.db"}}'
    with AgentProcess() as agent, Pair(folder, agent.address, top=top) as pair:
        pair.pki.leaf("orders")
        pair.pki.leaf("data")
        shutil.copy(pair.pki.ca, folder / "certs" / "ca.crt")
        # The inbound server is `data` in the pages, and `server` here: its certificate names that.
        (folder / "sidecar.yaml").write_text(pair.inbound.path.read_text())
        (folder / "protos").symlink_to(ROOT / "protos")
        made = [sys.executable, "-m", "sidecar.cli.main", "certs", "ca", "--out", "ca"]
        subprocess.run(made, cwd=folder, check=True, capture_output=True)
        yield Stage(folder, pair)


@pytest.mark.parametrize(("block", "line"), RUN, ids=[f"{block}: {line[:50]}" for block, line in RUN])
def test_the_command_runs(stage: Stage, block: Block, line: str) -> None:
    program = line.split()[0]
    if program != "sidecar" and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    line = stage.adapted(line).replace("-servername data", "-servername server")
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=stage.folder,
        # What tells no administration address means the callers' sidecar.
        env={**os.environ, "SIDECAR_ADMIN": stage.pair.outbound.admin},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-500:]}\n{done.stderr[-800:]}"


def test_every_excuse_is_needed_and_leads_to_a_test() -> None:
    lines = [line for _, line in pages()]
    for begins, why in NOT_RUN.items():
        assert any(line.startswith(begins) for line in lines), f"no page has {begins!r} any more"
        for named in re.findall(r"tests/\S+\.py", why):
            assert (ROOT / named).exists(), named
    for page, journey in JOURNEYS.items():
        assert (ROOT / page).exists() and Path(page).name in (ROOT / journey).read_text()
    assert len(RUN) >= 20
