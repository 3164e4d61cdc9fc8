#!/bin/sh
# Writes src/api from protos/ and from google.rpc's; needs `npm ci` and, on the PATH, the Python of `make install-dev`.
set -eu
cd "$(dirname "$0")"
rm -rf src/api && mkdir -p src/api
google=$(python -c 'import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])')
python -m grpc_tools.protoc -I ../../protos -I "$google" \
  --plugin=protoc-gen-ts_proto=node_modules/.bin/protoc-gen-ts_proto --ts_proto_out=src/api \
  --ts_proto_opt=outputServices=grpc-js,esModuleInterop=true,importSuffix=.js,snakeToCamel=false,env=node,useOptionals=none,forceLong=string,useDate=string \
  agent/v1/agent.proto google/rpc/status.proto google/rpc/error_details.proto
