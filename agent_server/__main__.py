"""`python -m agent_server` is `agent-server`."""

from __future__ import annotations

from agent_server.cli import main

if __name__ == "__main__":
    main(prog_name="agent-server")
