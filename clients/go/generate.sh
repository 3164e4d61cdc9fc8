#!/bin/sh
# Writes agent/v1 from protos/; needs protoc, protoc-gen-go and protoc-gen-go-grpc on the PATH.
set -eu
cd "$(dirname "$0")"
module=mesh.local/agentclient
protoc -I ../../protos --go_out=. --go-grpc_out=. \
  --go_opt=module=$module --go_opt=Magent/v1/agent.proto="$module/agent/v1;agentv1" \
  --go-grpc_opt=module=$module --go-grpc_opt=Magent/v1/agent.proto="$module/agent/v1;agentv1" \
  agent/v1/agent.proto
