"""A gRPC service-mesh sidecar for agent workloads.

Reading order, one RPC from the wire up:
1. `http2`      HTTP/2 frames, without sockets or clocks
2. `grpc_wire`  what gRPC lays over HTTP/2: status, metadata, timeouts, error details
3. `proxy`      the path of one call: routing, policy chain, dispatch, relay
4. `policies`   one enforcement per file; their order is in `policies/__init__.py`
5. `listeners`, `clusters`  where calls come from and where they go; `transport` holds the sockets
6. `control`    what configures, starts, watches and repairs; it never touches a call
"""

__version__ = "0.1.0"
