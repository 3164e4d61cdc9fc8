"""The generated code beside its users is what the protos give, and its copies live together in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "protos" / "generate.py"), *arguments], capture_output=True, text=True, check=False
    )


def test_generated_code_is_current() -> None:
    found = check("--check")
    assert (found.returncode, found.stderr) == (0, "")


def test_a_file_that_is_not_current_is_named(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "protos"))
    try:
        import generate  # noqa: PLC0415

        assert {path.name for path in generate.outdated(tmp_path)} == {
            "agent_pb2.py",
            "agent_pb2.pyi",
            "agent_pb2_grpc.py",
            "agent_pb2_grpc.pyi",
            "admin_pb2.py",
            "admin_pb2.pyi",
            "admin_pb2_grpc.py",
            "admin_pb2_grpc.pyi",
        }
        generate.write(tmp_path)
        assert generate.outdated(tmp_path) == []
        changed = tmp_path / "clients/python/api/agent_pb2.py"
        changed.write_text(changed.read_text() + "#")
        assert generate.outdated(tmp_path) == [changed]
    finally:
        sys.path.remove(str(ROOT / "protos"))


def test_both_copies_can_be_imported_into_one_process() -> None:
    from agent_server.service.api import agent_pb2 as servers  # noqa: PLC0415
    from clients.python.api import agent_pb2 as clients  # noqa: PLC0415

    assert servers is not clients
    raw = clients.ExecuteRequest(task="x").SerializeToString()
    assert servers.ExecuteRequest.FromString(raw).task == "x"
