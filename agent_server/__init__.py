"""Agents behind a gRPC service: the process that stands behind the inbound sidecar.

Reading order: `agents` is what users write, one file each; `tools` is what agents work with; `core` finds, checks and runs
operations and knows nothing of gRPC messages; `service` is the gRPC side; `configuration` is what can be set.
"""

from __future__ import annotations

import os

# Before grpc is imported for the first time: its core writes warnings of its own to stderr, for example about forks and bad peers.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = "0.1.0"
